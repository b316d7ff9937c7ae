"""How strongly words of system prompts act in the world `understood`: chosen on base models alone.

The rule was fixed before the first figure was seen. Each candidate strength makes eight base
models, and none is dropped. The candidates are tried from the smallest on. The first one that
meets three conditions is taken:

1. Entropy under the high-entropy prompt minus entropy under the low-entropy prompt is positive on
   at least 7 of 8 base models. So is the same difference for the rewritten high-entropy prompt.
2. Over synthetic prompts, the mean entropy of the eight base models grows with x, the prompts'
   `nano.lean`, at each of the four steps from -1 to 1.
3. Mean accuracy under each of four prompts (high-entropy, rewritten, low-entropy and neutral) is
   within 10 points of mean accuracy without a prompt.

The search stops there, so larger candidates stay unmeasured. Strength 0, the control, is always
measured. The KL from the normal mode is recorded and never selected on. All questions are tuning
questions. All prompts of the paper are given in full. `python -m pslib.nano.strength` runs the
search, and goes on with one that was stopped.
"""

import random
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context

import pandas as pd
import torch
import yaml

from pslib import modes, tasks
from pslib.evidence import evaluate
from pslib.lab import chain, checkpoint, records, runs
from pslib.nano import base, worlds

WORLD, SIZE, STEPS, BATCH_SIZE = "understood", "0.2m", 1000, 64
CANDIDATES = (1.0, 1.5, 2.0, 2.5, 3.0)
# Of base models. 0 to 2 were looked at before the rule was made, and those from 11 are for results.
SEEDS = range(3, 11)
SETTINGS = evaluate.Settings(100, 8, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=80)
XS = (-1.0, -0.5, 0.0, 0.5, 1.0)
# Words of a synthetic prompt, about as many as the paper's prompts have, and prompts for each x
LISTED, PLAIN, COPIES = 12, 48, 4
PAPER = ("high_entropy", "rewritten_high_entropy", "low_entropy")
ENOUGH, POINTS = 7, 0.10  # base models with a positive difference; difference in accuracy


def prompts_for(tokenizer, seed):
    """What a base model is asked under: name -> texts that share the questions."""
    rng, texts = random.Random(f"synthetic/{seed}"), {"none": [None]}
    texts |= {name: [modes.prompts()["modes"][name]] for name in PAPER}
    texts["neutral"] = [base.neutral_prompt(tokenizer, seed)]
    for x in XS:
        exploratory = round(LISTED * (1 + x) / 2)
        texts[f"x={x:g}"] = [
            worlds.mixed_prompt(rng, exploratory, LISTED - exploratory, PLAIN)
            for _ in range(COPIES)
        ]
    return texts


def measure(strength, seed):
    """Make one base model and ask it under every prompt -> DataFrame, a row a prompt.

    Columns: strength, base (its seed), prompt, x, accuracy (share), entropy_bits (bits a token),
    kl (from the normal mode, nats a token) and tokens (a response's mean length).
    """
    torch.set_num_threads(1)
    world = replace(worlds.WORLDS[WORLD], strength=strength)
    model, tokenizer, _ = base.train(f"{SIZE}.b{seed}", world, STEPS, BATCH_SIZE)
    return _asked(model, tokenizer, strength, seed, SETTINGS)


def of_base(profile, size):
    """Ask one of a profile's base models under every prompt -> DataFrame as `measure` gives.

    Also written to response.csv beside the model, where it is not asked again. As many questions
    and samples as the profile's probes ask.
    """
    model, tokenizer, _ = chain.make_base(profile, size)
    folder, wanted = runs.measured_folder(profile, size), profile.probe
    many = {"questions": wanted.asked, "samples": wanted.asked_samples}
    settings = replace(profile.evaluate, **many, temperature=1.0, top_k=0, top_p=1.0)
    record = {"evaluate": asdict(settings), "inputs": {"weights": records.of_weights(model)}}
    records.begin(folder / "response.yaml", record)
    path, world = folder / "response.csv", worlds.WORLDS[profile.base.world]
    if not path.exists():
        seed, report = profile.origin.parse(size)[1], chain.Progress(f"ask {size}")
        found = _asked(model, tokenizer, world.strength, seed, settings, report)
        checkpoint.write(path, found.to_csv(index=False))
    return pd.read_csv(path)


