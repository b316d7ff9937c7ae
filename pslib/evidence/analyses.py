"""Analyses: what runs did, as tables that figures draw and verdicts quote; each reads a profile's
result files.

Every function takes a profile and optionally the folder of its results (by default this machine's),
returns a DataFrame with columns size, method, label and seed before its own (see runs.Profile.unit
for what counts as a seed), and leaves out what was not run.
"""

from functools import lru_cache
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd

from pslib.evidence import evaluate
from pslib.evidence.stats import mean_interval
from pslib.lab import records, runs
from pslib.nano import worlds

TRIES = (1, 2, 4, 8, 16, 32, 64)


@lru_cache(maxsize=4096)
def _read(path, stamp):
    return pd.read_csv(path)


def read(path):
    """A CSV file as a table, read once for as long as it does not change."""
    return _read(path, path.stat().st_mtime_ns)


def collect(profile, name, folder=None, variants=False):
    """Every run's <name>.csv of a profile's table 1, or of its variants, as one table; empty where
    there is none.
    """
    root, parts = Path(folder or profile.folder) / "runs", []
    records.check(profile, folder)
    for method, size, seed in profile.grid:
        path = root / runs.run_id(method, size, seed) / f"{name}.csv"
        if (method in profile.variants) == variants and path.exists():
            own = read(path)
            shown, unit = profile.unit(size, seed)
            who = {
                "size": shown,
                "method": method,
                "label": profile.method(method).label,
                "seed": unit,
            }
            parts.append(pd.concat([pd.DataFrame(who, index=own.index), own], axis=1))
    return (
        pd.concat(parts, ignore_index=True)
        if parts
        else pd.DataFrame(columns=["size", "method", "label", "seed"])
    )


def over_seeds(table, keys, measures):
    """Mean and 95% interval's half-width (`<measure>_ci`) of measures over seeds, a row for each of
    `keys`, in their order.
    """
    if table.empty:
        return pd.DataFrame(
            columns=[
                *keys,
                "seeds",
                *(part for measure in measures for part in (measure, f"{measure}_ci")),
            ]
        )
    rows = []
    for values, own in table.groupby(keys, sort=False):
        row = dict(
            zip(keys, values if isinstance(values, tuple) else (values,), strict=True),
            seeds=own.seed.nunique(),
        )
        for measure in measures:
            row[measure], row[f"{measure}_ci"] = mean_interval(own[measure])
        rows.append(row)
    return pd.DataFrame(rows)


def with_replicates(table, profile):
    """The table with a column `replicates` behind `seeds`: what those are, row by row (see
    runs.Profile.replicates).
    """
    names = (
        [profile.replicates(method) for method in table["method"]]
        if "method" in table
        else profile.replicates()
    )
    table.insert(table.columns.get_loc("seeds") + 1, "replicates", names)
    return table


def dynamics(profile, folder=None, variants=False):
    """Entropy in bits of each mode on its own responses and inter-mode KL in nats a token, at every
    measured step.

    Also the accuracy of each mode's responses, over the five steps up to there.
    """
    found, accuracies = (
        collect(profile, "metrics", folder, variants),
        ["accuracy_normal", "accuracy_he"],
    )
    wanted = ["entropy_bits_normal", "entropy_bits_he", "kl_he_from_normal", *accuracies]
    found = found.reindex(columns=["size", "method", "label", "seed", "step", *wanted])
    if len(found):
        found[accuracies] = found.groupby(["size", "method", "seed"])[accuracies].transform(
            lambda s: s.rolling(5, 1).mean()
        )
    return found.dropna(subset=["entropy_bits_normal"]).reset_index(drop=True)


def start_and_end(profile, folder=None, variants=False, window=5):
    """Each run's entropies and KL before training (the first step's rollouts), at the end, and the
    KL's peak.

    End: the mean of the last `window` measurements; peak: the largest mean of so many in a row.
    """
    keys, rows = ["size", "method", "label", "seed"], []
    for values, own in dynamics(profile, folder, variants).groupby(keys, sort=False):
        row = dict(zip(keys, values, strict=True))
        for measure in own.columns[5:]:
            row[f"{measure}_start"], row[f"{measure}_end"] = (
                own[measure].iloc[0],
                own[measure].tail(window).mean(),
            )
        row["kl_he_from_normal_peak"] = own.kl_he_from_normal.rolling(window).mean().max()
        rows.append(row)
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else keys)


