"""How base models respond to prompts that mean something: the search for a strength, and taught
models, shown.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from pslib.evidence import analyses
from pslib.evidence.figures import STYLE
from pslib.lab import runs
from pslib.nano import strength, worlds

GREY, BLUE = "#7f7f7f", "#1f77b4"
# The prompts in the order of the figure, and their labels
LABELS = {
    "high_entropy": "high-entropy",
    "rewritten_high_entropy": "rewritten",
    "neutral": "neutral",
    "low_entropy": "low-entropy",
}


def search(folder=None):
    """The search's table, as `strength.measure` describes it; by default the committed one."""
    return pd.read_csv((folder or runs.ROOT / "results" / strength.WORLD) / "strength.csv")


def taught(profile, folder):
    """The same of a taught profile's models in `folder` and of its control's beside it, as
    `strength.of_base` measured them; empty where none was.
    """
    _, control = analyses.beside(profile, folder, f"{profile.name}_control")
    paths = [
        path for each in (folder, control) for path in sorted(each.glob("base/*/response.csv"))
    ]
    return pd.concat(map(pd.read_csv, paths)) if paths else search().iloc[:0]


def by_prompt(found):
    """Means over base models, a row a strength and prompt: accuracy (%), entropy and its change
    (bits a token), on how many base models it rises, KL (nats a token).
    """
    units = ["strength", "base"]
    normal = found[found.prompt == "none"].set_index(units).entropy_bits.rename("normal")
    rows = found.join(normal, on=units)
    rows["more than normal"] = rows.entropy_bits - rows.normal
    rows = rows.assign(accuracy=100 * rows.accuracy, raised=rows["more than normal"] > 0)
    by = rows.rename(columns={"entropy_bits": "entropy"}).groupby(["strength", "prompt"])
    means = by[["accuracy", "entropy", "more than normal", "kl"]].mean()
    means.insert(3, "raised", by.raised.sum())
    order = pd.MultiIndex.from_product([sorted(set(found.strength)), ["none", *LABELS]])
    digits = {"accuracy": 1, "entropy": 3, "more than normal": 3, "kl": 4}
    return means.loc[order].round(digits).rename_axis(["strength", "prompt"]).reset_index()


@plt.rc_context(STYLE)
def figure(found):
    """Left: entropy under each prompt minus the normal mode's. Right: entropy over x. A dot or thin
    line is a base model, a bar or thick line their mean, in the control and the world's strength.
    """
    measured = sorted(set(found.strength))
    chosen = worlds.WORLDS[strength.WORLD].strength
    chosen = chosen if chosen in measured else measured[-1]
    drawing, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.2))
    for value, place, colour, marker in ((0.0, -0.18, GREY, "s"), (chosen, 0.18, BLUE, "o")):
        own = found[found.strength == value]
        own = own.pivot(index="base", columns="prompt", values="entropy_bits")
        _dots(left, own, place, colour, marker)
        label = f"strength {value:g}" if value else "strength 0 (control)"
        _lines(right, own, colour, marker, label)
    left.axhline(0, color="black", lw=0.8)
    left.set_xticks(range(len(LABELS)), LABELS.values())
    left.set(xlabel="system prompt", ylabel="entropy minus no prompt, bits a token")
    right.set(xlabel="x of synthetic prompts", ylabel="entropy, bits a token")
    right.legend(loc="upper left")
    return drawing


def _dots(axis, entropy, place, colour, marker):
    """A dot for each base model and prompt, and a bar for their mean; entropy: base x prompt."""
    for k, name in enumerate(LABELS):
        more = entropy[name] - entropy["none"]
        spread = k + place + np.linspace(-0.09, 0.09, len(more))
        axis.scatter(spread, more, s=16, marker=marker, color=colour, alpha=0.7, linewidths=0)
        axis.hlines(more.mean(), k + place - 0.14, k + place + 0.14, color=colour, lw=2)


def _lines(axis, entropy, colour, marker, label):
    """A line over x for each base model, and one for their mean; entropy: base x prompt."""
    lines = entropy[[f"x={x:g}" for x in strength.XS]]
    axis.plot(strength.XS, lines.T, color=colour, lw=0.6, alpha=0.5)
    axis.plot(strength.XS, lines.mean(), color=colour, lw=2.2, marker=marker, label=label)
