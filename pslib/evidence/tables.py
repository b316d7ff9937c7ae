"""Tables: each function reads results and returns a DataFrame; a missing run is a blank."""

import math
from itertools import product
from pathlib import Path

import pandas as pd

from pslib import methods
from pslib.evidence import analyses, creative, stats
from pslib.evidence.analyses import Evidence, intervals, label_of, over_seeds
from pslib.lab import runs

# Our suite -> the paper's column.
ROLES = {"like": "math500", "long": "aime", "choice": "gpqa", "mixed": "mmlu_pro"}
# Nats a token, over five measurements: beyond it the modes are taken to have parted (C1's check).
PARTED = 0.03
# What several worlds are compared in: the column, and its measure.
WORLDS = {"points": "average_acc", "longer": "long_acc", "bits": "average_ent"}
REPORTED = runs.ROOT / "results" / "paper"


def with_replicates(table, profile):
    """The table with `replicates` behind `seeds`: what those are (see runs.Profile.replicates)."""
    place = table.columns.get_loc("seeds") + 1
    table.insert(place, "replicates", [profile.replicates(method) for method in table["method"]])
    return table


def table1(profile, folder=None):
    """Table 1, ours: a row a size, method and mode; means of analyses.SUITES over seeds with
    half-widths of 95% intervals, NaN where there is no run.
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
    named = {"model": "size", "method": "label"}
    for ours, theirs in ROLES.items():
        named |= {f"{theirs}_{what}": f"{ours}_{what}" for what in ("acc", "ent")}
    return pd.read_csv(REPORTED / "table1_general.csv").rename(columns=named)


def reported_table2():
    """Tables 2 and 10 as the paper reports them: a row a judge and method."""
    return pd.read_csv(REPORTED / "table2_table10_creative.csv")


def reported_figure_1c():
    """Figure 1c as it was read off the plot, with its legend swapped: the circles are the
    high-entropy mode (see 30_paper_versus_code).
    """
    named = {
        "circle_dark_blue_entropy": "entropy_bits_he",
        "square_light_blue_entropy": "entropy_bits_normal",
        "kl": "kl_he_from_normal",
    }
    return pd.read_csv(REPORTED / "figure1c_dynamics.csv").rename(columns=named)


def _cell(mean, half, digits):
    """A mean ± half-width with so many decimals; blank for no mean, the mean alone for no half."""
    if pd.isna(mean):
        return ""
    return f"{mean:.{digits}f}" + ("" if pd.isna(half) else f" ± {half:.{digits}f}")


def with_half(mean, half, sign=""):
    """A mean ± half-width as text, both to the place of the half-width's second digit; below
    0.00005 that is 0. sign "+" shows a plus.
    """
    if pd.isna(half) or half < 5e-5:
        return f"{mean:{sign}.3g}" + ("" if pd.isna(half) else " ± 0")
    places = max(0, 1 - math.floor(math.log10(half)))
    return f"{mean:{sign}.{places}f} ± {half:.{places}f}"


def unbroken(text):
    """A text whose lines do not break at ±."""
    return text.replace(" ± ", "\u00a0±\u00a0")


def _heads(table):
    """{column: its head}; suites have the heads of the paper's benchmarks, or of their roles."""
    heads = {name: head for name, (head, _) in analyses.written("artefacts")["heads"].items()}
    for suite, role in ROLES.items():
        head = role.upper().replace("_", "-") + table.attrs.get("role", "")
        heads |= {f"{suite}_acc": f"{head} acc %", f"{suite}_ent": f"{head} bits"}
    return heads


def halved(table, name, sign=""):
    """A column's means ± half-widths as texts, see with_half; "" for no mean."""
    pairs = zip(table[name], table[f"{name}_ci"], strict=True)
    return ["" if pd.isna(mean) else with_half(mean, half, sign) for mean, half in pairs]


def shown(table):
    """A table as people read it: heads in words, a mean and its half-width in one cell, blanks for
    NaN, no machine names.
    """
    hidden = ["runs", "method"] if "label" in table else ["runs"]
    cells = table.drop(columns=hidden, errors="ignore")
    for name in [name for name in cells if f"{name}_ci" in cells]:
        cells[name] = halved(cells, name)
        cells = cells.drop(columns=f"{name}_ci")
    cells = cells.round(4).astype(object)
    cells = cells.where(cells.notna(), "").rename(columns=_heads(table))
    return cells.rename_axis(columns=None)  # a page would show a pivot's name as an empty column


