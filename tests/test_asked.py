"""What every model is asked alike: the same questions, prompts and draws, summed so that every gap
comes from one file.
"""

from dataclasses import replace

import pandas as pd
import pytest
import torch
import yaml

from pslib import methods, modes, policy, train
from pslib.evidence import evaluate, probe
from pslib.lab import chain, measures, runs
from pslib.lab.settings import Training
from pslib.nano import base, worlds


@pytest.fixture(scope="module")
def tour():
    return policy.load(runs.TOUR)


@pytest.fixture(scope="module")
def asked(tour):
    """The tour model asked three sums under none and two prompts, four times each."""
    from pslib import tasks

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
    from pslib import tasks

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


def test_the_learning_rate_grows_over_the_warmup(model, tokenizer, he, questions):
    settings = Training(
        steps=4, questions=3, group_size=2, pool=3, learning_rate=0.3, max_new_tokens=4, warmup=3
    )
    state, rates = (
        train.Run(model, tokenizer, methods.get("grpo"), (modes.NORMAL, he), settings, 0),
        [],
    )
    for _ in range(4):
        state.step(questions)
        rates.append(state.optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.3])


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


# --- profiles over base models --------------------------------------------------------------------
@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("PSLIB_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    given = yaml.safe_load((runs.PROFILES / "understood_neutral.yaml").read_text())
    smoke = runs.load_profile("smoke")
    return replace(
        runs.build(runs.Profile, {"name": "mine", **given}, "mine"),
        sizes=["0.2m.b5", "0.2m.b6"],
        train=smoke.train,
        base=replace(smoke.base, world="understood", steps=2, shared=True),
    )


def test_a_shared_base_model_is_made_once_for_all_profiles_or_read_from_the_checkout(
    profile, monkeypatch
):
    made = chain.make_base(profile, "0.2m.b5")[0].state_dict()
    here = runs.results_root() / "local" / "base" / "understood" / "0.2m.b5"
    assert runs.base_folder(replace(profile, name="other"), "0.2m.b5") == here
    from pslib.lab import publish

    publish.publish_base(here, runs.ROOT / "results" / "base" / "understood" / "0.2m.b5")
    monkeypatch.setattr(base, "train", lambda *a, **k: pytest.fail("trained again"))
    for path in sorted(here.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    again = chain.make_base(replace(profile, name="other"), "0.2m.b5")[0].state_dict()
    assert all(torch.equal(made[key], again[key]) for key in made) and not (here / "model").exists()


def test_base_model_and_seed_vary_together_and_each_base_model_has_its_own_neutral_prompt(profile):
    assert profile.grid[:2] == [
        ("policy_split_released", "0.2m.b5", 5),
        ("policy_split_released", "0.2m.b6", 6),
    ]
    assert profile.unit("0.2m.b6", 6) == ("0.2m", 6) and profile.table_sizes == ["0.2m"]
    tokenizer = chain.make_base(profile, "0.2m.b5")[1]
    texts = [profile.modes_of(size, tokenizer)[1].system for size in profile.sizes]
    assert texts[0] != texts[1] and [worlds.lean(text) for text in texts] == [0, 0]
    wanted = len(tokenizer(modes.he_mode("high_entropy").system)["input_ids"])
    assert len(tokenizer(texts[0])["input_ids"]) == wanted
