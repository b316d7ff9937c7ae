"""Evaluation: sampled answers to a suite under a mode, graded, with the entropy of the policy."""

import math
from dataclasses import dataclass, field

import pandas as pd
import torch

from pslib.lab import checkpoint, ranges
from pslib.lab.answers import draw_and_score
from pslib.lab.engines import pieces
from pslib.lab.measures import BITS
from pslib.nano import worlds
from pslib.policy import stop_ids
from pslib.rollouts import Decoding, exact, render_all, unfinished

_RESPONSE = ["suite", "mode", "question_id", "sample"]
COLUMNS = [*_RESPONSE, "correct", "tokens", "entropy_bits", "derivation", "unfinished"]


@dataclass(frozen=True)
class Settings(ranges.Checked):
    """How models are evaluated; a profile's `evaluate` section."""

    questions: ranges.Count  # of each suite, or as many as it has
    samples: ranges.Count  # responses to a question
    temperature: ranges.FromZero
    top_k: ranges.CountOrNone
    top_p: ranges.PositiveShare
    max_new_tokens: ranges.Count
    batch_tokens: ranges.Count = 2**22  # up to so many prompt and response tokens are held at once

    @property
    def decoding(self):
        """The settings that concern sampling."""
        return Decoding(
            self.temperature, self.top_k, self.top_p, self.max_new_tokens, self.batch_tokens
        )


@dataclass(frozen=True)
class Probe(ranges.Checked):
    """What is asked beside the suites, in both modes: a profile's `probe` or `probe_later`. 0
    leaves a part out.
    """

    methods: list = field(default_factory=list)  # of which methods; variants are not probed
    # Questions of each of the suites `like` and `long`, answered `samples` times
    best_of_n: ranges.CountOrNone = 0
    samples: ranges.Count = 64
    prompts: ranges.CountOrNone = 0  # questions of the suite `like` asked under every system prompt
    stories: ranges.CountOrNone = 0  # responses to each story prompt
    # questions of the suite `like` that every model is asked under the same prompts with the same
    # draws
    asked: ranges.CountOrNone = 0
    asked_samples: ranges.Count = 8  # responses to each of these questions under each prompt
    # Sums of the suite `long` without numbers below `least`, answered `tries` times in each mode
    pass_at_k: ranges.CountOrNone = 0
    tries: ranges.Count = 256
    least: ranges.Digit = 1


# What a Probe may ask for: each is a setting of it, and a file
PARTS = ("best_of_n", "prompts", "stories", "asked", "pass_at_k")


def answer(
    model, tokenizer, mode, questions, settings, generator, suite="", reward=exact, under=()
):
    """Draw `settings.samples` responses to each question in a mode and grade them -> (DataFrame,
    Rollouts, prompts).

    A row a response, columns COLUMNS but for entropy_bits; derivation is how a nano question was
    worked, unfinished is 1 where max_new_tokens ended the response. Another reward, (text, row) ->
    float, gives the column reward; FloatingPointError names questions for which it is not finite.
    """
    drawn = _drawn(model, tokenizer, mode, questions, settings, generator, reward, under)
    table = tabled(drawn, suite, reward, stop_ids(model, tokenizer))
    return table, drawn.rollouts, drawn.prompts[mode.name]


def _drawn(model, tokenizer, mode, questions, settings, *how):
    samples, decoding = settings.samples, settings.decoding
    return draw_and_score(model, tokenizer, [mode], questions, samples, decoding, *how)


