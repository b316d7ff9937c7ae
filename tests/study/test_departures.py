"""Departures: the numbers of notebook 30 against hand-made ones."""

import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from pslib import advantages, methods, modes
from pslib.lab import runs
from pslib.methods import Scored
from pslib.rollouts import Rollouts
from pslib.study import departures, example, explore
from tests.support import four_rollouts as four


@pytest.fixture
def rollouts(tokenizer):
    """Two responses drawn in each mode to one question; the last did not end."""
    texts = ["stepwise: 7+8=15", "halves: 15", "pairwise: 15", "glance:"]
    ids = [
        tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] * (k < 3)
        for k, text in enumerate(texts)
    ]
    width = max(map(len, ids))
    return Rollouts(
        ["q"] * 4,
        torch.zeros(4, dtype=torch.long),
        ["normal", "normal", "he", "he"],
        torch.tensor([row + [0] * (width - len(row)) for row in ids]),
        torch.tensor([len(row) for row in ids]),
        texts,
        torch.tensor([1.0, 0.0, 0.0, 1.0]),
    )


def test_what_is_added_by_each_variant_for_a_rare_token():
    row = departures.token_bonus([0.25, 10], eta=0.03, kappa=2.0).loc[10]
    # 0.03 (1/2); min(0.3, 1/2); and these twice; 0.3 without a clip
    assert row.tolist() == pytest.approx([0.015, 0.3, 0.03, 0.6, 0.3, 20])
    assert departures.token_bonus([0.25, 10], eta=0.03, kappa=2.0).loc[
        0.25, "clip_order / paper"
    ] == pytest.approx(1)


def test_how_far_a_bonus_can_tilt_an_advantage():
    table = departures.spans([0.03, 2.0], kappa=2.0)
    assert table.loc[0.03].tolist() == [
        "0.985 to 1.015",
        "0.500 to 1.500",
        "0.970 to 1.030",
        "0.000 to 2.000",
    ]
    assert (
        table.loc[2.0, "paper"] == "0.000 to 2.000"
        and table.loc[2.0, "doubled"] == "-1.000 to 3.000"
    )


def test_one_tensor_under_two_names_gets_the_bonus_twice():
    adv = torch.tensor(four.ADVANTAGES, dtype=torch.float64)
    bonus = torch.tensor(four.BONUS, dtype=torch.float64)
    table = departures.added_twice(
        adv, advantages.high_entropy(adv, bonus, four.ETA, four.KAPPA, "clip_order")
    )
    assert table.loc["two names of one tensor"].tolist() == pytest.approx(
        [row[0] for row in four.RELEASED]
    )
    once = [
        a + (released[0] - a) / 2
        for a, released in zip(four.ADVANTAGES, four.RELEASED, strict=True)
    ]
    assert table.loc["two tensors"].tolist() == pytest.approx(once)


def test_only_without_a_clip_signs_flip_and_dead_groups_get_a_bonus():
    # group 0: A = +-0.707; b = 1 and 3 (their z-scores +-0.707), so B eta has the other sign than A
    # wherever eta > 1 group 1: dead, with two tokens of unlike b
    logp = torch.tensor([[-1.0], [-3.0], [-1.0], [-2.0]])
    scored = Scored(
        torch.tensor([1.0, 0.0, 1.0, 1.0]),
        torch.tensor([0, 0, 1, 1]),
        torch.ones(4, 1, dtype=torch.bool),
        {"he": logp, "normal": logp},
        {},
    )
    table = departures.beyond_bounds(scored, eta=1.5, kappa=2.0)
    assert (
        table["tokens of live groups"].tolist()
        == table["tokens of dead groups"].tolist()
        == [2] * 5
    )
    assert table["of them with the sign flipped"].to_dict() == {
        "paper": 0,
        "clip_order": 0,
        "doubled": 2,
        "released": 0,
        "unclipped": 2,
    }  # doubled: 2 eta > kappa
    assert table["of them with a bonus"].to_dict() == {
        "paper": 0,
        "clip_order": 0,
        "doubled": 0,
        "released": 0,
        "unclipped": 2,
    }


