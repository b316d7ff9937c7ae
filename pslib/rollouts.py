"""Rollouts: responses drawn in one or both modes, kept as the token ids that were drawn."""

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from pslib import modes, rewards
from pslib.lab import ranges


@dataclass(frozen=True)
class Decoding(ranges.Checked):
    """How tokens are drawn: temperature (0 is greedy), top_k (0: all), top_p, the most tokens of a
    response, and up to how many prompt and response tokens are held at once.
    """

    temperature: ranges.FromZero
    top_k: ranges.CountOrNone
    top_p: ranges.PositiveShare
    max_new_tokens: ranges.Count
    batch_tokens: ranges.Count = 2**22


class Engine(Protocol):
    """What draws responses; see lab/engines."""

    def generate(self, prompts, copies, decoding, seeds):
        """`copies` responses to each of K prompts (lists of ids), by K seeds -> tokens (N, T),
        lengths (N,), N = K copies, those to one prompt being neighbours.
        """


@dataclass
class Rollouts:
    """R responses to a step's questions: by sampling mode, then by question."""

    question_ids: list  # R texts
    group_ids: torch.Tensor  # (R,) place of the question in the step
    modes: list  # R names: the mode that each was sampled in
    tokens: torch.Tensor  # (R, T) response ids, padding beyond each length
    lengths: torch.Tensor  # (R,) response tokens, the stop token included
    texts: list  # R responses, decoded for grading and reading only
    rewards: torch.Tensor  # (R,) 0.0 or 1.0, or what another reward function gives

    @property
    def right_or_wrong(self):
        """Whether every reward is 0 or 1, so that their mean is an accuracy."""
        return bool(((self.rewards == 0) | (self.rewards == 1)).all())

    @property
    def mask(self):
        """bool (R, T): True on response tokens."""
        return torch.arange(self.tokens.shape[1]) < self.lengths[:, None]


def unfinished(rollouts, stops):
    """bool (R,): the responses cut off by their length limit, ending in none of the ids `stops`."""
    last = rollouts.tokens.gather(1, rollouts.lengths[:, None] - 1).squeeze(1)
    return ~torch.isin(last, torch.tensor(stops))


def render_all(tokenizer, mode, questions, decoding, context):
    """Every question's prompt under a mode; ValueError if one leaves its response no room."""
    prompts = [modes.render(tokenizer, mode, q["question"]) for q in questions]
    for question, prompt in zip(questions, prompts, strict=True):
        if len(prompt) + decoding.max_new_tokens > context:
            raise ValueError(
                f"question {question['id']} takes {len(prompt)} tokens in {mode.name} mode, which "
                f"with max_new_tokens={decoding.max_new_tokens} is more than the model's context "
                f"of {context}; shorten the question or lower max_new_tokens"
            )
    return prompts


def check_room(model, tokenizer, both, questions, max_new_tokens):
    """ValueError unless every question leaves its response room in the context, in each mode."""
    decoding, context = Decoding(1.0, 0, 1.0, max_new_tokens), model.config.max_position_embeddings
    for mode in both:
        (empty,) = render_all(tokenizer, mode, [{"id": "''", "question": ""}], decoding, context)
        # A token is a byte or more, so only a question of so many bytes can be too long; a few
        # tokens may join otherwise.
        room = context - max_new_tokens - len(empty) - 8
        long = [question for question in questions if len(question["question"].encode()) > room]
        render_all(tokenizer, mode, long, decoding, context)


def exact(text, row, thinking=False):
    """The reward unless another is given: 1.0 if a response ends in its question's answer, else 0.

    A question whose column worked_out is true also takes what comes to its answer. thinking: see
    rewards.grade.
    """
    asked = {"worked_out": bool(row.get("worked_out")), "thinking": thinking}
    wanted = {name: True for name, value in asked.items() if value}
    return rewards.grade(text, row["answer"], **wanted)


def must_finish(modes):
    """The modes whose thinking is on: there only a response whose thinking ends can be right."""
    return [mode.name for mode in modes if mode.thinking]


