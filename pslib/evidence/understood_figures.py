"""Figures of the worlds in which system prompts mean something and in which they mean nothing.

Each takes the folder in which the profiles' results lie side by side. A dot is a base model
everywhere.
"""

import matplotlib.pyplot as plt

from pslib.evidence import predictions, probe, stats
from pslib.evidence.figures import STYLE

WORLDS = {
    "understood": ("prompts mean something", "#0072b2", "o"),
    "understood_control": ("prompts mean nothing", "#8c8c8c", "s"),
}
FORMS = {
    "grpo": "GRPO",
    "eta_0": "no bonus (eta 0)",
    "policy_split": "eq. 3, eta 0.03",
    "eta_matched": "eq. 3, matched eta",
    "eta_2": "eq. 3, eta 2",
    "policy_split_released": "released form",
}
GAPS = {
    "understood/{}@high_entropy - understood/{}@none": "HE prompt",
    "understood_neutral/{}@neutral - understood_neutral/{}@none": "neutral prompt",
    "understood_low/{}@low_entropy - understood_low/{}@none": "low-entropy prompt",
    "understood_control/{}@high_entropy - understood_control/{}@none": "HE prompt, control world",
}
KINDS = {"plan": "derivation", "wording": "wording", "sum": "sums", "box": "answer", "end": "end"}


def _dots(axis, values, y, colour, marker):
    """Single base models, and their mean with its 95% interval, on one line."""
    mean, half = stats.mean_interval(values)
    axis.plot(values, [y - 0.16] * len(values), marker, ms=3.5, color=colour, alpha=0.5, mew=0)
    axis.errorbar(
        mean,
        y + 0.08,
        xerr=None if half != half else half,
        fmt=marker,
        ms=6,
        color=colour,
        lw=1.4,
        capsize=2,
    )


def form_and_meaning(root):
    """Left: the normal mode's entropy after training minus before, by method and world. Right: D(p)
    of each trained prompt.

    D(p) is the gap between the entropies under p and under no prompt after the released form, minus
    the same after eta 0.
    """
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(9.6, 3.4), gridspec_kw={"width_ratios": [1.25, 1]}
        )
        for place, (world, (said, colour, marker)) in enumerate(WORLDS.items()):
            for row, method in enumerate(FORMS):
                found = predictions.measured(f"{world}/{method}@none - {world}/original@none", root)
                if len(found):
                    _dots(left, found, row + 0.22 * (2 * place - 1), colour, marker)
            left.plot([], [], marker, color=colour, label=said)
        left.set(
            yticks=range(len(FORMS)),
            yticklabels=FORMS.values(),
            title="normal mode's entropy, change in training",
            xlabel="bits a token",
        )
        for row, gap in enumerate(GAPS):
            world = "understood_control" if "control" in gap else "understood"
            found = _extra_gap(gap, root)
            if len(found):
                _dots(right, found, row, *WORLDS[world][1:])
        right.axvspan(-0.015, 0.015, color="#8c8c8c", alpha=0.12, lw=0)
        right.set(
            yticks=range(len(GAPS)),
            yticklabels=GAPS.values(),
            title="D: gap that the bonus adds",
            xlabel="bits a token",
        )
        for axis in (left, right):
            axis.axvline(0, color="black", lw=0.8)
            axis.invert_yaxis()
        left.legend(loc="upper left", bbox_to_anchor=(0, -0.18), ncols=2, fontsize=8)
        figure.tight_layout()
    return figure


def _extra_gap(gap, root):
    after, before = (gap.format(method, method) for method in ("policy_split_released", "eta_0"))
    return predictions.measured(after, root) - predictions.measured(before, root)


def gap_after_against_before(root):
    """The gap between the modes' entropies after training against the gap before, a dot a base
    model, a panel a method.
    """
    methods = {name: FORMS[name] for name in ("eta_0", "policy_split", "policy_split_released")}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(methods), figsize=(9.6, 3.2), sharex=True, sharey=True)
        for axis, (method, said) in zip(axes, methods.items(), strict=True):
            for world, (label, colour, marker) in WORLDS.items():
                before = predictions.measured(
                    f"{world}/original@high_entropy - {world}/original@none", root
                )
                after = predictions.measured(
                    f"{world}/{method}@high_entropy - {world}/{method}@none", root
                )
                both = before.index.intersection(after.index)
                axis.plot(
                    before[both], after[both], marker, color=colour, alpha=0.8, mew=0, label=label
                )
            axis.axline((0, 0), slope=1, color="black", lw=0.7, ls=":")
            axis.axhline(0, color="black", lw=0.6)
            axis.axvline(0, color="black", lw=0.6)
            axis.set(title=said, xlabel="gap before training, bits")
        axes[0].set_ylabel("gap after training, bits")
        axes[0].legend(fontsize=8)
        figure.tight_layout()
    return figure


def what_carries_the_gap(root):
    """Which tokens carry the gap between the modes' entropies, before training and after each form,
    by kind of token.

    A kind's part is its bits divided by all tokens, under the high-entropy prompt minus under none;
    parts add up to the gap.
    """
    methods = {
        "original": "before training",
        **{name: FORMS[name] for name in ("grpo", "eta_0", "policy_split_released")},
    }
    colours = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#8c8c8c")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(WORLDS), figsize=(9.6, 3.0), sharex=True, sharey=True)
        for axis, (world, (said, _, _)) in zip(axes, WORLDS.items(), strict=True):
            for k, kind in enumerate(probe.KINDS):
                for row, method in enumerate(methods):
                    parts = [
                        predictions.measured(f"{world}/{method}@{prompt}", root, f"part_{kind}")
                        for prompt in ("high_entropy", "none")
                    ]
                    found = parts[0] - parts[1]
                    if len(found):
                        mean, half = stats.mean_interval(found)
                        axis.errorbar(
                            mean,
                            row + 0.13 * (k - 2),
                            xerr=None if half != half else half,
                            fmt="os^Dv"[k],
                            ms=4,
                            color=colours[k],
                            lw=1.2,
                            label=KINDS[kind] if row == 0 else None,
                        )
            axis.axvline(0, color="black", lw=0.8)
            axis.set(
                yticks=range(len(methods)),
                yticklabels=methods.values(),
                title=said,
                xlabel="part of the gap, bits a token",
            )
        axes[0].invert_yaxis()
        axes[-1].legend(fontsize=8)
        figure.tight_layout()
    return figure
