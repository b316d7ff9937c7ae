"""Methods: the table's columns, and each method's advantage and mask on the four-rollout
example.
"""

import pytest
import torch

from pslib import methods
from tests.support import four_rollouts as four

MASK = torch.arange(3) < torch.tensor(four.LENGTHS)[:, None]
TRAINED = [name for name, method in methods.METHODS.items() if method.training]
# Full entropies in nats; the means of the rows are 2, 3, 4 and 3
ENTROPY = [[1.0, 3.0, 0.0], [2.0, 2.5, 4.5], [4.0, 0.0, 0.0], [1.5, 4.5, 0.0]]


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture
def scored():
    """The four rollouts as the loop hands them to a method.

    Other modes' entropies would be read only by mistake.
    """
    return methods.Scored(
        f64(four.REWARDS),
        torch.tensor(four.GROUP_IDS),
        MASK,
        {
            "normal": f64(four.padded(four.LOGP_NORMAL, 0.0)),
            "he": f64(four.padded(four.LOGP_HE, 0.0)),
        },
        {"normal": f64(ENTROPY), "he": torch.full((4, 3), float("nan"), dtype=torch.float64)},
    )


def advantage(name, scored, mode="normal", **coefficients):
    method = methods.get(name, **coefficients)
    out = method.advantage[mode](scored, method.coefficients)
    assert out.shape == MASK.shape
    return out


def assert_valid(actual, rows):
    torch.testing.assert_close(actual[MASK], f64(four.padded(rows, 0.0))[MASK], rtol=0, atol=1e-9)


BROADCAST = [[a] * 3 for a in four.ADVANTAGES]


# --- advantages -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    [
        "grpo",
        "forking",
        "clip_cov",
        "entropy_regularization",
        "policy_split",
        "policy_split_released",
    ],
)
def test_the_normal_mode_learns_from_the_group_relative_advantage(name, scored):
    assert_valid(advantage(name, scored), BROADCAST)


@pytest.mark.parametrize(
    "name, rows", [("policy_split", four.PAPER), ("policy_split_released", four.RELEASED)]
)
def test_the_high_entropy_mode_learns_from_eq_3(name, rows, scored):
    assert_valid(advantage(name, scored, "he", eta=four.ETA), rows)


def test_only_the_normal_modes_bonus_may_be_taken_away(scored):
    with pytest.raises(ValueError, match="eta must be a finite number at least 0; got -1.0"):
        advantage("policy_split", scored, "he", eta=-1.0)
    added, taken = (
        advantage("policy_split", scored, eta_normal=eta) for eta in (four.ETA, -four.ETA)
    )
    assert_valid(added, four.PAPER)
    torch.testing.assert_close((added + taken)[MASK] / 2, advantage("policy_split", scored)[MASK])


def test_the_high_entropy_mode_takes_alpha_for_the_high_entropy_policy(scored):
    # alpha 1: b = -log pi_HE alone = 1, 0.2 | 0.1, 0.9, 0.6 | 0.4 | 0.5, 0.4, whose mean is 4.1 / 8
    # = 0.5125. At kappa 1 and eta 1 the clip is at a = 0.866. The second row's 0.6: deviation
    # 0.0875; the squares about 0.5125 are .23765625 .09765625 .17015625 .15015625 .00765625
    # .01265625 .00015625 .01265625, sum 0.68875; over 7: 0.0983928571; std 0.313676; B = 0.0875 /
    # 0.313677 = 0.278949; A~ = -0.866024 + 0.278949 = -0.587075
    out = advantage("policy_split", scored, "he", alpha=1.0, eta=1.0, kappa=1.0)
    assert out[1, 2].item() == pytest.approx(-0.587075, abs=2e-6)


def test_entropy_driven_divides_by_the_relative_entropy_of_the_response(scored):
    # P = 2, 3, 4, 3 plus the floor 0.001; their mean is 3.001; weights 3.001/2.001, 1, 3.001/4.001,
    # 1
    weights = [1.499750124938, 1.0, 0.750062484379, 1.0]
    assert_valid(
        advantage("entropy_driven", scored),
        [[w * a] * 3 for w, a in zip(weights, four.ADVANTAGES, strict=True)],
    )


def test_entropy_advantage_raises_each_token_by_its_entropy(scored):
    # the bound is a/2 = 0.433011951894; 0.4 H is below it only for H = 1 (0.4); all others take the
    # bound
    a, bound = four.A, 0.433011951894
    rows = [
        [a + 0.4, a + bound, 0.0],
        [-a + bound] * 3,
        [-a + bound, 0.0, 0.0],
        [a + bound, a + bound, 0.0],
    ]
    assert_valid(advantage("entropy_advantage", scored), rows)


