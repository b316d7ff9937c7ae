"""Rollouts: who drew what for which question, and ids that are never tokenised again."""

from dataclasses import replace

import pytest
import torch

from pslib import modes, rollouts
from pslib.lab import engines
from pslib.rollouts import Decoding
from tests.support.drawing import as_lists

SAMPLED = Decoding(1.0, 0, 1.0, 6)


class Scripted:
    """An engine that says which prompt and copy each row is: the first token, the last prompt id's
    place, the copy.
    """

    def __init__(self, width=3, stop=1):
        self.width, self.calls, self.seeds = width, [], []

    def generate(self, prompts, copies, decoding, seeds):
        self.calls.append((prompts, copies))
        self.seeds.append(seeds.tolist())
        rows = [
            [10 * len(self.calls) + place, 100 + copy] + [7] * (self.width - 2)
            for place in range(len(prompts))
            for copy in range(copies)
        ]
        self.width += 1  # the next mode's responses are longer
        return torch.tensor(rows), torch.full((len(rows),), len(rows[0]))


def rendered(tokenizer, questions, *using):
    return {
        mode.name: rollouts.render_all(tokenizer, mode, questions, SAMPLED, 512) for mode in using
    }


def sampled(engine, tokenizer, questions, using, group_size):
    prompts = rendered(tokenizer, questions, *using)
    return rollouts.sample(engine, tokenizer, questions, prompts, group_size, SAMPLED, None)


# --- who drew what --------------------------------------------------------------------------------
def test_every_question_gets_half_its_responses_from_each_mode(tokenizer, questions, he):
    engine = Scripted()
    out = sampled(engine, tokenizer, questions, (modes.NORMAL, he), 4)
    assert out.modes == ["normal"] * 6 + ["he"] * 6
    assert out.group_ids.tolist() == [0, 0, 1, 1, 2, 2] * 2
    # "first" and "second" have the same text: groups go by the question, not by its words
    assert out.question_ids == ["first", "first", "second", "second", "third", "third"] * 2
    assert out.tokens[:, 0].tolist() == [10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15]
    assert out.tokens[:, 1].tolist() == [100, 101] * 6
    assert [copies for _, copies in engine.calls] == [2]


def test_each_mode_and_question_has_a_seed_of_its_own_from_the_generator(tokenizer, questions, he):
    seen = []
    for seed in (0, 0, 1):
        engine, prompts = Scripted(), rendered(tokenizer, questions, modes.NORMAL, he)
        rollouts.sample(
            engine, tokenizer, questions, prompts, 2, SAMPLED, torch.Generator().manual_seed(seed)
        )
        seen.append(engine.seeds)
    assert seen[0] == seen[1] != seen[2] and len({s for own in seen[0] for s in own}) == 6


def test_each_mode_is_given_its_own_prompts(tokenizer, questions, he):
    engine, prompts = Scripted(), rendered(tokenizer, questions, modes.NORMAL, he)
    rollouts.sample(engine, tokenizer, questions, prompts, 2, SAMPLED, None)
    assert [given for given, _ in engine.calls] == [prompts["normal"] + prompts["he"]]
    assert prompts["normal"][0] == prompts["normal"][1] and prompts["normal"] != prompts["he"]


def test_one_mode_draws_the_whole_group(tokenizer, questions):
    out = sampled(Scripted(), tokenizer, questions, (modes.NORMAL,), 3)
    assert out.modes == ["normal"] * 9 and out.group_ids.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_group_that_cannot_be_halved_is_refused(tokenizer, questions, he):
    with pytest.raises(ValueError, match="group_size 3 .* normal, he; choose a multiple of 2"):
        sampled(Scripted(), tokenizer, questions, (modes.NORMAL, he), 3)


def test_a_pad_id_inside_a_response_is_a_token_like_any_other():
    tokens = torch.tensor([[5, 0, 1, 0]])
    made = rollouts.Rollouts(
        ["a"], torch.tensor([0]), ["normal"], tokens, torch.tensor([3]), [""], torch.zeros(1)
    )
    assert made.mask.tolist() == [[True, True, True, False]]


# --- grading --------------------------------------------------------------------------------------
def test_responses_are_graded_against_the_answer_of_their_own_question(tokenizer, questions):
    class Writing:
        """Answers 27 and then 36 to every question."""

        def generate(self, prompts, copies, decoding, seeds):
            ids = [
                tokenizer(text)["input_ids"]
                for text in ("\\boxed{27}<|end|>", "\\boxed{36}<|end|>")
            ]
            width = max(map(len, ids))
            tokens = torch.tensor([row + [9] * (width - len(row)) for row in ids]).repeat(
                len(prompts), 1
            )
            return tokens, torch.tensor(list(map(len, ids))).repeat(len(prompts))

    out = sampled(Writing(), tokenizer, questions, (modes.NORMAL,), 2)
    assert (
        out.rewards.tolist() == [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]
        and out.rewards.dtype == torch.float32
    )
    # special tokens and what stands beyond the length are no part of the text
    assert out.texts == ["\\boxed{27}", "\\boxed{36}"] * 3


