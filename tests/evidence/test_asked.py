"""What every model is asked alike: the same questions, prompts and draws, summed so that every gap
comes from one file.
"""

import pandas as pd
import pytest
import torch

from pslib import modes, policy, tasks
from pslib.evidence import evaluate, probe
from pslib.lab import runs
from pslib.nano import worlds


@pytest.fixture(scope="module")
def tour():
    return policy.load(runs.TOUR)


@pytest.fixture(scope="module")
def asked(tour):
    """The tour model asked three sums under none and two prompts, four times each."""
    settings = evaluate.Settings(
        3, 4, 0.6, 20, 0.9, 70
    )  # whose temperature and cuts are not the policy's: both are overruled
    texts = {"none": None, "he": modes.he_mode("high_entropy").system, "again": None}
    return probe.ask(*tour, texts, settings, tasks.load("like", 3))


def test_every_prompt_has_the_same_questions_and_the_same_draws(asked):
    assert asked.groupby("prompt", sort=False).size().to_dict() == {"none": 3, "he": 3, "again": 3}
    none, again = (
        asked[asked.prompt == name].drop(columns="prompt").reset_index(drop=True)
        for name in ("none", "again")
    )
    pd.testing.assert_frame_equal(none, again)  # the same policy under another name draws the same
    assert (none.kl == 0).all() and (asked[asked.prompt == "he"].kl != 0).any()


def test_sums_are_those_of_an_evaluation_with_the_same_draws(tour, asked):
    settings = evaluate.Settings(3, 4, 1.0, 0, 1.0, 70)
    table = evaluate.evaluate(
        *tour,
        modes.NORMAL,
        tasks.load("like", 3),
        settings,
        torch.Generator().manual_seed(probe.ASKED_SEED),
    )[0]
    by = table.assign(bits=table.entropy_bits * table.tokens).groupby("question_id", sort=False)
    none = asked[asked.prompt == "none"].set_index("question_id")
    assert (
        none.tokens.equals(by.tokens.sum())
        and none.correct.equals(by.correct.sum())
        and (none.samples == 4).all()
    )
    assert torch.allclose(
        torch.tensor(none.bits.values), torch.tensor(by.bits.sum().values), rtol=1e-5
    )
    assert (none[[*list(worlds.DERIVATIONS), "other"]].sum(axis=1) == 4).all()


def test_the_kinds_of_tokens_make_up_all_tokens_and_all_entropy(asked):
    for what in ("tokens", "bits"):
        parts = asked[[f"{what}_{kind}" for kind in probe.KINDS]].sum(axis=1)
        assert torch.allclose(
            torch.tensor(parts.values), torch.tensor(asked[what].values.astype(float))
        )
    assert (asked.tokens_end <= asked.samples).all() and (asked.tokens_plan > 0).all()


@pytest.mark.parametrize(
    "pieces, kinds",
    [
        (
            [
                "Okay",
                ",",
                " step",
                "wise:",
                " 7",
                "+",
                "8=15",
                ".",
                " Thus",
                " 15",
                " \\boxed{",
                "15",
                "}",
                "<|end|>",
            ],
            ["wording"] * 2
            + ["plan"] * 2
            + ["sum"] * 3
            + ["wording"] * 2
            + ["sum"]
            + ["box"] * 3
            + ["end"],
        ),
        (["<|end|>"], ["end"]),
    ],
)
def test_each_token_belongs_where_its_first_letter_stands(pieces, kinds):
    assert probe.token_kinds("".join(pieces[:-1]), pieces) == kinds
