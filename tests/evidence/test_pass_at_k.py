"""Pass@k of the world `understood`: the estimator by hand, both criteria, half in each mode, and
the verdicts.
"""

import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from pslib.evidence import analyses, artefacts, tables, understood_figures, verdicts
from pslib.lab import runs
from tests.support import evidence

# question -> (right, right with every step right) in the normal mode and in the HE mode, of 4
COUNTS = {"q1": ((2, 1), (1, 1)), "q2": ((0, 0), (4, 2)), "q3": ((1, 0), (0, 0))}


def write(
    root, tries=4, methods=("grpo", "policy_split", "policy_split_released", "eta_0"), more=0
):
    """Results of `understood` with two base models; the HE mode of the methods but GRPO solves
    `more` questions in each of its responses.
    """
    profile = runs.load_profile("understood")
    for method in methods:
        for which in (11, 12):
            folder = root / "understood" / "runs" / f"{method}-0.2m.b{which}-s{which}"
            folder.mkdir(parents=True)
            evidence.evaluation(0, 0, {"normal": (60, 0.4)}, 0).to_csv(
                folder / "evaluation.csv", index=False
            )
            only_he = (0, 0), (0, 0) if method == "grpo" else (tries, tries)
            counts = COUNTS | {f"more{k}": only_he for k in range(more + which - 11)}
            rows = [
                ("long", mode, question, tries, *count[k])
                for k, mode in enumerate(("normal", "he"))
                for question, count in counts.items()
            ]
            columns = ["suite", "mode", "question_id", "samples", "correct", "worked"]
            pd.DataFrame(rows, columns=columns).to_csv(folder / "pass_at_k.csv", index=False)
    return profile, root / "understood"


@pytest.mark.parametrize("correct, k, chance", [(2, 2, 5 / 6), (2, 1, 1 / 2), (0, 4, 0), (1, 4, 1)])
def test_the_estimator_is_unbiased_over_all_draws_of_four(correct, k, chance):
    assert analyses.best_of(correct, 4, k) == pytest.approx(chance)


def test_both_criteria_and_half_and_half_are_those_made_by_hand(tmp_path):
    found = analyses.pass_at_k(*write(tmp_path))
    own = found[(found.method == "policy_split") & (found.seed == 11)]
    own = own.set_index(["criterion", "sampling", "n"]).accuracy
    assert own["answer", "normal", 2] == pytest.approx(100 * (5 / 6 + 0 + 1 / 2) / 3)
    assert own["steps", "normal", 2] == pytest.approx(100 * (1 / 2 + 0 + 0) / 3)
    assert own["steps", "he", 4] == pytest.approx(100 * (1 + 1 + 0) / 3)
    # one response in each: q1 1 - (1/2)(3/4), q2 1, q3 1/4; with two in each q1 1 - (1/6)(1/2)
    assert own["answer", "both", 2] == pytest.approx(100 * (5 / 8 + 1 + 1 / 4) / 3)
    assert own["answer", "both", 4] == pytest.approx(100 * ((1 - 1 / 12) + 1 + 1 / 2) / 3)
    # by steps: q1 1 - (3/4)(3/4), q2 2 of 4 in the HE mode alone
    assert own["steps", "both", 2] == pytest.approx(100 * (7 / 16 + 1 / 2 + 0) / 3)
    assert max(n for *_, n in own.index) == 4 and ("answer", "both", 1) not in own.index


def test_suites_that_share_a_data_set_are_counted_apart(tmp_path):
    profile, folder = write(tmp_path)
    for path in (folder / "runs").glob("*/pass_at_k.csv"):
        own = pd.read_csv(path)
        pd.concat([own, own.assign(suite="another")]).to_csv(path, index=False)
    twice = analyses.pass_at_k(profile, folder)
    assert twice.accuracy.equals(analyses.pass_at_k(*write(tmp_path / "once")).accuracy)