def _asked(model, tokenizer, strength, seed, settings, report=None):
    questions, rows = list(tasks.load("train", settings.questions, "tuning")), []
    prompts = prompts_for(tokenizer, seed)
    for name, texts in prompts.items():
        parts = []
        for k, text in enumerate(texts):
            given = modes.Mode("he", text), modes.NORMAL, questions[k :: len(texts)], settings
            generator = torch.Generator().manual_seed(seed)  # the same for each prompt
            parts.append(evaluate.inter_mode_kl(model, tokenizer, *given, generator)[1])
        answers = pd.concat(parts)
        weights = answers.tokens / answers.tokens.sum()
        rows.append(
            {
                "strength": strength,
                "base": seed,
                "prompt": name,
                "x": worlds.lean(texts[0]),
                "accuracy": answers.correct.mean(),
                "entropy_bits": (answers.entropy_bits * weights).sum(),
                "kl": (answers.kl * weights).sum(),
                "tokens": answers.tokens.mean(),
            }
        )
        if report:
            report(len(rows), len(prompts))
    return pd.DataFrame(rows).round(5)


def conditions(found):
    """What the rule asks, a row for each strength of a search's table, and whether it passes."""
    rows = {}
    for strength, own in found.groupby("strength"):
        entropy = own.pivot(index="base", columns="prompt", values="entropy_bits")
        accuracy = own.groupby("prompt").accuracy.mean()
        changes = (accuracy[[*PAPER, "neutral"]] - accuracy["none"]).abs()
        counts = [int((entropy[name] > entropy.low_entropy).sum()) for name in PAPER[:2]]
        grows = bool(entropy[[f"x={x:g}" for x in XS]].mean().diff()[1:].gt(0).all())
        whole = len(entropy) == len(SEEDS)
        rows[strength] = {
            "base models": len(entropy),
            "high-entropy above low-entropy": counts[0],
            "rewritten above low-entropy": counts[1],
            "entropy grows with x": grows,
            "largest change of accuracy": round(changes.max(), 4),
            "KL under high-entropy": round(own[own.prompt == "high_entropy"].kl.mean(), 4),
            "passes": whole and min(counts) >= ENOUGH and grows and bool(changes.max() <= POINTS),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("strength")


def search(pool, folder):
    """Measure strength 0, then the candidates until one passes -> DataFrame, as in strength.csv.

    pool: an executor, which makes the base models. What the folder's strength.csv holds already is
    not measured again; ValueError where it was measured with other settings (see strength.yaml).
    """
    settings = {
        "world": {k: v for k, v in asdict(worlds.WORLDS[WORLD]).items() if k != "strength"},
        "size": SIZE,
        "steps": STEPS,
        "batch_size": BATCH_SIZE,
        "seeds": list(SEEDS),
        "candidates": list(CANDIDATES),
        "evaluate": asdict(SETTINGS),
        "synthetic": {"listed": LISTED, "plain": PLAIN, "prompts": COPIES},
    }
    made, path = folder / "strength.yaml", folder / "strength.csv"
    if made.exists() and yaml.safe_load(made.read_text())["settings"] != settings:
        raise ValueError(f"{folder} holds a search with other settings; move it away to begin anew")
    if not made.exists():
        about = runs.manifest(0, 0.0, {})
        kept = ("commit", "dirty", "versions", "processor", "instruction_set")
        about = {"settings": settings, "made": {key: about[key] for key in kept}}
        checkpoint.write(made, yaml.safe_dump(about, sort_keys=False))
    found = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["strength", "base"])
    for strength in (0.0, *CANDIDATES):
        done = set(found[found.strength == strength].base)
        jobs = [pool.submit(measure, strength, seed) for seed in SEEDS if seed not in done]
        for job in as_completed(jobs):
            found = pd.concat([found, job.result()] if len(found) else [job.result()])
            found = found.sort_values(["strength", "base"], kind="stable").reset_index(drop=True)
            checkpoint.write(path, found.to_csv(index=False))
            print(f"strength {strength:g}: base model {job.result().base[0]}", flush=True)
        if strength and conditions(found).passes[strength]:
            break
    return found


if __name__ == "__main__":
    with ProcessPoolExecutor(2, get_context("spawn")) as workers:
        found = search(workers, runs.results_root() / "local" / WORLD)
    print(conditions(found).to_markdown())
