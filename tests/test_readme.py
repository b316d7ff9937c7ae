"""The README and the pages in docs: their tables are the committed ones, their files and commands
exist, and what they show of a command is what it prints.
"""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pslib.evidence import analyses, predictions, tables, trace
from pslib.evidence.verdicts import by_form
from pslib.lab import cli, runs
from pslib.nano import worlds

PAGES = [runs.ROOT / "README.md", *sorted((runs.ROOT / "docs").glob("*.md"))]
RAW = {page.stem: page.read_text(encoding="utf-8") for page in PAGES}
# A space that may not break a line is a space to what is compared here.
TEXT = {name: text.replace("\u00a0", " ") for name, text in RAW.items()}
QUICK = runs.ROOT / "results" / "quick"
NANO = runs.ROOT / "results" / "nano"


def markdown(table):
    return table.to_markdown(index=False, disable_numparse=True).replace("\u00a0", " ")


def test_the_readme_is_one_that_somebody_reads():
    assert len(RAW["README"].splitlines()) <= 150


def test_a_line_never_breaks_at_a_plus_minus():
    assert not [name for name, text in RAW.items() if re.search(r"[ \n]±|±[ \n]", text)]


def test_what_another_processor_changes_is_what_the_tables_of_both_say():
    """Limits gives the differences to GRPO on either, and how far a run ends from itself."""
    rows = {
        "Policy Split is more accurate than GRPO": "eq. 3, accuracy, points",
        "Policy Split has more entropy than GRPO": "eq. 3, entropy, bits",
        "released bonus: more accurate than GRPO": "released form, accuracy, points",
        "released bonus: more entropy than GRPO": "released form, entropy, bits",
    }
    both = [
        pd.read_csv(QUICK / folder / "table1_effects.csv").set_index("comparison").ours
        for folder in ("tables", "avx2")
    ]
    for comparison, said in rows.items():
        cells = [own[comparison] for own in both]
        signed = [cell if cell.startswith("-") else f"+{cell}" for cell in cells]
        assert f"| {said} | {' | '.join(signed)} |" in TEXT["limits"]
    apart = pd.read_csv(QUICK / "avx2" / "repeated.csv")
    mean, most = apart[["acc", "ent"]].mean(), apart[["acc", "ent"]].max()
    assert (
        f"ends {mean.acc:.1f} points from itself on average (at most {most.acc:.1f})"
        in TEXT["limits"]
    )
    said = f"{mean.ent:.3f} bits (at most {most.ent:.3f}; {len(apart)} runs"
    assert said in TEXT["limits"].replace("\n", " ")


def test_the_runs_of_the_pretrained_model_are_those_of_its_folder():
    profile = runs.load_profile("smollm2")
    found = analyses.suites(profile, runs.ROOT / "results" / "smollm2")
    found = found[found["mode"] == "normal"]
    for measure, digits in (("average_acc", 0), ("average_ent", 2)):
        by_seed = found.pivot(index="seed", columns="method", values=measure)[profile.methods]
        for row in by_seed.itertuples():
            cells = " | ".join(f"{value:.{digits}f}" for value in row[1:])
            assert f"seed {row.Index} | {cells} |" in TEXT["results"]
    trained = found[found.method != "original"]
    rank = trained[["average_acc", "average_ent"]].corr("spearman").iloc[0, 1]
    assert f"rank correlation {rank:.2f}" in " ".join(TEXT["results"].split())


def test_its_table_is_the_committed_one():
    committed = pd.read_csv(QUICK / "tables" / "table1_general.csv")
    shown = tables.beside(committed, committed, tables.reported_table1()).drop(
        columns=["model", "committed: acc %", "committed: bits"]
    )
    shown.columns = [
        c.replace("this machine", "ours").replace(
            "paper, Qwen3-1.7B", "paper (other task: compare directions)"
        )
        for c in shown.columns
    ]
    assert markdown(shown) in TEXT["README"]


