"""Predictions: quantities named in claims.yaml before the runs, each a sum of means over one base
model's responses (see analyses.asked); the base model is the unit.
"""

import pandas as pd

from pslib.evidence import analyses, stats
from pslib.lab import runs

WINDOW = 5  # measurements over which accuracy and entropy in training are averaged


def measured(profile, folder=None, which="predictions"):
    """Quantities of a section of claims.yaml -> (name, facts, values by base model, unit)."""
    evidence, size = analyses.Evidence(profile, folder), profile.table_sizes[0]
    for name, given in analyses.written()[which].items():
        measure = given.get("measure", "asked_bits")
        values = evidence.quantity(given["quantity"], size, measure)
        yield name, given, values, analyses.unit_of(measure)


def _summary(values, unit):
    """What tables say of values by base model."""
    positive = int((values > 0).sum())
    mean = analyses.intervals({"mean": values})
    return {"base_models": len(values), "positive": positive, **mean, "unit": unit}


def tested(profile, folder=None):
    """The predictions and what came of them, in one Holm family: "as predicted" or "opposite" where
    p_holm is below 0.05; "too few base models" where so few cannot reach it.
    """
    rows = []
    for name, given, values, unit in measured(profile, folder):
        row = {"prediction": name, "says": " ".join(given["says"].split())}
        row |= _summary(values, unit)
        if bound := given.get("within"):
            row["test"] = f"equivalence within {bound}"
            row["p"] = stats.equivalence(values, bound=bound)
        else:
            row |= {"test": "sign flip", "p": stats.sign_flip(values)}
        rows.append(row)
    table = pd.DataFrame(rows)
    table["p_holm"] = stats.holm(table.p)
    table["outcome"] = [_outcome(row, len(table)) for row in table.itertuples()]
    return table


def _outcome(row, tests):
    if row.base_models == 0:
        return ""
    if tests * 2 / 2**row.base_models >= 0.05:  # the least p of the exact test, times their number
        return "too few base models"
    flipped = row.test == "sign flip"
    if not row.p_holm < 0.05:  # also where there is none
        return "no detectable difference" if flipped else "not shown"
    return "opposite" if flipped and row.mean < 0 else "as predicted"


def estimated(profile, folder=None):
    """The estimates, with the smallest true difference that so many base models would find with 80%
    power at 0.05 (detectable).
    """
    rows = []
    for name, _, values, unit in measured(profile, folder, "estimates"):
        row = {"estimate": name, **_summary(values, unit)}
        row["detectable"] = stats.smallest_detectable(values.std(ddof=1), len(values))
        rows.append(row)
    return pd.DataFrame(rows)


def taught(profile, folder=None):
    """What was predicted of a pretrained model that was taught either world: each difference on
    average over taught models, and a column for each model with its interval over questions.
    """
    rows = []
    for name, given, values, unit in measured(profile, folder, "taught"):
        row = {"difference": name, "says": given["says"], **_summary(values, unit)}
        if len(values):
            asked = _by_question(profile, folder, given["quantity"]).groupby("seed")
            row |= analyses.intervals({f"t{seed}": own for seed, own in asked})
        rows.append(row)
    return pd.DataFrame(rows)


def _by_question(profile, folder, quantity):
    """A quantity of entropies by seed and question, see stats.parts_of_ratio."""

    def value_of(term):
        other, there = analyses.beside(profile, folder, term.profile)
        found = analyses.collect(other, "asked", there)
        found = found[(found.method == term.method) & (found.prompt == term.at)]
        by_seed = found.set_index(["seed", "question_id"]).groupby("seed")
        return pd.concat([stats.parts_of_ratio(own.bits, own.tokens) for _, own in by_seed])

    return analyses.added_up(quantity, value_of)


def by_base_model(profile, folder=None):
    """What stands behind each prediction and estimate: a column for each base model."""
    rows = {
        f"{which}: {name}": values
        for which in ("predictions", "estimates")
        for name, _, values, _ in measured(profile, folder, which)
    }
    table = pd.DataFrame(rows).T.rename_axis("quantity")
    return table.add_prefix("b").reset_index()


def what_decides(profile, folder=None):
    """Spearman's rank correlation, over base models, of D(high-entropy prompt) with what may go
    with it; chosen after the runs had been seen.
    """
    evidence, size, rows = analyses.Evidence(profile, folder), profile.table_sizes[0], []
    gap = analyses.written()["predictions"]["heeding"]["quantity"]
    gap = evidence.quantity(gap, size, "asked_bits")
    for name, given in analyses.written()["what_decides"].items():
        other = evidence.quantity(given["quantity"], size, given.get("measure", "asked_bits"))
        both = pd.concat([gap, other], axis=1, join="inner")
        rank = both.corr("spearman").iloc[0, 1]
        rows.append({"quantity": name, "base_models": len(both), "spearman": rank})
    return pd.DataFrame(rows)


def at_equal_accuracy(profile, folder=None):
    """The difference of two methods' normal modes' entropies in training, in bits a token, each
    where it first reaches the lower of the two final accuracies; of means of five measurements.
    """
    evidence, rows = analyses.Evidence(profile, folder), []
    for given in analyses.written()["at_equal_accuracy"]:
        there = evidence.beside(given["profile"])
        found = analyses.dynamics(there.profile, there.folder) if there else None
        pair = (given["method"], given["against"])
        curves = [] if found is None else found.groupby("seed")
        values = pd.Series([_when_level(own, *pair) for _, own in curves], dtype=float).dropna()
        row = {"comparison": given["says"], **_summary(values, "bits")}
        rows.append(row)
    return pd.DataFrame(rows).drop(columns="positive")


def _when_level(found, method, against):
    """The entropies' difference of one base model when level; NaN where one method lacks."""
    columns, curves = ["accuracy_normal", "entropy_bits_normal"], []
    for name in (method, against):
        own = found[found.method == name].sort_values("step")
        curves.append(own[columns].rolling(WINDOW).mean().dropna())
    if any(curve.empty for curve in curves):
        return float("nan")
    level = min(curve.accuracy_normal.iloc[-1] for curve in curves)
    first, second = (curve[curve.accuracy_normal >= level].iloc[0] for curve in curves)
    return first.entropy_bits_normal - second.entropy_bits_normal


def at_quick_length(profile, folder=None):
    """How many base models show the pattern after as many steps as the profile quick trains; and a
    column for each base model with its value.

    A mode's entropy, in bits a token of its own responses, is the mean of the measurements in the
    last ten of these steps.
    """
    steps, rows = runs.load_profile("quick").train.steps, []
    found = analyses.dynamics(profile, folder)
    found = found[found.step.between(steps - 9, steps)]
    entropies = found.groupby(["method", "seed"])[["entropy_bits_normal", "entropy_bits_he"]].mean()

    def value_of(term):
        by_method = entropies[f"entropy_bits_{term.at}"].unstack("seed")
        return by_method.reindex([term.method]).iloc[0]

    for given in analyses.written()["at_quick_length"]:
        values = analyses.added_up(given["quantity"], value_of)
        by_base = {f"b{seed}": value for seed, value in values.items()}
        rows.append({"comparison": given["says"], **_summary(values, "bits"), **by_base})
    return pd.DataFrame(rows)
