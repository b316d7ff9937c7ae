"""Evaluation: a row a response, entropy in bits of the policy that gave it, and the distance
between the modes.
"""

import math
import random
from dataclasses import replace

import pandas as pd
import pytest
import torch

from pslib import modes, rewards
from pslib.evidence import evaluate
from pslib.evidence.evaluate import Settings
from pslib.lab import answers
from pslib.rollouts import unfinished

STOPS = [1, *range(20, 60)]  # so many that responses end at different lengths
SETTINGS = Settings(questions=3, samples=2, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=7)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def plain_scores(model, prompt, response):
    """One row on its own: log-probs and entropies in nats."""
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    every = torch.log_softmax(logits, -1)
    return every[range(len(response)), response], -(every.exp() * every).sum(-1)


def rows_of(rollouts):
    return [
        row[:length]
        for row, length in zip(rollouts.tokens.tolist(), rollouts.lengths.tolist(), strict=True)
    ]


@pytest.fixture
def model(model):
    model.generation_config.eos_token_id = STOPS
    return model


# --- score ----------------------------------------------------------------------------------------
PROMPTS, GROUPS = [[3, 4, 5, 6], [8], [9, 10]], torch.tensor([0, 1, 2, 1])
TOKENS = torch.tensor([[20, 0, 0], [21, 22, 23], [24, 25, 0], [26, 0, 0]])
LENGTHS = torch.tensor([1, 3, 2, 1])


@pytest.mark.parametrize("rows", [1, 3, 128])
def test_score_is_that_of_each_row_alone_however_many_at_a_time(model, rows):
    logp, entropy = answers.score(model, PROMPTS, GROUPS, TOKENS, LENGTHS, rows=rows)
    assert logp.shape == entropy.shape == (4, 3) and not logp.requires_grad
    for k, (group, length) in enumerate(zip(GROUPS.tolist(), LENGTHS.tolist(), strict=True)):
        expected = plain_scores(model, PROMPTS[group], TOKENS[k, :length].tolist())
        torch.testing.assert_close(
            (logp[k, :length], entropy[k, :length]), expected, rtol=1e-4, atol=1e-4
        )
        assert (logp[k, length:] == 0).all() and (entropy[k, length:] == 0).all()


# --- evaluate -------------------------------------------------------------------------------------
@pytest.fixture
def evaluated(model, tokenizer, he, questions):
    return evaluate.evaluate(model, tokenizer, he, questions, SETTINGS, generator(), "like")


def test_there_is_a_row_for_each_response(evaluated):
    table, rollouts, _ = evaluated
    assert list(table.columns) == evaluate.COLUMNS
    assert table.question_id.tolist() == ["first", "first", "second", "second", "third", "third"]
    assert table["sample"].tolist() == [0, 1] * 3
    assert set(table.suite) == {"like"} and set(table["mode"]) == {"he"}
    assert table.tokens.tolist() == rollouts.lengths.tolist() and len(set(table.tokens)) > 1


def test_responses_are_drawn_and_scored_under_the_prompt_of_their_mode(
    evaluated, model, tokenizer, he, questions
):
    table, rollouts, prompts = evaluated
    assert prompts == [modes.render(tokenizer, he, q["question"]) for q in questions]
    for group, response, bits in zip(
        rollouts.group_ids.tolist(), rows_of(rollouts), table.entropy_bits, strict=True
    ):
        _, entropy = plain_scores(model, prompts[group], response)
        assert bits == pytest.approx(entropy.mean().item() / math.log(2), rel=1e-4)


def test_entropy_is_that_of_temperature_one_whatever_the_sampling(model, tokenizer, he, questions):
    cold = Settings(3, 1, 0, 0, 1.0, 7)
    table, rollouts, prompts = evaluate.evaluate(model, tokenizer, he, questions, cold, generator())
    for prompt, response, bits in zip(prompts, rows_of(rollouts), table.entropy_bits, strict=True):
        _, entropy = plain_scores(model, prompt, response)
        assert bits == pytest.approx(entropy.mean().item() / math.log(2), rel=1e-4) and bits > 0.01


def test_correct_and_derivation_are_those_of_the_text(model, tokenizer, he, questions, monkeypatch):
    monkeypatch.setattr(rewards, "grade", lambda text, answer: float(answer == "36"))
    monkeypatch.setattr(
        evaluate.worlds, "derivation_of", lambda question, text: f"{question} -> {text}"
    )
    table, rollouts, _ = evaluate.evaluate(model, tokenizer, he, questions, SETTINGS, generator())
    assert table.correct.tolist() == [0, 0, 0, 0, 1, 1]
    asked = [q["question"] for q in questions for _ in range(2)]
    assert table.derivation.tolist() == [
        f"{question} -> {text}" for question, text in zip(asked, rollouts.texts, strict=True)
    ]


