"""Tables: the arithmetic from single responses to a mean with its interval, and the reported
figures as data.
"""

import math

import pandas as pd
import pytest

from pslib import tasks
from pslib.evidence import analyses, evaluate, tables
from pslib.lab import runs


@pytest.fixture
def results(tmp_path):
    """Two seeds of GRPO and one of Policy Split, with two responses to a suite and mode, written by
    hand.
    """

    def write(run, *modes):
        rows = [
            {
                "suite": suite,
                "mode": mode,
                "question_id": f"{suite}-0",
                "sample": k,
                "correct": right,
                "tokens": tokens,
                "entropy_bits": bits,
                "derivation": "steps",
            }
            for mode, answers in modes
            for suite in tasks.TEST_SUITES
            for k, (right, tokens, bits) in enumerate(answers)
        ]
        (tmp_path / "runs" / run).mkdir(parents=True)
        pd.DataFrame(rows, columns=evaluate.COLUMNS).to_csv(
            tmp_path / "runs" / run / "evaluation.csv", index=False
        )

    write("grpo-0.2m-s1", ("normal", [(1, 10, 0.1), (0, 30, 0.5)]))
    write("grpo-0.2m-s2", ("normal", [(1, 10, 0.2), (1, 10, 0.4)]))
    write(
        "policy_split-0.2m-s1",
        ("normal", [(1, 10, 0.6), (1, 10, 0.6)]),
        ("he", [(1, 5, 1.0), (0, 5, 2.0)]),
    )
    return tmp_path


def test_accuracy_is_the_mean_over_samples_and_entropy_the_mean_over_all_tokens(results):
    row = (
        analyses.suites(runs.load_profile("control"), results)
        .query("run == 'grpo-0.2m-s1'")
        .iloc[0]
    )
    assert row.like_acc == 50.0 and row.average_acc == 50.0
    assert row.like_ent == pytest.approx((10 * 0.1 + 30 * 0.5) / 40)  # not (0.1 + 0.5) / 2


def test_a_row_is_the_mean_over_seeds_with_students_interval(results):
    table = tables.table1(runs.load_profile("control"), results).set_index("label")
    grpo = table.loc["GRPO"]
    assert grpo.average_acc == 75.0 and grpo.seeds == 2 and grpo.runs == "grpo-0.2m-s1 grpo-0.2m-s2"
    # t with one degree of freedom at 97.5% is 12.7062; s of (50, 100) over root 2 is 25
    assert grpo.average_acc_ci == pytest.approx(12.7062 * 25, rel=1e-4)
    assert math.isnan(table.loc["Policy Split"].average_acc_ci)  # one seed: no interval
    assert table.loc["Policy Split + HE prompt"].average_ent == pytest.approx(1.5)
    assert math.isnan(table.loc["Original"].average_acc) and table.loc["Original"].seeds == 0


def test_effects_are_paired_by_seed(results):
    effects = tables.effects(runs.load_profile("control"), results).set_index("comparison")
    assert (
        effects.loc["Policy Split has more entropy than GRPO"].ours == "0.200"
    )  # 0.6 - 0.4, of seed 1 alone
    assert effects.loc["Policy Split has more entropy than GRPO"].seeds == 1
    assert effects.loc["HE mode is less accurate than the normal mode"].ours == "-50.0"
    assert effects.loc["GRPO is more accurate than the original"].ours == ""


def test_the_27_reported_averages_are_the_means_of_the_reported_benchmarks():
    reported = tables.reported_table1()
    assert len(reported) == 27
    for what, rounding in (("acc", 0.0051), ("ent", 0.0051)):
        means = sum(reported[f"{suite}_{what}"] for suite in tasks.TEST_SUITES) / 4
        assert (means - reported[f"average_{what}"]).abs().max() <= rounding


def test_every_row_that_the_paper_reports_has_a_method_here():
    labels = set(tables.table1(runs.load_profile("control"), runs.ROOT / "nowhere").label)
    assert set(tables.reported_table1().label) <= labels


def test_the_table_beside_the_papers_keeps_ours_and_reported_apart(results):
    ours = tables.table1(runs.load_profile("control"), results)
    shown = tables.beside(ours, ours.iloc[:0], tables.reported_table1()).set_index("method")
    assert shown.loc["GRPO", "this machine: acc %"].startswith("75.0")
    assert (
        shown.loc["GRPO", "paper, Qwen3-1.7B: acc %"] == "55.9"
        and shown.loc["GRPO", "committed: acc %"] == ""
    )


@pytest.mark.parametrize(
    "mean, half, text",
    [
        (-6.67e-06, 9.8, "-0.0 ± 9.8"),
        (10.72, 5.44, "10.7 ± 5.4"),
        (26.94, 22.3, "27 ± 22"),
        (0.00196, 0.000482, "0.00196 ± 0.00048"),
        (0.0, 0.0, "0 ± 0"),
        (99.9999999995, 1.1e-9, "100 ± 0"),
        (1110.4, 103.0, "1110 ± 103"),
        (3.14159, math.nan, "3.14"),
    ],
)
def test_a_mean_is_shown_as_far_as_its_half_width_goes(mean, half, text):
    assert tables.with_half(mean, half) == text
    assert tables.with_half(abs(mean), half, "+").startswith("+")


def test_as_people_read_it_a_mean_of_one_seed_stands_alone():
    table = pd.DataFrame(
        {
            "method": "grpo",
            "label": list("abc"),
            "kl": [0.5, 0.25, math.nan],
            "kl_ci": [0.1, math.nan, math.nan],
        }
    )
    assert tables.shown(table).to_dict("list") == {
        "method": ["a", "b", "c"],
        "KL under the prompt, nats": ["0.50 ± 0.10", "0.25", ""],
    }
