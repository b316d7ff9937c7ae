"""Analyses: what runs did, as tidy tables that other tables, figures and verdicts are made of.

`collect` is the one reader of results. Every other function takes a profile and the folder of its
results (by default this machine's) and returns a DataFrame with columns KEYS before its own; what
was not run is left out.
"""

import re
from functools import cache, lru_cache
from itertools import product
from math import comb
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml

from pslib import tasks
from pslib.evidence import diversity, evaluate, probe
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
STORIES = ["div_2gram", "div_bleu4", "told", "entropy_bits", "tokens"]
ASKED = ["asked_bits", "asked_accuracy", "asked_kl", "asked_distance"]


@cache
def written(name="claims"):
    """What claims.yaml or artefacts.yaml says."""
    return yaml.safe_load((Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8"))


def unit_of(measure):
    """The unit of a measure."""
    units = written("artefacts")["units"]
    return next(unit for unit, measures in units.items() if measure in measures)


@lru_cache(maxsize=8192)
def _read(path, stamp):
    return pd.read_csv(path)


def read(path):
    """A CSV file as a table, read once for as long as it does not change."""
    return _read(path, path.stat().st_mtime_ns)


def collect(profile, name, folder=None, columns=None, grid=None):
    """Every run's <name>.csv as one table: KEYS, run and its columns, or KEYS and the columns asked
    for. grid: the runs as (method, size, seed), by default all that the profile holds.
    """
    root, parts, keys = Path(folder or profile.folder) / "runs", {}, [*KEYS, "run"]
    records.check(profile, folder)
    for method, size, seed in grid or profile.grid:
        run = runs.run_id(method, size, seed)
        path = root / run / f"{name}.csv"
        if path.exists():
            shown, unit = profile.unit(size, seed)
            parts[shown, method, profile.method(method).label, unit, run] = read(path)
    found = pd.DataFrame(columns=keys)
    if parts:  # named by concat at once: columns assigned run by run take twenty times as long
        found = pd.concat(parts, names=keys).reset_index(keys).reset_index(drop=True)
    return found if columns is None else found.reindex(columns=[*KEYS, *columns])


def beside(profile, folder, name):
    """Another profile, and the folder of its results, which lie beside these."""
    return runs.load_profile(name), Path(folder or profile.folder).parent / name


def label_of(profile, method, mode):
    """What a method's row is called in a mode, as in the paper's table 1."""
    return profile.method(method).label + _MODE_SAID[mode]


def intervals(values):
    """{name: mean, <name>_ci: half-width of the 95% interval} of {name: values by replicate}."""
    out = {}
    for name, own in values.items():
        out[name], out[f"{name}_ci"] = mean_interval(own)
    return out


def over_seeds(table, keys, measures):
    """Means and half-widths (`<measure>_ci`) of measures over seeds, a row for each of `keys`."""
    rows = []
    for values, own in table.groupby(keys, sort=False):
        row = dict(zip(keys, values, strict=True), seeds=own.seed.nunique())
        rows.append(row | intervals({measure: own[measure] for measure in measures}))
    both = [column for measure in measures for column in (measure, f"{measure}_ci")]
    return pd.DataFrame(rows, columns=[*keys, "seeds", *both])


# --- the suites of table 1 ------------------------------------------------------------------------
def suites(profile, folder=None):
    """Accuracy (percent) and entropy (bits) of every run in each mode, suite by suite and on plain
    average: KEYS, run, mode, SUITES.
    """
    found, keys = collect(profile, "evaluation", folder), [*KEYS, "run", "mode"]
    if found.empty:
        return pd.DataFrame(columns=[*keys, *SUITES])
    by = evaluate.averaged(found, [*keys, "suite"], acc=("correct", "mean"))
    by = by.assign(acc=100 * by.acc, ent=by.entropy_bits).set_index([*keys, "suite"])
    table = pd.DataFrame(index=by.index.droplevel("suite").unique())
    for what in ("acc", "ent"):
        own = {suite: by[what].xs(suite, level="suite") for suite in tasks.TEST_SUITES}
        own["average"] = sum(own.values()) / len(own)
        for suite, values in own.items():
            table[f"{suite}_{what}"] = values
    table = table[SUITES].reset_index()
    return table.assign(label=table.label + table["mode"].map(_MODE_SAID))


def derivations(profile, folder=None):
    """Accuracy and the shares of the derivations, a row a run, mode and suite of table 1."""
    found = collect(profile, "evaluation", folder)
    if "derivation" not in found:  # committed results carry what was made of the responses
        columns = ["suite", "mode", "accuracy", *worlds.DERIVATIONS, "other"]
        return collect(profile, "derivations", folder, columns)
    by_run = found.groupby(KEYS, sort=False)
    parts = {keys: evaluate.derivations(own) for keys, own in by_run}
    return pd.concat(parts, names=KEYS).droplevel(-1).reset_index()


# --- training -------------------------------------------------------------------------------------
def dynamics(profile, folder=None, grid=None):
    """At every measured step each mode's entropy in bits, the inter-mode KL in nats a token, and
    each mode's accuracy over the five steps up to there.
    """
    found = collect(profile, "metrics", folder, ["step", *APART, *ACCURACIES], grid)
    by_run = found.groupby(["size", "method", "seed"])[ACCURACIES]
    found[ACCURACIES] = by_run.rolling(5, 1).mean().reset_index(drop=True, level=[0, 1, 2])
    return found.dropna(subset=["entropy_bits_normal"]).reset_index(drop=True)


def start_and_end(profile, folder=None):
    """Each run's entropies and KL at the first step and at the end (the mean of the last five
    measurements), and the KL's peak (the largest mean of five in a row).
    """
    by_run = dynamics(profile, folder).groupby(KEYS, sort=False)
    start = by_run[APART].first().add_suffix("_start")
    end = by_run[APART].agg(lambda values: values.tail(5).mean()).add_suffix("_end")
    peak = by_run.kl_he_from_normal.agg(lambda values: values.rolling(5).mean().max())
    return pd.concat([start, end, peak.rename("kl_he_from_normal_peak")], axis=1).reset_index()


def learning(profile, folder=None):
    """Each mode's accuracy above GRPO's of the same seed in points, in each quarter of training."""
    found = collect(profile, "metrics", folder, ["step", *ACCURACIES])
    found["quarter"] = [QUARTERS[int(4 * (k - 1) // profile.train.steps)] for k in found.step]
    long = found.melt([*KEYS, "quarter"], ACCURACIES, "mode", "accuracy").dropna()
    long["mode"] = long["mode"].str.removeprefix("accuracy_")
    table = 100 * long.pivot_table("accuracy", [*KEYS, "mode"], "quarter", sort=False)
    table = table.reindex(columns=QUARTERS).reset_index()
    table = table.sort_values("mode", ascending=False, kind="stable")  # the normal mode first
    rest = table[table.method != "grpo"].copy()
    rest[QUARTERS] -= _grpos(table, QUARTERS, rest)
    return rest.reset_index(drop=True)


def _grpos(table, columns, rows):
    """GRPO's values in columns of a table, for each of some rows of the same size and seed."""
    grpo = table[table.method == "grpo"].set_index(["size", "seed"])[columns]
    return grpo.reindex(pd.MultiIndex.from_frame(rows[["size", "seed"]])).to_numpy()


def cost(profile, folder=None):
    """Seconds a step of each run on sampling, scoring, update and all, and times GRPO's of its
    seed.
    """
    parts = [f"seconds_{part}" for part in ("sample", "score", "update")]
    found = collect(profile, "metrics", folder, parts)
    table = found.groupby(KEYS, sort=False)[parts].mean().reset_index()
    table["seconds"] = table[parts].sum(axis=1, min_count=1)
    return table.assign(times=table.seconds / _grpos(table, "seconds", table))


# --- what was asked beside the suites -------------------------------------------------------------
def best_of(correct, samples, n):
    """The probability that at least one of n responses is right, estimated without bias from
    `correct` of `samples`; ValueError for n beyond samples.

    1 - C(samples - correct, n) / C(samples, n) (Chen et al. 2021, arXiv 2107.03374).
    """
    if not 0 <= correct <= samples or not 0 <= n <= samples:
        raise ValueError(
            f"best-of-n needs 0 <= correct <= samples and n <= samples; got {correct}, {samples} "
            f"and n={n}"
        )
    return 1 - comb(samples - correct, n) / comb(samples, n)


def _solved(profile, folder, probe="best_of_n", right="correct"):
    """Of each run: its keys, its samples, and how many were right: a row a question, a column a
    mode.
    """
    for keys, own in collect(profile, probe, folder).groupby(KEYS, sort=False):
        counts = own.pivot(index=["suite", "question_id"], columns="mode", values=right)
        yield keys, int(own.samples.iloc[0]), counts


def best_of_n(profile, folder=None, most=TRIES[-1], **of):
    """Best-of-n accuracy in percent in the normal mode, the high-entropy mode, and half of an even
    n in each, 1 - (1 - p_n/2 normal)(1 - p_n/2 HE) by question ("both"): draws in two modes are
    independent, so the product of two unbiased estimates is one.

    n is 1, 2, 4, ... up to `most`. of: which probe's counts, and of what, see _solved.
    """
    rows = []
    for keys, samples, counts in _solved(profile, folder, **of):
        tries = [2**k for k in range(min(most, samples).bit_length())]
        chance = {n: counts.map(best_of, samples=samples, n=n) for n in tries}
        for mode, n in product(counts, tries):
            rows.append((*keys, mode, n, 100 * chance[n][mode].mean()))
            if mode == "normal" and n > 1:
                none = (1 - chance[n // 2]).prod(axis=1)
                rows.append((*keys, "both", n, 100 * (1 - none).mean()))
    return pd.DataFrame(rows, columns=[*KEYS, "sampling", "n", "accuracy"])


def pass_at_k(profile, folder=None):
    """Best-of-n accuracy of the probe pass_at_k for n of 1 to 256, by each of CRITERIA: the answer
    is right; the answer and every worked step are right.
    """
    parts = {
        criterion: best_of_n(profile, folder, 256, probe="pass_at_k", right=column)
        for criterion, column in CRITERIA.items()
    }
    return pd.concat(parts, names=["criterion"]).reset_index("criterion")


def solved_by_one(profile, folder=None):
    """Questions, of 100, that only one mode ever solved in its samples."""
    rows = []
    for keys, _, counts in _solved(profile, folder):
        normal, he = counts.normal > 0, counts.he > 0
        rows.append((*keys, *(100 * p.mean() for p in (normal & ~he, he & ~normal, ~he & ~normal))))
    return pd.DataFrame(rows, columns=[*KEYS, "only_normal", "only_he", "neither"])


def total_variation(first, second):
    """How far two distributions are apart, 0 to 1: half the sum of |p - q| over the last axis."""
    return np.abs(first - second).sum(-1) / 2


def behaviour(profile, folder=None):
    """Shares of the derivations under no prompt and under the trained one, their total variation
    (distance) beside what two samples of this size from one distribution show on average (chance),
    and the KL in nats a token.
    """
    responses, rows = profile.probe.prompts * profile.evaluate.samples, []
    for keys, own in collect(profile, "prompts", folder).groupby(KEYS, sort=False):
        own = own.set_index("prompt")
        none, trained = (own.loc[name, SHARES].to_numpy(float) for name in ("none", "trained"))
        both = (none + trained) / (none + trained).sum()
        draws = np.random.default_rng(0).multinomial(responses, both, (2, 2000)) / responses
        apart = total_variation(none, trained), total_variation(*draws).mean()
        rows.append((*keys, *apart, own.kl_from_normal["trained"], *none, *trained))
    shares = [f"{share}_{mode}" for mode in ("normal", "he") for share in SHARES]
    return pd.DataFrame(rows, columns=[*KEYS, "distance", "chance", "kl", *shares])


def prompt_generalization(profile, folder=None):
    """How each system prompt moves a run from its normal mode: differences in accuracy (points) and
    entropy (bits), and the KL (nats).
    """
    columns = ["prompt", "accuracy", "entropy_bits", "kl_from_normal"]
    found = collect(profile, "prompts", folder, columns).set_index(KEYS)
    none, rest = found[found.prompt == "none"], found[found.prompt != "none"]
    moved = rest[["prompt", "kl_from_normal"]].assign(
        accuracy_change=100 * (rest.accuracy - none.accuracy.reindex(rest.index)),
        entropy_change=rest.entropy_bits - none.entropy_bits.reindex(rest.index),
    )
    return moved.reset_index()


def asked(profile, folder=None):
    """What models do under each prompt, asked the same questions with the same draws: a row a run
    and prompt.

    asked_accuracy in percent, asked_bits (entropy) and asked_kl (nats, from no prompt) a token,
    share_<derivation>, asked_distance (total variation of these from no prompt's), and part_<kind>,
    the bits on a kind of tokens divided by all tokens.
    """
    found, keys = collect(profile, "asked", folder), [*KEYS, "prompt"]
    if found.empty:
        return pd.DataFrame(columns=[*keys, *ASKED])
    total = found.drop(columns=["question_id", "run"]).groupby(keys, sort=False).sum()
    out = pd.DataFrame({"asked_accuracy": 100 * total.correct / total.samples})
    out["asked_bits"], out["asked_kl"] = total.bits / total.tokens, total.kl / total.tokens
    for share in SHARES:
        out[share] = total[share.removeprefix("share_")] / total.samples
    for kind in probe.KINDS:
        out[f"part_{kind}"] = total[f"bits_{kind}"] / total.tokens
    none = out[SHARES].xs("none", level="prompt").reindex(out.index.droplevel("prompt"))
    out["asked_distance"] = total_variation(out[SHARES].to_numpy(), none.to_numpy())
    return out.reset_index()


def stories(profile, folder=None):
    """How diverse a run's stories are in each mode, means over prompts; told is the share of
    responses that are stories. A method of one mode was asked under the high-entropy prompt too.
    """
    found = collect(profile, "stories", folder, ["mode", *STORIES])
    found["label"] += found["mode"].map(_MODE_SAID)
    return found.groupby([*KEYS, "mode"], sort=False)[STORIES].mean().reset_index()


def story_starts(profile, folder=None, words=25):
    """Div-2-gram of the first words of each run's stories in each mode, means over prompts; shorter
    stories are left out. A longer story repeats more, so stories compare at equal length alone.
    """
    root, rows = Path(folder or profile.folder) / "runs", []
    for method, size, seed in profile.grid:
        path = root / runs.run_id(method, size, seed) / "story_texts.parquet"
        if path.exists():
            told = pd.read_parquet(path)
            split = told.story.str.split()
            told = told.assign(start=split.str[:words].str.join(" "))[split.str.len() >= words]
            by_prompt = told.groupby(["mode", "prompt"]).start.agg(diversity.div_ngram)
            shown, unit = profile.unit(size, seed)
            for mode, value in by_prompt.groupby("mode").mean().items():
                rows.append((shown, method, unit, mode, value))
    return pd.DataFrame(rows, columns=["size", "method", "seed", "mode", "start_2gram"])


# --- the bonus of eq. 3 ---------------------------------------------------------------------------
def bonus(profile, folder=None):
    """What eq. 3 adds to the base models' advantages, token by token (see probe.bonus)."""
    root = Path(folder or profile.folder) / "base"
    paths = {size: root / size / "bonus.csv" for size in profile.sizes}
    parts = [read(path).assign(size=size) for size, path in paths.items() if path.exists()]
    blank = pd.DataFrame(columns=["size", "kind", "advantage", "bonus", "paper", "released"])
    return pd.concat(parts, ignore_index=True) if parts else blank


def bonus_by_kind(profile, folder=None):
    """By size and kind of token: how many, their mean B, and |addition| / |A| in two forms."""
    found, forms = bonus(profile, folder), ["paper", "released"]
    found[forms] = found[forms].abs().div(found.advantage.abs(), axis=0)
    by = found.groupby(["size", "kind"], sort=False)
    columns = {"tokens": by.size(), "mean_bonus": by.bonus.mean()}
    for form in forms:
        columns |= {f"{form}_median": by[form].median(), f"{form}_max": by[form].max()}
    return pd.DataFrame(columns).reset_index()


# --- single quantities ----------------------------------------------------------------------------
class Term(NamedTuple):
    """A part of a quantity: a number, or what a method was measured at, with a sign."""

    sign: int
    profile: str  # "": the one at hand
    method: str
    at: str
    number: float


def terms(quantity):
    """A quantity's Terms: "a/b@c - d@e + 0.5" is b of profile a at c, minus d at e, and a half;
    ValueError if it is not such a sum.
    """
    pattern = r"([+-]?)\s*(?:(?:(\w+)/)?([\w.]+)@(\w+)|(\d[\d.]*))(?:\s+|$)"
    found = re.findall(pattern, quantity.strip())
    if re.sub(pattern, "", quantity.strip()) or not found:
        raise ValueError(
            f"a quantity is a signed sum of terms like profile/method@prompt; got {quantity!r}"
        )
    return [Term(-1 if s == "-" else 1, *named, float(n or 0)) for s, *named, n in found]


def added_up(quantity, value_of):
    """A quantity's values by seed, of each seed that has all of its terms.

    value_of: function of a Term that is no number -> Series by seed.
    """
    values = (t.sign * (value_of(t) if t.method else t.number) for t in terms(quantity))
    return sum(values).dropna().sort_index()


class Evidence:
    """A profile's results as single quantities by seed: "policy_split@he - grpo@normal".

    Behind @ stands a mode, a prompt, a way of sampling and n (both_8), or start or end, as MEASURED
    says. A method may be of another profile whose results lie beside: "understood_low/eta_0@none".
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
        """The values of a quantity by seed (see added_up)."""

        def value_of(term):
            there = self.beside(term.profile or self.profile.name)
            return there.of(size, term.method, term.at, measure) if there else _NONE

        return added_up(quantity, value_of)

    def intervals(self, quantity, size, measures):
        """A quantity of several {column: measure}: for each column the mean, and `<column>_ci`."""
        return intervals({c: self.quantity(quantity, size, m) for c, m in measures.items()})

    def labels(self, quantity):
        """What the terms of a quantity are called, method and mode, as in table 1."""
        return [label_of(self.profile, term.method, term.at) for term in terms(quantity)]

    def beside(self, name):
        """The Evidence of a profile whose results lie beside these; None where it was not run."""
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


def _with_budget(found):
    return found.assign(at=found.sampling + "_" + found.n.astype(str))


def _by_budget(profile, folder):
    return _with_budget(best_of_n(profile, folder)).rename(columns={"accuracy": "solved"})


def _by_criterion(profile, folder):
    found = _with_budget(pass_at_k(profile, folder))
    wide = found.pivot(index=[*KEYS, "at"], columns="criterion", values="accuracy")
    return wide.add_prefix("passed_").reset_index()


# Which table has a measure, and which of its columns stands behind @, or what does for all rows.
MEASURED = {
    **dict.fromkeys(SUITES, (suites, "mode")),
    **dict.fromkeys(STORIES, (stories, "mode")),
    "start_2gram": (story_starts, "mode"),
    **dict.fromkeys(("kl_from_normal", "entropy_change"), (prompt_generalization, "prompt")),
    **dict.fromkeys(("distance", "kl"), (behaviour, "he")),
    **dict.fromkeys([*ASKED, *SHARES, *map("part_{}".format, probe.KINDS)], (asked, "prompt")),
    "times": (cost, "training"),
    "kl_he_from_normal": (_kl_by_time, "at"),
    "solved": (_by_budget, "at"),
    **dict.fromkeys([f"passed_{criterion}" for criterion in CRITERIA], (_by_criterion, "at")),
}
