"""Tuning: every method gets the same number of trials, on questions and seeds that nothing reported
uses.

The rule, the same for all: of the trials whose accuracy is within one point of the method's best,
the one with the most entropy; a trial is a mean over the tuning seeds. (One point is about the
standard error of a trial's accuracy; keeping entropy without losing accuracy is what all of these
methods are for.) The learning rate is shared by all, as in
the paper: the one of GRPO's trial with the best accuracy. All sizes take what the middle one is
tuned to.
"""

import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import active_children, get_context

import pandas as pd
import torch

from pslib.evidence import evaluate
from pslib.lab import chain, checkpoint, runs

SEEDS = (1000, 1001)  # no profile reports them
TOLERANCE = 1.0  # points of accuracy
LEARNING_RATES = (2e-4, 3e-4, 4.5e-4)
# method -> (coefficient, values); the authors' own value is among them
GRID = {
    "forking": ("keep", (0.1, 0.2, 0.4)),
    "clip_cov": ("ratio", (2e-4, 2e-3, 2e-2)),
    "entropy_driven": ("floor", (1e-3, 1e-2, 1e-1)),
    "entropy_regularization": ("coef", (1e-3, 3e-3, 1e-2)),
    "entropy_advantage": ("alpha", (0.1, 0.4, 1.0)),
    "policy_split": ("eta", (0.03, 1.0, 2.0)),
    "policy_split_released": ("eta", (0.03, 0.3, 1.0)),
}


def trial(name, size, rate, method, setting, value, seed):
    """Train and evaluate one trial with one seed on the tuning split; -> one row of tuning.csv."""
    torch.set_num_threads(1)
    profile = runs.load_profile(name)
    own = {} if setting == "learning_rate" else {method: {setting: value}}
    profile = replace(
        profile,
        train=replace(profile.train, learning_rate=rate),
        coefficients={**profile.coefficients, **own},
    )
    folder = profile.folder / "tuning" / f"{method}-{setting}-{value:g}-lr-{rate:g}-s{seed}"
    metrics = chain.train_run(profile, method, size, seed, "tuning", folder)
    table = chain.evaluate_run(profile, method, size, seed, "tuning", folder)
    means = evaluate.summary(table).groupby("mode")[["accuracy", "entropy_bits"]].mean()
    row = {
        "method": method,
        "setting": setting,
        "value": value,
        "learning_rate": rate,
        "seed": seed,
        "accuracy": 100 * means.accuracy["normal"],
        "entropy_bits": means.entropy_bits["normal"],
    }
    if "he" in means.index:
        row |= {
            "accuracy_he": 100 * means.accuracy["he"],
            "entropy_bits_he": means.entropy_bits["he"],
            "kl_he_from_normal": metrics.kl_he_from_normal.tail(10).mean(),
        }
    return row


# in a worker: not empty once its trial was stopped; it then begins none of those queued
_stopped = []


def _in_worker(*job):
    try:
        if _stopped:
            raise KeyboardInterrupt
        return trial(*job)
    except KeyboardInterrupt:
        _stopped.append(True)
        raise


def choose(trials):
    """The chosen value of each method, by the rule above: a Series by method."""
    means = (
        trials.groupby(["method", "value"], sort=False)[["accuracy", "entropy_bits"]]
        .mean()
        .reset_index()
    )
    near = means[means.accuracy >= means.groupby("method").accuracy.transform("max") - TOLERANCE]
    return (
        near.loc[near.groupby("method", sort=False).entropy_bits.idxmax()].set_index("method").value
    )


def tune(name, cores):
    """Run every trial at a profile's middle size, `cores` at once; writes tuning.csv and returns
    it.
    """
    profile = runs.load_profile(name)
    size = profile.sizes[len(profile.sizes) // 2]
    chain.make_base(profile, size)
    rates = [(rate, "grpo", "learning_rate", rate) for rate in LEARNING_RATES]
    rows, progress = [], chain.Progress("tuning", every=0)
    total = len(SEEDS) * (len(rates) + sum(len(values) for _, values in GRID.values()))
    # workers in groups of their own: a terminal's Ctrl-C reaches this process alone, which asks
    # each of them once
    with ProcessPoolExecutor(cores, get_context("spawn"), os.setpgrp) as pool:

        def finish(jobs):
            for future in as_completed(
                [pool.submit(_in_worker, name, size, *job, seed) for job in jobs for seed in SEEDS]
            ):
                rows.append(future.result())
                progress(len(rows), total)

        try:
            finish(rates)
            rate = float(pd.DataFrame(rows).groupby("value").accuracy.mean().idxmax())
            finish(
                [
                    (rate, method, setting, value)
                    for method, (setting, values) in GRID.items()
                    for value in values
                ]
            )
        except BaseException:  # else the pool would work through what it has been given
            for worker in active_children():
                worker.terminate()  # saves its trial
            raise
    trials = pd.DataFrame(rows).sort_values(["method", "value", "seed"]).reset_index(drop=True)
    trials["chosen"] = trials.value == trials.method.map(choose(trials))
    checkpoint.write(profile.folder / "tuning.csv", trials.round(4).to_csv(index=False))
    return trials
