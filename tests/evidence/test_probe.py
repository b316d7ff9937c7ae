"""What a model is asked beside the suites: counts, prompts, stories, and the bonus of eq. 3 on its
tokens.
"""

import random
from dataclasses import replace

import pytest
import torch

from pslib import modes, rewards, tasks
from pslib.evidence import evaluate, probe
from pslib.lab import answers, runs
from pslib.nano import worlds

SETTINGS = evaluate.Settings(
    questions=3, samples=2, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=8
)


@pytest.fixture
def both(he):
    return modes.NORMAL, he


@pytest.fixture(autouse=True)
def graded_by_length(monkeypatch):
    monkeypatch.setattr(rewards, "grade", lambda text, answer: float(len(text) % 2))


def generator():
    return torch.Generator().manual_seed(0)


def test_many_tries_count_the_right_responses_of_each_question_and_mode(model, tokenizer, both):
    table = probe.many_tries(
        model,
        tokenizer,
        both,
        SETTINGS,
        {s: tasks.load(s, 3) for s in ("like", "long")},
        5,
        generator(),
    )
    assert (
        len(table) == 2 * 2 * 3 and (table.samples == 5).all() and table.correct.between(0, 5).all()
    )
    assert (
        set(table["mode"]) == {"normal", "he"}
        and set(table.suite) == {"like", "long"}
        and table.correct.nunique() > 1
    )


def test_every_prompt_is_asked_and_the_normal_mode_is_no_distance_from_itself(
    model, tokenizer, both, monkeypatch
):
    monkeypatch.setattr(
        probe, "UNSEEN", ("high_entropy_short",)
    )  # the others would not fit the tiny model's patience
    table = probe.under_prompts(
        model, tokenizer, both, SETTINGS, tasks.load("like", 3), generator()
    ).set_index("prompt")
    assert list(table.index) == ["none", "trained", "high_entropy_short"]
    assert table.kl_from_normal["none"] == 0 != table.kl_from_normal["trained"]
    shares = table[[f"share_{d}" for d in (*worlds.DERIVATIONS, "other")]].sum(axis=1)
    assert shares.tolist() == pytest.approx([1, 1, 1])


def test_the_kl_of_a_prompt_has_its_interval_over_questions_and_more_prompts_may_be_asked(
    model, tokenizer, both, monkeypatch
):
    monkeypatch.setattr(probe, "UNSEEN", ())
    alike = [{"id": str(k), "question": "1+2", "answer": "3"} for k in range(3)]
    kl, table = evaluate.inter_mode_kl(
        model, tokenizer, *reversed(both), alike, SETTINGS, generator()
    )
    assert (table.kl * table.tokens).sum() / table.tokens.sum() == pytest.approx(kl)
    monkeypatch.setattr(
        evaluate,
        "inter_mode_kl",
        lambda *args: (0.5, table.assign(kl=[0.4, 0.6, 0.5, 0.5, 0.3, 0.7], tokens=4)),
    )
    rows = probe.under_prompts(
        model, tokenizer, both, SETTINGS, alike, generator(), {"more": "Hello."}
    ).set_index("prompt")
    assert list(rows.index) == ["none", "trained", "more"] and rows.kl_ci.tolist() == [
        0,
        0,
        0,
    ]  # every question has 0.5
    monkeypatch.setattr(
        evaluate,
        "inter_mode_kl",
        lambda *args: (0.5, table.assign(kl=[0.4, 0.4, 0.5, 0.5, 0.6, 0.6], tokens=4)),
    )
    rows = probe.under_prompts(model, tokenizer, both, SETTINGS, alike, generator())
    assert rows.kl_ci[0] == pytest.approx(
        4.3027 * 0.1 / 3**0.5, rel=1e-4
    )  # Student's t of two degrees of freedom


def test_the_unseen_prompts_are_there(tokenizer):
    assert all(modes.he_mode(name).system for name in probe.UNSEEN)
    assert modes.prompts()["modes"]["low_entropy"].startswith(
        modes.he_mode("low_entropy_short").system[:-1]
    )
    assert modes.prompts()["modes"]["rewritten_high_entropy"].startswith(
        modes.he_mode("rewritten_high_entropy_short").system
    )


