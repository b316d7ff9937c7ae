"""Tables: each function reads results and returns a DataFrame; a missing run is a blank."""

import math
from functools import lru_cache
from pathlib import Path

import pandas as pd

from pslib import methods, tasks
from pslib.evidence import analyses, creative, evaluate, stats
from pslib.evidence.stats import mean_interval
from pslib.lab import records, runs

ROLES = {
    "like": "math500",
    "long": "aime",
    "choice": "gpqa",
    "mixed": "mmlu_pro",
}  # our suite -> the paper's column
# what a row of the high-entropy mode adds to the method's label, as in the paper
HE = " + HE prompt"
# nats a token, over five measurements: beyond it the modes are taken to have parted, as in C1's
# check
PARTED = 0.03
MEASURES = [
    f"{suite}_{what}" for suite in (*tasks.TEST_SUITES, "average") for what in ("acc", "ent")
]


@lru_cache(maxsize=4096)
def _means(path, stamp):
    """An evaluation's summary, made once for as long as the file does not change: many tables want
    it.
    """
    return evaluate.summary(pd.read_csv(path)).set_index(["mode", "suite"])


def per_seed(profile, folder=None):
    """Accuracy (percent) and entropy (bits) of every run found, variants too: a row a size, method,
    mode and seed.

    Columns size, method, label, mode, seed, run, and MEASURES (suite by suite and their plain
    average).
    """
    root, rows = Path(folder or profile.folder) / "runs", []
    records.check(profile, folder)
    for name, size, seed in profile.grid:
        method, run = profile.method(name), runs.run_id(name, size, seed)
        path = root / run / "evaluation.csv"
        if not path.exists():
            continue
        means, (shown, unit) = _means(path, path.stat().st_mtime_ns), profile.unit(size, seed)
        for mode in method.sampling:
            row = {}
            for suite in tasks.TEST_SUITES:
                row[f"{suite}_acc"] = 100 * means.accuracy[mode, suite]
                row[f"{suite}_ent"] = means.entropy_bits[mode, suite]
            for what in ("acc", "ent"):
                row[f"average_{what}"] = sum(row[f"{s}_{what}"] for s in tasks.TEST_SUITES) / len(
                    tasks.TEST_SUITES
                )
            label = method.label + (HE if mode == "he" else "")
            rows.append(
                {
                    "size": shown,
                    "method": name,
                    "label": label,
                    "mode": mode,
                    "seed": unit,
                    "run": run,
                    **row,
                }
            )
    return pd.DataFrame(rows, columns=["size", "method", "label", "mode", "seed", "run", *MEASURES])


def table1(profile, folder=None):
    """Table 1, ours: a row a size and method, for each measure its mean over seeds and the 95%
    interval's half-width.

    Columns size, label, seeds, replicates (what the seeds are), runs, and for each of MEASURES the
    mean and `<measure>_ci`; NaN where there is no run.
    """
    found, rows = per_seed(profile, folder), []
    for size in profile.table_sizes:
        for name in profile.methods:
            method = profile.method(name)
            for mode in method.sampling:
                own = found[
                    (found["size"] == size) & (found.method == name) & (found["mode"] == mode)
                ]
                row = {
                    "size": size,
                    "label": method.label + (HE if mode == "he" else ""),
                    "seeds": len(own),
                    "replicates": profile.replicates(name),
                    "runs": " ".join(own.run),
                }
                for measure in MEASURES:
                    row[measure], row[f"{measure}_ci"] = mean_interval(own[measure])
                rows.append(row)
    table = pd.DataFrame(rows)
    table.attrs["role"] = "" if profile.data else " role"
    return table


def reported_table1():
    """Table 1 as the paper reports it, with this project's names for the columns."""
    renamed = {
        f"{theirs}_{what}": f"{ours}_{what}"
        for ours, theirs in ROLES.items()
        for what in ("acc", "ent")
    }
    return pd.read_csv(runs.ROOT / "results" / "paper" / "table1_general.csv").rename(
        columns={"model": "size", "method": "label", **renamed}
    )


