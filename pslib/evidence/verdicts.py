"""Verdicts: the paper's ten claims, each as checks that this project's runs can confirm or refute.

A check is a quantity of which its claim says that it is positive or negative. Its verdict follows
from its 95% interval over replicates, with Holm's correction over its family: the claim's checks
that decide, or those `beside` it. A claim is confirmed if all of its deciding checks are, partly if
some are, refuted if some are refuted and none confirmed, and else not separated.

Claims stand in claims.yaml, each with the world that it is tested in where that was run
(`tested_in`) or there alone (`only_in`). Why a verdict came out so is said in the results'
why.yaml.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from pslib.evidence import analyses, stats, tables
from pslib.lab import runs

REPETITIONS = 7  # of a pair in benchmarks/bench.py
PAIRS = "pairs of steps on one machine"  # what the repetitions of a benchmark differ in


def claims():
    """The paper's claims as data: {id: {claim, reported, where, checks, ...}}."""
    return {name: facts for name, facts in analyses.written().items() if name[:1] == "C"}


def _tested(evidence, size, facts):
    """Each check of a claim at a size -> (its facts, its text, Effect, its replicates)."""
    facts = {"method": "policy_split", **claims().get(facts.get("like"), {}), **facts}
    profile, words = evidence.profile, {"method": facts["method"], "n": ""}
    if facts.get("over", "") not in ("", profile.replicates("original")):
        return
    if facts.get("only") == "ablation size" and size != profile.ablation_unit:
        return
    if "given" in facts:
        words["n"] = _first_given(evidence, size, facts["given"], words)
    asked = [c for c in facts["checks"] if words["n"] is not None or c.get("always")]
    each = [(check, other) for check in asked for other in check.get("each", [""])]
    for check, other in each:
        words |= {"other": other, "name": other.replace("_", " ")}
        words["label"] = profile.method(other).label if "{label}" in check["says"] else ""
        said = check["says"].format(**words)
        if "benchmark" in check:
            for machine, effect in _benchmarked(check, size):
                yield check, f"{said} ({machine})", effect, PAIRS
        else:
            quantity = check["quantity"].format(**words)
            values = evidence.quantity(quantity, size, check["measure"])
            effect = stats.paired_effect(values, np.zeros(len(values)))
            yield check, said, effect, profile.replicates()


def _first_given(evidence, size, given, words):
    """The first n for which the mean of a `given` quantity is as it must be ("" where no n is asked
    for), None where it never is.
    """
    for n in given.get("n", [""]):
        quantity = given["quantity"].format(**words | {"n": n})
        mean = evidence.quantity(quantity, size, given["measure"]).mean()
        if given.get("at_least", -np.inf) <= mean < given.get("below", np.inf):
            return n
    return None


def _benchmarked(check, size):
    """A ratio that benchmarks/bench.py measured, by machine -> (machine, Effect of the bound less
    it).

    The range of seven pairs holds their median with 98%, so it stands for the interval, without a
    p.
    """
    for path in sorted((runs.ROOT / "results" / "benchmarks").glob("*cores.csv")):
        found = analyses.read(path).set_index("case")
        if (case := f"{check['benchmark']}, {size.upper()}") in found.index:
            ratios = found.loc[case, ["ratio", "ratio_max", "ratio_min"]].astype(float)
            yield path.stem, stats.Effect(*(check["least"] - ratios), *[np.nan] * 4, REPETITIONS)


def checks(profile, folder=None):
    """Every check of every claim at every size that was run, over replicates: mean, 95% t interval
    (low, high), d_z, p, p_holm over the family, and the true difference that is found 80% of the
    time at p < 0.05 / m, m checks in the family (detectable).
    """
    here, rows = analyses.Evidence(profile, folder), []
    for claim, facts in claims().items():
        elsewhere = facts.get("only_in") or facts.get("tested_in")
        evidence = here.beside(elsewhere) if elsewhere else here
        if evidence is None and "only_in" not in facts:
            evidence = here
        for size in evidence.sizes if evidence else ():
            for check, said, effect, replicates in _tested(evidence, size, facts):
                if effect.seeds < 2:
                    continue
                row = {"claim": claim, "profile": evidence.profile.name, "size": size}
                row |= {"check": said, "decides": not check.get("beside", False)}
                row["unit"] = analyses.unit_of(check["measure"])
                row["direction"] = check.get("direction", "positive")
                rows.append({**row, **effect._asdict(), "replicates": replicates})
    blank = ["claim", "profile", "size", "check", "decides", "unit", "verdict"]
    return _told(pd.DataFrame(rows)) if rows else pd.DataFrame(columns=blank)


def _told(table):
    """Checks with what Holm's correction over each family leaves of them."""
    table = table.rename(columns={"difference": "mean"})
    family = table.groupby(["claim", "decides"]).p
    table["p_holm"] = family.transform(stats.holm)
    spread = (table["mean"] / table.d_z).abs()
    table["detectable"] = [
        stats.smallest_detectable(sd, n, alpha=0.05 / max(m, 1))
        for sd, n, m in zip(spread, table.seeds, family.transform("count"), strict=True)
    ]
    told = [stats.verdict(row.low, row.high, row.direction) for row in table.itertuples()]
    table["verdict"] = np.where(table.p_holm >= 0.05, "not separated", told)
    return table


def _added_up(count):
    """What a claim's deciding checks, of which so many came out each way, say together."""
    if not sum(count.values()):
        return "not testable here"
    if count["confirmed"]:
        return "confirmed" if count["confirmed"] == sum(count.values()) else "partly"
    return "refuted" if count["refuted"] else "not separated"


