"""Analyses: what runs did, as tidy tables that other tables, figures and verdicts are made of.

`collect` is the one reader of results. Every other function takes a profile and optionally the
folder of its results (by default this machine's) and returns a DataFrame with columns KEYS before
its own, variants too (see runs.Profile.unit for what counts as a seed); what was not run is left
out. `Evidence` gives single quantities of them, by seed.
"""

import re
from functools import cache, lru_cache
from math import comb
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml

from pslib import tasks
from pslib.evidence import evaluate, probe
from pslib.evidence.stats import mean_interval
from pslib.lab import records, runs
from pslib.nano import worlds

KEYS = ["size", "method", "label", "seed"]
TRIES = (1, 2, 4, 8, 16, 32, 64)
# What counts as right in pass_at_k: the column of the probe's counts
CRITERIA = {"answer": "correct", "steps": "worked"}
# What a row of the high-entropy mode adds to the method's label, as in the paper.
HE = " + HE prompt"
_MODE_SAID = {"normal": "", "he": HE}
ACCURACIES = ["accuracy_normal", "accuracy_he"]
APART = ["entropy_bits_normal", "entropy_bits_he", "kl_he_from_normal"]
QUARTERS = [f"quarter_{k}" for k in (1, 2, 3, 4)]
SHARES = [f"share_{derivation}" for derivation in (*worlds.DERIVATIONS, "other")]
SUITES = [f"{suite}_{what}" for suite in (*tasks.TEST_SUITES, "average") for what in ("acc", "ent")]
UNITS = {
    **{"average_acc": "points", "average_ent": "bits", "entropy_change": "bits"},
    **{"asked_bits": "bits", "asked_accuracy": "points"},
    **{"asked_kl": "nats", "asked_distance": "share"},
    **{f"passed_{criterion}": "points" for criterion in CRITERIA},
    **{"kl_from_normal": "nats", "kl_he_from_normal": "nats", "kl": "nats", "distance": "share"},
    **{"div_2gram": "points of 100", "div_bleu4": "points of 100", "solved": "points"},
    "times": "times",
}


@cache
def written():
    """What claims.yaml says: the paper's claims with their checks, predictions, comparisons."""
    return yaml.safe_load((Path(__file__).parent / "claims.yaml").read_text(encoding="utf-8"))


@lru_cache(maxsize=8192)
def _read(path, stamp):
    return pd.read_csv(path)


def read(path):
    """A CSV file as a table, read once for as long as it does not change."""
    return _read(path, path.stat().st_mtime_ns)


def collect(profile, name, folder=None, grid=None):
    """Every run's <name>.csv as one table, with columns KEYS and run; empty where there is none.

    grid: the runs as (method, size, seed), by default all that the profile holds.
    """
    root, parts, keys = Path(folder or profile.folder) / "runs", {}, [*KEYS, "run"]
    records.check(profile, folder)
    for method, size, seed in grid or profile.grid:
        run = runs.run_id(method, size, seed)
        path = root / run / f"{name}.csv"
        if path.exists():
            shown, unit = profile.unit(size, seed)
            parts[shown, method, profile.method(method).label, unit, run] = read(path)
    if not parts:
        return pd.DataFrame(columns=keys)
    # Named by concat at once: columns assigned run by run take twenty times as long.
    return pd.concat(parts, names=keys).reset_index(keys).reset_index(drop=True)


def beside(profile, folder, name):
    """Another profile, and the folder of its results, which lie beside these."""
    return runs.load_profile(name), Path(folder or profile.folder).parent / name


def label_of(profile, method, mode):
    """What a method's row is called in a mode, as in the paper's table 1."""
    return profile.method(method).label + _MODE_SAID[mode]


def interval(name, values):
    """{name: mean, <name>_ci: half-width of the 95% interval} of values, one a replicate."""
    mean, half = mean_interval(values)
    return {name: mean, f"{name}_ci": half}


def over_seeds(table, keys, measures):
    """Mean and 95% interval's half-width (`<measure>_ci`) of measures over seeds, a row for each of
    `keys`, in their order; columns keys, seeds (how many) and two for each measure.
    """
    rows = []
    for values, own in table.groupby(keys, sort=False):
        row = dict(zip(keys, values, strict=True), seeds=own.seed.nunique())
        for measure in measures:
            row |= interval(measure, own[measure])
        rows.append(row)
    both = [column for measure in measures for column in interval(measure, [])]
    return pd.DataFrame(rows, columns=[*keys, "seeds", *both])