def _reward(reward, text, row):
    """A response's reward as a float; ValueError names the question where it is no number."""
    value = reward(text, row)
    try:
        if isinstance(value, (str, bytes)):  # "1" is more likely a slip than a reward
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"the reward of a response to the question {row['id']} must be a number; got {value!r}"
        ) from error


def copies_in_each(group_size, names):
    """How many of a group's responses each of some modes draws; ValueError for uneven parts."""
    if group_size % len(names):
        raise ValueError(
            f"group_size {group_size} cannot be split evenly over the modes {', '.join(names)}; "
            f"choose a multiple of {len(names)}"
        )
    return group_size // len(names)


def sample(
    engine,
    tokenizer,
    questions,
    prompts,
    group_size,
    decoding,
    generator,
    reward=exact,
    thinking=(),
):
    """Draw group_size responses to each question, in equal parts from each mode, and grade them.

    questions: Q rows with id, and answer for the reward `exact`; prompts: {mode name: Q prompts} of
    the modes that sample;
    reward: (text, row) -> float, row being the whole question; thinking: names of the modes in
    which `exact` gives nothing for a response whose thinking has no end (see `must_finish`). ->
    Rollouts with R = Q group_size. Policy Split draws G/2 in each mode (eq. 10), so G must be even
    there. The generator gives each mode and question a seed of its own; a tensor in its place holds
    those seeds. ValueError for a reward that is no number; whether it is finite is for the caller
    to check.
    """
    copies = copies_in_each(group_size, prompts)
    # all modes in one batch
    every = [prompt for rendered in prompts.values() for prompt in rendered]
    seeds = generator
    if not torch.is_tensor(generator):
        seeds = torch.randint(2**62, (len(every),), generator=generator)
    tokens, lengths = engine.generate(every, copies, decoding, seeds)
    group_ids = torch.arange(len(questions)).repeat_interleave(copies).repeat(len(prompts))
    ids = [row[:n] for row, n in zip(tokens.tolist(), lengths.tolist(), strict=True)]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    rows = [questions[g] for g in group_ids.tolist()]
    drawn_in = [name for name in prompts for _ in range(len(questions) * copies)]
    return Rollouts(
        question_ids=[row["id"] for row in rows],
        group_ids=group_ids,
        modes=drawn_in,
        tokens=tokens,
        lengths=lengths,
        texts=texts,
        rewards=_graded(texts, rows, drawn_in, reward, thinking),
    )


def _graded(texts, rows, drawn_in, reward, thinking):
    """The rewards (R,) of responses to the questions `rows` by `sample`'s reward function."""
    finished = partial(exact, thinking=True)
    return torch.tensor(
        [
            _reward(finished if reward is exact and name in thinking else reward, text, row)
            for text, row, name in zip(texts, rows, drawn_in, strict=True)
        ]
    )


def share(rollouts, method, stops):
    """Who learns from what: group ids (R,), and bool (N, T), the tokens that each training mode
    learns from.

    With sharing (eq. 10) that is every token of every response: row k R + r is response r under the
    k-th training mode. Without it a mode has only what it drew, which is then a group of its own.
    stops: the ids that end a response.
    """
    mask, modes, learned = rollouts.mask, rollouts.modes, []
    ended = ~unfinished(rollouts, stops) & method.loses_end
    before_end = torch.arange(mask.shape[1]) < (rollouts.lengths - ended.long())[:, None]
    shared = mask & before_end & method.shares
    for name in method.training:
        own = torch.tensor([drawn_in == name for drawn_in in modes])
        learned.append(torch.where(own[:, None], mask, shared))
    if method.shares:
        return rollouts.group_ids, torch.cat(learned)
    place = {name: k for k, name in enumerate(method.sampling)}
    drawn_in = torch.tensor([place[name] for name in modes])
    return rollouts.group_ids * len(place) + drawn_in, torch.cat(learned)