def _cell(row, measure, digits):
    value, half = row.get(measure), row.get(f"{measure}_ci")
    if pd.isna(value):
        return ""
    return f"{value:.{digits}f}" + (
        "" if half is None or pd.isna(half) else f" ± {half:.{digits}f}"
    )


def as_shown(table):
    """A table 1 as people read it: accuracy in percent and entropy in bits, mean ± half-width of
    the 95% interval.

    Ours is headed by the roles that our suites play, or by the benchmarks where they are the
    paper's.
    """
    ours = "seeds" in table
    suffix = table.attrs.get("role", " role") if ours else ""
    headings = {suite: role.upper().replace("_", "-") + suffix for suite, role in ROLES.items()}
    shown = pd.DataFrame({"model": table["size"], "method": table.label})
    for suite in (*tasks.TEST_SUITES, "average"):
        for what, unit, digits in (("acc", "acc %", 1), ("ent", "bits", 3 if ours else 2)):
            shown[f"{headings.get(suite, 'average')} {unit}"] = [
                _cell(row, f"{suite}_{what}", digits) for row in table.to_dict("records")
            ]
    if ours:
        shown["seeds"], shown["replicates"] = table.seeds, table.replicates
    return shown


def with_half(mean, half, sign=""):
    """A mean ± its interval's half-width as text, both to the place of the half-width's second
    digit.

    A half-width below 0.00005 is shown as 0; sign "+" shows a plus.
    """
    if pd.isna(half) or half < 5e-5:
        return f"{mean:{sign}.3g}" + ("" if pd.isna(half) else " ± 0")
    places = max(0, 1 - math.floor(math.log10(half)))
    return f"{mean:{sign}.{places}f} ± {half:.{places}f}"


def shown(table):
    """A table as people read it: a mean and its half-width `<mean>_ci` in one cell, no machine name
    of the method.

    Blanks for NaN; where there is one seed, a mean stands alone.
    """
    cells = table.drop(columns=["method"] if {"method", "label"} <= set(table) else [])
    for name in [name for name in cells if f"{name}_ci" in cells]:
        cells[name] = [
            "" if pd.isna(mean) else with_half(mean, half)
            for mean, half in zip(cells[name], cells[f"{name}_ci"], strict=True)
        ]
        cells = cells.drop(columns=f"{name}_ci")
    return cells.round(4)


def best_of_n_shown(table):
    """Best-of-n accuracy for n of 1, 8 and 64: a row a size and method, a column a way of sampling
    and n.
    """
    cells = shown(table[table.n.isin((1, 8, 64))]).astype({"n": str})
    cells["what"] = cells.sampling + ", n = " + cells.n
    row = ["size", "label", "seeds", "replicates"]
    wide = cells.pivot(index=row, columns="what", values="accuracy")
    rows = pd.MultiIndex.from_frame(cells[row]).unique()
    return wide.reindex(columns=cells.what.unique()).reindex(rows).reset_index()


