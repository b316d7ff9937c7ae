"""The four-rollout example: what it says of itself fits together, and sharing makes of it what was
counted by hand.
"""

import re

import pytest
import torch

from pslib import methods, rewards, rollouts
from pslib.lab import runs
from pslib.study import example
from tests.support import four_rollouts as four


def test_the_responses_are_graded_as_the_rewards_say():
    graded = [rewards.grade(text, example.QUESTION["answer"]) for text in example.ROLLOUTS.texts]
    assert graded == example.REWARDS.tolist() == [1.0, 0.0, 0.0, 1.0]


def test_words_tokens_and_texts_are_the_same_responses():
    assert [len(row) for row in example.WORDS] == example.ROLLOUTS.lengths.tolist() == [2, 3, 1, 2]
    end = example.VOCABULARY[example.END]
    assert ["".join(row) for row in example.WORDS] == [
        text + end for text in example.ROLLOUTS.texts
    ]
    assert int(example.ROLLOUTS.mask.sum()) == four.TOKENS == 8
    assert example.ROLLOUTS.modes == ["normal", "normal", "he", "he"]


def test_padding_is_finite_and_changes_no_ratio():
    beyond = ~example.ROLLOUTS.mask
    assert (
        all((logp[beyond] == 0).all() for logp in example.LOGP.values())
        and (example.RATIOS[beyond] == 1).all()
    )


@pytest.mark.parametrize(
    "name, counted, groups",
    [
        ("policy_split", four.SHARED, [0, 0, 0, 0]),
        ("policy_split_unshared", four.UNSHARED, [0, 0, 1, 1]),
        ("policy_split_lost_end", four.LOST_END, [0, 0, 0, 0]),
        ("grpo", [2, 3, 1, 2], [0, 0, 0, 0]),
    ],
)
def test_sharing_makes_of_it_what_was_counted_by_hand(name, counted, groups):
    group_ids, learned = rollouts.share(example.ROLLOUTS, methods.get(name), [example.END])
    assert learned.sum(1).tolist() == counted and group_ids.tolist() == groups
    assert not learned[torch.cat([~example.ROLLOUTS.mask] * (len(learned) // 4))].any()


def test_the_picture_of_sharing_has_the_advantages_that_were_worked_out_by_hand():
    picture = (runs.ROOT / "notebooks" / "sharing.svg").read_text(encoding="utf-8")
    shown = [
        float(number.replace("\N{MINUS SIGN}", "-"))
        for number in re.findall(r">([+\N{MINUS SIGN}]\d\.\d\d)</text>", picture)
    ]
    responses = zip(four.ADVANTAGES, four.LENGTHS, strict=True)
    normal = [adv for adv, length in responses for _ in range(length)]
    high_entropy = [adv for row in four.PAPER for adv in row if adv is not four.PAD]
    assert shown == pytest.approx(normal + high_entropy, abs=0.005)