def test_the_committed_table_follows_from_the_committed_runs():
    profile = runs.load_profile("quick")
    committed = pd.read_csv(QUICK / "tables" / "table1_general.csv")
    made = tables.table1(profile, QUICK)
    assert (
        committed.label.tolist() == made.label.tolist()
        and committed.runs.tolist() == made.runs.tolist()
    )
    for measure in analyses.SUITES:
        assert made[measure].tolist() == pytest.approx(committed[measure].tolist(), abs=1e-3)
        assert made[f"{measure}_ci"].tolist() == pytest.approx(
            committed[f"{measure}_ci"].tolist(), abs=1e-3, nan_ok=True
        )


def test_its_first_finding_is_what_its_runs_say():
    profile = runs.load_profile("understood")
    folder = profile.results("committed")
    tested = predictions.tested(profile, folder).set_index("prediction")
    count = {7: "seven", 8: "eight"}[tested.base_models.min()]
    text = " ".join(TEXT["README"].split())
    for name, digits in (("form", 2), ("heeding", 2), ("control", 3)):
        row = tested.loc[name]
        low, high = row["mean"] - row.mean_ci, row["mean"] + row.mean_ci
        said = f"(95% interval {low:.{digits}f} to {high:.{digits}f}, {count} base models)"
        assert f"{row['mean']:.{digits}f} bits" in text and said in text
        assert row.outcome == "as predicted" if count == "eight" else low > 0
    # and what it says of the prompt's meaning
    for against in ("a neutral prompt", "the low-entropy prompt"):
        row = tested.loc[f"meaning against {against}"]
        assert abs(row["mean"]) < row.mean_ci
    shown = pd.read_csv(folder / "tables" / "predictions.csv").set_index("prediction")
    assert np.allclose(shown["mean"], tested["mean"], atol=6e-5)


def test_how_many_base_models_show_the_pattern_at_quicks_length_is_what_runs_say():
    profile = runs.load_profile("understood")
    table = predictions.at_quick_length(profile, profile.results("committed"))
    counted, said = {5: "five", 8: "eight"}, []
    for row in table.itertuples():
        said.append(f"{counted[row.positive]} of {counted[row.base_models]}")
        assert f"| {said[-1]} | {row.mean:+.3f} ± {row.mean_ci:.3f} |" in TEXT["results"]
    assert f"than GRPO's on {said[1]} base models" in " ".join(TEXT["README"].split())


def speed():
    """The benchmark table as docs/speed.md shows it."""
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
    )


def reliability():
    """results/reliability.csv as docs/reliability.md shows it."""
    table = pd.read_csv(runs.ROOT / "results" / "reliability.csv")
    return table.sort_values("claim", key=lambda claim: claim.str.lower())


def verdicts():
    """The verdicts on the paper's ten claims, of profile nano, as docs/results.md shows them."""
    table = pd.read_csv(NANO / "tables" / "verdicts.csv").head(10)
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
    )


def verdicts_alone():
    """The verdicts as the README shows them, without the counts of checks."""
    return verdicts()[["", "claim", "verdict"]]


def forms():
    """Those on claims that were tested in several forms, side by side."""
    return by_form(pd.read_csv(NANO / "tables" / "verdicts.csv"))


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("README", verdicts_alone),
        ("speed", speed),
        ("reliability", reliability),
        ("results", verdicts),
        ("results", forms),
    ],
)
def test_a_page_quotes_what_was_measured(page, shown):
    assert markdown(shown()) in TEXT[page]


def test_how_fast_something_is_is_no_claim_of_reliability():
    claims = pd.read_csv(runs.ROOT / "results" / "reliability.csv").claim
    assert not claims.str.contains(r"\b\d+(?:\.\d+)? ?(?:ms|seconds|s)\b").any()


def test_what_a_page_shows_of_trace_is_what_it_prints():
    profile = runs.load_profile("bases")
    folder = profile.results("committed")
    said = trace.report(profile, "policy_split_released", "grpo", "bits", folder)
    assert f"```\n{said}\n```" in TEXT["check-a-number"]


