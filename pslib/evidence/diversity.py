"""Diversity: how different the responses to one prompt are (table 2)."""

import numpy as np
from sacrebleu.metrics import BLEU


def div_ngram(texts, n=2):
    """Div-n-gram of the responses to one prompt: mean of 100 · |unique n-grams| / |n-grams|, 0 to
    100.

    Words are what white space separates. A response without an n-gram is left out; NaN where all
    are.
    """
    shares = []
    for text in as_list(texts):
        words = text.split()
        grams = [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]
        if grams:
            shares.append(100 * len(set(grams)) / len(grams))
    return float(np.mean(shares)) if shares else float("nan")


def div_bleu(texts):
    """Div-BLEU-4 of the responses to one prompt: 100 · (1 - meanᵢ BLEU-4(oᵢ; the others)), 0 to
    100.

    sacrebleu's sentence BLEU with effective order. Blank responses are left out; NaN for fewer than
    two.
    """
    texts = [text for text in as_list(texts) if text.strip()]
    if len(texts) < 2:
        return float("nan")
    bleu = BLEU(effective_order=True)
    others = (texts[:k] + texts[k + 1 :] for k in range(len(texts)))
    scores = [bleu.sentence_score(*pair).score for pair in zip(texts, others, strict=True)]
    return float(np.clip(100 - np.mean(scores), 0, 100))  # rounding can give -4e-6


def bleu_signature(responses=8):
    """sacrebleu's signature of `div_bleu` with so many responses to a prompt."""
    bleu = BLEU(effective_order=True)
    bleu.sentence_score("a", ["a"] * (responses - 1))  # it has none before it was used
    return str(bleu.get_signature())


def as_list(texts):
    """Some texts as a list; TypeError for one string, which is no list of responses."""
    if isinstance(texts, str):
        raise TypeError("a list of responses is wanted, and this is one string; put it in a list")
    return list(texts)
