"""Explore: one question put to both modes of a model, and their responses side by side, token by
token. All text is escaped before it becomes HTML, and what cannot be seen is spelled out.
"""

import html
import itertools
from bisect import bisect
from dataclasses import dataclass, replace
from pathlib import Path

import ipywidgets as w
import jinja2
import matplotlib
import numpy as np
import pandas as pd
import torch

from pslib import policy
from pslib.lab import origins, ranges
from pslib.lab.answers import Answers, draw_and_score
from pslib.lab.measures import BITS
from pslib.nano import worlds
from pslib.rollouts import Decoding

# What a token's colour can say: the heading, where one colour ends and the next begins, and a
# colour map whose lightness falls steadily, so that it is read in print and without hues.
BITS_SAID = "entropy of the mode that drew the token, bits"
NATS_SAID = "KL(HE ‖ normal) where the token was drawn, nats"
COLOURS = {
    "entropy": (BITS_SAID, (0.05, 0.2, 0.5, 1, 1.5, 2, 3), "Blues"),
    "inter-mode KL": (NATS_SAID, (0.003, 0.01, 0.03, 0.1, 0.3, 1, 2), "Oranges"),
}
DARKEST = 0.7  # of a colour map: black text is easy to read on it


@dataclass
class Asked:
    """A question's responses in both modes, R in all, with what each mode thinks of every token."""

    question: str
    answer: str  # "" where it is not known
    modes: tuple  # the normal mode and the high-entropy one
    decoding: Decoding
    samples: int  # responses in each mode
    seed: int
    answers: Answers
    kl: torch.Tensor  # (R, T) nats, KL(pi_HE || pi) where each token was drawn
    pieces: list  # R lists of the tokens' texts
    ended: list  # R: whether the response ended by itself

    def table(self):
        """A row a response: mode, sample, correct (None where there is no answer), derivation (""
        where the question is no sum), tokens, and their means bits and kl, in bits and nats.
        """
        r = self.answers.rollouts
        way_of = worlds.derivation_of if worlds.total_of(self.question) else lambda *_: ""
        return pd.DataFrame(
            {
                "mode": r.modes,
                "sample": [k % self.samples for k in range(len(r.modes))],
                "correct": r.rewards.tolist() if self.answer else [None] * len(r.modes),
                "derivation": [way_of(self.question, text) for text in r.texts],
                "tokens": r.lengths.tolist(),
                "bits": (self.answers.own_entropy.sum(1) / r.lengths * BITS).tolist(),
                "kl": (self.kl.sum(1) / r.lengths).tolist(),
            }
        )


load = origins.load  # what notebooks explore


def ask(
    model,
    tokenizer,
    modes,
    question,
    answer="",
    temperature=1.0,
    samples=4,
    max_new_tokens=96,
    seed=1,
):
    """Draw `samples` responses to a question in each of two modes (normal, high-entropy) and score
    every token in both; -> Asked.

    Without an answer only responses to a sum are graded. At temperature 0 one response is drawn.
    ValueError in one sentence for what cannot be asked.
    """
    question, context = question.strip(), model.config.max_position_embeddings
    if not question:
        raise ValueError("there is no question; type one")
    if len(question) > 64 * context:  # before the tokenizer spends minutes on it
        raise ValueError(
            f"the question has {len(question)} characters, far more than the model's context of "
            f"{context} tokens can hold; shorten it"
        )
    ranges.check({"samples": samples}, {"samples": ranges.COUNT}, "explore")
    decoding, answer = Decoding(temperature, 0, 1.0, max_new_tokens), answer.strip()
    answer, samples = answer or worlds.total_of(question), samples if temperature else 1
    rows = [{"id": "asked", "question": question, "answer": answer}]
    count, generator = len(modes) * samples, torch.Generator().manual_seed(seed)
    answers = draw_and_score(model, tokenizer, modes, rows, count, decoding, generator)
    normal, he = (answers.prompts[mode.name][0] for mode in modes)
    drawn, stops = answers.rollouts, policy.stop_ids(model, tokenizer)
    tokens = zip(drawn.tokens.tolist(), drawn.lengths.tolist(), strict=True)
    ids = [row[:length] for row, length in tokens]
    kl = kl_by_token(model, he, normal, drawn.tokens, drawn.lengths)
    texts, ended = [pieces(tokenizer, row) for row in ids], [row[-1] in stops for row in ids]
    modes = tuple(modes)
    return Asked(question, answer, modes, decoding, samples, seed, answers, kl, texts, ended)


@torch.no_grad()
def kl_by_token(model, first, second, tokens, lengths):
    """KL(p || q) = sum_v p(v) (log p(v) - log q(v)) in nats at each token of given responses (N,
    T), p under the prompt `first`, q under `second` (lists of ids); 0 beyond each length (N,).
    """
    out = torch.zeros(tokens.shape)
    for row, (response, length) in enumerate(zip(tokens.tolist(), lengths.tolist(), strict=True)):
        # one response at a time: at a vocabulary of 151,936, a thousand tokens of it are 0.6 GB
        # under each prompt
        read = response[: length - 1]
        p, q = (_log_probs(model, prompt + read, length) for prompt in (first, second))
        out[row, :length] = (p.exp() * (p - q)).sum(-1).clamp(min=0).cpu()
    return out


def _log_probs(model, ids, count):
    """The log-probs (count, V) of what follows each of the last `count` tokens."""
    ids = torch.tensor([ids], device=model.device)
    return torch.log_softmax(model(input_ids=ids, logits_to_keep=count).logits[0].float(), -1)