# What the paper says of its own table 1, as differences between two of its rows: (claim, first,
# second, measure).
COMPARISONS = (
    ("GRPO is more accurate than the original", "GRPO", "Original", "average_acc"),
    ("GRPO has less entropy than the original", "GRPO", "Original", "average_ent"),
    ("Policy Split is more accurate than the original", "Policy Split", "Original", "average_acc"),
    ("Policy Split is more accurate than GRPO", "Policy Split", "GRPO", "average_acc"),
    (
        "Policy Split is more accurate than Ent Advantage",
        "Policy Split",
        "GRPO w/ Ent Advantage",
        "average_acc",
    ),
    ("Policy Split has more entropy than the original", "Policy Split", "Original", "average_ent"),
    ("Policy Split has more entropy than GRPO", "Policy Split", "GRPO", "average_ent"),
    (
        "HE mode has more entropy than the normal mode",
        "Policy Split + HE prompt",
        "Policy Split",
        "average_ent",
    ),
    (
        "HE mode is less accurate than the normal mode",
        "Policy Split + HE prompt",
        "Policy Split",
        "average_acc",
    ),
    (
        "released bonus: more accurate than GRPO",
        "Policy Split (released code's bonus)",
        "GRPO",
        "average_acc",
    ),
    (
        "released bonus: more entropy than the original",
        "Policy Split (released code's bonus)",
        "Original",
        "average_ent",
    ),
    (
        "released bonus: more entropy than GRPO",
        "Policy Split (released code's bonus)",
        "GRPO",
        "average_ent",
    ),
    (
        "released bonus: HE mode has more entropy than the normal mode",
        "Policy Split (released code's bonus) + HE prompt",
        "Policy Split (released code's bonus)",
        "average_ent",
    ),
)


def effects(profile, folder=None):
    """Differences between rows of table 1, paired by seed: mean and 95% interval over seeds, beside
    the paper's three.

    Accuracy differences in points, entropy differences in bits a token; a row a size and
    comparison.
    """
    found, reported, rows = per_seed(profile, folder), reported_table1(), []
    for size in profile.table_sizes:
        own = found[(found["size"] == size) & found.method.isin(profile.methods)]
        own = own.pivot(index="seed", columns="label", values=["average_acc", "average_ent"])
        for claim, first, second, measure in COMPARISONS:
            there = (measure, first) in own and (measure, second) in own
            differences = (
                (own[measure, first] - own[measure, second]).dropna()
                if there
                else pd.Series(dtype=float)
            )
            mean, half = mean_interval(differences)
            digits = 1 if measure.endswith("acc") else 3
            theirs = reported.pivot(index="size", columns="label", values=measure)
            theirs = theirs[first] - theirs[second] if first in theirs and second in theirs else []
            rows.append(
                {
                    "model": size,
                    "comparison": claim,
                    "unit": "points" if digits == 1 else "bits",
                    "ours": _cell({"d": mean, "d_ci": half}, "d", digits),
                    "seeds": len(differences),
                    "replicates": profile.replicates(),
                    "reported 1.7B / 4B / 8B": " / ".join(f"{v:+.2f}" for v in theirs),
                }
            )
    return pd.DataFrame(rows)


def beside(ours, committed, reported, model="Qwen3-1.7B"):
    """The averages of table 1 three ways: this machine's, the committed results', and the paper's
    for one model.

    A row a method, in our order. Accuracies of a nano model and of Qwen3 are not comparable;
    directions are.
    """
    theirs = reported[reported["size"] == model].set_index("label")
    mine, old = ours.set_index(["size", "label"]), committed.set_index(["size", "label"])
    rows = []
    for key in mine.index:
        row = {"model": key[0], "method": key[1]}
        for where, table, at in (
            ("this machine", mine, key),
            ("committed", old, key),
            (f"paper, {model}", theirs, key[1]),
        ):
            for what, digits in (("acc", 1), ("ent", 3 if "seeds" in table else 2)):
                row[f"{where}: {'acc %' if what == 'acc' else 'bits'}"] = (
                    _cell(table.loc[at], f"average_{what}", digits) if at in table.index else ""
                )
        rows.append(row)
    return pd.DataFrame(rows)


def table2(profile, folder=None):
    """Table 2's rule-based half, ours: how diverse stories are, in each mode of every method, over
    seeds.

    Columns size, label, seeds, replicates (what the seeds are), and div_2gram, div_bleu4 (0 to
    100), told (the share that are stories), entropy_bits, tokens with their `_ci`. A method that
    has one mode was asked under the high-entropy prompt too, to tell what the prompt alone does.
    """
    found = analyses.collect(profile, "stories", folder)
    if found.empty:
        return pd.DataFrame(columns=["size", "label", "seeds", "replicates"])
    found["label"] += found["mode"].map({"normal": "", "he": HE})
    measures = ["div_2gram", "div_bleu4", "told", "entropy_bits", "tokens"]
    runs_ = (
        found.groupby(["size", "method", "label", "seed"], sort=False)[measures]
        .mean()
        .reset_index()
    )
    return analyses.with_replicates(
        analyses.over_seeds(runs_, ["size", "method", "label"], measures), profile
    ).drop(columns="method")


