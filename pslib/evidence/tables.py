"""Tables: each function reads results and returns a DataFrame; a missing run is a blank."""

import math
from functools import cache
from itertools import product
from pathlib import Path

import pandas as pd
import yaml

from pslib import methods
from pslib.evidence import analyses, creative, stats
from pslib.evidence.analyses import Evidence, interval, label_of, over_seeds
from pslib.lab import runs

# Our suite -> the paper's column.
ROLES = {"like": "math500", "long": "aime", "choice": "gpqa", "mixed": "mmlu_pro"}
# Nats a token, over five measurements: beyond it the modes are taken to have parted, as in C1's
# check.
PARTED = 0.03
# What several worlds are compared in: the column, and its measure.
WORLDS = {"points": "average_acc", "longer": "long_acc", "bits": "average_ent"}


def with_replicates(table, profile):
    """The table with a column `replicates` behind `seeds`: what those are, row by row (see
    runs.Profile.replicates).
    """
    place = table.columns.get_loc("seeds") + 1
    table.insert(place, "replicates", [profile.replicates(method) for method in table["method"]])
    return table


def table1(profile, folder=None):
    """Table 1, ours: a row a size and method, for each measure its mean over seeds and the 95%
    interval's half-width.

    Columns size, label, seeds, replicates (what the seeds are), runs, and for each of
    analyses.SUITES (percent and bits) the mean and `<measure>_ci`; NaN where there is no run.
    """
    found, keys = analyses.suites(profile, folder), ["size", "method", "mode"]
    rows = [
        (size, name, mode)
        for size in profile.table_sizes
        for name in profile.methods
        for mode in profile.method(name).sampling
    ]
    table = over_seeds(found, keys, analyses.SUITES).set_index(keys).reindex(rows).reset_index()
    ran = found.groupby(keys).run.agg(" ".join)
    table.insert(1, "label", [label_of(profile, name, mode) for _, name, mode in rows])
    table["seeds"] = table.seeds.fillna(0).astype(int)
    table = with_replicates(table, profile).drop(columns=["method", "mode"])
    table.insert(4, "runs", [ran.get(row, "") for row in rows])
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


def reported_table2():
    """Tables 2 and 10 as the paper reports them: a row a judge and method."""
    return pd.read_csv(runs.ROOT / "results" / "paper" / "table2_table10_creative.csv")


def reported_figure_1c():
    """Figure 1c as it was read off the plot, with the names of analyses.APART and its legend
    swapped: the circles are the high-entropy mode (see 30_paper_versus_code).
    """
    names = {
        "circle_dark_blue_entropy": "entropy_bits_he",
        "square_light_blue_entropy": "entropy_bits_normal",
        "kl": "kl_he_from_normal",
    }
    path = runs.ROOT / "results" / "paper" / "figure1c_dynamics.csv"
    return pd.read_csv(path).rename(columns=names)


def _cell(mean, half, digits):
    """A mean ± its interval's half-width as text with so many decimals; blank for no mean, the
    mean alone for no half-width.
    """
    if pd.isna(mean):
        return ""
    return f"{mean:.{digits}f}" + ("" if pd.isna(half) else f" ± {half:.{digits}f}")


def with_half(mean, half, sign=""):
    """A mean ± its interval's half-width as text, both to the place of the half-width's second
    digit.

    A half-width below 0.00005 is shown as 0; sign "+" shows a plus.
    """
    if pd.isna(half) or half < 5e-5:
        return f"{mean:{sign}.3g}" + ("" if pd.isna(half) else " ± 0")
    places = max(0, 1 - math.floor(math.log10(half)))
    return f"{mean:{sign}.{places}f} ± {half:.{places}f}"


