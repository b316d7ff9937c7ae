"""What 60_your_model asks of a model: how it answers under some system prompts."""

import pandas as pd

from pslib import modes
from pslib.evidence import evaluate, probe
from pslib.evidence.stats import mean_interval

# Row of the table -> prompt of prompts.yaml
ASKED = {
    "high-entropy": "high_entropy",
    "rewritten high-entropy": "rewritten_high_entropy",
    "low-entropy": "low_entropy",
}


def understanding(model, tokenizer, questions, reward, form="", **sampling):
    """A model's `answers` under five prompts; form: "" for the paper's, "_short" for their first
    sentences.
    """
    prompts = {"normal": None}
    prompts |= {row: modes.he_mode(name + form).system for row, name in ASKED.items()}
    prompts["unrelated"] = probe.UNRELATED["unrelated" + form]
    return answers(model, tokenizer, questions, reward, prompts, **sampling)


def answers(model, tokenizer, questions, reward, prompts, samples=4, max_new_tokens=1024, seed=1):
    """How a model answers under system prompts, {name: text or None}, compared with the first.

    questions: dicts with a `question` and the columns that the reward reads. It has TRL's
    signature and gives every response a number. -> DataFrame by prompt: reward; entropy_bits a
    token; entropy_change from the first prompt, a mean over questions with entropy_ci, half of its
    95% interval; kl_from_normal in nats a token; tokens.
    """

    def graded(text, row):
        columns = {key: [value] for key, value in row.items()}
        columns["prompts"] = [[{"role": "user", "content": row["question"]}]]
        return reward(completions=[[{"role": "assistant", "content": text}]], **columns)[0]

    settings = evaluate.Settings(len(questions), samples, 1.0, 0, 1.0, max_new_tokens)
    rows = [{"id": str(k), **question} for k, question in enumerate(questions)]
    found = probe.ask(model.eval(), tokenizer, prompts, settings, rows, graded, seed)
    sums = found.groupby("prompt", sort=False)[["samples", "reward", "tokens", "bits", "kl"]].sum()
    bits = found.assign(bits=found.bits / found.tokens)
    bits = bits.pivot(index="question_id", columns="prompt", values="bits")
    change = [mean_interval(bits[name] - bits[sums.index[0]]) for name in sums.index]
    return pd.DataFrame(
        {
            "reward": sums.reward / sums.samples,
            "entropy_bits": sums.bits / sums.tokens,
            "entropy_change": [mean for mean, _ in change],
            "entropy_ci": [half for _, half in change],
            "kl_from_normal": sums.kl / sums.tokens,
            "tokens": sums.tokens / sums.samples,
        }
    )
