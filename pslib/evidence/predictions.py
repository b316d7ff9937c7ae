"""Predictions: quantities named in claims.yaml before the runs, measured over base models in one
evaluation.

Every number comes from analyses.asked, for which all models of all profiles answer the same
questions under the same prompts with the same draws. A term of a quantity is a mean over one base
model's responses; the base model is the unit.
"""

import pandas as pd

from pslib.evidence import analyses, stats
from pslib.lab import runs


def measured(profile, folder=None, which="predictions"):
    """The quantities of the `predictions` or `estimates` in claims.yaml -> (name, what is said of
    it, its values by base model, its unit), one at a time.
    """
    evidence, size = analyses.Evidence(profile, folder), profile.table_sizes[0]
    for name, given in analyses.written()[which].items():
        measure = given.get("measure", "asked_bits")
        values = evidence.quantity(given["quantity"], size, measure)
        yield name, given, values, analyses.UNITS[measure]


def tested(profile, folder=None):
    """The predictions and what came of them -> DataFrame, one row each, in one Holm family.

    Columns prediction, says, base_models (how many), positive (in how many of them it is above 0),
    mean and mean_ci (its 95% interval's half-width), unit, test, p, p_holm, outcome.
    outcome: "as predicted" or "opposite" where p_holm is below 0.05, else "no detectable
    difference" ("not shown" for equivalence); "too few base models" where so few cannot reach it.
    """
    rows = []
    for name, given, values, unit in measured(profile, folder):
        bound = given.get("within")
        rows.append(
            {
                "prediction": name,
                "says": " ".join(given["says"].split()),
                "base_models": len(values),
                "positive": int((values > 0).sum()),
                **analyses.interval("mean", values),
                "unit": unit,
                "test": f"equivalence within {bound}" if bound else "sign flip",
                "p": stats.equivalence(values, bound=bound) if bound else stats.sign_flip(values),
            }
        )
    table = pd.DataFrame(rows)
    table["p_holm"] = stats.holm(table.p)
    table["outcome"] = [_outcome(row, len(table)) for row in table.itertuples()]
    return table


def _outcome(row, tests):
    if row.base_models == 0:
        return ""
    if tests * 2 / 2**row.base_models >= 0.05:  # the least p of the exact test, times their number
        return "too few base models"
    if row.test != "sign flip":
        return "as predicted" if row.p_holm < 0.05 else "not shown"
    if row.p_holm >= 0.05:
        return "no detectable difference"
    return "as predicted" if row.mean > 0 else "opposite"


def estimated(profile, folder=None):
    """The estimates named beside the predictions -> DataFrame: estimate, base_models, positive,
    mean, mean_ci, unit, and detectable.

    detectable: the smallest true difference that so many base models would find with 80% power at
    0.05.
    """
    rows = []
    for name, _, values, unit in measured(profile, folder, "estimates"):
        rows.append(
            {
                "estimate": name,
                "base_models": len(values),
                "positive": int((values > 0).sum()),
                **analyses.interval("mean", values),
                "unit": unit,
                "detectable": stats.smallest_detectable(values.std(ddof=1), len(values)),
            }
        )
    return pd.DataFrame(rows)


def by_base_model(profile, folder=None):
    """What stands behind each prediction and estimate -> DataFrame: quantity, and a column for each
    base model with its value.
    """
    rows = {
        f"{which}: {name}": values
        for which in ("predictions", "estimates")
        for name, _, values, _ in measured(profile, folder, which)
    }
    table = pd.DataFrame(rows).T.rename_axis("quantity")
    return table.set_axis([f"b{seed}" for seed in table.columns], axis=1).reset_index()


WINDOW = 5  # measurements over which accuracy and entropy in training are averaged


def at_equal_accuracy(profile, folder=None):
    """The normal mode's entropy in training, of two methods when both are equally accurate ->
    DataFrame: comparison, base_models, mean, mean_ci, unit.

    Of each base model, accuracy and entropy are means of five measurements in a row. The level is
    the lower of the two methods' final accuracies. Each method's entropy is taken where it first
    reaches the level; what is compared is their difference, in bits a token.
    """
    evidence, rows = analyses.Evidence(profile, folder), []
    for given in analyses.written()["at_equal_accuracy"]:
        there = evidence.beside(given["profile"])
        found = analyses.dynamics(there.profile, there.folder) if there else None
        pair = (given["method"], given["against"])
        curves = [] if found is None else found.groupby("seed")
        values = pd.Series([_when_level(own, *pair) for _, own in curves], dtype=float).dropna()
        rows.append(
            {
                "comparison": given["says"],
                "base_models": len(values),
                **analyses.interval("mean", values),
                "unit": "bits",
            }
        )
    return pd.DataFrame(rows)


def _when_level(found, method, against):
    """The difference of two methods' entropies when level, from one base model's curves; NaN where
    one lacks.
    """
    columns, curves = ["accuracy_normal", "entropy_bits_normal"], []
    for name in (method, against):
        own = found[found.method == name].sort_values("step")
        curves.append(own[columns].rolling(WINDOW).mean().dropna())
    if any(curve.empty for curve in curves):
        return float("nan")
    level = min(curve.accuracy_normal.iloc[-1] for curve in curves)
    reached = [curve[curve.accuracy_normal >= level].iloc[0] for curve in curves]
    return reached[0].entropy_bits_normal - reached[1].entropy_bits_normal


def at_quick_length(profile, folder=None):
    """How many base models show the pattern after as many steps as the profile quick trains ->
    DataFrame: comparison, base_models, positive, mean, mean_ci, unit, and a column for each base
    model with its value.

    A mode's entropy, in bits a token of its own responses, is the mean of the measurements in the
    last ten of these steps.
    """
    steps, rows = runs.load_profile("quick").train.steps, []
    found = analyses.dynamics(profile, folder)
    found = found[found.step.between(steps - 9, steps)]
    entropies = found.groupby(["method", "seed"])[["entropy_bits_normal", "entropy_bits_he"]].mean()

    def entropy_of(term):
        own = entropies[entropies.index.get_level_values("method") == term.method]
        return own[f"entropy_bits_{term.at}"].droplevel("method")

    for given in analyses.written()["at_quick_length"]:
        values = analyses.added_up(given["quantity"], entropy_of)
        rows.append(
            {
                "comparison": given["says"],
                "base_models": len(values),
                "positive": int((values > 0).sum()),
                **analyses.interval("mean", values),
                "unit": "bits",
                **{f"b{seed}": value for seed, value in values.items()},
            }
        )
    return pd.DataFrame(rows)