@cache
def registry():
    """What artefacts.yaml says: `artefacts`, and the `heads` of columns with what they hold."""
    path = Path(__file__).with_name("artefacts.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _heads(table):
    """{column: its head}; the suites are headed by the roles that they play, or by the benchmarks
    where they are the paper's.
    """
    names = {
        s: role.upper().replace("_", "-") + table.attrs.get("role", "") for s, role in ROLES.items()
    }
    units = {"acc": "acc %", "ent": "bits"}
    suites = {
        f"{suite}_{what}": f"{names.get(suite, suite)} {unit}"
        for suite in (*ROLES, "average")
        for what, unit in units.items()
    }
    return suites | {column: head for column, (head, _) in registry()["heads"].items()}


def shown(table):
    """A table as people read it: heads in words, a mean and its half-width `<mean>_ci` in one cell,
    no machine name of the method, no names of runs.

    Blanks for NaN; where there is one seed, a mean stands alone.
    """
    hidden = ["runs", "method"] if "label" in table else ["runs"]
    cells = table.drop(columns=hidden, errors="ignore")
    for name in [name for name in cells if f"{name}_ci" in cells]:
        pairs = zip(cells[name], cells[f"{name}_ci"], strict=True)
        cells[name] = ["" if pd.isna(mean) else with_half(mean, half) for mean, half in pairs]
        cells = cells.drop(columns=f"{name}_ci")
    cells = cells.round(4).astype(object)
    return cells.where(cells.notna(), "").rename(columns=_heads(table))


def best_of_n_shown(table):
    """Best-of-n accuracy for n of 1, 8 and 64: a row a size and method, a column a way of sampling
    and n.
    """
    some = table[table.n.isin((1, 8, 64))].astype({"n": str})
    what = some.sampling + ", n = " + some.n
    cells = [with_half(*pair) for pair in zip(some.accuracy, some.accuracy_ci, strict=True)]
    row = ["size", "label", "seeds", "replicates"]
    wide = some.assign(what=what, cell=cells).pivot(index=row, columns="what", values="cell")
    rows = pd.MultiIndex.from_frame(some[row]).unique()
    return shown(wide.reindex(columns=what.unique()).reindex(rows).reset_index())


def effects(profile, folder=None):
    """Differences between rows of table 1, paired by seed: mean and 95% interval over seeds, beside
    the paper's three.

    Accuracy differences in points, entropy differences in bits a token; a row a size and one of the
    `comparisons` in claims.yaml.
    """
    evidence, reported, rows = Evidence(profile, folder), reported_table1(), []
    for size in profile.table_sizes:
        for given in analyses.written()["comparisons"]:
            measure, unit = given["measure"], analyses.UNITS[given["measure"]]
            differences = evidence.quantity(given["quantity"], size, measure)
            first, second = evidence.labels(given["quantity"])
            theirs = reported.pivot(index="size", columns="label", values=measure)
            theirs = theirs[first] - theirs[second] if {first, second} <= set(theirs) else []
            rows.append(
                {
                    "model": size,
                    "comparison": given["says"],
                    "unit": unit,
                    "ours": _cell(*stats.mean_interval(differences), 1 if unit == "points" else 3),
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
            shown = table.loc[at] if at in table.index else {}
            for what, unit, digits in (("acc", "acc %", 1), ("ent", "bits", 3)):
                digits = digits if "seeds" in table else min(digits, 2)
                mean, half = (shown.get(f"average_{what}{end}") for end in ("", "_ci"))
                row[f"{where}: {unit}"] = _cell(mean, half, digits)
        rows.append(row)
    return pd.DataFrame(rows)


def table2(profile, folder=None):
    """Table 2's rule-based half, ours: how diverse stories are, in each mode of every method, over
    seeds (see analyses.stories).

    Columns size, label, seeds, replicates (what the seeds are), and analyses.STORIES with their
    `_ci`.
    """
    found = analyses.stories(profile, folder)
    means = over_seeds(found, ["size", "method", "label"], analyses.STORIES)
    return with_replicates(means, profile).drop(columns="method")


def ablations(profile, folder=None):
    """The ablation table: every variant's accuracy, entropy and final KL in each mode, and its
    difference from a reference.

    The reference of a variant that sets nothing but eta is GRPO; of any other, Policy Split with
    the same eta; some have a `second_reference` in claims.yaml. Differences are paired by seed:
    means and the half-widths (`_ci`) of their 95% intervals.
    """
    evidence, size = Evidence(profile, folder), profile.ablation_unit
    names = ("policy_split", "policy_split_released", *profile.variants)
    etas = {name: profile.method(name).coefficients["eta"] for name in names}
    plain = {
        etas[name]: name
        for name in names
        if profile.method(name).same_but("eta", methods.METHODS["policy_split"])
    }
    references = [(name, "grpo" if name in plain.values() else plain[etas[name]]) for name in names]
    second = analyses.written()["second_reference"].items()
    rows = []
    for name, reference in references + [pair for pair in second if pair[1] in profile.variants]:
        for mode in profile.method(name).sampling:
            there = "grpo@normal" if reference == "grpo" else f"{reference}@{mode}"
            row = {
                "variant": name,
                "label": profile.method(name).label,
                "mode": mode,
                "seeds": len(evidence.of(size, name, mode, "average_acc")),
                "replicates": profile.replicates(name),
                "eta": etas[name],
                "reference": reference,
            }
            own, change = f"{name}@{mode}", f"{name}@{mode} - {there}"
            for measure in ("average_acc", "average_ent"):
                row |= evidence.intervals(own, size, {measure: measure})
                row |= evidence.intervals(change, size, {f"{measure}_change": measure})
            row |= evidence.intervals(f"{name}@end", size, {"kl_end": "kl_he_from_normal"})
            rows.append(row)
    return pd.DataFrame(rows)


def judged(profile, folder=None):
    """Table 10, ours: the judges' mean scores (0 to 100) of one story a prompt, for each size,
    method and mode of the first seed.

    Columns size, label, judge and creative.RUBRICS; one row with a blank judge and no scores where
    no judge is configured.
    """
    root, rubrics, rows = Path(folder or profile.folder) / "runs", list(creative.RUBRICS), []
    for size in profile.sizes:
        for name in profile.probe.methods:
            path = root / runs.run_id(name, size, profile.seeds[0]) / "story_texts.parquet"
            if path.exists():
                told = pd.read_parquet(path).query("sample == 0")
                for mode, own in told.groupby("mode", sort=False):
                    scores = creative.judge(list(own.story)).groupby("judge")[rubrics].mean()
                    label = label_of(profile, name, mode)
                    rows.append(scores.reset_index().assign(size=size, label=label))
    table = pd.concat(rows) if rows else pd.DataFrame()
    return table.reindex(columns=["size", "label", "judge", *rubrics])


def parting(profile, folder=None):
    """How far the modes part in the runs of `parting` in claims.yaml, made beside this profile's:
    Policy Split's inter-mode KL in nats, over base models.

    Columns profile, what, base_models, the KL's mean at start, end and peak (see
    analyses.start_and_end) with half-widths `_ci`, least and most (of the ends), parted (how many
    have a peak above PARTED), p: of the peaks against those of the first row, and
    test: which one, with the least p that so many base models allow; distance between the modes'
    derivations at the end, with its half-width, and chance (see analyses.behaviour).
    """
    rows, first = [], None
    for given in analyses.written()["parting"]:
        other, there = analyses.beside(profile, folder, given["profile"])
        found, did = (
            table[table.method == given["method"]].set_index("seed")
            for table in (analyses.start_and_end(other, there), analyses.behaviour(other, there))
        )
        row = {"profile": other.name, "what": given["what"], "base_models": len(found)}
        for when in ("start", "end", "peak"):
            row |= interval(f"kl_{when}", found[f"kl_he_from_normal_{when}"])
        peaks = found.kl_he_from_normal_peak
        row |= {
            "least": found.kl_he_from_normal_end.min(),
            "most": found.kl_he_from_normal_end.max(),
            "parted": (peaks > PARTED).sum(),
            **(_peaks_apart(*first, other, peaks) if first else {"p": math.nan, "test": ""}),
            **interval("distance", did.distance),
            "chance": did.chance.mean(),
        }
        if len(found):
            rows.append(row)
            first = first or (other, peaks)
    return pd.DataFrame(rows, columns=list(row))


def _peaks_apart(profile, peaks, other, other_peaks):
    """Exact two-sided p that the peaks of two profiles' runs differ, and by which test: {p, test}.

    peaks: Series by base model. Paired where the profiles have the same base models and seeds.
    """
    shared = ("base", "sizes", "seeds")
    if all(getattr(profile, part) == getattr(other, part) for part in shared):
        differences = (peaks - other_peaks).dropna()
        p, least = stats.sign_flip(differences), 2 / 2 ** len(differences)
        return {"p": p, "test": f"sign flip, paired by base model (least p {least:.2g})"}
    p = stats.unpaired_p(peaks, other_peaks)
    least = 2 / math.comb(len(peaks) + len(other_peaks), len(peaks))
    return {"p": p, "test": f"Mann-Whitney, other base models (least p {least:.2g})"}


def worlds(profile, folder=None):
    """What methods change in several worlds, size by size: paired differences with 95% intervals.

    The worlds and differences are those of `worlds` in claims.yaml; paired by seed, and by base
    model where a profile has several of a size. Columns world, size, difference, pairs, replicates
    (what the pairs are), then with half-widths `_ci`: points, longer (points on the suite of longer
    sums than any trained on) and bits. Profiles that were not run beside this one are left out.
    """
    here, given, rows = Evidence(profile, folder), analyses.written()["worlds"], []
    for evidence in filter(None, (here, *map(here.beside, given["beside"]))):
        for size, quantity in product(evidence.profile.table_sizes, given["differences"]):
            row = {
                "world": evidence.profile.name,
                "size": size,
                "difference": " - ".join(evidence.labels(quantity)),
                "pairs": len(evidence.quantity(quantity, size, "average_ent")),
                "replicates": evidence.profile.replicates(),
                **evidence.intervals(quantity, size, WORLDS),
            }
            rows.append(row)
    table = pd.DataFrame(rows)
    return table[table.pairs > 0].reset_index(drop=True)
