"""What is measured of a step beside its loss."""

import pytest
import torch

from pslib import methods
from pslib.lab import measures


def test_the_size_of_a_bonus_is_its_mean_share_of_the_advantage_over_live_tokens():
    rewards, groups = (
        torch.tensor([1.0, 0.0, 1.0, 1.0]),
        torch.tensor([0, 0, 1, 1]),
    )  # the second group is dead
    mask = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    plain = torch.tensor([1, -1, 0, 0])[:, None] / 2**0.5
    he = plain.expand(4, 2) + torch.tensor([[0.1, -0.3], [0.2, 9.0], [9.0, 9.0], [9.0, 9.0]])
    scored = methods.Scored(rewards, groups, mask, {"normal": None, "he": None}, {})
    shares = measures.bonus_shares(scored, torch.cat([plain.expand(4, 2), he]))
    assert shares["bonus_share_normal"] == pytest.approx(0, abs=1e-5)  # the eps of eq. 2
    assert shares["bonus_share_he"] == pytest.approx((0.1 + 0.3 + 0.2) / 3 * 2**0.5, rel=1e-5)
