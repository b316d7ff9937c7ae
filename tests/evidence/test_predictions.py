"""Predictions: signed sums over base models, tested in one family, from files written by hand."""

import math
from dataclasses import asdict

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from pslib.evidence import analyses, artefacts, predictions, probe, stats, understood_figures
from pslib.lab import runs
from pslib.nano import worlds


def write(root, profile, method, size, seed, bits):
    """An asked.csv of one run in which prompt p has bits[p] bits a token on average, over two
    questions of unlike length.
    """
    rows = []
    for prompt, value in bits.items():
        for question, tokens in (("a", 100), ("b", 300)):
            rows.append(
                {
                    "prompt": prompt,
                    "question_id": question,
                    "samples": 8,
                    "correct": 4,
                    "tokens": tokens,
                    "bits": value * tokens,
                    "kl": 0.01 * tokens,
                    **{name: 2 for name in worlds.DERIVATIONS},
                    "other": 0,
                    **{
                        f"{what}_{kind}": 1.0 for kind in probe.KINDS for what in ("bits", "tokens")
                    },
                }
            )
    folder = root / profile / "runs" / runs.run_id(method, size, seed)
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "asked.csv", index=False)


def of(root):
    """The profile that predictions are of, and its results under a root."""
    return runs.load_profile("understood"), root / "understood"


def measured(root, quantity, measure="asked_bits"):
    return analyses.Evidence(*of(root)).quantity(quantity, "0.2m", measure)


@pytest.fixture
def root(tmp_path):
    """Eight base models for which the released form adds 0.05 bits to the normal mode, and 0.02 to
    the gap under the trained prompt.
    """
    rng = np.random.default_rng(0)
    for profile, trained in (
        ("understood", "high_entropy"),
        ("understood_neutral", "neutral"),
        ("understood_low", "low_entropy"),
        ("understood_control", "high_entropy"),
    ):
        own = runs.load_profile(profile)
        for size, seed in {(size, seed) for _, size, seed in own.grid}:
            level = 0.3 + 0.05 * rng.random()
            for method in {method for method, _, _ in own.grid}:
                released = method == "policy_split_released"
                gap = (0.02 if profile == "understood" else 0.0) if released else 0.0
                noise = 0.001 * rng.random()
                bits = {
                    name: level + 0.05 * released + noise
                    for name in ("none", *probe.ASKED, "neutral")
                }
                bits[trained] += gap + 0.001 * rng.random()
                write(tmp_path, profile, method, size, seed, bits)
    return tmp_path


def test_a_quantity_is_a_signed_sum_of_means_by_base_model(root):
    found = measured(root, "understood/policy_split_released@none - understood/eta_0@none")
    assert found.index.tolist() == list(range(11, 19)) and found.between(0.048, 0.052).all()
    kl = measured(root, "grpo@low_entropy", "asked_kl")
    assert np.allclose(kl, 0.01)
    assert np.allclose(measured(root, "grpo@none", "asked_accuracy"), 50)


def test_a_base_model_that_lacks_a_term_does_not_count(root):
    (root / "understood" / "runs" / "eta_0-0.2m.b13-s13" / "asked.csv").unlink()
    found = measured(root, "understood/policy_split_released@none - understood/eta_0@none")
    assert found.index.tolist() == [11, 12, 14, 15, 16, 17, 18]


@pytest.mark.parametrize(
    "quantity", ["understood/eta_0", "understood/eta_0@none * 2", "a/b@c -", ""]
)
def test_what_is_no_signed_sum_is_refused(quantity):
    with pytest.raises(ValueError, match="signed sum of terms like profile/method@prompt"):
        analyses.terms(quantity)


def test_the_six_predictions_are_one_family_that_eight_base_models_can_pass(root):
    table = predictions.tested(*of(root)).set_index("prediction")
    assert len(table) == 6
    assert (
        table.p["heeding"] == pytest.approx(2 / 2**8) and table.outcome["heeding"] == "as predicted"
    )
    assert table.p_holm["heeding"] <= 6 * 2 / 2**8 < 0.05
    assert table["mean"]["meaning against a neutral prompt"] == pytest.approx(0.02, abs=0.002)
    assert (
        table.outcome["control"] == "as predicted"
        and table.test["control"] == "equivalence within 0.015"
    )


def test_every_number_is_shown_base_model_by_base_model(root):
    table = predictions.by_base_model(*of(root)).set_index("quantity")
    assert table.columns.tolist() == [f"b{seed}" for seed in range(11, 19)]
    tested = predictions.tested(*of(root)).set_index("prediction")
    assert np.isclose(table.loc["predictions: form"].mean(), tested["mean"]["form"])
    assert tested.positive["form"] == 8 == (table.loc["predictions: form"] > 0).sum()
    assert "estimates: D(neutral prompt)" in table.index


