"""What stands behind a difference between two methods: runs, pairs, interval and commits."""

import json
from collections import Counter
from typing import NamedTuple

import pandas as pd

from pslib.evidence import analyses, stats, tables
from pslib.lab.runs import BASE_MODELS, ROOT

# What is measured in the columns of the table `worlds`.
MEASURES = {
    "points": "points of accuracy, average of the four suites",
    "longer": "points of accuracy on longer sums",
    "bits": "bits of entropy a token, average of the four suites",
}


class Trace(NamedTuple):
    """A difference, method in a mode - baseline in the normal mode, at one size; pairs: a row a
    base model or seed, with both runs, their values and the difference.
    """

    size: str
    mode: str
    pairs: pd.DataFrame
    effect: stats.Effect


def traces(profile, method, baseline, measure, folder=None):
    """The differences of a method to a baseline, or of its high-entropy to its normal mode: a Trace
    for each size and mode; ValueError where there are none.
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
    both = own.merge(base, on=["size", "seed"], suffixes=("", "_baseline"))
    both["difference"] = both.value - both.value_baseline
    if both.empty:
        raise ValueError(f"{method} and {baseline} share no base model or seed in {profile.name}")
    return [
        Trace(*of, pairs, stats.paired_effect(pairs.value, pairs.value_baseline))
        for of, pairs in both.groupby(["size", "mode"], sort=False)
    ]


def commits(folder, names):
    """{commit: how many of these runs it made}; one that was not clean ends in "+ changes".

    The untrained original was made by none.
    """
    paths = (folder / "runs" / name / "manifest.json" for name in {*names})
    made = [json.loads(path.read_text()) for path in sorted(paths) if path.exists()]
    return Counter(each["commit"] + (" + changes" if each["dirty"] else "") for each in made)


def report(profile, method, baseline, measure, folder=None):
    """The traces of a difference as text: for each size and mode pairs, interval and commits."""
    folder, replicates = folder or profile.folder, profile.replicates()
    found = traces(profile, method, baseline, measure, folder)
    at = folder / "runs"
    at = at.relative_to(ROOT) if at.is_relative_to(ROOT) else at
    unit = "base model" if replicates == BASE_MODELS else "seed"
    columns = ["seed", "run", "value", "run_baseline", "value_baseline", "difference"]
    heads = [unit, "run", "value", "baseline", "its value", "difference"]
    style = {"headers": heads, "index": False, "floatfmt": ".4f", "tablefmt": "simple"}
    lines = [f"{method} - {baseline}, {MEASURES[measure]}", f"runs: {at}"]
    for size, mode, pairs, effect in found:
        said = "high-entropy" if mode == "he" else "normal"
        table = pairs[columns].to_markdown(**style)
        lines += ["", f"{size}, {said} mode", table, _said(effect, replicates)]
        used = commits(folder, [*pairs.run, *pairs.run_baseline])
        lines += [f"commit {commit} made {count} of these runs" for commit, count in used.items()]
    return "\n".join(lines)


def _said(effect, replicates):
    """An effect in one line, with what its interval speaks for."""
    mean = f"mean difference {effect.difference:+.4f}"
    if effect.seeds < 2:
        return f"{mean}; one pair has no interval"
    interval = f"{effect.low:+.4f} to {effect.high:+.4f}"
    return f"{mean}, 95% interval {interval} (Student t, {effect.seeds} {replicates})"
