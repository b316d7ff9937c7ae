"""Verdicts: the paper's ten claims, each as checks that this project's runs can confirm or refute.

A check is a difference, or a value, that its claim says is positive, negative or below a bound,
with one number a replicate: a seed of one base model, or a base model (see
runs.Profile.replicates). An interval over seeds of one base model speaks for that base model alone.
The check's own verdict follows from its 95% interval (`stats.verdict`), with Holm's correction over
its
family: what the correction takes away is "not separated". Where no p follows from the data the
interval alone decides. Each claim has two families: checks that say what the claim says, which
decide, and checks beside it (BESIDE), which tell more or would pass without the claim being true. A
claim says that all of its
deciding checks hold: it is confirmed if all do, partly confirmed if some do, refuted if at least
one is refuted and none confirmed, and not separated if none is told either way.

A claim that names a world to be tested in (`tested_in` in claims.yaml) is tested there, where that
profile was run beside the one that is asked for; one that says `only_in` is tested nowhere else.
Why a verdict came out as it did is not computed: it is a sentence in the results' why.yaml.
"""

from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from pslib.evidence import analyses, stats, tables
from pslib.lab import runs

# the share of a mode's responses to story prompts that must be stories, if their diversity is to
# mean anything
STORIES = 0.9
# nats: what "hardly moves" is taken to mean, a third of the way from the paper's 0.01 to its 0.22
# in logs
BOUND_KL = tables.PARTED
CEILING = (
    98.0  # percent: where the normal mode already solves more, nothing can be seen to find more
)
BUDGETS = (
    8,
    4,
)  # responses: the paper's, and what is asked where the normal mode solves nearly all with that
REPETITIONS = 7  # of a pair in benchmarks/bench.py
PAIRS = "pairs of steps on one machine"  # what the repetitions of a benchmark differ in
STEPS = "Policy Split step against GRPO step, {}"  # its case there
BESIDE = "beside"
BASELINES = (
    "grpo",
    "forking",
    "clip_cov",
    "entropy_driven",
    "entropy_regularization",
    "entropy_advantage",
)


@cache
def claims():
    """The paper's claims as data: {id: {claim, reported, where}}."""
    found = yaml.safe_load((Path(__file__).parent / "claims.yaml").read_text(encoding="utf-8"))
    return {
        name: claim for name, claim in found.items() if name not in ("predictions", "estimates")
    }


class Evidence:
    """A profile's results, read once, and the differences by seed that the checks ask for."""

    def __init__(self, profile, folder=None):
        self.profile, self.folder = profile, folder or profile.folder
        self.suites = tables.per_seed(profile, self.folder)
        self.sizes = [size for size in profile.table_sizes if (self.suites["size"] == size).any()]
        self.analysis = cache(lambda function: function(self.profile, self.folder))

    def of(self, size, method, mode="normal", measure="average_acc"):
        """A measure of a method's mode in table 1's suites, by seed."""
        own = self.suites[
            (self.suites["size"] == size)
            & (self.suites.method == method)
            & (self.suites["mode"] == mode)
        ]
        return own.set_index("seed")[measure]

    def table(self, function, size, **equal):
        """The rows of an analysis for one size and given values, by seed."""
        own = self.analysis(function)
        own = own[own["size"] == size]
        for column, value in equal.items():
            own = own[own[column] == value]
        return own.set_index("seed")


def _c1(e, size):
    if e.profile.replicates("original") != runs.BASE_MODELS:
        return  # seeds only sample the same untrained model again, and the claim is about models
    for prompt, name in (("trained", "the shortened prompt"), ("high_entropy", "the full prompt")):
        kl = e.table(
            analyses.prompt_generalization, size, method="original", prompt=prompt
        ).kl_from_normal
        yield f"{BOUND_KL} less the KL under {name}", "nats", BOUND_KL - kl, "positive"


def _c2(e, size, method="policy_split"):
    for other in BASELINES:
        yield (
            f"normal mode more accurate than {e.profile.method(other).label}",
            "points",
            e.of(size, method) - e.of(size, other),
            "positive",
        )
    yield (
        "normal mode more accurate than Original",
        "points",
        e.of(size, method) - e.of(size, "original"),
        "positive",
        BESIDE,
    )