# --- the suites of table 1 ------------------------------------------------------------------------
def suites(profile, folder=None):
    """Accuracy (percent) and entropy (bits) of every run in each mode, suite by suite and their
    plain average.

    Columns KEYS, run, mode and SUITES; the label names the high-entropy mode.
    """
    found = collect(profile, "evaluation", folder)
    if found.empty:
        return pd.DataFrame(columns=[*KEYS, "run", "mode", *SUITES])
    weighed = found.assign(bits=found.entropy_bits * found.tokens)
    by = weighed.groupby([*KEYS, "run", "mode", "suite"], sort=False)
    means = {"acc": 100 * by.correct.mean(), "ent": by.bits.sum() / by.tokens.sum()}
    columns = {
        f"{suite}_{what}": means[what].xs(suite, level="suite")
        for suite in tasks.TEST_SUITES
        for what in means
    }
    table = pd.concat(columns, axis=1).reset_index()
    for what in means:
        own = [table[f"{suite}_{what}"] for suite in tasks.TEST_SUITES]
        table[f"average_{what}"] = sum(own) / len(own)
    table["label"] += table["mode"].map(_MODE_SAID)
    return table


def derivations(profile, folder=None):
    """Accuracy and the shares of the derivations in table 1's suites, a row a run, mode and suite
    (see evaluate.derivations).
    """
    found = collect(profile, "evaluation", folder)
    if "derivation" in found:  # this machine's results; committed ones carry what was made of them
        parts = {
            of: evaluate.derivations(own).set_index(["suite", "mode"])
            for of, own in found.groupby(KEYS, sort=False)
        }
        return pd.concat(parts, names=KEYS).reset_index()
    columns = ["suite", "mode", "accuracy", *worlds.DERIVATIONS, "other"]
    return collect(profile, "derivations", folder).reindex(columns=[*KEYS, *columns])


# --- training -------------------------------------------------------------------------------------
def dynamics(profile, folder=None, grid=None):
    """Entropy in bits of each mode on its own responses and inter-mode KL in nats a token, at every
    measured step, and the accuracy of each mode's responses over the five steps up to there.
    """
    found = collect(profile, "metrics", folder, grid)
    found = found.reindex(columns=[*KEYS, "step", *APART, *ACCURACIES])
    by_run = found.groupby(["size", "method", "seed"])[ACCURACIES]
    found[ACCURACIES] = by_run.rolling(5, 1).mean().reset_index(drop=True, level=[0, 1, 2])
    return found.dropna(subset=["entropy_bits_normal"]).reset_index(drop=True)


def start_and_end(profile, folder=None, window=5):
    """Each run's entropies and KL before training (the first step's rollouts), at the end, and the
    KL's peak.

    End: the mean of the last `window` measurements; peak: the largest mean of so many in a row.
    """
    by_run = dynamics(profile, folder).groupby(KEYS, sort=False)
    start = by_run[APART].first().add_suffix("_start")
    end = by_run[APART].agg(lambda values: values.tail(window).mean()).add_suffix("_end")
    peak = by_run.kl_he_from_normal.agg(lambda values: values.rolling(window).mean().max())
    return pd.concat([start, end, peak.rename("kl_he_from_normal_peak")], axis=1).reset_index()


def learning(profile, folder=None):
    """How fast each mode learns: its rollouts' accuracy above GRPO's in points, in each quarter of
    training.

    A row a run and mode; paired with GRPO's run of the same seed, which had the same questions at
    every step.
    """
    found = collect(profile, "metrics", folder).reindex(columns=[*KEYS, "step", *ACCURACIES])
    found["quarter"] = [
        f"quarter_{int(4 * (k - 1) // profile.train.steps) + 1}" for k in found.step
    ]
    long = found.melt([*KEYS, "quarter"], ACCURACIES, "mode", "accuracy").dropna()
    long["mode"] = long["mode"].str.removeprefix("accuracy_")
    table = 100 * long.pivot_table("accuracy", [*KEYS, "mode"], "quarter", sort=False)
    table = table.reindex(columns=QUARTERS).reset_index()
    table = table.sort_values("mode", ascending=False, kind="stable")  # the normal mode first
    grpo = table[table.method == "grpo"].set_index(["size", "seed"])[QUARTERS]
    table = table[table.method != "grpo"].set_index(["size", "seed"])
    table[QUARTERS] -= grpo.reindex(table.index)
    return table.reset_index()[[*KEYS, "mode", *QUARTERS]]


