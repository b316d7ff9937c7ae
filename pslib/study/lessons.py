"""What the method-study notebooks (00 to 04) show: sources, drawn and scored rollouts, tables and
pictures of the method; pictures are matplotlib's, since GitHub strips colours from HTML.
"""

import inspect
import textwrap

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.core.pylabtools import print_figure
from IPython.display import Markdown, display
from ipywidgets import FloatSlider, interactive
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator

from pslib import advantages, losses
from pslib.evidence.figures import COLOURS, STYLE
from pslib.lab.answers import draw_and_score
from pslib.rollouts import share

BLUE, ORANGE = "#0072b2", "#d55e00"  # told apart by every kind of colour vision
# variant of eq. 3 -> colour, line, width; each line shows through the next
LINES = {
    "unclipped": ("#999999", "-", 5.5),
    "clip_order": ("#56b4e9", "-", 4.0),
    "doubled": ("#009e73", ":", 2.6),
    "paper": (COLOURS["policy_split"], "-", 2.6),  # seen between the dashes of the next
    "released": (COLOURS["policy_split_released"], "--", 1.5),
}
DOT = {"marker": "o", "ls": "", "ms": 5, "mec": "black", "mew": 0.6}
FONT = 7.6  # points
CHARACTER = 0.064  # inches: how wide a character of matplotlib's monospace font is drawn


def source(*things):
    """The source of functions or classes of one module of the library, as it stands in its file."""
    parts = [textwrap.dedent(inspect.getsource(thing)) for thing in things]
    between = "\n\n" if any(part.count("\n") > 1 for part in parts) else ""
    return Markdown(f"`{things[0].__module__}`\n```python\n{between.join(parts)}```")


def check(answer, expected, tolerance=1e-3):
    """Say whether a reader's answer, a number or list, is the library's; AssertionError if it is
    not. An answer that is still `...` is not checked.
    """
    if answer is ...:
        print("Not answered yet: put your answer in place of the dots and run this cell again.")
        return
    both = (torch.as_tensor(value, dtype=torch.float64).flatten() for value in (answer, expected))
    ours, theirs = both
    assert ours.shape == theirs.shape, f"{len(theirs)} value(s) are asked for; got {len(ours)}"
    right = torch.allclose(ours, theirs, rtol=0, atol=tolerance)
    assert right, f"{answer} is not what the library computes; try again"
    print("Right.")


def draw(model, tokenizer, modes, questions, group_size, decoding, seed):
    """Sample half of each group in each mode, grade, share and score, as a step of Policy Split
    does -> ({mode name: prompts}, Rollouts, Scored).
    """
    generator = torch.Generator().manual_seed(seed)
    answers = draw_and_score(model, tokenizer, modes, questions, group_size, decoding, generator)
    return answers.prompts, answers.rollouts, answers.scored


def words(tokenizer, rows):
    """Rows of token ids as rows of texts, a text a token."""
    return [[tokenizer.decode([token]) for token in row] for row in rows]


@torch.no_grad()
def next_token(model, tokenizer, prompts):
    """The probability of every token of the vocabulary after each prompt, {name: ids}; -> a
    DataFrame (V, names) by the tokens' texts, the likeliest on the average of all names first.
    """
    columns = {
        name: model(torch.tensor([ids])).logits[0, -1].softmax(-1).tolist()
        for name, ids in prompts.items()
    }
    table = pd.DataFrame(columns)
    table.index = pd.Index([repr(tokenizer.decode([k])) for k in table.index], name="token")
    return table.loc[table.mean(axis=1).sort_values(ascending=False, kind="stable").index]


def terms(rollouts, method, stops):
    """The rows that a method trains on (eq. 10): a row a response under a training mode, by
    `rollouts.share`, with its group (its place in the advantage) and the tokens learned from.
    """
    group_ids, learned = share(rollouts, method, stops)
    rows = pd.DataFrame(
        {
            "drawn in": rollouts.modes,
            "response": range(len(rollouts.modes)),
            "group": group_ids.tolist(),
        }
    )
    table = pd.concat([rows] * len(method.training), ignore_index=True)
    table.insert(0, "trained under", [mode for mode in method.training for _ in rollouts.modes])
    table["tokens learned from"] = learned.sum(1).tolist()
    return table.rename_axis("row")