@pytest.mark.parametrize(
    "thinking, wanted", [(None, [1.0] * 4), (False, [1.0] * 4), (True, [1.0, 1.0, 0.0, 1.0])]
)
def test_a_response_whose_thinking_has_no_end_is_right_only_where_thinking_is_off(
    thinking, wanted, tokenizer, questions
):
    class Decoded:
        """A tokenizer whose texts are given, since the nano world's knows no thinking."""

        def batch_decode(self, rows, skip_special_tokens):
            return ["\\boxed{27}", "2</think>\\boxed{27}"] * 2

    using = [modes.NORMAL, replace(modes.he_mode("high_entropy_short"), thinking=thinking)]
    prompts = rendered(tokenizer, questions[:1], modes.NORMAL, modes.he_mode("high_entropy_short"))
    named = rollouts.must_finish(using)
    out = rollouts.sample(
        Scripted(), Decoded(), questions[:1], prompts, 4, SAMPLED, None, thinking=named
    )
    assert out.rewards.tolist() == wanted
    out = rollouts.sample(
        Scripted(),
        Decoded(),
        questions[:1],
        prompts,
        4,
        SAMPLED,
        None,
        lambda text, row: 2.0,
        named,
    )
    assert out.rewards.tolist() == [2.0] * 4  # another reward says itself what it asks for


def test_a_question_can_ask_for_worked_out_answers():
    assert rollouts.exact("\\boxed{2^{10}}", {"answer": "1024"}) == 0.0
    assert rollouts.exact("\\boxed{2^{10}}", {"answer": "1024", "worked_out": False}) == 0.0
    assert rollouts.exact("\\boxed{2^{10}}", {"answer": "1024", "worked_out": True}) == 1.0


def test_another_reward_is_given_the_whole_question_and_may_be_any_number(tokenizer, questions):
    rows, prompts = (
        [{**q, "level": k} for k, q in enumerate(questions)],
        rendered(tokenizer, questions, modes.NORMAL),
    )
    seen = []

    def reward(text, row):
        seen.append((text, row))
        return row["level"] / 4

    for row in rows:
        del row["answer"]  # which only our own reward needs
    out = rollouts.sample(Scripted(), tokenizer, rows, prompts, 2, SAMPLED, None, reward)
    assert out.rewards.tolist() == [0.0, 0.0, 0.25, 0.25, 0.5, 0.5] and not out.right_or_wrong
    assert seen == list(zip(out.texts, [row for row in rows for _ in range(2)], strict=True))
    for value in (1, True, torch.tensor(1.0)):
        out = rollouts.sample(
            Scripted(),
            tokenizer,
            rows,
            prompts,
            2,
            SAMPLED,
            None,
            lambda text, row, value=value: value,
        )
        assert (
            out.rewards.tolist() == [1.0] * 6
            and out.rewards.dtype == torch.float32
            and out.right_or_wrong
        )


@pytest.mark.parametrize(
    "value",
    [None, "1", [1.0, 0.0], torch.ones(2), 10**400, 1j],
    ids=["None", "text", "list", "vector", "beyond floats", "complex"],
)
def test_a_reward_that_is_no_number_names_its_question(value, tokenizer, questions):
    prompts = rendered(tokenizer, questions, modes.NORMAL)
    with pytest.raises(
        ValueError, match="^the reward of a response to the question third must be a number; got "
    ):
        rollouts.sample(
            Scripted(),
            tokenizer,
            questions,
            prompts,
            2,
            SAMPLED,
            None,
            lambda text, row: value if row["id"] == "third" else 0.5,
        )


# --- prompts --------------------------------------------------------------------------------------
def test_a_question_that_leaves_no_room_for_its_response_is_named(tokenizer, questions, he):
    longest = max(len(modes.render(tokenizer, he, q["question"])) for q in questions)
    assert (
        len(rollouts.render_all(tokenizer, he, questions, SAMPLED, longest + 6)) == 3
    )  # just fits
    message = (
        rf"question third takes {longest} tokens in he mode, .*max_new_tokens=6 .* context of "
        rf"{longest + 5}"
    )
    with pytest.raises(ValueError, match=message):
        rollouts.render_all(tokenizer, he, questions, SAMPLED, longest + 5)


@pytest.mark.parametrize("room", [0, 5])
def test_room_is_checked_for_the_longest_question_in_the_longest_mode(
    room, model, tokenizer, questions, he
):
    long = {"id": "long", "question": "9+9+1+1+5+5+2+4" * 10}
    longest, both = len(modes.render(tokenizer, he, long["question"])), (modes.NORMAL, he)
    fits = 512 - longest - room
    rollouts.check_room(model, tokenizer, both, [*questions, long], fits)
    with pytest.raises(ValueError, match=f"question long takes {longest} tokens in he mode"):
        rollouts.check_room(model, tokenizer, both, [*questions, long], fits + room + 1)
    rollouts.check_room(model, tokenizer, both, questions, fits + room + 1)
    with pytest.raises(ValueError, match="question '' takes .* with max_new_tokens=510"):
        rollouts.check_room(model, tokenizer, both, [], 510)


def test_prompts_are_those_of_the_mode_in_the_order_of_the_questions(tokenizer, questions, he):
    expected = [modes.render(tokenizer, he, q["question"]) for q in questions]
    assert rollouts.render_all(tokenizer, he, questions, SAMPLED, 512) == expected


def test_sampled_ids_are_kept_as_drawn(model, tokenizer, questions, he):
    # What the untrained model writes does not survive decoding and tokenising: any detour through
    # text would show.
    prompts = rendered(tokenizer, questions, modes.NORMAL, he)
    engine = engines.engine_for(model, tokenizer)
    out = rollouts.sample(
        engine, tokenizer, questions, prompts, 4, SAMPLED, torch.Generator().manual_seed(3)
    )
    seeds = torch.randint(2**62, (2, 3), generator=torch.Generator().manual_seed(3))
    drawn = []
    for mode, own in zip(("normal", "he"), seeds, strict=True):
        drawn += as_lists(engine.generate(prompts[mode], 2, SAMPLED, own))
    kept = as_lists((out.tokens, out.lengths))
    assert kept == drawn
    assert kept != [tokenizer(text)["input_ids"] for text in out.texts]