def test_an_evaluation_repeats_itself_under_the_same_seed(
    evaluated, model, tokenizer, he, questions
):
    again, rollouts, _ = evaluate.evaluate(
        model, tokenizer, he, questions, SETTINGS, generator(), "like"
    )
    pd.testing.assert_frame_equal(again, evaluated[0])
    other = evaluate.evaluate(model, tokenizer, he, questions, SETTINGS, generator(1))[1]
    assert rows_of(other) != rows_of(rollouts)


def test_unfinished_are_the_responses_that_the_length_limit_ended(evaluated):
    table, rollouts, _ = evaluated
    cut = [
        len(row) == SETTINGS.max_new_tokens and row[-1] not in STOPS for row in rows_of(rollouts)
    ]
    assert table.unfinished.tolist() == cut and 0 < sum(cut) < len(cut)
    at_the_limit = [len(row) == SETTINGS.max_new_tokens for row in rows_of(rollouts)]
    assert (
        evaluate.summary(table).unfinished.item()
        == sum(cut) / len(cut)
        <= sum(at_the_limit) / len(cut)
    )


def test_a_response_that_stops_with_its_last_token_is_finished(evaluated):
    _, rollouts, _ = evaluated
    long = int(rollouts.lengths.argmax())
    stop = rollouts.tokens[long, rollouts.lengths[long] - 1].item()
    assert not unfinished(rollouts, [stop])[long] and unfinished(rollouts, [199])[long]


def test_another_reward_is_kept_as_it_is_and_is_accuracy_only_where_it_is_0_or_1(
    model, tokenizer, he, questions
):
    rows = [{key: value for key, value in q.items() if key != "answer"} for q in questions]
    parts = {}
    for values in ((0.25, 0.5), (0.0, 1.0)):

        def reward(text, row, values=values):
            return values[row["id"] == "third"]

        parts[values], _, _ = evaluate.evaluate(
            model, tokenizer, he, rows, SETTINGS, generator(), "like", reward=reward
        )
        low, high = values
        assert parts[values].reward.tolist() == [low] * 4 + [high] * 2
        assert list(parts[values].columns) == [
            {"correct": "reward"}.get(name, name) for name in evaluate.COLUMNS
        ]
    rated, right = (evaluate.summary(table) for table in parts.values())
    assert "accuracy" not in rated and rated.reward.item() == pytest.approx(1 / 3)
    assert right.accuracy.item() == right.reward.item() == pytest.approx(1 / 3)
    assert (
        rated.entropy_bits.item() == right.entropy_bits.item()
        and rated.unfinished.item() == right.unfinished.item()
    )
    evaluate.inter_mode_kl(model, tokenizer, he, modes.NORMAL, rows, SETTINGS, generator(), reward)


@pytest.mark.parametrize("bad", [math.nan, -math.inf, 1e39])
def test_a_reward_that_is_not_finite_names_its_questions_and_gives_no_table(
    bad, model, tokenizer, he, questions
):
    with pytest.raises(
        FloatingPointError, match="^rewards not finite for the questions first, second; a reward"
    ):
        evaluate.evaluate(
            model,
            tokenizer,
            he,
            questions,
            SETTINGS,
            generator(),
            "like",
            lambda text, row: 0.5 if row["id"] == "third" else bad,
        )