QUARTERS = [f"quarter_{k}" for k in (1, 2, 3, 4)]


def learning(profile, folder=None):
    """How fast each mode learns: its rollouts' accuracy above GRPO's in points, in each quarter of
    training.

    A row a run and mode; paired with GRPO's run of the same seed, which had the same questions at
    every step.
    """
    found, keys = collect(profile, "metrics", folder), ["size", "method", "label", "seed"]
    rows = pd.DataFrame(columns=[*keys, "mode", *QUARTERS])
    if found.empty:
        return rows
    found["quarter"] = [
        "quarter_" + str(int(4 * (step - 1) // profile.train.steps) + 1) for step in found.step
    ]
    parts = []
    for mode in ("normal", "he"):
        if f"accuracy_{mode}" in found:
            part = 100 * found.pivot_table(f"accuracy_{mode}", keys, "quarter", sort=False).reindex(
                columns=QUARTERS
            )
            parts.append(part.assign(mode=mode).set_index("mode", append=True))
    table = pd.concat(parts).reset_index()
    grpo = table[table.method == "grpo"].set_index(["size", "seed"])[QUARTERS]
    table = table[table.method != "grpo"].set_index(["size", "seed"])
    table[QUARTERS] -= grpo.reindex(table.index)
    return table.reset_index()[rows.columns]


def best_of(correct, samples, n):
    """The probability that at least one of n responses is right, estimated without bias from
    `correct` of `samples`.

    1 - C(samples - correct, n) / C(samples, n) (Chen et al. 2021, arXiv 2107.03374). ValueError for
    n beyond samples.
    """
    if not 0 <= correct <= samples or not 0 <= n <= samples:
        raise ValueError(
            f"best-of-n needs 0 <= correct <= samples and n <= samples; got {correct}, {samples} "
            f"and n={n}"
        )
    return 1 - comb(samples - correct, n) / comb(samples, n)


def best_of_n(profile, folder=None):
    """Best-of-n accuracy in percent for the normal mode, the high-entropy mode, and half of the n
    in each ("both").

    A row a run, n and way of sampling; for "both", 1 - (1 - p_n/2 normal)(1 - p_n/2 HE) for each
    question, n even.
    """
    rows = []
    for keys, own in collect(profile, "best_of_n", folder).groupby(
        ["size", "method", "label", "seed"], sort=False
    ):
        counts = own.pivot(index="question_id", columns="mode", values="correct")
        samples = int(own.samples.iloc[0])
        chance = {
            (mode, n): np.array([best_of(c, samples, n) for c in counts[mode]])
            for mode in counts
            for n in TRIES
            if n <= samples
        }
        for (mode, n), p in chance.items():
            rows.append((*keys, mode, n, 100 * p.mean()))
            if mode == "normal" and n > 1:
                both = 1 - (1 - chance["normal", n // 2]) * (1 - chance["he", n // 2])
                rows.append((*keys, "both", n, 100 * both.mean()))
    return pd.DataFrame(
        rows, columns=["size", "method", "label", "seed", "sampling", "n", "accuracy"]
    )


def solved_by_one(profile, folder=None):
    """Questions, of 100, that only one mode ever solved in its samples: columns only_normal,
    only_he, neither.
    """
    rows = []
    for keys, own in collect(profile, "best_of_n", folder).groupby(
        ["size", "method", "label", "seed"], sort=False
    ):
        solved = own.pivot(index="question_id", columns="mode", values="correct") > 0
        rows.append(
            (
                *keys,
                *(
                    100 * part.mean()
                    for part in (
                        solved.normal & ~solved.he,
                        solved.he & ~solved.normal,
                        ~solved.he & ~solved.normal,
                    )
                ),
            )
        )
    return pd.DataFrame(
        rows, columns=["size", "method", "label", "seed", "only_normal", "only_he", "neither"]
    )


def derivations(profile, folder=None):
    """Accuracy and the shares of the derivations in table 1's suites, a row a run, mode and suite
    (see evaluate.derivations).
    """
    whole = collect(profile, "evaluation", folder)
    if "derivation" in whole:  # this machine's results; committed ones carry what was made of them
        keys = ["size", "method", "label", "seed"]
        return pd.concat(
            [
                evaluate.derivations(own).assign(**dict(zip(keys, of, strict=True)))
                for of, own in whole.groupby(keys, sort=False)
            ],
            ignore_index=True,
        )
    return collect(profile, "derivations", folder).reindex(
        columns=[
            "size",
            "method",
            "label",
            "seed",
            "suite",
            "mode",
            "accuracy",
            *worlds.DERIVATIONS,
            "other",
        ]
    )


SHARES = [f"share_{derivation}" for derivation in (*worlds.DERIVATIONS, "other")]


def behaviour(profile, folder=None):
    """What each mode does: shares of the derivations under no prompt and under the trained one, and
    how far they are apart.

    A row a run; distance is the total variation, half the sum of the shares' absolute differences,
    and `chance` what two samples of this size from one distribution would show on average. kl in
    nats a token.
    """
    found, rows = collect(profile, "prompts", folder), []
    responses = profile.probe.prompts * profile.evaluate.samples
    for keys, own in found.groupby(["size", "method", "label", "seed"], sort=False):
        own = own.set_index("prompt")
        none, trained = (own.loc[name, SHARES].to_numpy(float) for name in ("none", "trained"))
        draws = (
            np.random.default_rng(0).multinomial(
                responses, (none + trained) / (none + trained).sum(), (2, 2000)
            )
            / responses
        )
        row = dict(zip(["size", "method", "label", "seed"], keys, strict=True))
        row |= {
            "distance": np.abs(none - trained).sum() / 2,
            "chance": np.abs(draws[0] - draws[1]).sum(1).mean() / 2,
            "kl": own.kl_from_normal["trained"],
        }
        row |= {f"{name}_normal": value for name, value in zip(SHARES, none, strict=True)}
        row |= {f"{name}_he": value for name, value in zip(SHARES, trained, strict=True)}
        rows.append(row)
    return pd.DataFrame(
        rows, columns=list(rows[0]) if rows else ["size", "method", "label", "seed"]
    )


def prompt_generalization(profile, folder=None):
    """How each system prompt moves a model from its normal mode: differences in accuracy (points),
    entropy (bits), and KL (nats).

    A row a run and prompt.
    """
    found = collect(profile, "prompts", folder)
    keys = ["size", "method", "label", "seed"]
    if found.empty:
        return pd.DataFrame(
            columns=[*keys, "prompt", "kl_from_normal", "accuracy_change", "entropy_change"]
        )
    none = found[found.prompt == "none"].set_index(keys)
    rest = found[found.prompt != "none"].set_index(keys)
    moved = rest[["prompt", "kl_from_normal"]].assign(
        accuracy_change=100 * (rest.accuracy - none.accuracy.reindex(rest.index)),
        entropy_change=rest.entropy_bits - none.entropy_bits.reindex(rest.index),
    )
    return moved.reset_index()


def cost(profile, folder=None):
    """Seconds a step that each run spent on sampling, scoring and update, and in all."""
    found, parts = collect(profile, "metrics", folder), ["sample", "score", "update"]
    if found.empty:
        return pd.DataFrame(
            columns=["size", "method", "label", "seed", "seconds", *(f"seconds_{p}" for p in parts)]
        )
    means = (
        found.groupby(["size", "method", "label", "seed"], sort=False)[
            [f"seconds_{p}" for p in parts]
        ]
        .mean()
        .reset_index()
    )
    return means.assign(seconds=means[[f"seconds_{p}" for p in parts]].sum(axis=1, min_count=1))


def bonus(profile, folder=None):
    """What eq. 3 adds to the base models' advantages, token by token (see probe.bonus), with their
    sizes.
    """
    paths = {
        size: Path(folder or profile.folder) / "base" / size / "bonus.csv" for size in profile.sizes
    }
    parts = [pd.read_csv(path).assign(size=size) for size, path in paths.items() if path.exists()]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["size", "kind"])


def bonus_by_kind(profile, folder=None):
    """By size and kind of token: its share of all tokens, its mean B, and the median addition over
    |A| in two forms.
    """
    rows = []
    for (size, kind), own in bonus(profile, folder).groupby(["size", "kind"], sort=False):
        beside = own[["paper", "released"]].abs().div(own.advantage.abs(), axis=0)
        rows.append(
            {
                "size": size,
                "kind": kind,
                "tokens": len(own),
                "mean_bonus": own.bonus.mean(),
                **{
                    f"{form}_{what}": getattr(beside[form], what)()
                    for form in beside
                    for what in ("median", "max")
                },
            }
        )
    return pd.DataFrame(
        rows, columns=list(rows[0]) if rows else ["size", "kind", "tokens", "mean_bonus"]
    )