def best_of_n_shown(table, tries=(1, 8, 64)):
    """Best-of-n accuracy for some n, a column a way of sampling and n."""
    some = table[table.n.isin(tries)]
    some = some.assign(what=some.sampling + ", n = " + some.n.astype(str))
    some["cell"] = halved(some, "accuracy")
    row = ["size", "label", "seeds", "replicates"]
    wide = some.pivot(index=row, columns="what", values="cell")
    rows = pd.MultiIndex.from_frame(some[row]).unique()
    return shown(wide.reindex(columns=some.what.unique()).reindex(rows).reset_index())


def pass_at_k(profile, folder=None):
    """Pass@k of every method and variant that was asked, over replicates (see
    analyses.pass_at_k).
    """
    keys = ["size", "method", "label", "criterion", "sampling", "n"]
    found = analyses.pass_at_k(profile, folder)
    found = found.sort_values("sampling", ascending=False, kind="stable")  # normal, he, both
    return with_replicates(analyses.over_seeds(found, keys, ["accuracy"]), profile)


def pass_at_k_shown(table):
    """Pass@k as people read it: {criterion: its table}."""
    said = {"answer": "Answer right", "steps": "Answer and every worked step right"}
    return {
        said[criterion]: best_of_n_shown(own.drop(columns="criterion"), (1, 16, 256))
        for criterion, own in table.groupby("criterion", sort=False)
    }


def effects(profile, folder=None):
    """The `comparisons` in claims.yaml, differences between rows of table 1, paired by seed: mean
    and 95% interval in points or bits a token, beside the paper's three.
    """
    evidence, reported, rows = Evidence(profile, folder), reported_table1(), []
    for size, given in product(profile.table_sizes, analyses.written()["comparisons"]):
        measure, unit = given["measure"], analyses.unit_of(given["measure"])
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


def repeated(profile, folder, committed):
    """How far runs are from the committed ones of the same name: a row a run that is in both.

    Columns run; same, whether all metrics of every step but seconds are equal; acc and ent, how far
    apart the normal mode's averages of the suites are, in points and bits a token.
    """
    averages = {"average_acc": "acc", "average_ent": "ent"}
    ends, steps = [], []
    for where in (folder, committed):
        suites = analyses.suites(profile, where)
        suites = suites[suites["mode"] == "normal"].set_index("run")
        ends.append(suites[[*averages]].rename(columns=averages))
        metrics = analyses.collect(profile, "metrics", where)
        metrics = metrics[[name for name in metrics if not name.startswith("seconds")]]
        steps.append({run: own.reset_index(drop=True) for run, own in metrics.groupby("run")})
    apart = (ends[0] - ends[1]).abs().dropna()
    apart = apart.loc[[run for run in apart.index if all(run in own for own in steps)]]
    same = [steps[0][run].equals(steps[1][run]) for run in apart.index]
    return apart.assign(same=same).rename_axis("run").reset_index()


def beside(ours, committed, reported, model="Qwen3-1.7B"):
    """The averages of table 1 three ways: this machine's, the committed results', and the paper's
    for one model. Accuracies of a nano model and of Qwen3 are not comparable; directions are.
    """
    rows = ours[["size", "label"]]
    theirs = reported[reported["size"] == model].drop(columns="size")
    out = rows.set_axis(["model", "method"], axis=1)
    given = {"this machine": ours, "committed": committed, f"paper, {model}": theirs}
    for where, table in given.items():
        table = rows.merge(table, "left")
        for what, unit, digits in (("acc", "acc %", 1), ("ent", "bits", 3)):
            means = table[f"average_{what}"]
            halves = table.get(f"average_{what}_ci", [math.nan] * len(means))
            digits = digits if "seeds" in table else min(digits, 2)
            pairs = zip(means, halves, strict=True)
            out[f"{where}: {unit}"] = [_cell(mean, half, digits) for mean, half in pairs]
    return out


def table2(profile, folder=None):
    """Table 2's rule-based half, ours: how diverse stories are (see analyses.stories)."""
    found = analyses.stories(profile, folder)
    means = over_seeds(found, ["size", "method", "label"], analyses.STORIES)
    return with_replicates(means, profile).drop(columns="method")


def at_equal_length(profile, folder=None):
    """Differences of Div-2-gram, of whole stories and of their first 25 words, beside those of
    their length: the `at_equal_length` of claims.yaml, paired by seed or base model.
    """
    evidence, size, rows = Evidence(profile, folder), profile.table_sizes[0], []
    measures = ("div_2gram", "start_2gram", "tokens")
    for quantity in analyses.written()["at_equal_length"]:
        row = {
            "difference": " - ".join(evidence.labels(quantity)),
            "seeds": len(evidence.quantity(quantity, size, "start_2gram")),
            "replicates": profile.replicates(),
        }
        rows.append(row | evidence.intervals(quantity, size, {name: name for name in measures}))
    return pd.DataFrame(rows)


