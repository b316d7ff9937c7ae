"""Predictions: quantities named in claims.yaml before the runs, measured over base models in one
evaluation.

Every number comes from the files asked.csv, in which all models of all profiles answer the same
questions under the same prompts with the same draws. A term of a quantity is a mean over one base
model's responses; the base model is the unit.
"""

import re
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

from pslib.evidence import analyses, probe, stats
from pslib.lab import records, runs
from pslib.nano import worlds

MEASURES = {"entropy_bits": "bits", "accuracy": "points", "kl": "nats"}


@cache
def _written():
    return yaml.safe_load((Path(__file__).parent / "claims.yaml").read_text(encoding="utf-8"))


def asked(profile, folder=None):
    """What the models of a profile do under each prompt -> DataFrame, a row a run and prompt.

    Columns size, method, label, seed (the base model), prompt, accuracy (percent), entropy_bits (a
    token), kl (nats a token, from the same model without a prompt), share_<derivation>, bits_<kind>
    and tokens_<kind> a response, and part_<kind>, the kind's bits divided by all tokens: what it
    contributes to entropy_bits.
    """
    found = pd.concat(
        [analyses.collect(profile, "asked", folder, variants) for variants in (False, True)]
    )
    keys = ["size", "method", "label", "seed", "prompt"]
    if found.empty:
        return pd.DataFrame(columns=[*keys, "accuracy", "entropy_bits", "kl"])
    total = found.drop(columns="question_id").groupby(keys, sort=False).sum().reset_index()
    out = total[keys].assign(
        accuracy=100 * total.correct / total.samples,
        entropy_bits=total.bits / total.tokens,
        kl=total.kl / total.tokens,
    )
    for derivation in (*worlds.DERIVATIONS, "other"):
        out[f"share_{derivation}"] = total[derivation] / total.samples
    for kind in probe.KINDS:
        for what in ("bits", "tokens"):
            out[f"{what}_{kind}"] = total[f"{what}_{kind}"] / total.samples
        out[f"part_{kind}"] = total[f"bits_{kind}"] / total.tokens
    return out


@cache
def _asked_once(name, root):
    profile = runs.load_profile(name)
    records.check(profile, root / name)
    return asked(profile, root / name).set_index(["method", "prompt", "seed"]).sort_index()


def terms(quantity):
    """A quantity's terms: "a/b@c - d/e@f" -> [(1, "a", "b", "c"), (-1, "d", "e", "f")]; ValueError
    if it is not such a sum.
    """
    found = re.findall(r"([+-]?)\s*([\w.]+)/([\w.]+)@(\w+)\s*", quantity)
    whole = "".join(f"{sign}{profile}/{method}@{prompt}" for sign, profile, method, prompt in found)
    if whole != re.sub(r"\s", "", quantity):
        raise ValueError(
            f"a quantity is a signed sum of terms like profile/method@prompt; got {quantity!r}"
        )
    return [(-1 if sign == "-" else 1, *rest) for sign, *rest in found]


def measured(quantity, root, measure="entropy_bits"):
    """A quantity for each base model that has all of its terms -> Series by base model.

    root: the folder in which the profiles' results lie side by side.
    """
    total = None
    for sign, profile, method, prompt in terms(quantity):
        table = _asked_once(profile, Path(root))
        here = (method, prompt) in table.index.droplevel("seed") if len(table) else False
        own = sign * table.loc[(method, prompt), measure] if here else pd.Series(dtype=float)
        total = own if total is None else (total + own)
    return total.dropna().sort_index()


def distance(profile, method, prompt, root):
    """How differently a model works under a prompt and under none, by base model: half the sum of
    the differences of shares.

    Total variation of the shares of derivations, 0 (alike) to 1; a Series by base model.
    """
    total = None
    for derivation in (*worlds.DERIVATIONS, "other"):
        own = (
            measured(
                f"{profile}/{method}@{prompt} - {profile}/{method}@none",
                root,
                f"share_{derivation}",
            ).abs()
            / 2
        )
        total = own if total is None else total + own
    return total


def tested(root):
    """The predictions and what came of them -> DataFrame, one row each, in one Holm family.

    Columns prediction, says, n (base models), mean and half (its 95% interval's half-width), unit,
    test, p, p_holm, outcome.
    outcome: "as predicted" or "opposite" where p_holm is below 0.05, else "no detectable
    difference" ("not shown" for equivalence).
    """
    rows = []
    for name, given in _written()["predictions"].items():
        found = measured(given["quantity"], root, given.get("measure", "entropy_bits"))
        mean, half = stats.mean_interval(found)
        bound = given.get("within")
        p = stats.equivalence(found, bound=bound) if bound else stats.sign_flip(found)
        rows.append(
            {
                "prediction": name,
                "says": " ".join(given["says"].split()),
                "n": len(found),
                "mean": mean,
                "half": half,
                "unit": MEASURES[given.get("measure", "entropy_bits")],
                "test": f"equivalence within {bound}" if bound else "sign flip",
                "p": p,
            }
        )
    table = pd.DataFrame(rows)
    table["p_holm"] = stats.holm(table.p)
    table["outcome"] = [_outcome(row) for row in table.itertuples()]
    return table


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
    for name, given in _written()["estimates"].items():
        measure = given.get("measure", "entropy_bits")
        found = measured(given["quantity"], root, measure)
        mean, half = stats.mean_interval(found)
        rows.append(
            {
                "estimate": name,
                "n": len(found),
                "mean": mean,
                "half": half,
                "unit": MEASURES[measure],
                "detectable": stats.smallest_detectable(found.std(ddof=1), len(found))
                if len(found) > 1
                else float("nan"),
            }
        )
    return pd.DataFrame(rows)