def test_variants_stand_in_the_table_which_is_read_in_two_parts(tmp_path):
    table = tables.pass_at_k(*write(tmp_path, tries=256))
    assert set(table.method) == {"grpo", "policy_split", "policy_split_released", "eta_0"}
    assert (table.seeds == 2).all() and set(table.replicates) == {"base models"}
    parts = tables.pass_at_k_shown(table)
    assert list(parts) == ["Answer right", "Answer and every worked step right"]
    assert all(len(part) == 4 for part in parts.values())
    assert "both, n = 256" in parts["Answer right"]
    # a pivot's name, which HTML shows as one more column
    assert all(
        "<th>what</th>" not in artefacts.Shown(part)._repr_html_() for part in parts.values()
    )


def test_c8_is_decided_by_worked_steps_over_base_models(tmp_path):
    table = verdicts.checks(*write(tmp_path, tries=256, more=3))
    own = table[table.claim == "C8 understood"].set_index("check")
    assert set(own["size"]) == {"0.2m"} and (own.seeds == 2).all()
    decides = own[own.decides]["mean"]
    # q1 to q3 have counts of 256 here; with more questions that the HE mode alone solves, 3 and 4
    he, normal = (100 * (2 + 3) / 6, 100 * (2 + 4) / 7), (100 * 1 / 6, 100 * 1 / 7)
    gap = sum(a - b for a, b in zip(he, normal, strict=True)) / 2
    assert decides["256 of the HE mode above 256 of the normal mode"] == pytest.approx(gap)
    assert len(decides) == 3 and "256" in " ".join(decides.index)
    assert own[~own.decides].index.str.startswith("answer right").sum() == 3


def test_c8_takes_fewer_responses_where_the_normal_mode_solves_nearly_all_with_more(tmp_path):
    profile, folder = write(tmp_path, tries=256)
    for path in folder.glob("runs/policy_split-*/pass_at_k.csv"):
        table = pd.read_csv(path)
        table[["correct", "worked"]] = 20  # of 256: all solved with 256, 99.6% with 64
        table.to_csv(path, index=False)
    table = verdicts.checks(profile, folder)
    own = table[(table.claim == "C8 understood") & table.decides]
    assert own.check.str.contains("16").all() and len(own) == 3


def test_the_figure_has_a_panel_for_each_criterion_and_method(tmp_path):
    figure = understood_figures.pass_at_k(*write(tmp_path, tries=256))
    assert len(figure.axes) == 2 * 4
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 1 and figure.axes[0].get_xscale() == "log"
    plt.close(figure)


def test_without_results_there_is_no_row_and_no_error(tmp_path):
    profile = runs.load_profile("understood")
    (tmp_path / "understood" / "runs").mkdir(parents=True)
    assert tables.pass_at_k(profile, tmp_path / "understood").empty
    plt.close(understood_figures.pass_at_k(profile, tmp_path / "understood"))


def test_starts_of_stories_are_compared_at_one_length(tmp_path):
    profile, folder = write(tmp_path)
    often, never = "a b " * 20, " ".join(f"w{k}" for k in range(30))
    for path in folder.glob("runs/*"):
        stories = [(often, never) if path.name.startswith("grpo") else (never, never)]
        rows = [
            (mode, "p", sample, story)
            for mode, (normal, he) in zip(("normal", "he"), 2 * stories, strict=True)
            for sample, story in enumerate((normal, he, "short"))
        ]
        columns = ["mode", "prompt", "sample", "story"]
        pd.DataFrame(rows, columns=columns).to_parquet(path / "story_texts.parquet")
    found = analyses.story_starts(profile, folder).groupby("method").start_2gram.mean()
    # 24 bigrams of 25 words: two kinds in one story, 24 in the other; the short one is left out
    assert found["grpo"] == pytest.approx(100 * (2 / 24 + 1) / 2) and found["eta_0"] == 100
    table = tables.at_equal_length(profile, folder)
    assert table.start_2gram[0] == pytest.approx(100 - found["grpo"]) and table.seeds[0] == 2
    assert math.isnan(table.tokens[0])  # of which nothing was written