def ablations(profile, folder=None):
    """Every variant in each mode, and its difference from a reference, paired by seed.

    The reference of a variant that sets nothing but eta is GRPO; of any other, Policy Split with
    the same eta, or GRPO where there is none; some have a `second_reference` in claims.yaml.
    """
    evidence, size = Evidence(profile, folder), profile.ablation_unit
    names = ["policy_split", "policy_split_released", *profile.variants]
    etas = {name: profile.method(name).coefficients.get("eta", math.nan) for name in names}
    given = methods.METHODS["policy_split"]
    plain = {etas[name]: name for name in names if profile.method(name).same_but("eta", given)}
    swept = plain.values()
    pairs = [(name, "grpo" if name in swept else plain.get(etas[name], "grpo")) for name in names]
    second = analyses.written()["second_reference"].items()
    rows = []
    for name, reference in pairs + [pair for pair in second if pair[1] in profile.variants]:
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
            for measure in ("average_acc", "average_ent"):
                row |= evidence.intervals(f"{name}@{mode}", size, {measure: measure})
                change = {f"{measure}_change": measure}
                row |= evidence.intervals(f"{name}@{mode} - {there}", size, change)
            row |= evidence.intervals(f"{name}@end", size, {"kl_end": "kl_he_from_normal"})
            rows.append(row)
    return pd.DataFrame(rows)


def judged(profile, folder=None):
    """Table 10, ours: the judges' mean scores (0 to 100) of one story a prompt in the first seed's
    runs; blanks where no judge is configured.
    """
    root, rubrics, parts = Path(folder or profile.folder) / "runs", [*creative.RUBRICS], []
    for size, name in product(profile.sizes, profile.probe.methods):
        path = root / runs.run_id(name, size, profile.seeds_of(size)[0]) / "story_texts.parquet"
        told = pd.read_parquet(path).query("sample == 0") if path.exists() else pd.DataFrame()
        for mode, own in told.groupby("mode", sort=False) if len(told) else ():
            scores = creative.judge(own.story).groupby("judge")[rubrics].mean().reset_index()
            parts.append(scores.assign(size=size, label=label_of(profile, name, mode)))
    table = pd.concat(parts) if parts else pd.DataFrame()
    return table.reindex(columns=["size", "label", "judge", *rubrics])


def parting(profile, folder=None):
    """How far the modes part in the runs of `parting` in claims.yaml, over base models: the
    inter-mode KL in nats; parted, how many have a peak above PARTED; p, of the peaks against the
    first row's, and by which test; distance and chance (see analyses.behaviour).
    """
    rows, first = [], None
    for given in analyses.written()["parting"]:
        other, there = analyses.beside(profile, folder, given["profile"])
        found, did = (
            table[table.method == given["method"]].set_index("seed")
            for table in (analyses.start_and_end(other, there), analyses.behaviour(other, there))
        )
        row = {"profile": other.name, "what": given["what"], "base_models": len(found)}
        kl = {when: found[f"kl_he_from_normal_{when}"] for when in ("start", "end", "peak")}
        row |= intervals({f"kl_{when}": values for when, values in kl.items()})
        row |= {"least": kl["end"].min(), "most": kl["end"].max()}
        row |= {"parted": (kl["peak"] > PARTED).sum(), "p": math.nan, "test": ""}
        if first:
            row["p"], row["test"] = _peaks_apart(*first, other, kl["peak"])
        row |= intervals({"distance": did.distance}) | {"chance": did.chance.mean()}
        if len(found):
            rows.append(row)
            first = first or (other, kl["peak"])
    return pd.DataFrame(rows, columns=list(row))


def _peaks_apart(profile, peaks, other, other_peaks):
    """The exact two-sided p that the peaks (by base model) of two profiles differ, and by which
    test: paired where the profiles have the same base models and seeds.
    """
    shared = ("base", "sizes", "seeds")
    if all(getattr(profile, part) == getattr(other, part) for part in shared):
        differences = (peaks - other_peaks).dropna()
        p, test = stats.sign_flip(differences), "sign flip, paired by base model"
        least = 2 / 2 ** len(differences)
    else:
        p, test = stats.unpaired_p(peaks, other_peaks), "Mann-Whitney, other base models"
        least = 2 / math.comb(len(peaks) + len(other_peaks), len(peaks))
    return p, f"{test} (least p {least:.2g})"


def worlds(profile, folder=None):
    """What methods change in several worlds, size by size: the differences of `worlds` in
    claims.yaml in points, points on longer sums, and bits, paired by seed or base model.
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