def pieces(tokenizer, ids):
    """The text of each token; a character that takes several tokens stands at the last of them."""

    def text(part):
        return tokenizer.decode(part, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    out, start = [], 0
    for k in range(len(ids)):
        # alone, some tokenizers drop the space in front of a word
        before = ids[max(0, start - 1) : start]
        piece = text([*before, *ids[start : k + 1]])[len(text(before)) :]
        unfinished = piece.endswith("\ufffd") and k - start < 3 and k < len(ids) - 1
        out.append("" if unfinished else piece)
        start = start if unfinished else k + 1
    return out


# --- HTML -----------------------------------------------------------------------------------------
def _seen(text):
    """Text with control characters and the like spelled out."""
    text = (c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in text)
    return "".join(text).replace("\n", "⏎\n")


def _shades(colour):
    """The background of each step of a colour, as #rrggbb, from white on."""
    _, edges, name = COLOURS[colour]
    steps = [DARKEST * step / len(edges) for step in range(1, len(edges) + 1)]
    return ["#ffffff", *(matplotlib.colors.to_hex(matplotlib.colormaps[name](k)) for k in steps)]


def _tokens(asked, k, colour):
    """The shade, text and figures of each token of response k."""
    answers, edges, shades = asked.answers, COLOURS[colour][1], _shades(colour)
    bits, kl = (answers.own_entropy[k] * BITS).tolist(), asked.kl[k].tolist()
    for t, piece in enumerate(asked.pieces[k]):
        figures = [f"entropy {bits[t]:.2f} bits", f"KL {kl[t]:.4f} nats"]
        for name, logp in answers.logp.items():
            figures.append(f"log-prob in {name} mode {logp[k][t]:.2f} nats")
        shade = shades[bisect(edges, bits[t] if colour == "entropy" else kl[t])]
        yield shade, piece, "; ".join(figures)


def side_by_side(asked, colour="entropy"):
    """Both modes' responses as HTML, each token coloured by one of COLOURS."""
    if colour not in COLOURS:
        raise ValueError(f"tokens can be coloured by {' or '.join(COLOURS)}; got {colour!r}")
    heading, edges, _ = COLOURS[colour]
    between = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(edges)]
    labels = [f"below {edges[0]:g}", *between, f"{edges[-1]:g} or more"]
    table = asked.table()
    return PAGE.render(
        asked=asked,
        heading=heading,
        legend=list(zip(_shades(colour), labels, strict=True)),
        columns=[(mode, table[table["mode"] == mode.name]) for mode in asked.modes],
        mean=lambda values, tokens: np.average(values, weights=tokens),
        signs={1.0: "✓ right", 0.0: "✗ wrong"},
        tokens=lambda k: _tokens(asked, k, colour),
    )


PAGE = jinja2.Environment(autoescape=True, trim_blocks=True)
PAGE.filters["seen"] = _seen
PAGE = PAGE.from_string(Path(__file__).with_name("explore.html").read_text(encoding="utf-8"))


# --- controls -------------------------------------------------------------------------------------
def controls(model, tokenizer, asked, colour="entropy", base=None):
    """Widgets that start from what was asked and ask anew; each press of the button draws with the
    next seed. base: the (model, tokenizer) before training, to switch to.
    """
    models = {"trained": (model, tokenizer), **({"base model": base} if base else {})}
    wide = {"layout": w.Layout(width="auto"), "style": {"description_width": "9em"}}
    # what was worked out is not the next one's answer
    given = "" if asked.answer == worlds.total_of(asked.question) else asked.answer
    hint = "empty: a sum is worked out, others are not graded"
    most = max(8, asked.samples)
    question = w.Textarea(asked.question, description="question", rows=2, **wide)
    answer = w.Text(given, description="answer", placeholder=hint, **wide)
    which = w.Dropdown(options=list(models), description="model", **wide)
    normal, other = asked.modes
    system = w.Textarea(other.system or "", description="system prompt", rows=3, **wide)
    warm = asked.decoding.temperature
    temperature = w.FloatSlider(warm, max=max(2, warm), description="temperature", **wide)
    samples = w.IntSlider(asked.samples, min=1, max=most, description="samples a mode", **wide)
    seed = w.IntText(asked.seed + 1, description="seed", **wide)
    by = w.Dropdown(options=list(COLOURS), value=colour, description="colour by", **wide)
    button, said = w.Button(description="Sample", button_style="primary"), w.HTML()
    shown, last = w.HTML(side_by_side(asked, colour)), [asked]

    def press(_):
        button.disabled, said.value = True, "sampling ..."
        chosen = [each.value for each in (question, answer, temperature, samples)]
        longest = asked.decoding.max_new_tokens
        try:
            both = normal, replace(other, system=system.value.strip() or None)
            last[0] = ask(*models[which.value], both, *chosen, longest, seed.value)
        except (ValueError, RuntimeError) as error:
            said.value = f"<b>{html.escape(_seen(' '.join(str(error).split())))}</b>"
        else:
            shown.value, said.value = side_by_side(last[0], by.value), ""
            seed.value += 1
        finally:
            button.disabled = False

    button.on_click(press)
    by.observe(lambda _: setattr(shown, "value", side_by_side(last[0], by.value)), "value")
    given = [which, question, answer, system, temperature, samples, seed, by]
    return w.VBox([*given, w.HBox([button, said]), shown])