def _c3(e, size, method="policy_split"):
    def bits(method, mode="normal"):
        return e.of(size, method, mode, "average_ent")

    for other in ("original", "grpo"):
        yield (
            f"normal mode has more entropy than {e.profile.method(other).label}",
            "bits",
            bits(method) - bits(other),
            "positive",
        )
    yield (
        "HE mode has more entropy than the normal mode",
        "bits",
        bits(method, "he") - bits(method),
        "positive",
    )
    yield (
        "HE mode is less accurate",
        "points",
        e.of(size, method, "he") - e.of(size, method),
        "negative",
    )
    for other in BASELINES:
        yield (
            f"HE mode has more entropy than {e.profile.method(other).label}",
            "bits",
            bits(method, "he") - bits(other),
            "positive",
            BESIDE,
        )


def _c4(e, size, method="policy_split"):
    found = analyses.collect(e.profile, "stories", e.folder)
    if found.empty:
        return
    means = (
        found[found["size"] == size]
        .groupby(["method", "mode", "seed"])[["div_2gram", "div_bleu4", "told"]]
        .mean()
    )
    if means.told[method, "he"].mean() < STORIES:
        return
    for measure, name in (("div_2gram", "Div-2-gram"), ("div_bleu4", "Div-BLEU-4")):
        # against GRPO under the same prompt: what the prompt alone does to any model is not the
        # training's doing
        yield (
            f"HE mode above GRPO under the same prompt, {name}",
            "points of 100",
            means[measure][method, "he"] - means[measure]["grpo", "he"],
            "positive",
        )
        yield (
            f"HE mode above the normal mode, {name}",
            "points of 100",
            means[measure][method, "he"] - means[measure][method, "normal"],
            "positive",
        )


def _c5(e, size):
    if size != e.profile.ablation_unit:
        return
    best = e.of(size, "policy_split")
    for name in e.profile.variants:
        if name.startswith("eta_"):
            yield (
                f"eta 0.03 more accurate than {name.replace('_', ' ')}",
                "points",
                best - e.of(size, name),
                "positive",
            )
    for name, sign in (("normal_plus", "positive"), ("normal_minus", "negative")):
        yield (
            f"a {sign} bonus in the normal mode lowers its accuracy (eta 1)",
            "points",
            e.of(size, name) - e.of(size, "eta_1"),
            "negative",
        )
    for eta in ("eta_1", "eta_4"):
        yield (
            f"{eta.replace('_', ' ')} has more entropy than eta 0.03",
            "bits",
            e.of(size, eta, measure="average_ent")
            - e.of(size, "policy_split", measure="average_ent"),
            "positive",
            BESIDE,
        )


def _c6(e, size):
    if size == e.profile.ablation_unit:
        for mode in ("normal", "he"):
            yield (
                f"sharing makes the {mode} mode more accurate (eta 1)",
                "points",
                e.of(size, "eta_1", mode) - e.of(size, "unshared", mode),
                "positive",
            )


def _c7(e, size):
    ends = e.table(analyses.start_and_end, size, method="policy_split")
    if len(ends):
        yield (
            "inter-mode KL grows in training",
            "nats",
            ends.kl_he_from_normal_end - ends.kl_he_from_normal_start,
            "positive",
        )
    split, grpo = (
        e.table(analyses.behaviour, size, method=name) for name in ("policy_split", "grpo")
    )
    if len(split) and len(grpo):
        yield "KL under the prompt larger than GRPO's", "nats", split.kl - grpo.kl, "positive"
        yield (
            "modes' derivations farther apart than GRPO's under the same prompt",
            "share",
            split.distance - grpo.distance,
            "positive",
            BESIDE,
        )


def _c8(e, size):
    def at(sampling, n, method="policy_split"):
        return e.table(analyses.best_of_n, size, method=method, sampling=sampling, n=n).accuracy

    n = next((n for n in BUDGETS if at("normal", n).mean() < CEILING), None)
    if n:
        yield (
            f"best of {n} of both modes above {n} of the normal mode",
            "points",
            at("both", n) - at("normal", n),
            "positive",
        )
        yield (
            f"best of {n} of the HE mode above {n} of the normal mode",
            "points",
            at("he", n) - at("normal", n),
            "positive",
        )
        yield (
            f"best of {n} of both modes above GRPO's best of {n}",
            "points",
            at("both", n) - at("normal", n, "grpo"),
            "positive",
        )
    yield (
        "one response of each mode above two of the normal mode",
        "points",
        at("both", 2) - at("normal", 2),
        "positive",
        BESIDE,
    )