def test_what_goes_with_the_gap_is_a_correlation_of_ranks(tmp_path):
    # D(high-entropy prompt) grows as the cube of k, the gap before training falls with k
    for k, seed in enumerate((11, 12, 13, 14)):
        size = f"0.2m.b{seed}"
        for method, gap in (("policy_split_released", k**3), ("eta_0", 0.0), ("original", -k)):
            bits = {"none": 0.3, "high_entropy": 0.3 + gap / 100}
            write(tmp_path, "understood", method, size, seed, bits)
    table = predictions.what_decides(*of(tmp_path)).set_index("quantity")
    before = table.loc["before training: gap under the high-entropy prompt"]
    assert before.base_models == 4 and np.isclose(before.spearman, -1)
    assert table.loc["D(neutral prompt)"].base_models == 0


def test_seven_base_models_are_too_few_for_six_tests(root):
    for path in root.glob("*/runs/*.b18-s18/asked.csv"):
        path.unlink()
    table = predictions.tested(*of(root))
    assert (table.base_models == 7).all() and (table.outcome == "too few base models").all()


def test_a_test_without_a_p_shows_nothing(root, monkeypatch):
    monkeypatch.setattr(stats, "sign_flip", lambda values: math.nan)
    monkeypatch.setattr(stats, "equivalence", lambda values, bound: math.nan)
    outcomes = set(predictions.tested(*of(root)).outcome)
    assert outcomes == {"no detectable difference", "not shown"}


def test_nothing_measured_is_a_blank_and_no_outcome(tmp_path):
    table = predictions.tested(*of(tmp_path))
    assert (table.base_models == 0).all() and table.p.isna().all() and (table.outcome == "").all()
    assert (predictions.estimated(*of(tmp_path)).base_models == 0).all()


def test_an_effect_against_the_prediction_is_said_to_be_opposite(root):
    for path in (root / "understood" / "runs").glob("policy_split_released-*/asked.csv"):
        table = pd.read_csv(path)
        table.bits -= 0.1 * table.tokens
        table.to_csv(path, index=False)
    assert predictions.tested(*of(root)).set_index("prediction").outcome["form"] == "opposite"


def test_how_differently_a_model_works_is_the_total_variation_of_its_shares(root):
    for path in (root / "understood" / "runs").glob("grpo-*/asked.csv"):
        table = pd.read_csv(path)
        he = table.prompt == "high_entropy"
        table.loc[he, ["steps", "pairs"]] = [
            4,
            0,
        ]  # a quarter of all responses goes from pairs to steps
        table.to_csv(path, index=False)
    assert np.allclose(measured(root, "grpo@high_entropy", "asked_distance"), 0.25)
    assert np.allclose(measured(root, "grpo@low_entropy", "asked_distance"), 0)


def test_every_figure_can_be_drawn_of_all_and_of_nothing(root, tmp_path_factory):
    drawn = understood_figures
    for draw in (
        drawn.form_and_meaning,
        drawn.gap_after_against_before,
        drawn.what_carries_the_gap,
    ):
        assert sum(len(axis.lines) for axis in draw(*of(root)).axes) >= 15
        draw(*of(tmp_path_factory.mktemp("empty")))
    plt.close("all")


@pytest.fixture
def taught(tmp_path):
    """Two of three taught models, whose released form is 0.1 bits above GRPO in the normal mode
    and, in the world of meaning alone, another 0.02 under the high-entropy prompt.
    """
    for name in ("smollm2_taught", "smollm2_taught_control"):
        for method, size, seed in runs.load_profile(name).grid:
            if seed == 3:
                continue
            bits = 0.2 + 0.01 * seed + (0.1 if method == "policy_split_released" else 0)
            more = 0.02 if (name, method) == ("smollm2_taught", "policy_split_released") else 0
            write(tmp_path, name, method, size, seed, {"none": bits, "high_entropy": bits + more})
    return runs.load_profile("smollm2_taught"), tmp_path / "smollm2_taught"


def test_what_was_predicted_of_taught_models_is_estimated_from_the_runs_there_are(taught):
    assert artefacts.has(asdict(taught[0]), "taught")
    table = artefacts.make(taught[0], "taught", taught[1])["taught"].set_index("difference")
    assert (table.base_models == 2).all() and len(table) == 6
    gap = "gap between the modes, released form against GRPO"
    mean = table["mean"]
    assert mean["normal mode, released form against GRPO"] == pytest.approx(0.1)
    assert list(table.loc[gap, ["t1", "t2"]]) == pytest.approx([0.02, 0.02])
    assert mean[gap] == pytest.approx(0.02) and mean[f"control, {gap}"] == pytest.approx(0)
    assert all(given["says"] for given in analyses.written()["taught"].values())
    for which in ("predictions", "estimates"):  # the family that is tested, and its estimates
        assert "smollm2" not in str(analyses.written()[which])