def reported_table2():
    """Tables 2 and 10 as the paper reports them: a row a judge and method."""
    return pd.read_csv(runs.ROOT / "results" / "paper" / "table2_table10_creative.csv")


def by_question(profile, folder=None, one="policy_split"):
    """Accuracy of a method's normal mode against every other method's, paired by question and seed,
    all suites together.

    A row a size and other method: difference in points with its 95% interval for new questions and
    new replicates of what the column names (see stats.paired_by_question), p, and p_holm over the
    size's rows.
    """
    found, rows = analyses.collect(profile, "evaluation", folder), []
    for size in profile.table_sizes:
        normal = (
            found[(found["size"] == size) & (found["mode"] == "normal")] if len(found) else found
        )
        for other in profile.methods:
            pair = [normal[normal.method == name] for name in (one, other)]
            if other != one and all(map(len, pair)):
                e = stats.paired_by_question(*pair)
                rows.append(
                    {
                        "size": size,
                        "first": profile.method(one).label,
                        "second": profile.method(other).label,
                        "points": 100 * e.difference,
                        "low": 100 * e.low,
                        "high": 100 * e.high,
                        "p": e.p,
                        "seeds": e.seeds,
                        "questions": e.questions,
                        "replicates": f"questions, {profile.replicates()}",
                    }
                )
    columns = [
        "size",
        "first",
        "second",
        "points",
        "low",
        "high",
        "p",
        "seeds",
        "questions",
        "replicates",
    ]
    table = pd.DataFrame(rows, columns=columns)
    table["p_holm"] = table.groupby("size", sort=False).p.transform(
        lambda p: stats.holm(p.to_numpy())
    )
    return table


def ablations(profile, folder=None):
    """The ablation table: every variant's accuracy, entropy and final KL in each mode, and its
    difference from a reference.

    The reference of a variant that sets nothing but eta is GRPO; of any other, Policy Split with
    the same eta; the released form is also set against the first of its two departures. Differences
    are paired by seed: means and the half-widths (`_ci`) of their 95% intervals.
    """
    found = per_seed(profile, folder)
    found = found[found["size"] == profile.ablation_unit]
    ends = pd.concat(
        [analyses.start_and_end(profile, folder, variants) for variants in (False, True)]
    )
    ends = ends[ends["size"] == profile.ablation_unit] if len(ends) else ends
    names = ("policy_split", "policy_split_released", *profile.variants)
    etas = {name: profile.method(name).coefficients["eta"] for name in names}
    plain = {
        etas[name]: name
        for name in names
        if profile.method(name).same_but("eta", methods.METHODS["policy_split"])
    }
    references = [(name, "grpo" if name in plain.values() else plain[etas[name]]) for name in names]
    rows = []
    for name, reference in references + [("policy_split_released", "clip_order")] * (
        "clip_order" in profile.variants
    ):
        for mode in profile.method(name).sampling:
            own = found[(found.method == name) & (found["mode"] == mode)].set_index("seed")
            other = found[
                (found.method == reference)
                & (found["mode"] == ("normal" if reference == "grpo" else mode))
            ]
            other = other.set_index("seed")
            row = {
                "variant": name,
                "label": profile.method(name).label,
                "mode": mode,
                "seeds": len(own),
                "replicates": profile.replicates(name),
                "eta": etas[name],
                "reference": reference,
            }
            for measure in ("average_acc", "average_ent"):
                row[measure], row[f"{measure}_ci"] = mean_interval(own[measure])
                change = (own[measure] - other[measure]).dropna()
                row[f"{measure}_change"], row[f"{measure}_change_ci"] = mean_interval(change)
            kl = ends[ends.method == name].kl_he_from_normal_end if len(ends) else []
            row["kl_end"], row["kl_end_ci"] = mean_interval(kl)
            rows.append(row)
    return pd.DataFrame(rows)