def _c9(e, size):
    rows = {
        prompt: e.table(analyses.prompt_generalization, size, method="policy_split", prompt=prompt)
        for prompt in ("rewritten_high_entropy_short", "trained", "low_entropy_short")
    }
    if len(rows["low_entropy_short"]):
        yield (
            "a rewritten prompt (its first sentence) raises entropy",
            "bits",
            rows["rewritten_high_entropy_short"].entropy_change,
            "positive",
        )
        yield (
            "the trained prompt raises entropy",
            "bits",
            rows["trained"].entropy_change,
            "positive",
            BESIDE,
        )
        yield (
            "an unseen low-entropy prompt (its first sentence) lowers entropy by less than 0.02 "
            "bits",
            "bits",
            rows["low_entropy_short"].entropy_change + 0.02,
            "positive",
            BESIDE,
        )  # holds for a prompt that does nothing


def _c10(e, size):
    # The range of seven pairs holds their median with 98%, so it stands for the interval; no p
    # follows from a range.
    for path in sorted((runs.ROOT / "results" / "benchmarks").glob("*cores.csv")):
        found = analyses.read(path).set_index("case")
        if (case := STEPS.format(size.upper())) in found.index:
            ratio = found.loc[case]
            effect = stats.Effect(
                1.4 - ratio.ratio,
                1.4 - ratio.ratio_max,
                1.4 - ratio.ratio_min,
                np.nan,
                np.nan,
                np.nan,
                np.nan,
                REPETITIONS,
            )
            yield (
                f"a step takes at most 1.4 times GRPO's ({path.stem})",
                "times",
                effect,
                "positive",
            )
    split, grpo = (e.table(analyses.cost, size, method=name) for name in ("policy_split", "grpo"))
    if len(split) and len(grpo):
        yield (
            "a step of these runs, other work beside them, takes at most 1.4 times GRPO's",
            "times",
            1.4 - split.seconds / grpo.seconds,
            "positive",
            BESIDE,
        )


CHECKS = {
    "C1": _c1,
    "C2": _c2,
    "C3": _c3,
    "C4": _c4,
    "C5": _c5,
    "C6": _c6,
    "C7": _c7,
    "C8": _c8,
    "C9": _c9,
    "C10": _c10,
    **{
        f"{claim} released": partial(function, method="policy_split_released")
        for claim, function in (("C2", _c2), ("C3", _c3), ("C4", _c4))
    },
    "C2 bases": _c2,
    "C3 bases": _c3,
    **{
        f"{claim} bases released": partial(function, method="policy_split_released")
        for claim, function in (("C2", _c2), ("C3", _c3))
    },
    **{
        f"{claim} eta 2": function
        for claim, function in (("C2", _c2), ("C3", _c3), ("C7", _c7), ("C8", _c8), ("C9", _c9))
    },
}


