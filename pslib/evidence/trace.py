"""What stands behind a number: the runs, paired differences, interval and commits of a difference
between two methods.
"""

import json
from dataclasses import dataclass

import pandas as pd

from pslib.evidence import analyses, stats, tables
from pslib.lab.runs import BASE_MODELS, ROOT

# What is measured in the columns of the table `worlds`.
MEASURES = {
    "points": "points of accuracy, average of the four suites",
    "longer": "points of accuracy on longer sums",
    "bits": "bits of entropy a token, average of the four suites",
}


@dataclass(frozen=True)
class Trace:
    """A difference, method in a mode - baseline in the normal mode, at one model size.

    pairs: a row a base model or seed, with both runs, their values and the difference, unrounded.
    """

    size: str
    mode: str
    pairs: pd.DataFrame
    effect: stats.Effect


def traces(profile, method, baseline, measure, folder=None):
    """The differences of a method to a baseline, a Trace for each model size and mode of the
    method.

    folder: the profile's results, by default this machine's. Compared with itself, a method's
    high-entropy mode is compared with its normal mode. ValueError for an unknown measure, or where
    no pair of runs is there.
    """
    if measure not in MEASURES:
        raise ValueError(f"no measure is called {measure!r}; choose one of {', '.join(MEASURES)}")
    found = analyses.suites(profile, folder)
    for name in (method, baseline):
        if name not in found.method.unique():
            raise ValueError(
                f"profile {profile.name} has no results of a method {name!r}; it has "
                f"{', '.join(found.method.unique()) or 'none at all'}"
            )
    found = found.assign(value=found[tables.WORLDS[measure]])
    found = found[["size", "method", "mode", "seed", "run", "value"]]
    base = found[(found.method == baseline) & (found["mode"] == "normal")]
    own = found[(found.method == method) & ((method != baseline) | (found["mode"] != "normal"))]
    made = []
    for (size, mode), rows in own.groupby(["size", "mode"], sort=False):
        pairs = rows.merge(base, on=["size", "seed"], suffixes=("", "_baseline"))
        pairs["difference"] = pairs.value - pairs.value_baseline
        if len(pairs):
            effect = stats.paired_effect(pairs.value, pairs.value_baseline)
            made.append(Trace(size, mode, pairs, effect))
    if not made:
        raise ValueError(f"{method} and {baseline} share no base model or seed in {profile.name}")
    return made


def commits(folder, names):
    """Which commit made each of these runs: {commit: number of runs}; a commit that was not
    clean ends in "+ changes".
    """
    counts = {}
    for name in sorted(set(names)):
        manifest = json.loads((folder / "runs" / name / "manifest.json").read_text())
        commit = manifest["commit"] + (" + changes" if manifest["dirty"] else "")
        counts[commit] = counts.get(commit, 0) + 1
    return counts


def report(profile, method, baseline, measure, folder=None):
    """The traces of a difference as text: for each size and mode the pairs, the interval and the
    commits.
    """
    folder, replicates = folder or profile.folder, profile.replicates()
    found = traces(profile, method, baseline, measure, folder)
    runs_folder = folder / "runs"
    if runs_folder.is_relative_to(ROOT):
        runs_folder = runs_folder.relative_to(ROOT)
    unit = "base model" if replicates == BASE_MODELS else "seed"
    heads = [unit, "run", "value", "baseline", "its value", "difference"]
    lines = [f"{method} - {baseline}, {MEASURES[measure]}", f"runs: {runs_folder}"]
    for trace in found:
        pairs = trace.pairs[
            ["seed", "run", "value", "run_baseline", "value_baseline", "difference"]
        ]
        table = pairs.to_markdown(headers=heads, index=False, floatfmt=".4f", tablefmt="simple")
        mode = "high-entropy" if trace.mode == "he" else "normal"
        lines += ["", f"{trace.size}, {mode} mode", table, _said(trace.effect, replicates)]
        used = commits(folder, [*pairs.run, *pairs.run_baseline])
        lines += [f"commit {commit} made {count} of these runs" for commit, count in used.items()]
    return "\n".join(lines)


def _said(effect, replicates):
    """An effect in one line, with what its interval speaks for."""
    mean = f"mean difference {effect.difference:+.4f}"
    if effect.seeds < 2:
        return f"{mean}; one pair has no interval"
    return (
        f"{mean}, 95% interval {effect.low:+.4f} to {effect.high:+.4f} (Student t, "
        f"{effect.seeds} {replicates})"
    )