def bonus_table(adv, bonus, mask, eta, kappa):
    """What eq. 3 adds to A, by variant, over the tokens of live groups: the share of tokens whose
    bonus the clip cuts; its mean and largest size, as shares of |A|; and what it comes to in sum,
    as a share of the sum of |A|. adv A (N,), bonus B (N, T), mask bool (N, T).
    """
    live, size = mask & (adv != 0)[:, None], adv.abs()[:, None]
    rows = {}
    for variant, added in advantages.VARIANTS.items():
        clipped = added(bonus, eta, size / kappa)
        free = added(bonus, eta, torch.full_like(size, torch.inf))
        share = (clipped.abs() / size)[live]
        rows[variant] = {
            "clip binds": float((clipped != free)[live].double().mean()),
            "mean size": float(share.mean()),
            "largest size": float(share.max()),
            "net": float(clipped[live].sum() / size.expand_as(clipped)[live].sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")


# --- pictures -------------------------------------------------------------------------------------
def _placed(rows, values, width):
    """Where each token of a heat map goes: (line, column, text, value), and each row's line."""
    placed, starts, line = [], [], -1
    for words, row in zip(rows, values.tolist(), strict=True):
        line, column = line + 1, 0
        starts.append(line)
        for text, value in zip(words, row, strict=False):  # beyond a row's words there is padding
            text = text.replace("\n", "\\n")
            if column and column + len(text) > width:
                line, column = line + 1, 0
            placed.append((line, column, text, value))
            column += len(text)
    return placed, starts


@plt.rc_context(STYLE)
def heat_map(rows, values, unit, labels, diverging=False, limit=None, width=116):
    """Texts with a colour behind every token: rows of tokens' texts, values (N, T), a label a row;
    -> Figure. A diverging map has white at 0, and values beyond `limit` have its colour. A row of
    more than `width` characters goes on in the next line.
    """
    placed, starts = _placed(rows, values, width)
    top = limit or max((abs(value) for *_, value in placed), default=0) or 1.0
    norm = plt.Normalize(-top if diverging else 0.0, top)
    shades = plt.cm.ScalarMappable(norm, "PuOr_r" if diverging else "YlGnBu")
    columns, lines = max(c + len(text) for _, c, text, _ in placed), placed[-1][0] + 1
    height = 0.19 * lines + 0.5
    # sizes in inches, so that a character is as wide as its place; labels stand outside, where
    # `bbox="tight"` finds them
    figure = plt.figure(figsize=(CHARACTER * columns, height), layout="none")
    axis = figure.add_axes((0, 0.5 / height, 1, 1 - 0.5 / height))
    for token in placed:
        _token(axis, *token, shades)
    axis.set(xlim=(0, columns), ylim=(lines, 0), xticks=[])
    axis.set_yticks([start + 0.45 for start in starts], labels, fontsize=8)
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)
    bar = figure.add_axes((0, 0.36 / height, min(1, 3 / figure.get_figwidth()), 0.1 / height))
    _colour_bar(figure, bar, shades, [value for *_, value in placed], unit)
    return figure


def _token(axis, line, column, text, value, shades):
    """One token of a heat map, in white on a dark colour."""
    red, green, blue, _ = face = shades.to_rgba(value)
    dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
    axis.add_patch(Rectangle((column, line), len(text), 0.88, facecolor=face, linewidth=0))
    style = {"family": "monospace", "fontsize": FONT, "va": "center", "parse_math": False}
    axis.text(column, line + 0.47, text, color="white" if dark else "black", **style)


def _colour_bar(figure, bar, shades, values, unit):
    """A heat map's scale, with arrows where values go beyond it."""
    beyond = min(values) < shades.norm.vmin, max(values) > shades.norm.vmax
    arrows = {(True, True): "both", (True, False): "min", (False, True): "max"}
    extend = arrows.get(beyond, "neither")
    figure.colorbar(shades, cax=bar, orientation="horizontal", extend=extend)
    bar.set_title(unit, loc="left", x=1.07, y=-1.0, fontsize=8)
    bar.tick_params(labelsize=8)


@plt.rc_context(STYLE)
def next_token_marks(table, count=8):
    """The probabilities of the likeliest next tokens under the two modes, from `next_token`."""
    shown, places = table.head(count), range(min(count, len(table)))
    figure, axis = plt.subplots(figsize=(6.2, 0.28 * count + 0.7))
    axis.hlines(places, shown.min(axis=1), shown.max(axis=1), color="#bbbbbb", lw=2, zorder=1)
    axis.scatter(shown["normal"], places, s=40, color=BLUE, label="normal mode")
    axis.scatter(shown["he"], places, s=40, marker="D", color=ORANGE, label="high-entropy mode")
    axis.set_yticks(places, shown.index, family="monospace", parse_math=False)
    axis.invert_yaxis()
    axis.set(xlabel="probability of the next token (log scale)", xscale="log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.legend(fontsize=8, loc="lower right")
    return figure


@plt.rc_context(STYLE)
def clip_curves(size, mean, std, eta, kappa, span=(-2.6, 3.2), marks=()):
    """A~ against the signal b of a token, by variant, for A = size and A = -size; -> Figure. The
    group's b have `mean` and `std` (nats); the upper axis is B, over `span`. marks: values of B, by
    sign of A, on the paper's and the released code's curves.
    """
    grid = torch.linspace(*span, 400, dtype=torch.float64)
    both_ways = (lambda b: (b - mean) / std, lambda z: mean + std * z)
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.5), layout="constrained")
    for sign, axis in zip((1, -1), axes, strict=True):
        adv = torch.tensor([sign * size], dtype=torch.float64)
        own = torch.as_tensor(marks[sign] if marks else [], dtype=torch.float64)
        for variant, (colour, line, thick) in LINES.items():
            settings = (eta, kappa, variant)
            curve = advantages.high_entropy(adv, grid[None], *settings)[0]
            axis.plot(mean + std * grid, curve, line, color=colour, lw=thick, label=variant)
            if variant in ("paper", "released") and marks:
                dots = advantages.high_entropy(adv, own[None], *settings)[0]
                axis.plot(mean + std * own, dots, color=colour, **DOT)
        axis.axhline(sign * size, color="black", lw=0.6, ls=":")
        axis.axhline(0, color="black", lw=0.6)
        axis.set(xlabel="signal b of the token, nats", ylabel="advantage Ã of the token")
        axis.set_ylim(sorted((-1.2 * sign * size, 3.2 * sign * size)))
        axis.set_title(f"A = {sign * size:.3f}, η = {eta:g}, κ = {kappa:g}")
        top = axis.secondary_xaxis("top", functions=both_ways)
        top.set_xlabel("B, standard deviations from the group's mean")
    axes[1].legend(fontsize=8, title="variant", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def sliders(draw, eta, kappa):
    """Sliders for eta and kappa above the Figure of `draw(eta, kappa)`; on a page, that at their
    start.
    """

    def redraw(eta, kappa):
        draw(eta, kappa)  # shown as any figure that a cell makes

    both = {"style": {"description_width": "2em"}, "continuous_update": False}
    panel = interactive(
        redraw,
        eta=FloatSlider(eta, min=0, max=4, step=0.05, description="η", **both),
        kappa=FloatSlider(kappa, min=1, max=8, step=0.5, description="κ", **both),
    )
    figure = draw(eta, kappa)
    with plt.rc_context(STYLE):
        still = {"image/png": print_figure(figure, base64=True)}
    plt.close(figure)
    display(panel._repr_mimebundle_() | still, raw=True)


@plt.rc_context(STYLE)
def surrogate_curves(eps=0.2, marks=()):
    """The loss of a token against its ratio, by sign of A; marks: {sign: ratios to mark}."""

    def loss(ratio, sign):
        log_ratio = ratio.log()[None]
        adv = torch.full_like(log_ratio, sign)
        return losses.clipped_surrogate(log_ratio, 0 * log_ratio, adv, eps, eps)[0]

    rho = torch.linspace(0.3, 1.8, 301, dtype=torch.float64)
    figure, axis = plt.subplots(figsize=(5.6, 3.3))
    for sign, colour, name in ((1, BLUE, "A = 1"), (-1, ORANGE, "A = -1")):
        axis.plot(rho, loss(rho, sign), color=colour, label=name)
        if marks:
            own = torch.as_tensor(marks[sign], dtype=torch.float64)
            axis.plot(own, loss(own, sign), color=colour, **DOT)
    axis.axvspan(1 - eps, 1 + eps, color="black", alpha=0.06, lw=0)
    axis.set_xlabel("ratio ρ = new probability / old probability")
    axis.set_ylabel("loss of the token, in units of |A|")
    axis.legend(fontsize=8)
    return figure


@plt.rc_context(STYLE)
def moved(before, after, rollouts, labels):
    """How an update moved each response's log-prob under both modes, {mode: (R, T) nats}; ->
    Figure.
    """
    figure, axis = plt.subplots(figsize=(6.4, 0.3 * len(labels) + 0.8))
    colours = [BLUE if reward else ORANGE for reward in rollouts.rewards.tolist()]
    for mode, shift, name in (("normal", -0.14, "normal"), ("he", 0.14, "high-entropy")):
        change = (after[mode] - before[mode]).sum(1).tolist()
        places = [place + shift for place in range(len(labels))]
        faces, face = (colours, "black") if mode == "normal" else ("white", "white")
        axis.hlines(places, 0, change, color=colours, lw=1)
        axis.scatter(change, places, s=30, edgecolors=colours, facecolors=faces, zorder=3)
        label = f"under the {name} mode"
        axis.scatter([], [], s=30, edgecolors="black", facecolors=face, label=label)
    axis.axvline(0, color="black", lw=0.8)
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.set_xlabel("change of the response's log-prob, nats")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
