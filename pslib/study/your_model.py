"""What 60_your_model asks of a model: how it answers under some system prompts."""

import pandas as pd
import torch

from pslib import modes
from pslib.evidence import evaluate, probe
from pslib.evidence.stats import mean_interval

# Row of the table -> prompt of prompts.yaml
ASKED = {
    "high-entropy": "high_entropy",
    "rewritten high-entropy": "rewritten_high_entropy",
    "low-entropy": "low_entropy",
}


def understanding(model, tokenizer, questions, reward, form="", **sampling):
    """Does a model understand the high-entropy prompt? Its answers under five prompts, a row each.

    form: "" for the paper's prompts, "_short" for their first sentences. The rest as in `answers`.
    """
    prompts = {"normal": None}
    prompts |= {row: modes.he_mode(name + form).system for row, name in ASKED.items()}
    prompts["unrelated"] = probe.UNRELATED["unrelated" + form]
    return answers(model, tokenizer, questions, reward, prompts, **sampling)


def answers(model, tokenizer, questions, reward, prompts, samples=4, max_new_tokens=1024, seed=1):
    """How a model answers under system prompts, {name: text or None}, compared with the first.

    questions: dicts with a `question`, and the columns that the reward function reads, which has
    TRL's signature.

    -> DataFrame by prompt: reward, its mean; entropy_bits a token; entropy_change, the entropy less
    that of the first prompt (a mean over questions, and entropy_ci, half of its 95% interval);
    kl_from_normal in nats a token, on the prompt's own responses; tokens of a response.
    """
    settings = evaluate.Settings(len(questions), samples, 1.0, 0, 1.0, max_new_tokens)
    rows = [
        _asked(model.eval(), tokenizer, modes.Mode(name, text), questions, reward, settings, seed)
        for name, text in prompts.items()
    ]
    for row in rows:
        change = row["by_question"] - rows[0]["by_question"]
        row["entropy_change"], row["entropy_ci"] = mean_interval(change)
    columns = ["reward", "entropy_bits", "entropy_change", "entropy_ci", "kl_from_normal", "tokens"]
    return pd.DataFrame(rows).set_index("prompt")[columns]


def _asked(model, tokenizer, mode, questions, reward, settings, seed):
    """One prompt's row, with the entropy of each question's responses in `by_question`."""

    def graded(text, row):
        columns = {key: [value] for key, value in row.items()}
        return reward(completions=[[{"role": "assistant", "content": text}]], **columns)[0]

    rows = [{"id": str(k), **question} for k, question in enumerate(questions)]
    generator = torch.Generator().manual_seed(seed)
    kl, table = evaluate.inter_mode_kl(
        model, tokenizer, mode, modes.NORMAL, rows, settings, generator, graded
    )
    bits = (table.entropy_bits * table.tokens).groupby(table.question_id, sort=False).sum()
    tokens = table.tokens.groupby(table.question_id, sort=False).sum()
    return {
        "prompt": mode.name,
        "reward": table.reward.mean(),
        "entropy_bits": bits.sum() / tokens.sum(),
        "by_question": bits / tokens,
        "kl_from_normal": kl,
        "tokens": table.tokens.mean(),
    }
