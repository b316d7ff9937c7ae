"""What 60_your_model asks of a model: the rows of its table are what the evaluation finds."""

import pytest
import torch

from pslib import modes
from pslib.evidence import evaluate, probe
from pslib.study import your_model

QUESTIONS = [{"question": "7+8", "right": "15"}, {"question": "9+1+2", "right": "12"}]
SAMPLING = {"samples": 3, "max_new_tokens": 6, "seed": 2}


def even(completions, right, **columns):
    return [
        float(len(turns[0]["content"]) % 2) for turns, _ in zip(completions, right, strict=True)
    ]


def test_understanding_asks_five_prompts_of_two_lengths(model, tokenizer, monkeypatch):
    asked = []
    monkeypatch.setattr(your_model, "answers", lambda *given, **named: asked.append(given[-1]))
    your_model.understanding(model, tokenizer, QUESTIONS, even)
    your_model.understanding(model, tokenizer, QUESTIONS, even, "_short")
    rows = ["normal", "high-entropy", "rewritten high-entropy", "low-entropy", "unrelated"]
    for prompts, form in zip(asked, ("", "_short"), strict=True):
        assert list(prompts) == rows and prompts["normal"] is None
        assert prompts["high-entropy"] == modes.he_mode("high_entropy" + form).system
        assert prompts["unrelated"] == probe.UNRELATED["unrelated" + form]


def test_a_row_is_what_the_evaluation_finds_under_its_prompt(model, tokenizer, he):
    prompts = {"normal": None, "he": he.system, "again": None}
    table = your_model.answers(model, tokenizer, QUESTIONS, even, prompts, **SAMPLING)
    assert list(table.index) == list(prompts)
    rows = [{"id": str(k), "answer": "", **q} for k, q in enumerate(QUESTIONS)]
    settings = evaluate.Settings(2, 3, 1.0, 0, 1.0, 6)
    kl, found = evaluate.inter_mode_kl(
        model, tokenizer, he, modes.NORMAL, rows, settings, torch.Generator().manual_seed(2)
    )
    assert table.kl_from_normal["he"] == pytest.approx(kl, rel=1e-5) and kl > 0
    totals = evaluate.summary(found).iloc[0]
    assert table.entropy_bits["he"] == pytest.approx(totals.entropy_bits)
    assert table.tokens["he"] == found.tokens.mean()
    # a prompt that is the first's changes nothing, and with one seed it draws the same
    assert table.loc["again"].equals(table.loc["normal"])
    assert (
        table.loc["normal", ["entropy_change", "entropy_ci", "kl_from_normal"]].tolist() == [0] * 3
    )
    assert table.entropy_change["he"] != 0 and table.entropy_ci["he"] > 0


def test_the_reward_is_the_users_own(model, tokenizer):
    given = []

    def reward(prompts, completions, **columns):
        assert [turns[0]["content"] for turns in prompts] in (["7+8"], ["9+1+2"])
        given.extend(
            zip([turns[0]["content"] for turns in completions], columns["right"], strict=True)
        )
        return [0.25] * len(completions)

    table = your_model.answers(model, tokenizer, QUESTIONS, reward, {"normal": None}, **SAMPLING)
    assert table.reward.tolist() == [0.25]
    assert [right for _, right in given] == ["15"] * 3 + ["12"] * 3
    assert all(isinstance(text, str) for text, _ in given)
