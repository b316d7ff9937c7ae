"""Two choices for the world `understood`, made on its pilot base models and on tuning questions
alone.

The pilot base models are those of seeds 0 to 2, which no result uses. The rules were written before
any figure was seen.

1. Matched eta: the eta with which eq. 3 changes advantages as much as the released form does at its
   own eta of 0.03, by the mean of |A~ - A| / |A| over the tokens of live groups. Eq. 3's bonus is
   proportional to eta, so the eta is 0.03 times the ratio of the two means. It is rounded to two
   digits.
2. Warm-up: ten steps of it are adopted if they at least halve the dip of accuracy at the start of
   training. The dip is the accuracy before training minus the lowest after 2, 4, 6, 8 and 10 steps,
   averaged over GRPO, the released form and the pilot base models.

`python results/understood/pilot.py` writes results/local/understood/matched_eta.csv and warmup.csv.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import pandas as pd
import torch

from pslib import modes, tasks, train
from pslib.evidence import evaluate, probe
from pslib.lab import checkpoint, runs
from pslib.nano import base

PROFILE, SEEDS, QUESTIONS, WARMUP = "understood", (0, 1, 2), 64, 10
STEPS = (0, 2, 4, 6, 8, 10)


def _seeded(seed):
    return torch.Generator().manual_seed(seed)


def _pilot(seed):
    torch.set_num_threads(1)
    profile = runs.load_profile(PROFILE)
    given = profile.base
    model, tokenizer, _ = base.train(f"0.2m.b{seed}", given.world, given.steps, given.batch_size)
    return profile, model, tokenizer


def matched_eta(profile, model, tokenizer, seed):
    """The mean of |A~ - A| / |A| of both forms at eta 0.03 before training, and the eta that makes
    them equal; -> dict.
    """
    questions, generator = tasks.load("train", QUESTIONS, "tuning"), _seeded(seed)
    given = (profile.modes, profile.evaluate, questions, profile.train.group_size, generator)
    table = probe.bonus(model, tokenizer, *given)
    size = table[["paper", "released"]].abs().div(table.advantage.abs(), axis=0).mean()
    return {"base": seed, **size, "eta": 0.03 * size.released / size.paper}


def dips(profile, model, tokenizer, seed):
    """Accuracy on tuning questions while training starts, with and without a warm-up; -> list of
    dicts, one a measurement.
    """
    asked, rows = tasks.load("like", 100, "tuning"), []
    questions = tasks.load("train", 1000, "tuning")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for method in ("grpo", "policy_split_released"):
        for warmup in (0, WARMUP):
            model.load_state_dict(weights)
            settings = replace(profile.train, steps=max(STEPS), warmup=warmup)
            recipe, own = profile.method(method), 1000 + seed
            state = train.Run(model, tokenizer, recipe, profile.modes, settings, own)
            given = tasks.batches(questions, settings.questions, settings.steps, own)
            which = {"base": seed, "method": method, "warmup": warmup}
            for step in range(max(STEPS) + 1):
                if step in STEPS:
                    sampling = replace(profile.evaluate, samples=8)
                    put = (state.sampler(), tokenizer, modes.NORMAL, asked, sampling)
                    answers = evaluate.answer(*put, _seeded(seed))[0]
                    rows.append({**which, "step": step, "accuracy": 100 * answers.correct.mean()})
                if step < max(STEPS):
                    state.step(next(given))
    return rows


def _both(seed):
    pilot = _pilot(seed)
    return matched_eta(*pilot, seed), dips(*pilot, seed)


def dip(table):
    """The dip of accuracy in points by warm-up, averaged over methods and base models, from a table
    of `dips`.
    """
    units = ["warmup", "base", "method"]
    curves = table.pivot_table(index=units, columns="step", values="accuracy")
    return (curves[0] - curves.drop(columns=0).min(axis=1)).groupby("warmup").mean()


if __name__ == "__main__":
    with ProcessPoolExecutor(2, get_context("spawn")) as workers:
        found = list(workers.map(_both, SEEDS))
    etas = pd.DataFrame([eta for eta, _ in found])
    curves = pd.DataFrame([row for _, rows in found for row in rows])
    folder = runs.load_profile(PROFILE).folder
    checkpoint.write(folder / "matched_eta.csv", etas.round(5).to_csv(index=False))
    checkpoint.write(folder / "warmup.csv", curves.round(3).to_csv(index=False))
    print(etas.to_markdown(index=False), f"\nmatched eta {etas.eta.mean():.2g}\n{dip(curves)}")