def cost(profile, folder=None):
    """Seconds a step that each run spent on sampling, scoring and update, in all, and times GRPO's
    of the same size and seed.
    """
    parts = [f"seconds_{part}" for part in ("sample", "score", "update")]
    found = collect(profile, "metrics", folder).reindex(columns=[*KEYS, *parts])
    table = found.groupby(KEYS, sort=False)[parts].mean().reset_index()
    table["seconds"] = table[parts].sum(axis=1, min_count=1)
    grpo = table[table.method == "grpo"].set_index(["size", "seed"]).seconds
    beside = grpo.reindex(pd.MultiIndex.from_frame(table[["size", "seed"]])).to_numpy()
    return table.assign(times=table.seconds / beside)


# --- what was asked beside the suites -------------------------------------------------------------
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


def _solved(profile, folder, probe="best_of_n", right="correct"):
    """Of each run: its keys, how many samples a question had, and how many were right: a row a
    question, a column a mode.
    """
    for keys, own in collect(profile, probe, folder).groupby(KEYS, sort=False):
        counts = own.pivot(index="question_id", columns="mode", values=right)
        yield keys, int(own.samples.iloc[0]), counts


def best_of_n(profile, folder=None, tries=TRIES, **of):
    """Best-of-n accuracy in percent for the normal mode, the high-entropy mode, and half of the n
    in each ("both").

    A row a run, n and way of sampling; for "both", 1 - (1 - p_n/2 normal)(1 - p_n/2 HE) for each
    question, n even: draws in two modes are independent, so the product of two unbiased estimates
    is one. of: which probe's counts, and of what, see _solved.
    """
    rows = []
    for keys, samples, counts in _solved(profile, folder, **of):
        chance = {
            (mode, n): np.array([best_of(c, samples, n) for c in counts[mode]])
            for mode in counts
            for n in tries
            if n <= samples
        }
        for (mode, n), p in chance.items():
            rows.append((*keys, mode, n, 100 * p.mean()))
            if mode == "normal" and n > 1:
                both = 1 - (1 - chance["normal", n // 2]) * (1 - chance["he", n // 2])
                rows.append((*keys, "both", n, 100 * both.mean()))
    return pd.DataFrame(rows, columns=[*KEYS, "sampling", "n", "accuracy"])


def pass_at_k(profile, folder=None):
    """Best-of-n accuracy of the probe pass_at_k for n of 1 to 256, by each of CRITERIA: the answer
    is right; the answer and every worked step are right.
    """
    tries = tuple(2**power for power in range(9))
    parts = {
        criterion: best_of_n(profile, folder, tries, probe="pass_at_k", right=column)
        for criterion, column in CRITERIA.items()
    }
    return pd.concat(parts, names=["criterion"]).reset_index("criterion")


def solved_by_one(profile, folder=None):
    """Questions, of 100, that only one mode ever solved in its samples: columns only_normal,
    only_he, neither.
    """
    rows = []
    for keys, _, counts in _solved(profile, folder):
        normal, he = counts.normal > 0, counts.he > 0
        rows.append((*keys, *(100 * p.mean() for p in (normal & ~he, he & ~normal, ~he & ~normal))))
    return pd.DataFrame(rows, columns=[*KEYS, "only_normal", "only_he", "neither"])


def total_variation(first, second):
    """How far two distributions are apart, 0 to 1: half the sum of the absolute differences of
    their shares, which stand on the last axis.
    """
    return np.abs(first - second).sum(-1) / 2


def behaviour(profile, folder=None):
    """What each mode does: shares of the derivations under no prompt and under the trained one, and
    how far they are apart.

    A row a run; distance is the total variation, half the sum of the shares' absolute differences,
    and `chance` what two samples of this size from one distribution would show on average. kl in
    nats a token.
    """
    responses, rows = profile.probe.prompts * profile.evaluate.samples, []
    for keys, own in collect(profile, "prompts", folder).groupby(KEYS, sort=False):
        own = own.set_index("prompt")
        none, trained = (own.loc[name, SHARES].to_numpy(float) for name in ("none", "trained"))
        both = (none + trained) / (none + trained).sum()
        draws = np.random.default_rng(0).multinomial(responses, both, (2, 2000)) / responses
        chance = total_variation(*draws).mean()
        distance = total_variation(none, trained)
        rows.append((*keys, distance, chance, own.kl_from_normal["trained"], *none, *trained))
    shares = [f"{share}_{mode}" for mode in ("normal", "he") for share in SHARES]
    return pd.DataFrame(rows, columns=[*KEYS, "distance", "chance", "kl", *shares])


def prompt_generalization(profile, folder=None):
    """How each system prompt moves a model from its normal mode: differences in accuracy (points),
    entropy (bits), and KL (nats).

    A row a run and prompt.
    """
    columns = ["prompt", "accuracy", "entropy_bits", "kl_from_normal"]
    found = collect(profile, "prompts", folder).reindex(columns=[*KEYS, *columns])
    none = found[found.prompt == "none"].set_index(KEYS)
    rest = found[found.prompt != "none"].set_index(KEYS)
    moved = rest[["prompt", "kl_from_normal"]].assign(
        accuracy_change=100 * (rest.accuracy - none.accuracy.reindex(rest.index)),
        entropy_change=rest.entropy_bits - none.entropy_bits.reindex(rest.index),
    )
    return moved.reset_index()


ASKED = ["asked_bits", "asked_accuracy", "asked_kl", "asked_distance"]


def asked(profile, folder=None):
    """What models do under each prompt, all of them asked the same questions with the same draws ->
    DataFrame, a row a run and prompt.

    Columns KEYS, prompt, asked_accuracy (percent), asked_bits (entropy, bits a token), asked_kl
    (nats a token, from the same model without a prompt), share_<derivation>, asked_distance (0 to
    1: total variation of these shares from the same model's without a prompt), and part_<kind>, the
    bits on a kind of tokens divided by all tokens: what it contributes to asked_bits.
    """
    found, keys = collect(profile, "asked", folder), [*KEYS, "prompt"]
    if found.empty:
        return pd.DataFrame(columns=[*keys, *ASKED])
    total = found.drop(columns=["question_id", "run"]).groupby(keys, sort=False).sum()
    out = pd.DataFrame(
        {
            "asked_accuracy": 100 * total.correct / total.samples,
            "asked_bits": total.bits / total.tokens,
            "asked_kl": total.kl / total.tokens,
        }
    )
    for share in SHARES:
        out[share] = total[share.removeprefix("share_")] / total.samples
    for kind in probe.KINDS:
        out[f"part_{kind}"] = total[f"bits_{kind}"] / total.tokens
    none = out[SHARES].xs("none", level="prompt").reindex(out.index.droplevel("prompt"))
    out["asked_distance"] = total_variation(out[SHARES].to_numpy(), none.to_numpy())
    return out.reset_index()


STORIES = ["div_2gram", "div_bleu4", "told", "entropy_bits", "tokens"]


def stories(profile, folder=None):
    """How diverse a run's stories are in each mode, means over prompts; columns STORIES.

    told: the share of responses that are stories. A method that has one mode was asked under the
    high-entropy prompt too, to tell what the prompt alone does; the label names that prompt.
    """
    found = collect(profile, "stories", folder).reindex(columns=[*KEYS, "mode", *STORIES])
    found["label"] += found["mode"].map(_MODE_SAID)
    return found.groupby([*KEYS, "mode"], sort=False)[STORIES].mean().reset_index()


# --- the bonus of eq. 3 ---------------------------------------------------------------------------
def bonus(profile, folder=None):
    """What eq. 3 adds to the base models' advantages, token by token (see probe.bonus), with their
    sizes.
    """
    root = Path(folder or profile.folder) / "base"
    paths = {size: root / size / "bonus.csv" for size in profile.sizes}
    parts = [read(path).assign(size=size) for size, path in paths.items() if path.exists()]
    columns = ["size", "kind", "mode", "advantage", "bonus", "paper", "released"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def bonus_by_kind(profile, folder=None):
    """By size and kind of token: its share of all tokens, its mean B, and the median addition over
    |A| in two forms.
    """
    found = bonus(profile, folder)
    for form in ("paper", "released"):
        found[form] = found[form].abs() / found.advantage.abs()
    by = found.groupby(["size", "kind"], sort=False)
    columns = {"tokens": by.size(), "mean_bonus": by.bonus.mean()}
    for form in ("paper", "released"):
        columns |= {f"{form}_median": by[form].median(), f"{form}_max": by[form].max()}
    return pd.DataFrame(columns).reset_index()


# --- single quantities ----------------------------------------------------------------------------
class Term(NamedTuple):
    """A part of a quantity: a number, or what a method of a profile was measured at, with a
    sign.
    """

    sign: int
    profile: str  # "": the one at hand
    method: str
    at: str
    number: float


def terms(quantity):
    """A quantity's Terms: "a/b@c - d@e + 0.5" is the sum of b at c in profile a, minus d at e, and
    a half; ValueError if it is not such a sum.
    """
    pattern = r"([+-]?)\s*(?:(?:(\w+)/)?([\w.]+)@(\w+)|(\d[\d.]*))(?:\s+|$)"
    found = re.findall(pattern, quantity.strip())
    if re.sub(pattern, "", quantity.strip()) or not found:
        raise ValueError(
            f"a quantity is a signed sum of terms like profile/method@prompt; got {quantity!r}"
        )
    return [
        Term(-1 if sign == "-" else 1, profile, method, at, float(number or 0))
        for sign, profile, method, at, number in found
    ]


def added_up(quantity, value_of):
    """A quantity by seed, for each that has all of its terms.

    value_of: function of a Term that is no number -> Series by seed.
    """
    values = (t.sign * (value_of(t) if t.method else t.number) for t in terms(quantity))
    return sum(values).dropna().sort_index()


class Evidence:
    """A profile's results as single quantities: "policy_split@he - grpo@normal" of a measure, by
    seed.

    What stands behind @ is a mode; for the measures of prompt_generalization and asked a prompt,
    for `solved` and passed_<criterion> a way of sampling and n (both_8), for the KL in training
    start or end. A method may be another profile's whose results lie beside these:
    "understood_low/eta_0@none".
    """

    def __init__(self, profile, folder=None):
        self.profile, self.folder = profile, Path(folder or profile.folder)
        self._indexed, self.beside = cache(self._indexed), cache(self.beside)

    @property
    def sizes(self):
        """The sizes that have been evaluated, in the profile's order."""
        found = {size for size, _, _ in self._indexed(*MEASURED["average_acc"]).groups}
        return [size for size in self.profile.table_sizes if size in found]

    def of(self, size, method, at, measure):
        """A measure of a method at one place, by seed; empty where it was not measured."""
        found = self._indexed(*MEASURED[measure])
        key = (size, method, at)
        return found.get_group(key)[measure].astype(float) if key in found.groups else _NONE

    def quantity(self, quantity, size, measure):
        """The values of a quantity, by seed (see added_up)."""

        def value_of(term):
            there = self.beside(term.profile) if term.profile else self
            return there.of(size, term.method, term.at, measure) if there else _NONE

        return added_up(quantity, value_of)

    def intervals(self, quantity, size, measures):
        """A quantity of several {column: measure}: for each column the mean, and `<column>_ci`."""
        row = {}
        for column, measure in measures.items():
            row |= interval(column, self.quantity(quantity, size, measure))
        return row

    def labels(self, quantity):
        """What the terms of a quantity are called, method and mode, as in table 1."""
        return [label_of(self.profile, term.method, term.at) for term in terms(quantity)]

    def beside(self, name):
        """The Evidence of another profile, whose results lie beside these; None where it was not
        run.
        """
        if name == self.profile.name:
            return self
        other, there = beside(self.profile, self.folder, name)
        return Evidence(other, there) if (there / "runs").exists() else None

    def _indexed(self, source, at):
        found = source(self.profile, self.folder).set_index("seed")
        return found.assign(at=found.get(at, at)).groupby(["size", "method", "at"])


_NONE = pd.Series(dtype=float)


def _kl_by_time(profile, folder):
    renamed = {f"kl_he_from_normal_{at}": at for at in ("start", "end")}
    found = start_and_end(profile, folder).rename(columns=renamed)
    return found.melt(KEYS, ["start", "end"], "at", "kl_he_from_normal")


def _by_budget(profile, folder):
    found = best_of_n(profile, folder)
    return found.assign(at=found.sampling + "_" + found.n.astype(str), solved=found.accuracy)


def _by_criterion(profile, folder):
    found = pass_at_k(profile, folder)
    found = found.assign(at=found.sampling + "_" + found.n.astype(str))
    wide = found.pivot(index=[*KEYS, "at"], columns="criterion", values="accuracy")
    return wide.add_prefix("passed_").reset_index()


# Which table has a measure, and which of its columns stands behind @, or what does for all rows.
MEASURED = {
    **dict.fromkeys(SUITES, (suites, "mode")),
    **dict.fromkeys(STORIES, (stories, "mode")),
    **dict.fromkeys(("kl_from_normal", "entropy_change"), (prompt_generalization, "prompt")),
    **dict.fromkeys(("distance", "kl"), (behaviour, "he")),
    **dict.fromkeys(
        [*ASKED, *SHARES, *(f"part_{kind}" for kind in probe.KINDS)], (asked, "prompt")
    ),
    "times": (cost, "training"),
    "kl_he_from_normal": (_kl_by_time, "at"),
    "solved": (_by_budget, "at"),
    **dict.fromkeys([f"passed_{criterion}" for criterion in CRITERIA], (_by_criterion, "at")),
}
