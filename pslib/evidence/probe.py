"""What a trained model does beyond table 1's suites: with many tries, under other system prompts,
and on stories.

Reinforcement learning saw one high-entropy prompt and no story. Each function asks a model in both
modes, whatever its method, so that Policy Split's high-entropy mode can be told from what the
prompt alone does to another model.
"""

import math
from dataclasses import replace
from functools import cache

import pandas as pd
import torch

from pslib import advantages, modes
from pslib.evidence import diversity, evaluate
from pslib.evidence.stats import mean_interval
from pslib.lab import measures
from pslib.lab.answers import draw_and_score
from pslib.nano import worlds
from pslib.policy import stop_ids
from pslib.rollouts import exact

# Under which names the prompts are asked: the trained one is the profile's, those of these that it
# is not were never trained.
UNSEEN = (
    "high_entropy_short",
    "high_entropy",
    "rewritten_high_entropy_short",
    "rewritten_high_entropy",
    "low_entropy_short",
    "low_entropy",
)

# A system prompt moves a pretrained model whatever it says: these say nothing of the task, and are
# as long as the paper's.
UNRELATED = {
    "unrelated_short": "You are now in the town library.",
    "unrelated": "You are now in the town library. Its main hall is open from nine in the morning "
    "until six in the evening, and on Saturdays until one. Bags are left in the lockers beside the "
    "door. Books from the upper floor may be read at the tables there but are not lent out. The "
    "small room at the back serves tea, coffee and soup, and the garden behind the house is open "
    "to all visitors in summer.",
}


def unrelated(tokenizer):
    """The long text of UNRELATED, cut to as many tokens as the paper's high-entropy prompt has, the
    last of which is a full stop.

    It begins again where a tokenizer needs fewer tokens for it than for that prompt.
    """
    wanted, given = (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (modes.he_mode().system, " ".join([UNRELATED["unrelated"]] * 3))
    )
    return tokenizer.decode(given[: len(wanted) - 1]) + "."


# What every model of a profile is asked under, whatever it was trained with; a base model's neutral
# prompt comes on top.
ASKED = ("high_entropy", "rewritten_high_entropy", "low_entropy")
# of the draws: the same for all models and prompts, so that they differ in the models and prompts
# alone
ASKED_SEED = 0


def ask(model, tokenizer, prompts, settings, questions, reward=exact, seed=ASKED_SEED):
    """The same questions with the same draws under each of some system prompts, {name: text or
    None}; -> DataFrame.

    A row a prompt and question: samples, correct (how many; under another reward than `exact`, the
    sum of the column reward in its place), tokens and bits (sums over the responses; bits is the
    entropy at every token), kl (the sum of log p - log p without a prompt over sampled tokens, in
    nats), how many responses follow each derivation, and tokens_<kind> and bits_<kind> for the
    kinds of tokens that make up a response (see worlds.kinds_of).
    """
    settings = replace(settings, temperature=1.0, top_k=0, top_p=1.0)
    stops, tables = stop_ids(model, tokenizer), []
    for name, text in prompts.items():
        mode = modes.Mode("prompted", text) if text else modes.NORMAL
        generator = torch.Generator().manual_seed(seed)
        both, samples, decoding = (mode, modes.NORMAL), settings.samples, settings.decoding
        drawn = draw_and_score(
            model, tokenizer, [mode], questions, samples, decoding, generator, reward, both
        )
        moved = drawn.logp[mode.name] - drawn.logp[modes.NORMAL.name]
        table = evaluate.tabled(drawn, "", reward, stops).assign(
            samples=1, bits=_bits(drawn).sum(1).numpy(), kl=moved.double().sum(1).numpy()
        )
        for derivation in (*worlds.DERIVATIONS, "other"):
            table[derivation] = (table.derivation == derivation).astype(int)
        table = pd.concat([table, _kinds_table(drawn, tokenizer)], axis=1)
        graded = "correct" if "correct" in table else "reward"
        summed = ["samples", graded, "tokens", "bits", "kl", *worlds.DERIVATIONS, "other"]
        by = table.groupby("question_id", sort=False)[[*summed, *_OF_KINDS]].sum().reset_index()
        by.insert(0, "prompt", name)
        tables.append(by)
    return pd.concat(tables, ignore_index=True)


def _bits(drawn):
    return drawn.own_entropy.double() * measures.BITS


def _kinds_table(drawn, tokenizer):
    """How many tokens and bits of each response are of each kind."""
    rows = []
    for kinds, bits in zip(kinds_of(drawn.rollouts, tokenizer), _bits(drawn).tolist(), strict=True):
        row = dict.fromkeys(_OF_KINDS, 0.0)
        for kind, bit in zip(kinds, bits, strict=False):  # beyond the length there is padding
            row[f"tokens_{kind}"] += 1
            row[f"bits_{kind}"] += bit
        rows.append(row)
    return pd.DataFrame(rows)