def ablations_shown(table):
    """The ablation table as people read it: mean ± half-width of the 95% interval; the KL is of
    both modes together.
    """
    rows = table.to_dict("records")
    return pd.DataFrame(
        {
            "variant": table.variant,
            "what": table.label,
            "mode": table["mode"],
            "seeds": table.seeds,
            "replicates": table.replicates,
            "acc %": [_cell(row, "average_acc", 1) for row in rows],
            "bits": [_cell(row, "average_ent", 3) for row in rows],
            "KL at the end, nats": [_cell(row, "kl_end", 4) for row in rows],
            "against": table.reference,
            "acc change, points": [_cell(row, "average_acc_change", 1) for row in rows],
            "bits change": [_cell(row, "average_ent_change", 3) for row in rows],
        }
    )


def judged(profile, folder=None):
    """Table 10, ours: the judges' mean scores (0 to 100) of one story a prompt, for each size,
    method and mode of the first seed.

    Columns size, label, judge and creative.RUBRICS; one row with a blank judge and no scores where
    no judge is configured.
    """
    root, rows = Path(folder or profile.folder) / "runs", []
    for size in profile.sizes:
        for name in profile.probe.methods:
            path = root / runs.run_id(name, size, profile.seeds[0]) / "story_texts.parquet"
            told = (
                pd.read_parquet(path).query("sample == 0")
                if path.exists()
                else pd.DataFrame(columns=["mode", "story"])
            )
            for mode, own in told.groupby("mode", sort=False):
                scores = (
                    creative.judge(list(own.story)).groupby("judge")[list(creative.RUBRICS)].mean()
                )
                label = profile.method(name).label + (HE if mode == "he" else "")
                rows.append(scores.reset_index().assign(size=size, label=label))
    table = pd.concat(rows) if rows else pd.DataFrame()
    return table.reindex(columns=["size", "label", "judge", *creative.RUBRICS])


# What is compared for how far the modes part: runs of profiles beside `nano`, each over base
# models.
PARTING = {
    ("split", "policy_split"): "eq. 3 with eta 2",
    ("split", "policy_split_released"): "released bonus, eta 0.03",
    ("unrewarded", "policy_split"): "no bonus (eta 0)",
    ("unheeded", "policy_split"): "eq. 3 with eta 2, base models that pay system prompts no heed",
}


def parting(profile, folder=None):
    """How far the modes part in PARTING's runs, made beside this profile's: Policy Split's
    inter-mode KL in nats, over base models.

    Columns profile, what, base_models, the KL's mean at start, end and peak (see
    analyses.start_and_end) with half-widths `_ci`, least and most (of the ends), parted (how many
    have a peak above PARTED), p: of the peaks against those of the first row, and
    test: which one, with the least p that so many base models allow; distance between the modes'
    derivations at the end, with its half-width, and chance (see analyses.behaviour).
    """
    columns, rows, first = [f"kl_{when}" for when in ("start", "end", "peak")], [], None
    for (name, method), what in PARTING.items():
        there = runs.load_profile(name), Path(folder or profile.folder).parent / name
        found, did = (
            table[table.method == method]
            for table in (analyses.start_and_end(*there), analyses.behaviour(*there))
        )
        found = found.rename(columns=lambda column: column.replace("kl_he_from_normal", "kl"))
        if len(found):
            peaks = there[0], found.set_index("seed").kl_peak
            apart = {"p": math.nan, "test": ""} if first is None else _peaks_apart(first, peaks)
            means = (
                analyses.over_seeds(found, ["method"], columns)
                .iloc[0]
                .drop("method")
                .rename({"seeds": "base_models"})
            )
            rows.append(
                {
                    "profile": name,
                    "what": what,
                    **means,
                    "least": found.kl_end.min(),
                    "most": found.kl_end.max(),
                    "parted": (found.kl_peak > PARTED).sum(),
                    **apart,
                    **dict(
                        zip(
                            ("distance", "distance_ci"),
                            mean_interval(did.get("distance", [])),
                            strict=True,
                        )
                    ),
                    "chance": mean_interval(did.get("chance", []))[0],
                }
            )
            first = first or peaks
    both = [part for column in columns for part in (column, f"{column}_ci")]
    return pd.DataFrame(
        rows,
        columns=[
            "profile",
            "what",
            "base_models",
            *both,
            "least",
            "most",
            "parted",
            "p",
            "test",
            "distance",
            "distance_ci",
            "chance",
        ],
    )