def tabled(drawn, suite, reward, stops):
    """Answers in one mode as a table, see `evaluate`; no entropy where they were not scored."""
    rollouts = drawn.rollouts
    finite = torch.isfinite(rollouts.rewards).tolist()
    if not all(finite):
        named = zip(rollouts.question_ids, finite, strict=True)
        bad = dict.fromkeys(name for name, good in named if not good)
        raise FloatingPointError(
            f"rewards not finite for the questions {', '.join(bad)}; a reward function must give "
            "numbers"
        )
    right_or_wrong = reward is exact and rollouts.right_or_wrong
    rewards = rollouts.rewards.int() if right_or_wrong else rollouts.rewards
    groups = rollouts.group_ids.tolist()
    asked = [drawn.questions[g]["question"] for g in groups]
    table = pd.DataFrame(
        {
            "suite": suite,
            "mode": rollouts.modes,
            "question_id": rollouts.question_ids,
            "sample": [k % (len(groups) // len(drawn.questions)) for k in range(len(groups))],
            "correct": rewards.tolist(),
            "tokens": rollouts.lengths.tolist(),
            "derivation": [*map(worlds.derivation_of, asked, rollouts.texts)],
            "unfinished": unfinished(rollouts, stops).int().tolist(),
        }
    )
    if drawn.entropy:
        bits = drawn.own_entropy.sum(1) / rollouts.lengths * BITS
        table.insert(6, "entropy_bits", bits.tolist())
    return table if right_or_wrong else table.rename(columns={"correct": "reward"})


def evaluate(model, tokenizer, mode, questions, settings, generator, suite="", reward=exact):
    """`answer`, with the entropy of the policy at temperature 1 over the full vocabulary, averaged
    over the response's tokens: -> (DataFrame, Rollouts, prompts).
    """
    return answer(model, tokenizer, mode, questions, settings, generator, suite, reward, [mode])


def evaluate_in_pieces(
    model, tokenizer, mode, questions, settings, generator, suite, folder, report
):
    """The table of `evaluate`, drawn alike, in pieces of up to settings.batch_tokens tokens, each
    kept in a folder until the caller removes it, and not made again. report(done, total) follows
    each.
    """
    rows = list(questions)
    seeds = torch.randint(2**62, (len(rows),), generator=generator)
    context = model.config.max_position_embeddings
    prompts = render_all(tokenizer, mode, rows, settings.decoding, context)
    cut = pieces(list(map(len, prompts)), settings.samples, settings.decoding)
    tables, order = [], []
    for done, places in enumerate(cut, 1):
        # named by its first seed and its size, which say what it holds
        path = folder / f"{suite}-{mode.name}-{int(seeds[places[0]])}-{len(places)}.parquet"
        if not path.exists():
            asked = [rows[place] for place in places]
            table, _, _ = evaluate(model, tokenizer, mode, asked, settings, seeds[places], suite)
            checkpoint.write(path, table.to_parquet())
        tables.append(pd.read_parquet(path))
        order += [place for place in places for _ in range(settings.samples)]
        if len(cut) > 1:
            report(done, len(cut))
    whole = pd.concat(tables, ignore_index=True)
    return whole.iloc[torch.tensor(order).argsort(stable=True).tolist()].reset_index(drop=True)


def inter_mode_kl(model, tokenizer, he, normal, questions, settings, generator, reward=exact):
    """KL(pi_HE || pi) in nats a token, estimated on the high-entropy mode's own responses.

    mean over sampled tokens of log pi_HE(o_t) - log pi(o_t); -> (that, the responses' DataFrame
    with a column kl over each one's own tokens). settings must sample at temperature 1 from the
    whole vocabulary, or the estimate is of another policy.
    """
    if (settings.temperature, settings.top_k, settings.top_p) != (1.0, 0, 1.0):
        raise ValueError(
            "the inter-mode KL is estimated on samples at temperature 1, top_k 0 and top_p 1; got "
            f"{settings.temperature}, {settings.top_k} and {settings.top_p}"
        )
    drawn = _drawn(model, tokenizer, he, questions, settings, generator, reward, [he, normal])
    table, lengths = tabled(drawn, "", reward, stop_ids(model, tokenizer)), drawn.rollouts.lengths
    moved = (drawn.logp[he.name] - drawn.logp[normal.name]).sum(1)
    return float(moved.sum() / lengths.sum()), table.assign(kl=(moved / lengths).tolist())


def averaged(table, keys, **scores):
    """Responses averaged in groups: keys, the scores (pandas' named aggregations), tokens (their
    sum), unfinished (share, or blank) and entropy_bits (mean over those tokens).
    """
    weighed = table.assign(bits=table.entropy_bits * table.tokens)
    weighed["unfinished"] = table.get("unfinished", math.nan)
    scores |= {"bits": ("bits", "sum"), "tokens": ("tokens", "sum")}
    scores["unfinished"] = ("unfinished", "mean")
    out = weighed.groupby(keys, sort=False).agg(**scores).reset_index()
    return out.assign(entropy_bits=out.bits / out.tokens).drop(columns="bits")


def summary(table):
    """By suite and mode: accuracy (share) or, of another reward, its mean, and the accuracy too
    where all rewards are 0 or 1; entropy over all tokens in bits; share of unfinished responses.
    """
    graded, name = ("correct", "accuracy") if "correct" in table else ("reward", "reward")
    scores = {name: (graded, "mean")}
    if graded == "reward" and table.reward.isin([0, 1]).all():
        scores["accuracy"] = ("reward", "mean")
    return averaged(table, ["suite", "mode"], **scores).drop(columns="tokens")


def condensed(table):
    """An evaluation with a row a question, which is what is committed: correct and unfinished
    become shares of its `samples`, tokens their sum, entropy_bits the mean over those tokens.
    """
    counts = {"samples": ("correct", "size"), "correct": ("correct", "mean")}
    out = averaged(table, ["suite", "mode", "question_id"], **counts)
    return out.assign(entropy_bits=out.entropy_bits.round(5))


def derivations(table):
    """By suite and mode: accuracy, and each derivation's share of the responses."""
    shares = pd.crosstab([table.suite, table["mode"]], table.derivation, normalize="index")
    shares = shares.reindex(columns=[*worlds.DERIVATIONS, "other"], fill_value=0.0).round(5)
    shares.insert(0, "accuracy", table.groupby(["suite", "mode"]).correct.mean().round(5))
    return shares.rename_axis(columns=None).reset_index()