KINDS = (*worlds.KINDS, "wording", "end")
_OF_KINDS = [f"{what}_{kind}" for kind in KINDS for what in ("tokens", "bits")]


def kinds_of(rollouts, tokenizer):
    """What the tokens of each response belong to (see token_kinds): a list a response."""
    piece = cache(lambda token: tokenizer.decode([token]))
    tokens = zip(rollouts.texts, rollouts.tokens.tolist(), rollouts.lengths.tolist(), strict=True)
    return [token_kinds(text, [piece(token) for token in row[:n]]) for text, row, n in tokens]


def token_kinds(response, pieces):
    """What each token of a response belongs to: a kind of worlds.kinds_of, or "end" where it is no
    text of the response.

    A token belongs where its first character other than a space stands.
    """
    kinds, at, out = worlds.kinds_of(response), 0, []
    for piece in pieces:
        text = (
            piece if response.startswith(piece, at) else piece.lstrip()
        )  # a special token is no text
        if not piece or not response.startswith(text, at):
            out.append("end")
            continue
        first = at + len(text) - len(text.lstrip())
        out.append(kinds[min(first, len(kinds) - 1)] if kinds else "end")
        at += len(text)
    return out


def many_tries(model, tokenizer, both, settings, suites, samples, generator):
    """How many of `samples` responses to each question are right, in each of both modes; ->
    DataFrame.

    Columns suite, mode, question_id, samples, correct, and worked: how many of these also show
    worked steps that are all right (see worlds.worked_right). suites: {name: questions}.
    """
    settings, parts = replace(settings, samples=samples), []
    for mode in both:
        for suite, questions in suites.items():
            rows = list(questions)
            table, drawn, _ = evaluate.answer(
                model, tokenizer, mode, rows, settings, generator, suite
            )
            answered = zip(table.correct, drawn.group_ids.tolist(), drawn.texts, strict=True)
            table["worked"] = [
                int(right and worlds.worked_right(rows[g]["question"], text))
                for right, g, text in answered
            ]
            by = table.groupby(["suite", "mode", "question_id"], sort=False)
            counts = {"samples": ("correct", "size"), "correct": ("correct", "sum")}
            parts.append(by.agg(**counts, worked=("worked", "sum")).reset_index())
    return pd.concat(parts, ignore_index=True)


def under_prompts(model, tokenizer, both, settings, questions, generator, more=()):
    """Accuracy, entropy, derivations and distance from the normal mode under the trained and the
    unseen prompts; -> DataFrame.

    A row a prompt ("none" is the normal mode; `more`: {name: system prompt} to ask too): accuracy,
    entropy_bits, tokens, kl_from_normal in nats a token on the prompt's own responses, kl_ci (half
    of its 95% interval over questions), and share_<derivation>.
    """
    (normal, he), rows = both, []
    texts = {**{name: modes.he_mode(name).system for name in UNSEEN}, **dict(more)}
    asked = {
        "none": normal,
        "trained": he,
        **{name: replace(he, system=text) for name, text in texts.items() if text != he.system},
    }
    for name, mode in asked.items():
        kl, table = evaluate.inter_mode_kl(
            model, tokenizer, mode, normal, questions, settings, generator
        )
        totals = evaluate.summary(table).iloc[0]
        sums = (
            table.assign(moved=table.kl * table.tokens)
            .groupby("question_id")[["moved", "tokens"]]
            .sum()
        )
        _, half = mean_interval(
            (sums.moved - kl * sums.tokens) / sums.tokens.mean()
        )  # of a ratio of sums, to first order
        shares = table.derivation.value_counts(normalize=True)
        rows.append(
            {
                "prompt": name,
                "accuracy": totals.accuracy,
                "entropy_bits": totals.entropy_bits,
                "tokens": table.tokens.mean(),
                "kl_from_normal": kl,
                "kl_ci": half,
                **{f"share_{d}": shares.get(d, 0.0) for d in (*worlds.DERIVATIONS, "other")},
            }
        )
    return pd.DataFrame(rows)