def test_the_picture_of_a_sum_shows_the_world_and_what_was_measured():
    picture = (runs.ROOT / "docs" / "four_ways.svg").read_text(encoding="utf-8")
    written = re.findall(r"<text[^>]*>([^<]+)</text>", picture)
    numbers = tuple(map(int, written[0].split("+")))
    measured = pd.read_csv(NANO / "base" / "0.2m" / "measured.csv")
    expected = [written[0]]
    for derivation in worlds.DERIVATIONS:
        rows = measured[measured.derivation == derivation].set_index("measure")
        article = "at a" if derivation == "glance" else "in"
        expected += [f"{article} {derivation}"]
        expected += worlds.steps_of(numbers, derivation) or [f"the total at once: {sum(numbers)}"]
        expected += [f"used {100 * rows.share['default']:.0f}%"]
        expected += [f"right {100 * rows.accuracy['named']:.0f}%"]
    assert written == expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_that_it_names_exists(page):
    text = TEXT[page.stem]
    named = set(re.findall(r"`((?:pslib|results|notebooks|tests|docs)/[\w./-]+)`", text))
    paths = [runs.ROOT / name for name in named]
    paths += [page.parent / name for name in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text)]
    made = [runs.ROOT / "results" / "local", runs.ROOT / "docs" / "_build"]
    missing = [
        path
        for path in paths
        if not any(path.is_relative_to(folder) for folder in made) and not path.exists()
    ]
    assert not missing
    assert page.stem != "README" or len(paths) > 20


def test_every_notebook_that_they_name_exists():
    named = {name for text in TEXT.values() for name in re.findall(r"`(\d\d_\w+)`", text)}
    assert named and all((runs.ROOT / "notebooks" / f"{name}.ipynb").exists() for name in named)


def test_every_command_that_they_show_exists():
    makefile = (runs.ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].split())
    known = {command.callback.__name__ for command in cli.app.registered_commands}
    for text in TEXT.values():
        shown = re.findall(r"(?:^ *|`|; do )make ([a-z0-9-]+)", text, re.M)
        assert set(shown) <= targets
        assert set(re.findall(r"python -m pslib (\w+)", text)) <= known


def test_the_map_names_every_module():
    files = [*(runs.ROOT / "pslib").glob("*.py"), *(runs.ROOT / "pslib").glob("*/*.py")]
    modules = {path.stem for path in files if not path.stem.startswith("__")}
    assert len(modules) > 40
    assert not {name for name in modules if not re.search(rf"\b{name}\b", TEXT["code"])}


PROJECT = tomllib.loads((runs.ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
WANTED = [*PROJECT["dependencies"], *EXTRAS["lora"], *EXTRAS["site"]]


def test_dependencies_are_named_once_and_pinned():
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", each) for each in WANTED)
    environment = yaml.safe_load((runs.ROOT / "environment.yml").read_text())
    listed = ["--constraint constraints.txt", "--editable ."]
    assert environment["dependencies"][-1] == {"pip": listed}
    assert "--constraint constraints.txt" in (runs.ROOT / "Makefile").read_text()


def locked():
    lines = (runs.ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_the_versions_that_are_installed_with_them_are_locked():
    """All that the dependencies bring, followed through what is installed here."""
    waiting, seen, lock = [Requirement(each) for each in WANTED], set(), locked()
    for wanted in waiting:
        assert wanted.specifier.contains(lock[canonicalize_name(wanted.name)])
    while waiting:
        wanted = waiting.pop()
        key = canonicalize_name(wanted.name), frozenset(wanted.extras)
        # CUDA's libraries come with torch's default build on Linux only, which nothing here needs.
        if key in seen or key[0].startswith(("nvidia-", "cuda-", "triton")):
            continue
        seen.add(key)
        try:
            found = distribution(wanted.name)
        except PackageNotFoundError:
            continue  # an extra that is not installed
        assert key[0] in lock
        for text in found.requires or []:
            needed = Requirement(text)
            extras = {"", *wanted.extras}
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in extras
            ):
                waiting.append(needed)
    assert len(seen) > 150


def test_the_lines_for_a_model_of_ones_own_run_as_they_are_shown(tmp_path, monkeypatch, capsys):
    shown = RAW["your-model"].split("## In this project's loop")[1].split("```python")[1]
    model = runs.ROOT / "results" / "tour" / "model"
    code = (
        shown.split("```")[0].replace("path/or/hub-id", str(model)).replace("steps=10", "steps=1")
    )
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert 0 <= float(capsys.readouterr().out) <= 1 and (tmp_path / "checkpoints").exists()
