"""The README: its table is the committed one, its files and commands exist, its figure is there."""

import re

import pandas as pd
import pytest

from pslib.evidence import tables
from pslib.evidence.verdicts import by_form
from pslib.lab import runs

TEXT = (runs.ROOT / "README.md").read_text(encoding="utf-8")
QUICK = runs.ROOT / "results" / "quick"


def test_its_table_is_the_committed_one():
    committed = pd.read_csv(QUICK / "tables" / "table1_general.csv")
    shown = tables.beside(committed, committed, tables.reported_table1()).drop(
        columns=["committed: acc %", "committed: bits"]
    )
    shown.columns = [c.replace("this machine", "ours") for c in shown.columns]
    assert shown.to_markdown(index=False, disable_numparse=True) in TEXT


def test_the_committed_table_follows_from_the_committed_runs():
    profile = runs.load_profile("quick")
    committed = pd.read_csv(QUICK / "tables" / "table1_general.csv")
    made = tables.table1(profile, QUICK)
    assert (
        committed.label.tolist() == made.label.tolist()
        and committed.runs.tolist() == made.runs.tolist()
    )
    for measure in tables.MEASURES:
        assert made[measure].tolist() == pytest.approx(committed[measure].tolist(), abs=1e-3)
        assert made[f"{measure}_ci"].tolist() == pytest.approx(
            committed[f"{measure}_ci"].tolist(), abs=1e-3, nan_ok=True
        )


def speed():
    """The benchmark table as the README shows it."""
    (path,) = (path for path in (runs.ROOT / "results" / "benchmarks").glob("*cores.csv"))
    table = pd.read_csv(path)
    spread = [
        f"{row.ratio:.2f}"
        + (f" ({row.ratio_min:.2f} to {row.ratio_max:.2f})" if row.ratio_min > 0 else "")
        for row in table.itertuples()
    ]
    met = table.met.map({"True": "yes", "False": "**no**", True: "yes", False: "**no**"}).fillna("")
    return pd.DataFrame(
        {
            "case": table.case,
            "ratio (smallest to largest of the pairs)": spread,
            "goal": table.goal.fillna(""),
            "met": met,
        }
    ).to_markdown(index=False, disable_numparse=True)


def reliability():
    """results/reliability.csv as the README shows it."""
    table = pd.read_csv(runs.ROOT / "results" / "reliability.csv").sort_values(
        "claim", key=lambda claim: claim.str.lower()
    )
    return table.to_markdown(index=False, disable_numparse=True)


def verdicts():
    """The verdicts on the paper's ten claims, of profile nano, as the README shows them."""
    table = pd.read_csv(runs.ROOT / "results" / "nano" / "tables" / "verdicts.csv").head(10)
    counts = [
        ", ".join(map(str, row))
        for row in table[["confirmed", "refuted", "not separated"]].to_numpy()
    ]
    return pd.DataFrame(
        {
            "": table.id,
            "claim": table.claim,
            "checks confirmed, refuted, not separated": counts,
            "verdict": "**" + table.verdict + "**",
        }
    ).to_markdown(index=False, disable_numparse=True)


def forms():
    """Those on claims that were tested in several forms, side by side."""
    table = by_form(pd.read_csv(runs.ROOT / "results" / "nano" / "tables" / "verdicts.csv"))
    return table.to_markdown(index=False, disable_numparse=True)


@pytest.mark.parametrize("shown", [speed, reliability, verdicts, forms])
def test_it_quotes_what_was_measured(shown):
    assert shown() in TEXT


def test_how_fast_something_is_is_no_claim_of_reliability():
    claims = pd.read_csv(runs.ROOT / "results" / "reliability.csv").claim
    assert not claims.str.contains(r"\b\d+(?:\.\d+)? ?(?:ms|seconds|s)\b").any()


def test_every_file_that_it_names_exists():
    named = set(re.findall(r"`((?:pslib|results|notebooks|tests)/[\w./-]+)`", TEXT)) | set(
        re.findall(r"\]\(([^)#:]+)\)", TEXT)
    )
    missing = [
        path
        for path in named
        if not path.startswith("results/local") and not (runs.ROOT / path).exists()
    ]
    assert len(named) > 20 and not missing


def test_every_notebook_that_it_names_exists():
    named = set(re.findall(r"`(\d\d_\w+)`", TEXT))
    assert named and all((runs.ROOT / "notebooks" / f"{name}.ipynb").exists() for name in named)


def test_every_command_that_it_shows_exists():
    targets = set(
        re.search(r"^\.PHONY: (.+)$", (runs.ROOT / "Makefile").read_text(), re.M)[1].split()
    )
    assert (
        set(re.findall(r"make ([a-z-]+)(?=[ `\n])", TEXT.replace("and make,", ""))) - {"sets"}
        <= targets
    )
    cli = (runs.ROOT / "pslib" / "__main__.py").read_text()
    assert all(f'"{command}"' in cli for command in re.findall(r"python -m pslib (\w+)", TEXT))


def test_the_ci_script_runs_the_test_command_of_the_readme():
    assert "make test" in TEXT and "\nmake test\n" in (runs.ROOT / ".ci" / "run").read_text()


def test_dependencies_are_named_once_and_pinned():
    import tomllib

    import yaml

    listed = tomllib.loads((runs.ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", each) for each in listed)
    environment = yaml.safe_load((runs.ROOT / "environment.yml").read_text())
    assert environment["dependencies"][-1] == {"pip": ["--editable ."]}