def _measured(own):
    """A claim's first check in words, with what it came to at each size."""
    first, texts = own[own.check == own.check.iloc[0]], []
    for size, r in zip(first["size"], first.itertuples(), strict=True):
        detects = f", detects {r.detectable:.2g}" if r.detectable > 0 else ""
        half = tables.with_half(r.mean, (r.high - r.low) / 2, "+")
        texts.append(f"{half} (n = {r.seeds}{detects}) at {size}")
    return f"{r.check}, {r.unit}, over {r.replicates}: {'; '.join(texts)}"


def verdicts(profile, folder=None, found=None):
    """A row a claim: what the paper reports, what was measured (the first deciding check at each
    size), how many deciding checks came out each way, the verdict, and why. found: the checks,
    where they are at hand.
    """
    found, rows = checks(profile, folder) if found is None else found, []
    path = Path(folder or profile.folder) / "why.yaml"
    why = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    for claim, facts in claims().items():
        own = found[(found.claim == claim) & found.decides.eq(True)]
        kinds = ("confirmed", "refuted", "not separated")
        count = {kind: int((own.verdict == kind).sum()) for kind in kinds}
        row = {"id": claim, **{key: facts[key] for key in ("claim", "reported", "where")}}
        row |= {"measured": _measured(own) if len(own) else "", "checks": len(own), **count}
        rows.append(row | {"verdict": _added_up(count), "why": why.get(claim, "")})
    return pd.DataFrame(rows)


def by_form(table):
    """The verdicts side by side: a row a claim tested in several forms, a column a form."""
    parts, forms = table.id.str.split(n=1), analyses.written()["forms"]
    form = parts.str[1].fillna("").map(forms)
    found = pd.DataFrame({"claim": parts.str[0], "form": form, "verdict": table.verdict}).dropna()
    wide = found.pivot(index="claim", columns="form", values="verdict")
    wide = wide[wide.notna().sum(axis=1) > 1].fillna("")
    wide = wide.reindex(columns=forms.values(), fill_value="")
    return wide.rename_axis(columns=None).reset_index()


def by_world(table):
    """The ten claims with the verdict and its reason in each world and form."""
    said = ("**" + table.verdict + "**. " + table.why).set_axis(table.id)
    forms = {"nano, eq. 3": "", "understood, eq. 3": "understood"}
    forms["understood, released bonus"] = "understood released"
    rows = table[~table.id.str.contains(" ")]
    out = pd.DataFrame({"claim": rows.id + ": " + rows.claim, "the paper": rows.reported})
    for head, form in forms.items():
        out[head] = [said.get(f"{name} {form}".strip(), "not tested") for name in rows.id]
    return out


def verdicts_shown(table):
    """The verdicts as people read them, in four columns."""
    settled = " (" + table.confirmed.astype(str) + " of " + table.checks.astype(str) + " checks)"
    return pd.DataFrame(
        {
            "claim": table.id + ": " + table.claim,
            "the paper": table.reported + " (" + table["where"] + ")",
            "verdict": "**" + table.verdict + "**" + settled.where(table.checks > 0, ""),
            "why": table.why,
        }
    )


def checks_shown(table):
    """The checks as people read them: {claim: its checks}."""
    parts, columns = {}, ["check", "decides", "model", "mean", "seeds", "replicates", "verdict"]
    for claim, own in table.groupby("claim", sort=False):
        cells = own.assign(mean_ci=(own["high"] - own["low"]) / 2)
        cells["mean"] = tables.halved(cells, "mean", "+") + (" " + own.unit)
        cells["model"] = own.profile + " " + own["size"]
        cells["decides"] = np.where(own.decides, "yes", "no")
        parts[f"{claim}: {claims()[claim]['claim']}"] = tables.shown(cells[columns])
    return parts


def _links(text):
    """Links to the notebooks that a text of 40 names, as in "(notebooks 05 and 24)"."""
    named = re.findall(r"notebooks? (\d\d)(?: and (\d\d))?", text)
    numbers = sorted({number for pair in named for number in pair} - {"", "40"})
    paths = [path for n in numbers for path in (runs.ROOT / "notebooks").glob(f"{n}_*.ipynb")]
    return ", ".join(f"[{path.stem}]({path.name})" for path in paths)


def cards(table, found):
    """The paper's claims one by one -> (text in Markdown, the first deciding check of the claim in
    each form, world and size).
    """
    forms_said = analyses.written()["forms"] | analyses.written()["understood_forms"]
    for row in table[~table.id.str.contains(" ")].itertuples():
        forms = table[(table.id == row.id) | table.id.str.startswith(f"{row.id} ")]
        shorts = forms.id[1:].map(lambda name: forms_said[name.partition(" ")[2]])
        others = shorts + ": **" + forms.verdict[1:] + "**"
        said = {
            "paper": f"{row.reported} ({row.where})",
            "here": row.measured,
            "why": row.why,
            "other forms": "; ".join(others),
            "more": _links(" ".join(forms.why)),
        }
        lines = [f"*{name}*: {text}" for name, text in said.items() if text]
        text = "\n\n".join([f"**{row.id}. {row.claim}: {row.verdict}**", *lines])
        own = found[found.claim.isin(forms.id) & found.decides.eq(True)]
        first = own.groupby(["claim", "size"], sort=False).head(1)
        yield tables.unbroken(text), first