def checks(profile, folder=None):
    """Every check of every claim at every size that was run: a row each, from one difference a
    replicate.

    Columns claim, profile, size, check, decides, unit, direction (of the claim), seeds (how many
    replicates) and replicates (what they are), mean, low and high (95% t interval), bootstrap_low
    and bootstrap_high, d_z (mean over standard deviation), p and p_holm (over the family; blank
    where the data have none), detectable (the smallest true difference that so many replicates find
    80% of the time at p < 0.05 / m, m checks in the family), verdict.
    """
    here, rows = Evidence(profile, folder), []

    @cache
    def beside(name):
        there = Path(here.folder).parent / name
        return Evidence(runs.load_profile(name), there) if (there / "runs").exists() else None

    for claim, function in CHECKS.items():
        facts = claims()[claim]
        if "only_in" in facts:
            evidence = beside(facts["only_in"])
        else:
            evidence = ("tested_in" in facts and beside(facts["tested_in"])) or here
        for size in evidence.sizes if evidence else ():
            for check, unit, by_seed, direction, *mark in function(evidence, size):
                if isinstance(by_seed, stats.Effect):
                    effect, replicates = by_seed, PAIRS
                else:
                    effect, replicates = _against_0(by_seed), evidence.profile.replicates()
                if effect.seeds >= 2:
                    rows.append(
                        {
                            "claim": claim,
                            "profile": evidence.profile.name,
                            "size": size,
                            "check": check,
                            "decides": not mark,
                            "unit": unit,
                            "direction": direction,
                            **effect._asdict(),
                            "replicates": replicates,
                        }
                    )
    if not rows:
        return pd.DataFrame(
            columns=["claim", "profile", "size", "check", "decides", "unit", "verdict"]
        )
    table = pd.DataFrame(rows).rename(columns={"difference": "mean"})
    family = table.groupby(["claim", "decides"]).p
    table["p_holm"] = family.transform(lambda p: stats.holm(p.to_numpy()))
    table["detectable"] = [
        stats.smallest_detectable(sd, n, alpha=0.05 / max(m, 1))
        for sd, n, m in zip(
            (table["mean"] / table.d_z).abs(), table.seeds, family.transform("count"), strict=True
        )
    ]
    told = [stats.verdict(row.low, row.high, row.direction) for row in table.itertuples()]
    table["verdict"] = np.where(table.p_holm >= 0.05, "not separated", told)
    return table


def _against_0(by_seed):
    values = by_seed.dropna().to_numpy(float)
    return stats.paired_effect(values, np.zeros_like(values))


def verdicts(profile, folder=None):
    """A row a claim: what the paper reports, what was measured here, with what power, the verdict,
    and why.

    measured: the claim's first check at each size, over what its replicates are, its mean ±
    half-width of the 95% interval, and their number n; detects: see `checks`. checks and the three
    counts are of the deciding ones. Verdict "not testable here" where there is none. why: from
    why.yaml of the results, blank without.
    """
    found, rows = checks(profile, folder), []
    path = Path(folder or profile.folder) / "why.yaml"
    why = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    for claim, facts in claims().items():
        own = found[(found.claim == claim) & found.decides.eq(True)]
        count = {
            kind: int((own.verdict == kind).sum())
            for kind in ("confirmed", "refuted", "not separated")
        }
        if not len(own):
            told = "not testable here"
        elif count["confirmed"] == len(own):
            told = "confirmed"
        elif count["confirmed"]:
            told = "partly"
        else:
            told = "refuted" if count["refuted"] else "not separated"
        first = own[own.check == own.check.iloc[0]] if len(own) else own
        measured = []
        for size, r in zip(first["size"], first.itertuples(), strict=True):
            detects = f", detects {r.detectable:.2g}" if r.detectable > 0 else ""
            measured.append(
                f"{tables.with_half(r.mean, (r.high - r.low) / 2, '+')} (n = {r.seeds}{detects}) "
                f"at {size}"
            )
        rows.append(
            {
                "id": claim,
                **{key: facts[key] for key in ("claim", "reported", "where")},
                "measured": (
                    f"{first.check.iloc[0]}, {first.unit.iloc[0]}, over "
                    f"{first.replicates.iloc[0]}: "
                    f"{'; '.join(measured)}"
                )
                if measured
                else "",
                "checks": len(own),
                **count,
                "verdict": told,
                "why": why.get(claim, ""),
            }
        )
    return pd.DataFrame(rows)


# What a claim's second name says, as the head of a column
FORMS = {
    "": "eq. 3, seeds of one base model",
    "released": "released bonus, seeds of one base model",
    "bases": "eq. 3, base models",
    "bases released": "released bonus, base models",
    "eta 2": "eq. 3 with eta 2, base models",
}


def by_form(table):
    """The verdicts side by side: a row for each claim that was tested in several forms, a column
    for each of FORMS.
    """
    parts = table.id.str.split(n=1)
    wide = pd.DataFrame(
        {
            "claim": parts.str[0],
            "form": parts.str[1].fillna("").map(FORMS),
            "verdict": table.verdict,
        }
    ).pivot(index="claim", columns="form", values="verdict")
    return (
        wide[wide.notna().sum(axis=1) > 1]
        .fillna("")
        .reindex(columns=FORMS.values(), fill_value="")
        .rename_axis(columns=None)
        .reset_index()
    )
