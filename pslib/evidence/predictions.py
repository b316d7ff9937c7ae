"""Predictions: quantities named in claims.yaml before the runs, measured over base models in one
evaluation.

Every number comes from the files asked.csv, in which all models of all profiles answer the same
questions under the same prompts with the same draws. A term of a quantity is a mean over one base
model's responses; the base model is the unit.
"""

from functools import lru_cache
from pathlib import Path

import pandas as pd

from pslib.evidence import analyses, probe, stats
from pslib.lab import runs
from pslib.nano import worlds

MEASURES = {"entropy_bits": "bits", "accuracy": "points", "kl": "nats"}
BEHAVIOURS = (*worlds.DERIVATIONS, "other")


def asked(profile, folder=None):
    """What the models of a profile do under each prompt -> DataFrame, a row a run and prompt.

    Columns size, method, label, seed (the base model), prompt, accuracy (percent), entropy_bits (a
    token), kl (nats a token, from the same model without a prompt), share_<derivation>, bits_<kind>
    and tokens_<kind> a response, and part_<kind>, the kind's bits divided by all tokens: what it
    contributes to entropy_bits.
    """
    found, keys = analyses.collect(profile, "asked", folder), [*analyses.KEYS, "prompt"]
    if found.empty:
        return pd.DataFrame(columns=[*keys, *MEASURES])
    total = found.drop(columns=["question_id", "run"]).groupby(keys, sort=False).sum().reset_index()
    out = total[keys].assign(
        accuracy=100 * total.correct / total.samples,
        entropy_bits=total.bits / total.tokens,
        kl=total.kl / total.tokens,
    )
    for derivation in BEHAVIOURS:
        out[f"share_{derivation}"] = total[derivation] / total.samples
    for kind in probe.KINDS:
        for what in ("bits", "tokens"):
            out[f"{what}_{kind}"] = total[f"{what}_{kind}"] / total.samples
        out[f"part_{kind}"] = total[f"bits_{kind}"] / total.tokens
    return out


@lru_cache(maxsize=64)
def _asked_once(name, root, stamps):
    found = asked(runs.load_profile(name), root / name)
    return found.set_index("seed").groupby(["method", "prompt"])


def measured(quantity, root, measure="entropy_bits"):
    """A quantity for each base model that has all of its terms -> Series by base model (see
    analyses.terms).

    root: the folder in which the profiles' results lie side by side. Read once for as long as no
    file changes.
    """

    def value_of(term):
        files = sorted(Path(root).glob(f"{term.profile}/runs/*/asked.csv"))
        stamps = tuple((path, path.stat().st_mtime_ns) for path in files)
        found = _asked_once(term.profile, Path(root), stamps)
        key = (term.method, term.at)
        return found.get_group(key)[measure] if key in found.groups else pd.Series(dtype=float)

    return analyses.added_up(quantity, value_of)


def distance(profile, method, prompt, root):
    """How differently a model works under a prompt and under none, by base model: half the sum of
    the differences of shares.

    Total variation of the shares of derivations, 0 (alike) to 1; a Series by base model.
    """
    quantity = f"{profile}/{method}@{prompt} - {profile}/{method}@none"
    return sum(measured(quantity, root, f"share_{name}").abs() / 2 for name in BEHAVIOURS)


def tested(root):
    """The predictions and what came of them -> DataFrame, one row each, in one Holm family.

    Columns prediction, says, n (base models), mean and half (its 95% interval's half-width), unit,
    test, p, p_holm, outcome.
    outcome: "as predicted" or "opposite" where p_holm is below 0.05, else "no detectable
    difference" ("not shown" for equivalence).
    """
    rows = []
    for name, given in analyses.written()["predictions"].items():
        found, row = _row("prediction", name, given, root)
        bound = given.get("within")
        row["says"] = " ".join(given["says"].split())
        row["test"] = f"equivalence within {bound}" if bound else "sign flip"
        row["p"] = stats.equivalence(found, bound=bound) if bound else stats.sign_flip(found)
        rows.append(row)
    columns = ["prediction", "says", "n", "mean", "half", "unit", "test", "p"]
    table = pd.DataFrame(rows)[columns]
    table["p_holm"] = stats.holm(table.p)
    table["outcome"] = [_outcome(row) for row in table.itertuples()]
    return table


def _row(kind, name, given, root):
    """A quantity's values by base model, and its row: name, n, mean, half and unit."""
    measure = given.get("measure", "entropy_bits")
    found = measured(given["quantity"], root, measure)
    mean, half = stats.mean_interval(found)
    row = {kind: name, "n": len(found), "mean": mean, "half": half, "unit": MEASURES[measure]}
    return found, row


def _outcome(row):
    if row.n == 0:
        return ""
    if row.test != "sign flip":
        return "as predicted" if row.p_holm < 0.05 else "not shown"
    if row.p_holm >= 0.05:
        return "no detectable difference"
    return "as predicted" if row.mean > 0 else "opposite"


def estimated(root):
    """The estimates named beside the predictions -> DataFrame: estimate, n, mean, half, unit, and
    detectable.

    detectable: the smallest true difference that so many base models would find with 80% power at
    0.05.
    """
    rows = []
    for name, given in analyses.written()["estimates"].items():
        found, row = _row("estimate", name, given, root)
        spread = found.std(ddof=1)
        rows.append(row | {"detectable": stats.smallest_detectable(spread, len(found))})
    return pd.DataFrame(rows)