def _peaks_apart(one, other):
    """Exact two-sided p that the peaks of two profiles' runs differ, and by which test: {p, test}.

    one, other: a profile and its peaks by base model. Paired where the profiles have the same base
    models and seeds.
    """
    (profile, peaks), (other_profile, other_peaks) = one, other
    if all(
        getattr(profile, part) == getattr(other_profile, part)
        for part in ("base", "sizes", "seeds")
    ):
        differences = (peaks - other_peaks).dropna()
        least = stats.least_sign_flip(len(differences))
        return {
            "p": stats.sign_flip(differences),
            "test": f"sign flip, paired by base model (least p {least:.2g})",
        }
    least = stats.least_unpaired(len(peaks), len(other_peaks))
    return {
        "p": stats.unpaired_p(peaks, other_peaks),
        "test": f"Mann-Whitney, other base models (least p {least:.2g})",
    }


def worlds(profile, folder=None, others=("control", "stories", "bases")):
    """What methods change in several worlds, size by size: paired differences with 95% intervals.

    GRPO against the original and each mode of Policy Split, in both forms, against GRPO; paired by
    seed, and by base model where a profile has several of a size. Columns world, size, difference,
    pairs, replicates (what the pairs are), then with half-widths `_ci`: points, longer (points on
    the suite of longer sums than any trained on) and bits. others: profiles that were run beside
    this one; left out where not.
    """
    folder, rows = Path(folder or profile.folder), []
    for each in (profile, *map(runs.load_profile, others)):
        whole = per_seed(each, folder if each is profile else folder.parent / each.name)
        for size, found in whole.set_index("seed").groupby("size", sort=False):
            for one, mode, base in (
                ("grpo", "normal", "original"),
                ("policy_split", "normal", "grpo"),
                ("policy_split", "he", "grpo"),
                ("policy_split_released", "normal", "grpo"),
                ("policy_split_released", "he", "grpo"),
            ):
                own = found[(found.method == one) & (found["mode"] == mode)]
                against = found[(found.method == base) & (found["mode"] == "normal")]
                if len(own) and len(against):
                    row = {
                        "world": each.name,
                        "size": size,
                        "difference": f"{own.label.iloc[0]} - {against.label.iloc[0]}",
                        "replicates": each.replicates(),
                    }
                    for measure, name in (
                        ("average_acc", "points"),
                        ("long_acc", "longer"),
                        ("average_ent", "bits"),
                    ):
                        difference = (own[measure] - against[measure]).dropna()
                        row["pairs"], (row[name], row[f"{name}_ci"]) = (
                            len(difference),
                            mean_interval(difference),
                        )
                    rows.append(row)
    return pd.DataFrame(
        rows,
        columns=[
            "world",
            "size",
            "difference",
            "pairs",
            "replicates",
            "points",
            "points_ci",
            "longer",
            "longer_ci",
            "bits",
            "bits_ci",
        ],
    )