def test_the_distance_of_the_rewrapped_prompt_is_on_the_normal_modes_responses(
    model, tokenizer, he, rollouts, questions
):
    table = departures.prompt_distance(model, tokenizer, he, questions[:1], rollouts)
    (distance, apart), tokens = table.iloc[:, 0], int(rollouts.lengths[:2].sum())
    own = modes.render(tokenizer, he, questions[0]["question"])
    for name, found in ((modes.one_turn(he), distance), (modes.NORMAL, apart)):
        kl = explore.kl_by_token(
            model,
            own,
            modes.render(tokenizer, name, questions[0]["question"]),
            rollouts.tokens[:2],
            rollouts.lengths[:2],
        )
        assert found == pytest.approx(float(kl.sum()) / tokens) and found > 0
    assert table.tokens.tolist() == [tokens] * 2


def test_the_rewrapped_prompt_is_one_user_turn_that_begins_with_system(tokenizer, he):
    text = tokenizer.decode(modes.render(tokenizer, modes.one_turn(he), "7+8"))
    assert (
        text.startswith("<|user|>system\n")
        and "<|system|>" not in text
        and text.count("<|user|>") == 1
    )


def test_a_round_trip_loses_the_end_and_what_is_spelled_otherwise(tokenizer, rollouts):
    stops = [tokenizer.eos_token_id]
    assert departures.round_trip(tokenizer, rollouts, stops).tolist() == [
        4,
        3,
        0,
    ]  # the fourth had no end to lose
    whole, parts = (
        tokenizer("15")["input_ids"],
        tokenizer("1")["input_ids"] + tokenizer("5")["input_ids"],
    )
    assert len(whole) == 1 and tokenizer.decode(parts) == "15"
    at = rollouts.tokens[1].tolist().index(whole[0])
    rollouts.tokens[1] = torch.cat(
        [rollouts.tokens[1, :at], torch.tensor(parts), rollouts.tokens[1, at + 1 : -1]]
    )
    rollouts.lengths[1] += 1
    assert departures.round_trip(tokenizer, rollouts, stops).tolist() == [4, 3, 1]


def test_lost_ends_are_those_of_shared_responses():
    table = departures.tokens_learned(example.ROLLOUTS, [example.END])
    # normal: 2 + 3 tokens of its own, 1 + 2 shared; high-entropy: 2 + 3 shared, 1 + 2 of its own;
    # every response has an end
    assert table["end tokens with"].tolist() == [5, 3, 5, 3]
    assert table["end tokens lost"].tolist() == [5, 1, 3, 3] and table.fewer.tolist() == [
        0,
        2,
        2,
        0,
    ]


def test_the_normal_modes_bonus_goes_either_way():
    found = departures.normal_bonus(example.SCORED, (0.0, four.ETA, -four.ETA))
    for row, (adv, tilted) in enumerate(zip(four.ADVANTAGES, four.PAPER, strict=True)):
        own = [value for value in tilted if value is not four.PAD]
        none, plus, minus = (values[row, : len(own)].tolist() for values in found.values())
        assert none == pytest.approx([adv] * len(own)) and plus == pytest.approx(own)
        assert minus == pytest.approx([2 * adv - value for value in own])


def test_ratios_are_of_the_trained_to_the_drawing_mode_on_shared_responses():
    table = departures.ratios(example.ROLLOUTS, example.LOGP)
    # rows 0 and 1 in the HE mode: exp of -1 + 2, -0.2 + 0.8, -0.1 + 0.3, -0.9 + 0.5, -0.6 + 0.6
    ratios = [math.exp(x) for x in (1, 0.6, 0.2, -0.4, 0)]
    assert table.loc["he", "normal"].tolist() == pytest.approx(
        [5, sum(ratios) / 5, math.exp(-0.4), math.e, 0.8]
    )
    assert table.loc["normal", "he"]["tokens"] == 3 and table.loc["normal", "he"][
        "greatest"
    ] == pytest.approx(math.exp(0.2))