def stories(model, tokenizer, both, settings, prompts, samples, generator):
    """Stories in both modes to each of some prompts, and how diverse they are; -> (DataFrame of
    prompts, DataFrame of texts).

    Prompts: mode, prompt, div_2gram and div_bleu4 (0 to 100, over the prompt's samples), told (the
    share of responses that are the nano world's stories at all; blank for other prompts),
    entropy_bits, tokens. Texts: mode, prompt, sample, story.
    """
    asked = [{"id": prompt, "question": prompt, "answer": ""} for prompt in prompts]
    told_by = worlds.is_story if prompts == worlds.story_prompts() else lambda text: math.nan
    settings, scores, texts = replace(settings, samples=samples), [], []
    for mode in both:
        table, rollouts, _ = evaluate.evaluate(
            model, tokenizer, mode, asked, settings, generator, "stories"
        )
        told = table.assign(
            prompt=table.question_id, story=rollouts.texts, bits=table.entropy_bits * table.tokens
        )
        for prompt, own in told.groupby("prompt", sort=False):
            scores.append(
                {
                    "mode": mode.name,
                    "prompt": prompt,
                    "div_2gram": diversity.div_ngram(list(own.story), 2),
                    "div_bleu4": diversity.div_bleu(list(own.story)),
                    "told": float(own.story.map(told_by).mean()),
                    "entropy_bits": own.bits.sum() / own.tokens.sum(),
                    "tokens": own.tokens.mean(),
                }
            )
        texts.append(told[["mode", "prompt", "sample", "story"]])
    return pd.DataFrame(scores), pd.concat(texts, ignore_index=True)


def bonus(model, tokenizer, both, settings, questions, group_size, generator):
    """What eq. 3 adds to the advantages of one step's tokens at eta 0.03, in the paper's and the
    released form; -> DataFrame.

    A row a token of the live groups of some questions, half of each group drawn in each mode: kind
    (see worlds.kinds_of, or "end"), mode that drew it, advantage (A), bonus (B, eq. 4), paper and
    released (what each adds to A).
    """
    decoding, warm = settings.decoding, settings.temperature
    answers = draw_and_score(
        model, tokenizer, both, questions, group_size, decoding, generator, temperature=warm
    )
    drawn, logp = answers.rollouts, answers.logp
    a = advantages.group_relative(drawn.rewards, drawn.group_ids)
    b = advantages.standardize_in_group(
        advantages.exploration_signal(logp["he"], logp["normal"]), drawn.mask, drawn.group_ids
    )
    added = {
        variant: advantages.high_entropy(a, b, 0.03, 2.0, variant) - a[:, None]
        for variant in ("paper", "released")
    }
    rows = []
    for r, kinds in enumerate(kinds_of(drawn, tokenizer)):
        for t, kind in enumerate(kinds if a[r] else ()):
            rows.append(
                {
                    "kind": kind,
                    "mode": drawn.modes[r],
                    "advantage": float(a[r]),
                    "bonus": float(b[r, t]),
                    **{name: float(extra[r, t]) for name, extra in added.items()},
                }
            )
    return pd.DataFrame(rows, columns=["kind", "mode", "advantage", "bonus", *added])


def questions(profile, wanted):
    """The questions of the suites that an evaluate.Probe asks: {suite or part: questions}."""
    many = {
        suite: profile.questions(suite, wanted.best_of_n)
        for suite in ("like", "long")
        if wanted.best_of_n
    }
    for part in ("prompts", "asked"):
        if getattr(wanted, part):
            many[part] = profile.questions("like", getattr(wanted, part))
    if wanted.pass_at_k:
        many["pass_at_k"] = profile.questions("long", wanted.pass_at_k, least=wanted.least)
    return many


def probe(model, tokenizer, profile, size, seed, wanted):
    """All of the above that a section of a profile (an evaluate.Probe) asks for: {name of the file:
    DataFrame}.
    """
    generator, out = torch.Generator().manual_seed(seed), {}
    plain = replace(
        profile.evaluate, temperature=1.0, top_k=0, top_p=1.0
    )  # entropies and KL are of the policy itself
    asked = model, tokenizer, profile.modes_of(size, tokenizer), plain
    given = questions(profile, wanted)
    if wanted.best_of_n:
        out["best_of_n"] = many_tries(
            *asked, {suite: given[suite] for suite in ("like", "long")}, wanted.samples, generator
        )
    if wanted.prompts:
        out["prompts"] = under_prompts(
            *asked, given["prompts"], generator, UNRELATED if profile.origin.knows_words else {}
        )
    if wanted.asked:
        texts = {"none": None, **{name: modes.he_mode(name).system for name in ASKED}}
        texts |= profile.origin.neutral_prompts(size, tokenizer)
        out["asked"] = ask(
            model, tokenizer, texts, replace(plain, samples=wanted.asked_samples), given["asked"]
        )
    if wanted.stories:
        out["stories"], out["story_texts"] = stories(
            *asked, profile.stories, wanted.stories, generator
        )
    if wanted.pass_at_k:
        large = {"long": given["pass_at_k"]}
        out["pass_at_k"] = many_tries(*asked, large, wanted.tries, generator)
    return out
