"""Does a pretrained model understand the high-entropy prompt? It is asked three tasks under five
system prompts, one of which is as long and says nothing of the task.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from pslib import modes, tasks
from pslib.evidence import analyses, probe
from pslib.evidence.stats import parts_of_ratio
from pslib.lab import chain, checkpoint, records, runs

SEEDS = (1, 2, 3, 4)  # of the draws, one response to a question each
QUESTIONS = 24  # sums at most: the test split has 18 of two numbers; there are 24 word problems
MAX_NEW_TOKENS = 96
GRADED = ("sums", "words")  # tasks whose questions have answers
KEYS = ["task", "seed", "prompt", "question_id"]
COUNTS = ["samples", "correct", "tokens", "bits", "kl"]
MEASURES = ["entropy_bits", "entropy_change", "entropy_beyond", "accuracy", "kl"]


def tasks_of(profile):
    """{task: questions}; no response can give a story's answer."""
    told = enumerate(profile.stories)
    stories = [{"id": f"stories-{place}", "question": text, "answer": ""} for place, text in told]
    sums = profile.questions("like", QUESTIONS)
    return {"sums": sums, "words": tasks.word_problems(), "stories": stories}


def prompts_of(tokenizer):
    """{prompt: system prompt, or None for the normal mode, which is the first}."""
    texts = {name: modes.he_mode(name).system for name in probe.ASKED}
    return {"normal": None, **texts, "unrelated": probe.unrelated(tokenizer)}


def ask(profile):
    """Ask a profile's pretrained model every task under every prompt -> DataFrame, and prompts.csv:
    a row a task, seed, prompt and question.

    The file is written after each task and seed, and what it holds is not asked again. ValueError
    for a profile whose models are made here.
    """
    if not profile.origin.knows_words:
        raise ValueError(
            f"profile {profile.name} makes its models, which read no words; name a profile of a "
            "pretrained model, like smollm2"
        )
    path = profile.folder / "prompts.csv"
    limits = {"questions": QUESTIONS, "samples": 1, "max_new_tokens": MAX_NEW_TOKENS}
    settings = replace(profile.evaluate, **limits)
    with runs.owned(profile.folder):
        model, tokenizer = chain.trained_model(profile, "original", profile.sizes[0], SEEDS[0])
        prompts, asked = prompts_of(tokenizer), tasks_of(profile)
        record = _record(profile, settings, model, tokenizer, prompts, asked)
        records.begin(path.with_suffix(".yaml"), record)
        found = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=[*KEYS, *COUNTS])
        pieces = [(task, seed) for seed in SEEDS for task in asked]
        progress = chain.Progress(f"ask {profile.name}")
        for done, (task, seed) in enumerate(pieces, 1):
            if not ((found.task == task) & (found.seed == seed)).any():
                own = probe.ask(model, tokenizer, prompts, settings, asked[task], seed=seed)
                own = own.assign(task=task, seed=seed)[[*KEYS, *COUNTS]].round(4)
                found = pd.concat([found, own]) if len(found) else own
                checkpoint.write(path, found.to_csv(index=False))
            progress(done, len(pieces))
    return found


def _record(profile, settings, model, tokenizer, prompts, asked):
    """What the answers are made from."""
    of_prompts = [modes.Mode(name, text) for name, text in prompts.items()]
    inputs = {
        "questions": {task: records.of_questions(rows) for task, rows in asked.items()},
        **records.of_model(model, tokenizer, of_prompts),
    }
    asking = replace(profile, evaluate=settings)
    return {**records.evaluation_settings(asking, profile.sizes[0]), "inputs": inputs}


def table(profile, folder=None):
    """What prompts change, a row a task and prompt: entropy in bits, KL in nats a token, accuracy
    in percent, over questions; entropy_change less the normal mode's, entropy_beyond less the
    unrelated prompt's.
    """
    path, rows = Path(folder or profile.folder) / "prompts.csv", []
    found = analyses.read(path) if path.exists() else pd.DataFrame(columns=[*KEYS, *COUNTS])
    for task, own in found.groupby("task", sort=False):
        sums = own.groupby(["prompt", "question_id"], sort=False)[COUNTS].sum()
        by_prompt = {name: sums.loc[name] for name in sums.index.unique("prompt")}
        bits = {name: parts_of_ratio(by.bits, by.tokens) for name, by in by_prompt.items()}
        for prompt, by in by_prompt.items():
            row = {"task": task, "prompt": prompt, "seeds": own.seed.nunique()}
            row |= {"questions": len(by), "replicates": "questions"}
            values = {
                "entropy_bits": bits[prompt],
                "entropy_change": bits[prompt] - bits["normal"],
                "entropy_beyond": bits[prompt] - bits["unrelated"],
                "accuracy": 100 * by.correct / by.samples if task in GRADED else [],
                "kl": parts_of_ratio(by.kl, by.tokens),
            }
            rows.append(row | analyses.intervals(values))
    both = [part for name in MEASURES for part in (name, f"{name}_ci")]
    return pd.DataFrame(rows, columns=["task", "prompt", "seeds", "questions", "replicates", *both])