def test_normalisers_by_hand():
    row = departures.normalisers(8).loc[4]
    # four of eight: variance 8 (1/4) / 7 = 2/7 with ddof 1, 1/4 with ddof 0; A = 1/2 over its root
    assert row["ddof 0"] == pytest.approx(1) and row["ddof 1, eps 1e-6"] == pytest.approx(
        0.5 / math.sqrt(2 / 7), rel=1e-5
    )
    assert row["ddof 1 / ddof 0"] == pytest.approx(math.sqrt(7 / 8))
    assert row["eps 1e-6 takes"] == pytest.approx(1e-6 / math.sqrt(2 / 7), rel=1e-3)
    assert row["eps 1e-4 takes"] == pytest.approx(1e-4 / math.sqrt(2 / 7), rel=1e-3)


def test_equal_rewards_have_an_advantage_by_the_formula_alone():
    formula, here = departures.equal_rewards(0.7, 8)
    assert 0.05 < formula < 0.06 and here == 0


def test_the_order_of_the_clip_is_drawn_with_both_clips_marked():
    (axis,) = departures.clip_orders(0.03, 2.0, [0.5, 3.0]).axes
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    # eq. 3: eta / kappa from B = |A| / kappa on; released: 2 / kappa from |A| / (kappa eta) on
    assert [float(dot.get_xdata()[0]) for dot in dots] == pytest.approx([0.5, 1 / 0.06])
    assert [float(dot.get_ydata()[0]) for dot in dots] == pytest.approx([0.015, 1.0])
    eq_3, released = (line.get_ydata() for line in axis.lines if len(line.get_xdata()) > 2)
    assert float(eq_3[0] / released[0]) == pytest.approx(0.5)  # added once and twice
    assert (float(eq_3[-1]), float(released[-1])) == pytest.approx((0.015, 1.0))
    assert list(axis.lines[-1].get_xdata()) == [0.5, 3.0]
    plt.close("all")


def test_figure_1cs_legend_contradicts_table_1():
    figure, gaps = (
        departures.figure_1c(),
        departures.table_1_gap([runs.load_profile(name) for name in ("quick", "split")]),
    )
    reported = gaps[gaps.source == "reported, table 1"]["HE - normal"]
    assert reported.tolist() == [0.07, 0.18, 0.18]
    assert (
        figure["HE - normal by the legend"].iloc[-1] == -0.18
        and figure["HE - normal, swapped"].iloc[-1] == 0.18
    )
    ours = gaps[gaps.source.str.startswith("ours")]
    assert len(ours) == 2 and (ours["HE - normal"] - (ours.HE - ours.normal)).abs().max() < 0.002


def test_the_graders_differ_where_a_greedy_pattern_reads_too_far():
    table = departures.graders().set_index("response")
    assert table["its rule"].tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 0] and table.here.tolist() == [
        1
    ] * 7 + [0, 0]
    assert table.loc["</think> \\boxed{5} so \\boxed{5}", "its rule reads"] == "5} so \\boxed{5"


def test_a_measured_effect_is_the_ablations_or_a_plain_none(tmp_path):
    path = tmp_path / "tables" / "ablations.csv"
    path.parent.mkdir()
    assert "none yet" in departures.measured(tmp_path, "end token lost").data
    pd.DataFrame(
        {
            "model size": ["0.2m"] * 3,
            "label": [
                "Policy Split, eta 1.0",
                "Policy Split, end token lost",
                "Policy Split, end token lost + HE prompt",
            ],
            "accuracy": [81.0, 79.5, 78.25],
        }
    ).to_csv(path, index=False)
    shown = departures.measured(tmp_path, "end token lost").data
    assert "79.500" in shown and "78.250" in shown and "81" not in shown and "ours" in shown
    both = departures.measured(tmp_path, "end token lost", "eta 1.0").data
    assert "78.250" in both and "81.000" in both
    assert (
        "no row of re-wrapped or unclipped"
        in departures.measured(tmp_path, "re-wrapped", "unclipped").data
    )


def test_what_is_asked_of_the_ablation_table_is_what_its_labels_say():
    labels = [method.label for method in methods.ABLATIONS.values()]
    for part in ("prompt re-wrapped", "end token lost", "bonus not clipped", "as released"):
        assert sum(part in label for label in labels) == 1
    assert set(departures.CLIPPED) == set(advantages.VARIANTS) - {"unclipped"}