def test_stories_are_scored_by_prompt_and_kept(model, tokenizer, both, monkeypatch):
    prompts = worlds.story_prompts()[:2]
    monkeypatch.setattr(worlds, "story_prompts", lambda: prompts)
    scores, texts = probe.stories(
        model, tokenizer, both, SETTINGS, worlds.story_prompts(), 3, generator()
    )
    assert len(scores) == 4 and len(texts) == 12 and list(texts["sample"][:3]) == [0, 1, 2]
    own = texts[(texts["mode"] == "he") & (texts.prompt == prompts[1])].story.tolist()
    row = scores[(scores["mode"] == "he") & (scores.prompt == prompts[1])].iloc[0]
    assert row.told == sum(map(worlds.is_story, own)) / 3 and worlds.is_story(
        worlds.story(prompts[0], random.Random(0))
    )
    assert not worlds.is_story("Well, halves: 7+8=15. \\boxed{15}")
    assert row.div_2gram == pytest.approx(
        probe.diversity.div_ngram(own)
    ) and row.div_bleu4 == pytest.approx(probe.diversity.div_bleu(own))


def test_the_bonus_of_each_token_is_that_of_the_equations(model, tokenizer, both):
    table = probe.bonus(
        model, tokenizer, both, SETTINGS, tasks.load("train", 4, "tuning"), 4, generator()
    )
    assert (
        len(table) > 20
        and set(table["mode"]) == {"normal", "he"}
        and set(table.kind) <= {*worlds.KINDS, "wording", "end"}
    )
    bound = table.advantage.abs() / 2
    assert (table.paper - 0.03 * table.bonus.clip(-bound, bound)).abs().max() < 1e-5
    assert (table.released - 2 * (0.03 * table.bonus).clip(-bound, bound)).abs().max() < 1e-5
    assert (table.advantage != 0).all() and abs(table.bonus.mean()) < 0.5


def test_the_bonus_is_of_the_policy_at_the_temperature_that_it_was_drawn_with(
    model, tokenizer, both, monkeypatch
):
    seen, score = [], answers.score

    def spy(*given, temperature=1.0):
        seen.append(temperature)
        return score(*given, temperature=temperature)

    monkeypatch.setattr(answers, "score", spy)
    cold = replace(SETTINGS, temperature=0.6)
    probe.bonus(model, tokenizer, both, cold, tasks.load("train", 4, "tuning"), 4, generator())
    assert seen == [0.6, 0.6]


def test_characters_are_of_the_plan_the_sums_the_box_or_the_wording():
    kinds = worlds.kinds_of("Well, halves: 7+8=15. In all 15 \\boxed{15}")
    text = "Well, halves: 7+8=15. In all 15 \\boxed{15}"
    assert {text[k] for k, kind in enumerate(kinds) if kind == "sum"} == set("7+8=15")
    assert "".join(c for c, kind in zip(text, kinds, strict=True) if kind == "plan") == "halves:"
    assert "".join(c for c, kind in zip(text, kinds, strict=True) if kind == "box") == "\\boxed{15}"


def test_only_what_is_wanted_is_asked(model, tokenizer, both):
    profile = replace(runs.load_profile("smoke"), evaluate=SETTINGS)
    for wanted, parts in (
        (evaluate.Probe(), set()),
        (evaluate.Probe(best_of_n=1, samples=2), {"best_of_n"}),
        (evaluate.Probe(pass_at_k=2, tries=2, least=6), {"pass_at_k"}),
    ):
        assert set(probe.probe(model, tokenizer, profile, "0.2m", 1, wanted)) == parts


def test_stories_of_prompts_that_are_not_the_nano_worlds_are_not_told_by_its_grammar(
    model, tokenizer, both
):
    scores, _ = probe.stories(
        model, tokenizer, both, SETTINGS, modes.prompts()["stories"][:1], 2, generator()
    )
    assert scores.told.isna().all() and scores.div_2gram.notna().all()
