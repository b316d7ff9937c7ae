"""Losses and token masks: the four-rollout example, padding, splits, and the baselines' masks by
hand.
"""

import math

import pytest
import torch
from jaxtyping import TypeCheckError

from pslib import losses
from tests.support import four_rollouts as four

NAN = float("nan")
MASK = torch.arange(3) < torch.tensor(four.LENGTHS)[:, None]


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def close(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def four_losses(advantage_rows):
    """The surrogate of the example: old log-probs, and new ones that give RATIOS."""
    old = f64(four.padded(four.LOGP_NORMAL, 0.0))
    new = old + f64(four.padded(four.RATIOS, 1.0)).log()
    return losses.clipped_surrogate(new, old, f64(four.padded(advantage_rows, 0.0)))


def broadcast(advantages):
    return [[a] * 3 for a in advantages]


# --- the clipped surrogate ------------------------------------------------------------------------
@pytest.mark.parametrize(
    "adv, expected, mean",
    [
        (broadcast(four.ADVANTAGES), four.LOSS_NORMAL, four.MEAN_NORMAL),
        (four.PAPER, four.LOSS_HE, four.MEAN_HE),
    ],
)
def test_surrogate_and_token_mean_of_the_four_rollouts(adv, expected, mean):
    per_token = four_losses(adv)
    assert per_token.shape == (4, 3)
    close(per_token[MASK], f64(four.padded(expected, 0.0))[MASK])
    close(losses.token_mean(per_token, MASK), f64(mean))


def test_the_loss_of_both_modes_is_one_mean_over_sixteen_tokens():
    per_token = torch.cat([four_losses(broadcast(four.ADVANTAGES)), four_losses(four.PAPER)])
    close(losses.token_mean(per_token, MASK.repeat(2, 1)), f64(four.MEAN_BOTH))


def test_surrogate_takes_a_wider_clip_above_than_below():
    # rho 1.25 and 0.75 under the clip [0.9, 1.28]: 1.25 is inside; for A < 0, 0.75 is raised to 0.9
    logp = f64([[1.25, 1.5, 0.75]]).log()
    out = losses.clipped_surrogate(
        logp, torch.zeros_like(logp), f64([[1, 1, -1]]), eps_low=0.1, eps_high=0.28
    )
    close(out, f64([[-1.25, -1.28, 0.9]]))


def test_surrogate_pushes_nothing_where_the_clip_binds_and_the_ratio_where_it_does_not():
    # d(-rho A)/d logp = -rho A: 0 for (A=1, rho=1.5) and (A=-1, rho=0.5), else -rho A
    logp = f64([[1.5, 0.5, 1.0, 1.5, 0.5]]).log().requires_grad_()
    adv = f64([[1, -1, 2, -1, 1]])
    losses.clipped_surrogate(logp, torch.zeros(1, 5, dtype=torch.float64), adv).sum().backward()
    close(logp.grad, f64([[0, 0, -2, 1.5, -0.5]]))


def test_surrogate_does_not_differentiate_the_old_log_probs():
    old = torch.zeros(1, 1, requires_grad=True)
    losses.clipped_surrogate(
        torch.zeros(1, 1, requires_grad=True), old, torch.ones(1, 1)
    ).sum().backward()
    assert old.grad is None


def test_surrogate_keeps_dtype_and_names_the_shapes_that_do_not_fit():
    zeros = torch.zeros(2, 3)
    assert losses.clipped_surrogate(zeros, zeros, zeros).dtype == torch.float32
    for shapes in (((2, 3), (2, 3), (2, 1)), ((2, 3), (2, 4), (2, 3)), ((1, 3), (2, 3), (2, 3))):
        with pytest.raises(TypeCheckError) as error:
            losses.clipped_surrogate(*map(torch.zeros, shapes))
        assert all(f"f32[{n},{t}]" in str(error.value) for n, t in shapes)


@pytest.mark.parametrize("far", [1e3, 1e30, math.inf])
def test_padding_whose_log_ratio_overflows_changes_no_gradient(far):
    logp = torch.tensor([[0.0, far, far, far]], requires_grad=True)
    adv = torch.tensor([[2.0, 1.0, -1e3, 0.0]])
    per_token = losses.clipped_surrogate(logp, torch.zeros(1, 4), adv)
    assert per_token.isfinite().all()
    assert per_token[0, [0, 1, 3]].tolist() == pytest.approx([-2.0, -1.2, 0.0])
    losses.token_mean(per_token, torch.tensor([[True, False, False, False]])).backward()
    assert logp.grad.tolist() == [[-2.0, 0.0, 0.0, 0.0]]


def test_a_log_prob_that_is_no_number_stays_visible_in_the_surrogate():
    logp, old = torch.tensor([[math.nan, -math.inf], [0.0, -math.inf]])[:, None]
    assert losses.clipped_surrogate(logp, old, torch.ones(1, 2)).isnan().all()


# --- the token mean -------------------------------------------------------------------------------
def test_token_mean_weighs_tokens_not_responses():
    # (6 + 1 + 1) / 3, not (6 + 1) / 2
    close(
        losses.token_mean(f64([[6, 0], [1, 1]]), torch.tensor([[1, 0], [1, 1]]).bool()), f64(8 / 3)
    )


@pytest.mark.parametrize("fill", [1e30, NAN, math.inf])
def test_token_mean_ignores_masked_positions_in_value_and_gradient(fill):
    per_token = f64([[2, fill], [4, 6]]).requires_grad_()
    mean = losses.token_mean(per_token, torch.tensor([[1, 0], [1, 1]]).bool())
    mean.backward()
    close(mean.detach(), f64(4.0))
    close(per_token.grad, f64([[1 / 3, 0], [1 / 3, 1 / 3]]))


def test_token_mean_divides_by_the_given_total():
    close(losses.token_mean(f64([[2, 4]]), torch.tensor([[True, True]]), total=12), f64(0.5))


def test_token_mean_of_nothing_is_zero():
    assert losses.token_mean(torch.ones(2, 2), torch.zeros(2, 2).bool()) == 0


def test_token_mean_names_the_shapes_that_do_not_fit():
    with pytest.raises(TypeCheckError, match=r"'mask'.*\n.*bool\[2,2\]"):
        losses.token_mean(torch.zeros(2, 3), torch.zeros(2, 2).bool())


# --- forking tokens -------------------------------------------------------------------------------
def test_forking_mask_keeps_the_most_uncertain_fifth_of_the_batch():
    # ten valid tokens, so two are kept: 0.9 and 0.8, both in the first row
    entropy = torch.tensor([[0.1, 0.9, 0.2, 0.8, 0.3], [0.0, 0.4, 0.5, 0.6, 0.7]])
    chosen = losses.forking_mask(entropy, torch.ones(2, 5).bool())
    assert chosen.tolist() == [[False, True, False, True, False], [False] * 5]


@pytest.mark.parametrize("fill", [99.0, NAN, math.inf])
def test_forking_mask_neither_counts_nor_keeps_masked_tokens(fill):
    # 4 valid tokens, half kept: 0.3 and 0.4. Were the padding counted, three would be kept, or
    # padding itself.
    entropy, mask = (
        torch.tensor([[0.1, 0.4, fill], [0.3, 0.2, fill]]),
        torch.tensor([[1, 1, 0], [1, 1, 0]]).bool(),
    )
    assert losses.forking_mask(entropy, mask, keep=0.5).tolist() == [
        [False, True, False],
        [True, False, False],
    ]


@pytest.mark.parametrize(
    "valid, keep, kept", [(5, 0.2, 1), (8, 0.2, 2), (7, 0.2, 1), (3, 0.01, 1), (4, 1.0, 4)]
)
def test_forking_mask_keeps_the_rounded_share_and_at_least_one(valid, keep, kept):
    assert (
        losses.forking_mask(torch.rand(1, valid), torch.ones(1, valid).bool(), keep).sum() == kept
    )


def test_forking_mask_takes_the_earlier_of_equal_tokens_and_leaves_an_empty_batch_empty():
    assert losses.forking_mask(torch.ones(1, 4), torch.ones(1, 4).bool(), 0.5).tolist() == [
        [True, True, False, False]
    ]
    assert losses.forking_mask(torch.ones(1, 2), torch.zeros(1, 2).bool()).tolist() == [
        [False, False]
    ]


def test_forking_mask_names_the_shapes_that_do_not_fit():
    # without the check, entropies of another width would be taken from the wrong places
    with pytest.raises(TypeCheckError, match=r"'mask'.*\n.*bool\[2,2\]"):
        losses.forking_mask(torch.zeros(2, 3), torch.ones(2, 2).bool())


# --- Clip-Cov -------------------------------------------------------------------------------------
# Five valid tokens with means 1 in A and -2 in log-prob, so cov = (A - 1) (logp + 2):
#   A     3    -1     2     0     1
#   logp -1    -3    -1    -3    -2
#   cov   2     2     1     1     0       candidates are those with 1 < cov < 5: the first two
COV_ADV = [[3.0, -1.0, 2.0, 0.0, 1.0]]
COV_LOGP = [[-1.0, -3.0, -1.0, -3.0, -2.0]]


def dropped(logp, old, adv, mask=None, **settings):
    """The flat places that Clip-Cov leaves out."""
    mask = torch.ones_like(f64(adv)).bool() if mask is None else mask
    keep = losses.clip_cov_mask(f64(logp), f64(old), f64(adv), mask, **settings)
    assert keep.shape == mask.shape and keep.dtype == torch.bool
    return (mask & ~keep).flatten().nonzero().flatten().tolist()


def test_clip_cov_drops_only_tokens_whose_covariance_is_between_its_bounds():
    assert dropped(COV_LOGP, COV_LOGP, COV_ADV, ratio=1.0) == [0, 1]
    assert dropped(COV_LOGP, COV_LOGP, COV_ADV, ratio=1.0, lower=0.5) == [0, 1, 2, 3]
    assert dropped(COV_LOGP, COV_LOGP, COV_ADV, ratio=1.0, lower=0.5, upper=1.5) == [2, 3]
    assert dropped(COV_LOGP, COV_LOGP, COV_ADV, ratio=1.0, lower=3.0) == []


def test_clip_cov_drops_one_token_at_least_and_the_floor_of_its_share():
    # of four candidates: 0.0002 x 5 -> at least 1; 0.5 x 5 = 2.5 -> 2; 1 x 5 = 5 -> all four
    for ratio, count in ((2e-4, 1), (0.5, 2), (1.0, 4)):
        generator = torch.Generator().manual_seed(0)
        assert (
            len(dropped(COV_LOGP, COV_LOGP, COV_ADV, ratio=ratio, lower=0.5, generator=generator))
            == count
        )


def test_clip_cov_draws_among_the_candidates_with_its_generator():
    draws = [
        dropped(COV_LOGP, COV_LOGP, COV_ADV, generator=torch.Generator().manual_seed(seed))
        for seed in range(20)
    ]
    again = [
        dropped(COV_LOGP, COV_LOGP, COV_ADV, generator=torch.Generator().manual_seed(seed))
        for seed in range(20)
    ]
    assert draws == again
    assert {place for draw in draws for place in draw} == {
        0,
        1,
    }  # by default one of the two candidates


def test_clip_cov_passes_over_tokens_that_the_ratio_clip_has_stopped_already():
    # ratios e^1 for token 0 (A > 0) and e^-1 for token 1 (A < 0): both clipped, nothing left to
    # drop
    old = [[-2.0, -2.0, -1.0, -3.0, -2.0]]
    assert dropped(COV_LOGP, old, COV_ADV, ratio=1.0) == []
    # the same ratios the other way round push back, so PPO does not clip them
    other = [[0.0, -4.0, -1.0, -3.0, -2.0]]
    assert dropped(COV_LOGP, other, COV_ADV, ratio=1.0) == [0, 1]


@pytest.mark.parametrize("fill", [NAN, 1e30, -1e30])
def test_clip_cov_ignores_masked_positions(fill):
    mask = torch.tensor([[True] * 5 + [False]])
    logp, adv = [[*COV_LOGP[0], fill]], [[*COV_ADV[0], fill]]
    assert dropped(logp, logp, adv, mask, ratio=1.0) == [0, 1]


def test_clip_cov_leaves_an_empty_batch_and_its_input_mask_alone():
    mask = torch.zeros(1, 2).bool()
    assert not losses.clip_cov_mask(
        torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2), mask
    ).any()
    full = torch.ones(1, 5).bool()
    losses.clip_cov_mask(f64(COV_LOGP), f64(COV_LOGP), f64(COV_ADV), full, ratio=1.0)
    assert full.all()


def test_clip_cov_names_the_shapes_that_do_not_fit():
    fits = torch.zeros(2, 3)
    for place in range(4):
        # One advantage a row would be broadcast, and its mean taken over the wrong tokens.
        given = [fits, fits, fits, fits.bool()]
        given[place] = given[place][:, :1]
        with pytest.raises(TypeCheckError, match=r"\[2,1\]"):
            losses.clip_cov_mask(*given)
