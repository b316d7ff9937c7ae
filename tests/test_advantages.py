"""Advantages: eq. 2 to 6 on the four-rollout example, and what must hold for any rewards and
signals.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from pslib import advantages
from tests.support import four_rollouts as four

NAN = float("nan")
MASK = torch.arange(3) < torch.tensor(four.LENGTHS)[:, None]
GROUPS = torch.tensor(four.GROUP_IDS)


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def valid(rows):
    """The values of the valid tokens, in order."""
    return f64([value for row in rows for value in row if value is not four.PAD])


def close(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


# --- eq. 2 ----------------------------------------------------------------------------------------
def test_group_relative_is_the_z_score_with_ddof_1_of_the_four_rollouts():
    close(advantages.group_relative(f64(four.REWARDS), GROUPS), f64(four.ADVANTAGES))


def test_group_relative_keeps_groups_apart_in_any_row_order():
    # group 7: 0, 0, 3 -> mean 1, std sqrt((1 + 1 + 4) / 2) = sqrt 3; group 2: 1, 0 -> mean 1/2, std
    # sqrt(1/2)
    rewards, ids = f64([0, 1, 3, 0, 0]), torch.tensor([7, 2, 7, 2, 7])
    three, half = math.sqrt(3), math.sqrt(0.5)
    expected = f64([-1 / three, 0.5 / half, 2 / three, -0.5 / half, -1 / three])
    close(advantages.group_relative(rewards, ids, eps=0.0), expected)


def test_group_relative_adds_eps_to_the_standard_deviation():
    # std of (0, 2) is sqrt 2; 1 / (sqrt 2 + 1)
    out = advantages.group_relative(f64([0, 2]), torch.tensor([0, 0]), eps=1.0)
    close(out, f64([1 - math.sqrt(2), math.sqrt(2) - 1]))


def test_group_relative_keeps_shape_and_dtype():
    out = advantages.group_relative(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 0]))
    assert out.shape == (3,) and out.dtype == torch.float32


@settings(max_examples=100)
@given(reward=st.floats(-10, 10, width=32), count=st.integers(1, 9))
def test_a_dead_group_gives_exactly_zero_whatever_its_reward(reward, count):
    # A live group beside it: the dead one must be found group by group. Without the max == min
    # test, eight rewards of 0.7 come out at 0.056.
    rewards = torch.tensor([reward] * count + [0.0, 1.0])
    out = advantages.group_relative(rewards, torch.tensor([0] * count + [1, 1]))
    assert out[:count].tolist() == [0.0] * count
    assert out[count] < 0 < out[count + 1]


def test_a_group_of_one_gives_zero():
    assert advantages.group_relative(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0, 1, 1]))[0] == 0


def test_group_relative_names_the_shapes_that_do_not_fit():
    with pytest.raises(TypeCheckError, match=r"'group_ids'.*\n.*i64\[2\]"):
        advantages.group_relative(torch.zeros(3), torch.tensor([0, 0]))


# --- eq. 6 ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("alpha, expected", [(0.5, four.SIGNAL), (0.25, four.SIGNAL_QUARTER)])
def test_exploration_signal_of_the_four_rollouts(alpha, expected):
    logp_he, logp_normal = (
        f64(four.padded(rows, 0.0)) for rows in (four.LOGP_HE, four.LOGP_NORMAL)
    )
    signal = advantages.exploration_signal(logp_he, logp_normal, alpha)
    assert signal.shape == (4, 3)
    close(signal[MASK], valid(expected))


def test_exploration_signal_weighs_both_modes_equally_unless_told():
    close(advantages.exploration_signal(f64([[-1.0]]), f64([[-2.0]])), f64([[1.5]]))


def test_exploration_signal_names_the_shapes_that_do_not_fit():
    with pytest.raises(TypeCheckError, match=r"'logp_normal'.*\n.*f32\[2,4\]"):
        advantages.exploration_signal(torch.zeros(2, 3), torch.zeros(2, 4))


# --- eq. 4 ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("fill", [0.0, 1e30, NAN])
def test_standardize_in_group_pools_the_valid_tokens_and_ignores_the_rest(fill):
    out = advantages.standardize_in_group(f64(four.padded(four.SIGNAL, fill)), MASK, GROUPS)
    close(out, f64(four.BONUS))
    assert (out[~MASK] == 0).all()


def test_standardize_in_group_keeps_groups_apart():
    # group 5: 1, 3 -> mean 2, std sqrt 2; group 1: 0, 6, 3 -> mean 3, std 3
    signal, mask = f64([[1, 3, NAN], [0, 6, 3]]), torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    out = advantages.standardize_in_group(signal, mask, torch.tensor([5, 1]), eps=0.0)
    close(out, f64([[-1 / math.sqrt(2), 1 / math.sqrt(2), 0], [-1, 1, 0]]))


def test_standardize_in_group_weighs_tokens_not_responses():
    # 0 in a response of one token, 4 three times in another: the mean is 3, not 2; std = sqrt((9 +
    # 3) / 3) = 2
    signal, mask = f64([[0, 0, 0], [4, 4, 4]]), torch.tensor([[1, 0, 0], [1, 1, 1]]).bool()
    out = advantages.standardize_in_group(signal, mask, torch.tensor([0, 0]), eps=0.0)
    close(out, f64([[-1.5, 0, 0], [0.5, 0.5, 0.5]]))


def test_standardize_in_group_is_zero_and_finite_for_a_group_without_spread():
    # one token alone, equal tokens, and a group that has no valid token at all
    signal, mask = (
        f64([[2, NAN], [3, 3], [NAN, NAN]]),
        torch.tensor([[1, 0], [1, 1], [0, 0]]).bool(),
    )
    out = advantages.standardize_in_group(signal, mask, torch.tensor([0, 1, 2]))
    assert out.tolist() == [[0, 0], [0, 0], [0, 0]]


def test_standardize_in_group_keeps_dtype_and_names_the_shapes_that_do_not_fit():
    out = advantages.standardize_in_group(
        torch.ones(1, 2), torch.ones(1, 2).bool(), torch.tensor([0])
    )
    assert out.dtype == torch.float32
    with pytest.raises(TypeCheckError, match=r"'mask'.*\n.*bool\[1,3\]"):
        advantages.standardize_in_group(
            torch.ones(1, 2), torch.ones(1, 3).bool(), torch.tensor([0])
        )


# --- eq. 3 ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("variant, expected", [("paper", four.PAPER), ("released", four.RELEASED)])
def test_high_entropy_advantage_of_the_four_rollouts(variant, expected):
    out = advantages.high_entropy(
        f64(four.ADVANTAGES), f64(four.BONUS), four.ETA, four.KAPPA, variant
    )
    assert out.shape == (4, 3)
    close(out[MASK], valid(expected))


def test_high_entropy_follows_the_paper_unless_told():
    # eta 0.03 and B = 5, A = 1: the paper clips B to 1/2 first, 1 + 0.015; the released code adds 2
    # (0.15)
    adv, bonus = f64([1.0]), f64([[5.0]])
    close(advantages.high_entropy(adv, bonus, 0.03, 2.0), f64([[1.015]]))
    close(advantages.high_entropy(adv, bonus, 0.03, 2.0, "released"), f64([[1.3]]))


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_dead_group_gets_no_bonus_whatever_the_signal(variant):
    out = advantages.high_entropy(
        torch.zeros(2), torch.tensor([[3.0, -1e30], [1e30, 0.1]]), 1.0, 2.0, variant
    )
    assert out.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_high_entropy_is_detached_from_both_its_inputs():
    adv, bonus = torch.ones(1, requires_grad=True), torch.ones(1, 2, requires_grad=True)
    assert not advantages.high_entropy(adv, bonus, 0.03, 2.0).requires_grad


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: advantages.high_entropy(torch.ones(2, 1), torch.ones(2, 1), 0.1, 2.0),
            r"'adv'.*\n.*f32\[2,1\]",
        ),
        (
            lambda: advantages.high_entropy(torch.ones(2), torch.ones(2), 0.1, 2.0),
            r"'bonus'.*\n.*f32\[2\]",
        ),
        (
            lambda: advantages.high_entropy(torch.ones(2), torch.ones(3, 1), 0.1, 2.0),
            r"'bonus'.*\n.*f32\[3,1\]",
        ),
        (lambda: advantages.high_entropy(torch.ones(1), torch.ones(1, 1), -0.1, 2.0), "eta=-0.1"),
        (lambda: advantages.high_entropy(torch.ones(1), torch.ones(1, 1), 0.1, 0.5), "kappa=0.5"),
        (
            lambda: advantages.high_entropy(torch.ones(1), torch.ones(1, 1), 0.1, 2.0, "theirs"),
            "'theirs'",
        ),
    ],
)
def test_high_entropy_names_what_is_wrong(call, message):
    with pytest.raises((ValueError, TypeCheckError), match=message):
        call()


# --- the baselines' advantages --------------------------------------------------------------------
def test_entropy_advantage_adds_the_entropy_up_to_a_share_of_the_advantage():
    # alpha 0.4, kappa 2: 1 + min(0.4, 0.5);  1 + min(0.8, 0.5);  -1 + min(0.4, 0.5);  0 + min(0.4,
    # 0)
    out = advantages.entropy_advantage(f64([[1, 1, -1, 0]]), f64([[1, 2, 1, 1]]))
    close(out, f64([[1.4, 1.5, -0.6, 0.0]]))


def test_entropy_advantage_takes_its_coefficients():
    close(
        advantages.entropy_advantage(f64([[2, 2]]), f64([[1, 9]]), alpha=0.1, kappa=4.0),
        f64([[2.1, 2.5]]),
    )


def test_entropy_advantage_does_not_differentiate_the_entropy():
    entropy = torch.ones(1, 1, requires_grad=True)
    assert not advantages.entropy_advantage(torch.ones(1, 1), entropy).requires_grad


def test_entropy_advantage_names_the_shapes_that_do_not_fit():
    with pytest.raises(TypeCheckError, match=r"'entropy'.*\n.*f32\[1,3\]"):
        advantages.entropy_advantage(torch.ones(1, 2), torch.ones(1, 3))


@pytest.mark.parametrize("fill", [0.0, 1e30, NAN])
def test_entropy_driven_gives_confident_responses_more_weight(fill):
    # group 0: mean entropies 1 and (1 + 5) / 2 = 3, their mean 2: weights 2 and 2/3; group 1: one
    # response, weight 1
    entropy, mask = (
        f64([[1, fill], [1, 5], [7, fill]]),
        torch.tensor([[1, 0], [1, 1], [1, 0]]).bool(),
    )
    out = advantages.entropy_driven(
        f64([1, -3, 5]), entropy, mask, torch.tensor([0, 0, 1]), floor=0.0
    )
    close(out, f64([2, -2, 5]))


def test_entropy_driven_floor_keeps_a_response_without_entropy_finite():
    # P = 0 + 0.5 and 1 + 0.5, their mean 1: 1 / 0.5 = 2 and 1 / 1.5 = 2/3
    given = f64([1, 1]), f64([[0], [1]]), torch.ones(2, 1).bool(), torch.tensor([0, 0])
    close(advantages.entropy_driven(*given, floor=0.5), f64([2, 2 / 3]))
    # and unless told otherwise 0.001: P = 0.001 and 1.001, mean 0.501
    close(advantages.entropy_driven(*given), f64([501.0, 0.501 / 1.001]))


def test_entropy_driven_does_not_differentiate_the_entropy():
    entropy = torch.ones(1, 2, requires_grad=True)
    out = advantages.entropy_driven(
        torch.ones(1), entropy, torch.ones(1, 2).bool(), torch.tensor([0])
    )
    assert not out.requires_grad


@pytest.mark.parametrize(
    "shapes, message",
    [
        (((2,), (2, 3), (2, 4), (2,)), r"'mask'.*\n.*bool\[2,4\]"),
        (((2,), (2, 3), (2, 3), (3,)), r"'group_ids'.*\n.*i64\[3\]"),
    ],
)
def test_entropy_driven_names_the_shapes_that_do_not_fit(shapes, message):
    adv, entropy, mask, groups = map(torch.ones, shapes)
    with pytest.raises(TypeCheckError, match=message):
        advantages.entropy_driven(adv, entropy, mask.bool(), groups.long())


def test_a_group_of_equal_signals_gives_exactly_zero_whatever_rounding_says():
    signal, mask = torch.full((1, 183), 5.3), torch.ones(1, 183, dtype=torch.bool)
    assert (
        advantages.standardize_in_group(signal, mask, torch.zeros(1, dtype=torch.long)) == 0
    ).all()