def test_a_taught_model_s_difference_has_an_interval_over_questions(taught):
    profile, folder = taught
    path = folder / "runs" / "grpo-135m.t1-s1" / "asked.csv"
    table = pd.read_csv(path)
    # of 100 and 300 tokens, with 0.21 bits each: now 10 and 74 bits, so still 0.21 in all
    table.loc[table.prompt == "none", "bits"] = [10.0, 74.0]
    table.to_csv(path, index=False)
    found = predictions.taught(profile, folder).set_index("difference")
    row = found.loc["normal mode, released form against GRPO"]
    # by question: 0.1 + 11 / 200 and 0.1 - 11 / 200; their standard error is 0.055
    assert row.t1 == pytest.approx(0.1) and row.t2_ci == pytest.approx(0, abs=1e-9)
    assert row.t1_ci == pytest.approx(0.055 * 12.7062, rel=1e-4)


def test_the_figure_of_taught_models_has_a_dot_for_each_that_there_is(taught, tmp_path):
    left, right = understood_figures.taught_models(*taught).axes
    dots = [line for line in left.lines if line.get_markersize() == 3]
    assert [len(dot.get_xdata()) for dot in dots] == [2] * 8  # two worlds, before and three methods
    assert dots[0].get_xdata() == pytest.approx([0.21, 0.22])
    gaps = [line.get_xdata() for line in right.lines if line.get_markersize() == 3]
    assert gaps[3] == pytest.approx([0.02, 0.02]) and gaps[7] == pytest.approx([0, 0])
    empty = understood_figures.taught_models(taught[0], tmp_path / "none" / "smollm2_taught")
    assert not [line for line in empty.axes[0].lines if line.get_markersize() == 3]
    plt.close("all")


def test_entropies_are_compared_where_both_methods_are_equally_accurate(tmp_path):
    """One method is always twice as far as the other, along the same path of entropy against
    accuracy; then one that keeps 0.1 bits more along the way.
    """
    steps = np.arange(5, 155, 5)

    def curve(method, size, seed, pace, more):
        learned = np.minimum(pace * steps / 300, 0.9)
        folder = tmp_path / "understood" / "runs" / runs.run_id(method, size, seed)
        folder.mkdir(parents=True)
        measured = {"accuracy_normal": learned, "entropy_bits_normal": 0.5 - 0.3 * learned + more}
        table = pd.DataFrame({"step": steps, **measured, "accuracy_he": 0.0})
        table.assign(entropy_bits_he=0.0, kl_he_from_normal=0.0).to_csv(
            folder / "metrics.csv", index=False
        )

    for size, seed in (("0.2m.b11", 11), ("0.2m.b12", 12)):
        curve("policy_split_released", size, seed, 1, 0.1)
        curve("eta_0", size, seed, 2, 0.0)
        curve("grpo", size, seed, 1, 0.1)
    table = predictions.at_equal_accuracy(*of(tmp_path)).set_index("comparison")
    # eta 0 measured half as often along the path, so up to one of its measurements late
    assert table["mean"]["released form against eta 0"] == pytest.approx(0.1, abs=0.011)
    assert table["mean"]["released form against GRPO"] == pytest.approx(0, abs=1e-12)
    assert table.base_models["released form against eta 0"] == 2
    assert table.base_models["eq. 3 against eta 0"] == 0
    end = 0.5 - 0.3 * 0.5 + 0.1 - (0.5 - 0.3 * 0.9)  # what the ends alone would have said
    assert end > 0.2


def test_the_pattern_at_quicks_length_is_that_of_the_last_ten_of_its_steps(tmp_path):
    """The released form has 0.1 bits more in steps 51 to 60 alone, and a gap of 0.02 between its
    modes there.
    """
    steps = np.arange(1, 151)
    inside = (steps > 50) & (steps <= 60)
    for method, more, gap in (("policy_split_released", 0.1, 0.02), ("eta_0", 0.0, -0.01)):
        for seed in (11, 12):
            run = runs.run_id(method, f"0.2m.b{seed}", seed)
            (folder := tmp_path / "understood" / "runs" / run).mkdir(parents=True)
            normal = 0.3 + np.where(inside, more, 9.0 * seed)
            measured = pd.DataFrame({"step": steps, "entropy_bits_normal": normal})
            measured = measured.assign(entropy_bits_he=normal + np.where(inside, gap, 5.0))
            measured = measured.assign(kl_he_from_normal=0.0, accuracy_normal=0.5, accuracy_he=0.5)
            apart = ["entropy_bits_normal", "entropy_bits_he", "kl_he_from_normal"]
            measured.loc[steps % 5 != 1, apart] = np.nan
            measured.to_csv(folder / "metrics.csv", index=False)
    table = predictions.at_quick_length(*of(tmp_path)).set_index("comparison")
    form = table.loc["released form against eta 0, normal mode"]
    assert form["mean"] == pytest.approx(0.1) and form.base_models == form.positive == 2
    assert form[["b11", "b12"]].tolist() == pytest.approx([0.1, 0.1])
    gaps = table["mean"].filter(like="gap between")
    assert gaps.tolist() == pytest.approx([0.03, 0.02])
    assert table.base_models["released form against GRPO, normal mode"] == 0
    empty = predictions.at_quick_length(*of(tmp_path / "nothing"))
    assert (empty.base_models == 0).all() and empty["mean"].isna().all()
