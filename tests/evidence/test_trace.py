"""The command `trace`: what it prints is what the tables say, and what it cannot find it names."""

from dataclasses import replace

import pandas as pd
import pytest

from pslib import __main__
from pslib.evidence import trace
from pslib.lab import runs

RELEASED = "Policy Split (released code's bonus)"


def traced(profile, method, baseline, measure):
    """The committed traces, by size and mode."""
    profile = runs.load_profile(profile)
    made = trace.traces(profile, method, baseline, measure, profile.results("committed"))
    return {(each.size, each.mode): each for each in made}


@pytest.mark.parametrize("measure", ["points", "longer", "bits"])
def test_a_traced_difference_is_the_one_of_the_table(measure):
    table = pd.read_csv(runs.ROOT / "results" / "nano" / "tables" / "worlds.csv")
    found = traced("bases", "policy_split_released", "grpo", measure)
    for mode, label in (("normal", RELEASED), ("he", f"{RELEASED} + HE prompt")):
        row = table[(table.world == "bases") & (table.difference == f"{label} - GRPO")].iloc[0]
        effect = found["0.2m", mode].effect
        assert effect.seeds == row.pairs == len(found["0.2m", mode].pairs)
        assert effect.difference == pytest.approx(row[measure], abs=1e-4)
        assert effect.high - effect.low == pytest.approx(2 * row[f"{measure}_ci"], abs=2e-4)


def test_pairs_are_of_one_base_model():
    pairs = traced("bases", "policy_split", "grpo", "bits")["0.2m", "normal"].pairs
    own = pairs.run.str.removeprefix("policy_split")
    assert own.tolist() == pairs.run_baseline.str.removeprefix("grpo").tolist()
    assert pairs.difference.tolist() == (pairs.value - pairs.value_baseline).tolist()


def test_a_method_against_itself_compares_its_modes():
    effects = pd.read_csv(runs.ROOT / "results" / "bases" / "tables" / "table1_effects.csv")
    (listed,) = effects[effects.comparison == "HE mode has more entropy than the normal mode"].ours
    found = traced("bases", "policy_split", "policy_split", "bits")
    assert list(found) == [("0.2m", "he")]
    assert found["0.2m", "he"].effect.difference == pytest.approx(
        float(listed.split("±")[0]), abs=6e-4
    )


def test_the_command_prints_runs_interval_and_commits(capsys):
    assert __main__.main(["trace", "bases", "policy_split_released", "grpo", "bits"]) == 0
    said = capsys.readouterr().out
    assert "runs: results/bases/runs\n" in said and "grpo-0.2m.b7-s1" in said
    assert "mean difference +0.0603, 95% interval +0.0482 to +0.0724" in said
    assert "commit 34e8ad4a9c7c86c8bd69f03f53c6ab09c30d423b made 16 of these runs" in said


def test_the_original_which_no_commit_trained_is_traced_too(capsys):
    assert __main__.main(["trace", "quick", "policy_split", "original", "bits"]) == 0
    said = capsys.readouterr().out
    assert "original-0.2m.b11-s11" in said and "made 3 of these runs" in said


def test_one_pair_has_no_interval():
    profile = replace(runs.load_profile("smollm2"), seeds=[1])
    said = trace.report(profile, "policy_split", "grpo", "bits", profile.results("committed"))
    assert "one pair has no interval" in said and "nan" not in said


@pytest.mark.parametrize(
    ("method", "measure", "named"),
    [("policy_splitt", "bits", "policy_split_released"), ("policy_split", "bit", "longer")],
)
def test_what_is_not_there_is_named_with_what_is(capsys, method, measure, named):
    assert __main__.main(["trace", "bases", method, "grpo", measure]) == 1
    said = capsys.readouterr().err
    assert said.startswith("pslib: ") and named in said and said.count("\n") == 1