# --- between the modes ----------------------------------------------------------------------------
def test_inter_mode_kl_is_the_mean_log_ratio_on_the_high_entropy_modes_own_tokens(
    model, tokenizer, he, questions
):
    kl, _ = evaluate.inter_mode_kl(
        model, tokenizer, he, modes.NORMAL, questions, SETTINGS, generator()
    )
    _, rollouts, prompts = evaluate.evaluate(model, tokenizer, he, questions, SETTINGS, generator())
    total, count = 0.0, 0
    for place, response in enumerate(rows_of(rollouts)):
        prompt, plain = (
            prompts[place // 2],
            modes.render(tokenizer, modes.NORMAL, questions[place // 2]["question"]),
        )
        total += (
            (plain_scores(model, prompt, response)[0] - plain_scores(model, plain, response)[0])
            .sum()
            .item()
        )
        count += len(response)
    assert kl == pytest.approx(total / count, rel=1e-4) and abs(kl) > 1e-4


def test_a_mode_has_no_distance_from_itself(model, tokenizer, he, questions):
    assert (
        evaluate.inter_mode_kl(model, tokenizer, he, he, questions, SETTINGS, generator())[0] == 0.0
    )


@pytest.mark.parametrize("change", [(0.7, 0, 1.0), (1.0, 20, 1.0), (1.0, 0, 0.95)])
def test_inter_mode_kl_refuses_samples_of_another_policy(change, model, tokenizer, he, questions):
    with pytest.raises(ValueError, match=f"got {change[0]}, {change[1]} and {change[2]}"):
        evaluate.inter_mode_kl(
            model, tokenizer, he, modes.NORMAL, questions, Settings(3, 2, *change, 7), generator()
        )


# --- summary --------------------------------------------------------------------------------------
def test_summary_averages_accuracy_over_responses_and_entropy_over_tokens():
    table = pd.DataFrame(
        {
            "suite": ["b", "b", "a", "a"],
            "mode": ["normal", "normal", "normal", "he"],
            "correct": [1, 0, 1, 1],
            "tokens": [10, 30, 5, 8],
            "entropy_bits": [0.4, 0.8, 1.5, 2.0],
        }
    )
    out = evaluate.summary(table)
    assert list(out.columns) == ["suite", "mode", "accuracy", "unfinished", "entropy_bits"]
    assert (
        out.pop("unfinished").isna().all()
    )  # an evaluation from before it was counted: blank, not zero
    # (10 x 0.4 + 30 x 0.8) / 40 = 0.7, and the order of the table is kept
    assert out.values.tolist() == [
        ["b", "normal", 0.5, pytest.approx(0.7)],
        ["a", "normal", 1.0, 1.5],
        ["a", "he", 1.0, 2.0],
    ]


def test_settings_hand_on_what_concerns_sampling():
    decoding = Settings(3, 2, 0.6, 20, 0.95, 7).decoding
    assert (decoding.temperature, decoding.top_k, decoding.top_p, decoding.max_new_tokens) == (
        0.6,
        20,
        0.95,
        7,
    )


def test_a_condensed_evaluation_has_a_row_a_question_and_the_same_summary():
    rng = random.Random(0)
    table = pd.DataFrame(
        [
            {
                "suite": suite,
                "mode": "normal",
                "question_id": f"{suite}-{q}",
                "sample": k,
                "correct": rng.randint(0, 1),
                "tokens": rng.randint(1, 9),
                "entropy_bits": round(rng.random(), 4),
                "derivation": "steps",
                "unfinished": int(k == 3),
            }
            for suite in ("like", "long")
            for q in range(5)
            for k in range(4)
        ]
    )
    small = evaluate.condensed(table)
    assert (
        len(small) == 10 and (small.samples == 4).all() and small.tokens.sum() == table.tokens.sum()
    )
    whole, less = evaluate.summary(table), evaluate.summary(small)
    assert whole.accuracy.tolist() == less.accuracy.tolist()
    assert whole.unfinished.tolist() == less.unfinished.tolist() == [0.25, 0.25]
    assert evaluate.condensed(table.drop(columns="unfinished")).unfinished.isna().all()
    assert whole.entropy_bits.tolist() == pytest.approx(less.entropy_bits.tolist(), abs=1e-5)
    assert evaluate.summary(table[table["sample"] < 2]).accuracy.tolist() != less.accuracy.tolist()


# --- in pieces ------------------------------------------------------------------------------------
def test_an_evaluation_in_pieces_is_the_same_and_goes_on_from_those_it_has(
    model64, tokenizer, questions, he, tmp_path, monkeypatch
):
    asked, said = (model64, tokenizer, he, questions), []
    whole, _, _ = evaluate.evaluate(*asked, SETTINGS, generator(), "like")

    def in_pieces(settings, folder):
        return evaluate.evaluate_in_pieces(
            *asked, settings, generator(), "like", folder, lambda *done: said.append(done)
        )

    pd.testing.assert_frame_equal(in_pieces(SETTINGS, tmp_path / "one"), whole)
    assert not said and len(list((tmp_path / "one").iterdir())) == 1
    small = replace(SETTINGS, batch_tokens=1)
    own, made = evaluate.evaluate, []

    def killed(*given):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(given[3][0]["id"])
        return own(*given)

    monkeypatch.setattr(evaluate, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        in_pieces(small, tmp_path / "many")
    assert made[0] == "third"  # the longest
    monkeypatch.setattr(
        evaluate, "evaluate", lambda *given: made.append(given[3][0]["id"]) or own(*given)
    )
    pd.testing.assert_frame_equal(in_pieces(small, tmp_path / "many"), whole)
    assert sorted(made) == ["first", "second", "third"] and said[-1] == (3, 3)