@pytest.mark.parametrize("name", TRAINED)
def test_a_dead_group_moves_nothing_in_any_method(name, scored):
    dead = methods.Scored(
        torch.ones(4, dtype=torch.float64),
        scored.group_ids,
        scored.mask,
        scored.logp,
        {"normal": scored.entropy["normal"], "he": scored.entropy["normal"]},
    )
    method = methods.get(name)
    for mode in method.training:
        assert (advantage(name, dead, mode) == 0).all()


# --- which tokens count ---------------------------------------------------------------------------
def kept(name, **coefficients):
    method = methods.get(name, **coefficients)
    return method.keep(
        f64(COV_LOGP),
        f64(COV_ADV),
        f64([[1, 5, 2, 3, 4]]),
        torch.ones(1, 5).bool(),
        method.coefficients,
        torch.Generator().manual_seed(0),
    ).tolist()[0]


# as in the tests of the losses: the covariances are 2, 2, 1, 1, 0
COV_ADV = [[3.0, -1.0, 2.0, 0.0, 1.0]]
COV_LOGP = [[-1.0, -3.0, -1.0, -3.0, -2.0]]


def test_forking_keeps_high_entropy_tokens_and_clip_cov_drops_high_covariance_ones():
    assert kept("forking", keep=0.4) == [False, True, False, False, True]
    assert kept("clip_cov", ratio=1.0) == [False, False, True, True, True]
    assert kept("clip_cov", ratio=1.0, lower=0.5, upper=1.5) == [True, True, False, False, True]


def test_all_other_methods_train_on_every_token():
    for name in set(TRAINED) - {"forking", "clip_cov"}:
        assert kept(name) == [True] * 5


def test_only_forking_divides_by_the_tokens_it_keeps():
    assert [name for name, method in methods.METHODS.items() if method.divide_by_kept] == [
        "forking"
    ]


def test_only_entropy_regularization_has_an_entropy_term_and_its_weight_is_a_coefficient():
    weights = {
        name: method.coefficients[method.entropy_coef]
        for name, method in methods.METHODS.items()
        if method.entropy_coef
    }
    assert weights == {"entropy_regularization": 0.003}


# --- the table ------------------------------------------------------------------------------------
def test_policy_split_samples_and_trains_both_modes_and_every_other_method_the_normal_one():
    for name, method in methods.METHODS.items():
        split = name.startswith("policy_split")
        assert method.sampling == (("normal", "he") if split else ("normal",))
        assert method.training == (
            ("normal", "he") if split else () if name == "original" else ("normal",)
        )


def test_policy_split_has_the_papers_coefficients():
    assert methods.get("policy_split").coefficients == {
        "eta": 0.03,
        "kappa": 2.0,
        "alpha": 0.5,
        "variant": "paper",
        "eta_normal": 0.0,
    }
    assert methods.get("policy_split_released").coefficients == {
        "eta": 0.03,
        "kappa": 2.0,
        "alpha": 0.5,
        "variant": "released",
        "eta_normal": 0.0,
    }


def test_get_sets_coefficients_in_a_copy():
    changed = methods.get("policy_split", eta=0.3)
    assert changed.coefficients == {
        "eta": 0.3,
        "kappa": 2.0,
        "alpha": 0.5,
        "variant": "paper",
        "eta_normal": 0.0,
    }
    assert (
        changed.label == "Policy Split"
        and methods.METHODS["policy_split"].coefficients["eta"] == 0.03
    )


@pytest.mark.parametrize(
    "name, coefficients, message",
    [
        ("grop", {}, "'grop'.*grpo.*policy_split"),
        ("grpo", {"eta": 1.0}, "GRPO has no coefficient 'eta'; it has none"),
        (
            "policy_split",
            {"beta": 1.0},
            "Policy Split has no coefficient 'beta'; it has eta, kappa, alpha, variant, eta_normal",
        ),
        (
            "policy_split",
            {"eta": "0.03"},
            "Policy Split: eta must be a finite number at least 0; got '0.03'",
        ),
        ("policy_split", {"variant": 1}, "Policy Split: variant must be one of paper, .*; got 1"),
    ],
)
def test_get_names_what_is_wrong(name, coefficients, message):
    with pytest.raises(ValueError, match=message):
        methods.get(name, **coefficients)
