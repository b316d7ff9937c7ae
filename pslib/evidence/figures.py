"""Figures: one function each, from results to a matplotlib Figure; saving is `save`'s business."""

import io
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from pslib.evidence import analyses, tables, verdicts
from pslib.lab import checkpoint, records, runs

# A notebook's backend shows figures because it makes pyplot interactive when it is loaded, which is
# at the first figure unless it is here: then inside a rc_context, whose end would undo it, and no
# later figure would be shown.
plt.switch_backend(plt.get_backend())

# One colour a method in every figure; the two modes of Policy Split share one hue.
COLOURS = {
    "original": "#7f7f7f",
    "grpo": "#1f77b4",
    "forking": "#17becf",
    "clip_cov": "#2ca02c",
    "entropy_driven": "#8c564b",
    "entropy_regularization": "#bcbd22",
    "entropy_advantage": "#e377c2",
    "policy_split": "#d62728",
    "policy_split_released": "#ff7f0e",
    "policy_split_unshared": "#9467bd",
}
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "figure.dpi": 110,
    "savefig.bbox": "tight",
    "svg.hashsalt": "pslib",
    "legend.frameon": False,
}


def accuracy_against_entropy(profile, folder=None):
    """Table 1 as a picture: average accuracy against average entropy, a panel a size, a mark a
    method and mode.

    Large marks are means over seeds with 95% intervals, small ones single seeds; hollow marks are
    the HE mode.
    """
    found, table = tables.per_seed(profile, folder), tables.table1(profile, folder)
    with plt.rc_context(STYLE):
        sizes = _sizes(profile, found)
        figure, axes = plt.subplots(
            1, len(sizes), figsize=(2.2 + 4.2 * len(sizes), 3.8), squeeze=False
        )
        for axis, size in zip(axes[0], sizes, strict=True):
            for name in profile.methods:
                for mode in profile.method(name).sampling:
                    own = found[
                        (found["size"] == size) & (found.method == name) & (found["mode"] == mode)
                    ]
                    if not len(own):
                        continue
                    mean = table[(table["size"] == size) & (table.label == own.label.iloc[0])].iloc[
                        0
                    ]
                    face = COLOURS[name] if mode == "normal" else "white"
                    axis.scatter(
                        own.average_ent,
                        own.average_acc,
                        s=9,
                        color=COLOURS[name],
                        alpha=0.45,
                        linewidths=0,
                    )
                    axis.errorbar(
                        mean.average_ent,
                        mean.average_acc,
                        xerr=mean.average_ent_ci,
                        yerr=mean.average_acc_ci,
                        fmt="s" if name == "original" else "o",
                        ms=7,
                        color=COLOURS[name],
                        mfc=face,
                        lw=0.8,
                        label=mean.label,
                    )
            axis.set(
                title=f"nano {size}" if profile.model == "nano" else size,
                xlabel="entropy, bits a token (average of four suites)",
            )
        axes[0, 0].set_ylabel("accuracy, % (average of four suites)")
        _legend(axes, axes[0, -1])
        _say(figure, profile, _over(profile))
    return figure


def training_curves(profile, size, methods=("grpo", "policy_split"), seeds=None, folder=None):
    """Training of some methods: reward, and each mode's entropy in bits, means over seeds in
    windows of five measurements.

    Thin lines are seeds; dashed lines are the high-entropy mode. size: one of the profile's
    table_sizes; with seeds, that of their runs.
    """
    root = (folder or profile.folder) / "runs"
    records.check(profile, folder)
    units = [
        (own, seed)
        for own in profile.sizes
        for seed in profile.seeds
        if profile.unit(own, seed)[0] == size
    ]
    units = units if seeds is None else [(size, seed) for seed in seeds]
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.2))
        for name in methods:
            paths = [root / runs.run_id(name, *unit) / "metrics.csv" for unit in units]
            found = [pd.read_csv(path).set_index("step") for path in paths if path.exists()]
            for mode in profile.method(name).sampling if found else ():
                line = "-" if mode == "normal" else "--"
                label = profile.method(name).label + (", HE mode" if mode == "he" else "")
                for axis, column in ((left, f"accuracy_{mode}"), (right, f"entropy_bits_{mode}")):
                    smooth = [
                        seed[column].dropna().rolling(5, min_periods=1).mean() for seed in found
                    ]
                    for seed in smooth:
                        axis.plot(
                            seed.index,
                            seed,
                            line,
                            color=COLOURS.get(name, COLOURS["policy_split"]),
                            lw=0.5,
                            alpha=0.4,
                        )
                    mean = pd.concat(smooth, axis=1).mean(axis=1)
                    axis.plot(
                        mean.index,
                        mean,
                        line,
                        color=COLOURS.get(name, COLOURS["policy_split"]),
                        lw=1.8,
                        label=label,
                    )
        left.set(xlabel="step", ylabel="accuracy of the step's rollouts")
        right.set(xlabel="step", ylabel="entropy, bits a token")
        _legend([left, right], right, loc="best", bbox_to_anchor=None)
        figure.tight_layout()
    return figure


def base_properties(measured):
    """What the base model does: share and accuracy of each derivation, without a prompt and under
    its own.

    measured: the table of `base.measure`.
    """
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.0), sharey=True)
        default = measured[measured.measure == "default"].set_index("derivation")
        named = measured[measured.measure == "named"].set_index("derivation")
        order = list(default.index)[::-1]
        left.barh(order, default.share[order], color="#4c72b0")
        left.set(xlabel="share of responses without a system prompt", xlim=(0, 1))
        places = range(len(order))
        right.barh(
            [p + 0.2 for p in places],
            default.accuracy[order],
            height=0.38,
            color="#4c72b0",
            label="no system prompt",
        )
        right.barh(
            [p - 0.2 for p in places],
            named.accuracy[order],
            height=0.38,
            color="#dd8452",
            label="system prompt that names it",
        )
        right.set(xlabel="accuracy when it is used", xlim=(0, 1))
        right.set_yticks(list(places), order)
        right.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2)
        figure.tight_layout()
    return figure


def _sizes(profile, found):
    """The sizes that have results, in the profile's order; all of them where none has."""
    return [
        size for size in profile.table_sizes if size in set(found["size"])
    ] or profile.table_sizes


def _panels(sizes, rows=1, width=3.6, height=3.0, **kwargs):
    """A figure with a column a size."""
    return plt.subplots(
        rows, len(sizes), figsize=(width * len(sizes) + 2.2, height * rows), squeeze=False, **kwargs
    )


def _legend(axes, at, **where):
    """One legend for all panels, in which a size without results has no lines."""
    found = {
        label: handle
        for axis in np.ravel(axes)
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    if found:
        at.legend(
            found.values(),
            found,
            **{"loc": "center left", "bbox_to_anchor": (1.02, 0.5), "fontsize": 8, **where},
        )


def _over(profile):
    """What the intervals of a profile's runs are over, in words, where the untrained model stands
    among them.
    """
    trained, untrained = profile.replicates(), profile.replicates("original")
    return trained if trained == untrained else f"{trained}; Original's over {untrained}"


def _say(figure, profile, replicates):
    """Write below a figure what its 95% intervals are over; nothing where a row has one run, and so
    no interval.
    """
    if len(profile.sizes) * len(profile.seeds) > len(profile.table_sizes):
        figure.text(
            0.995,
            -0.01,
            f"95% intervals over {replicates}",
            ha="right",
            va="top",
            fontsize=7,
            color="#666666",
        )


def _band(axis, table, x, y, **style):
    """A line of means with its 95% band."""
    axis.plot(table[x], table[y], **style)
    axis.fill_between(
        table[x],
        table[y] - table[f"{y}_ci"],
        table[y] + table[f"{y}_ci"],
        color=style["color"],
        alpha=0.13,
        lw=0,
    )


def dynamics(profile, folder=None, methods=("grpo", "policy_split", "policy_split_released")):
    """Figure 1c, ours: accuracy and entropy of both modes, and the inter-mode KL, over training.

    Means over seeds with 95% bands, of the rollouts of every fifth step; accuracy over the five
    steps up to there.
    """
    found = analyses.dynamics(profile, folder)
    sizes = _sizes(profile, found)
    rows = (("accuracy", "accuracy of the rollouts"), ("entropy_bits", "entropy, bits a token"))
    measures = [f"{measure}_{mode}" for measure, _ in rows for mode in ("normal", "he")] + [
        "kl_he_from_normal"
    ]
    with plt.rc_context(STYLE):
        figure, axes = _panels(sizes, rows=3, height=2.4, sharex=True)
        for column, size in enumerate(sizes):
            for name in methods:
                own = found[(found["size"] == size) & (found.method == name)]
                table = analyses.over_seeds(own, ["step"], measures) if len(own) else own
                for mode in profile.method(name).sampling if len(table) else ():
                    label = profile.method(name).label + (", HE mode" if mode == "he" else "")
                    for axis, (measure, _) in zip(axes[:, column], rows, strict=False):
                        _band(
                            axis,
                            table,
                            "step",
                            f"{measure}_{mode}",
                            color=COLOURS[name],
                            ls="--" if mode == "he" else "-",
                            lw=1.4,
                            label=label,
                        )
                if len(table) and len(profile.method(name).sampling) > 1:
                    _band(
                        axes[2, column],
                        table,
                        "step",
                        "kl_he_from_normal",
                        color=COLOURS[name],
                        lw=1.4,
                    )
            axes[0, column].set(title=_named(profile, size))
            axes[2, column].set(xlabel="training step")
        for axis, what in zip(
            axes[:, 0], (*(what for _, what in rows), "inter-mode KL, nats a token"), strict=True
        ):
            axis.set_ylabel(what)
        _legend(axes, axes[0, -1])
        figure.tight_layout()
        _say(figure, profile, profile.replicates())
    return figure


def _named(profile, size):
    return f"nano {size}" if profile.model == "nano" else size


def eta_ablation(profile, folder=None):
    """Accuracy, entropy and final inter-mode KL of both modes against eta; GRPO as a line with its
    95% band.
    """
    table = tables.ablations(profile, folder)
    table = table[(table.reference == "grpo") & (table.seeds > 0)]
    collapsed = table[table.average_acc < 20].sort_values("eta")  # would hide all the rest
    table = table.drop(collapsed.index)
    grpo = tables.table1(profile, folder).set_index(["size", "label"])
    at = (profile.ablation_unit, "GRPO")
    panels = (
        ("average_acc", "accuracy, %"),
        ("average_ent", "entropy, bits a token"),
        ("kl_end", "inter-mode KL at the end, nats"),
    )
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(10.4, 3.1))
        for axis, (measure, name) in zip(axes, panels, strict=True):
            for mode, style in (("normal", "-o"), ("he", "--o")):
                own = table[table["mode"] == mode].sort_values("eta")
                if measure != "kl_end" or mode == "he":
                    axis.errorbar(
                        own.eta,
                        own[measure],
                        own[f"{measure}_ci"],
                        fmt=style,
                        color=COLOURS["policy_split"],
                        ms=4,
                        lw=1.2,
                        mfc=COLOURS["policy_split"] if mode == "normal" else "white",
                        label=f"Policy Split, {mode} mode",
                    )
            if measure != "kl_end":
                mean, half = grpo.loc[at, measure], grpo.loc[at, f"{measure}_ci"]
                axis.axhline(mean, color=COLOURS["grpo"], lw=1.2, label="GRPO")
                axis.axhspan(mean - half, mean + half, color=COLOURS["grpo"], alpha=0.12, lw=0)
            axis.set_xscale("symlog", linthresh=0.03)
            ticks = sorted(set(table.eta))
            axis.set_xticks(ticks, [f"{eta:g}" for eta in ticks])
            axis.minorticks_off()
            axis.set(xlabel="eta", ylabel=name, xlim=(-0.01, 1.3 * max(ticks, default=1.0) + 0.03))
        axes[0].legend(fontsize=8)
        if len(collapsed):
            lines = [
                f"eta {row.eta:g}, {row.mode} mode: {row.average_acc:.0f}%, {row.average_ent:.1f} "
                f"bits, KL {row.kl_end:.2f}"
                for row in collapsed.itertuples()
            ]
            axes[2].set_title("not drawn, collapsed:\n" + "\n".join(lines), fontsize=7)
        figure.tight_layout()
        _say(figure, profile, profile.replicates())
    return figure


def part_ablation(profile, folder=None):
    """What each part and each departure of the released code changes: differences from Policy Split
    with the same eta.
    """
    table = tables.ablations(profile, folder)
    table = table[(table.reference != "grpo") & (table.seeds > 0)]
    table["name"] = [
        f"{row.variant} (eta {row.eta:g})".replace("_", " ") for row in table.itertuples()
    ]
    beyond = table.reference == "clip_order"
    table.loc[beyond, "name"] = "policy split released, against clip order"
    order = list(dict.fromkeys(table.name))[::-1]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(8.6, 0.34 * len(order) + 1.2), sharey=True)
        for axis, (measure, name) in zip(
            axes,
            (
                ("average_acc", "change of accuracy, points"),
                ("average_ent", "change of entropy, bits a token"),
            ),
            strict=True,
        ):
            for mode, shift, face in (
                ("normal", 0.14, COLOURS["policy_split"]),
                ("he", -0.14, "white"),
            ):
                own = table[table["mode"] == mode]
                axis.errorbar(
                    own[f"{measure}_change"],
                    own.name.map(order.index) + shift,
                    fmt="o",
                    ms=4.5,
                    xerr=own[f"{measure}_change_ci"],
                    color=COLOURS["policy_split"],
                    mfc=face,
                    lw=1,
                    label=f"{mode} mode",
                )
            axis.axvline(0, color="black", lw=0.8)
            axis.set_yticks(range(len(order)), order)
            axis.set(xlabel=name)
        axes[0].legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=2)
        figure.tight_layout()
        _say(figure, profile, profile.replicates())
    return figure


SAMPLING = {"normal": ("-", "normal mode"), "he": ("--", "HE mode"), "both": (":", "half of each")}


def best_of_n(
    profile, folder=None, methods=("original", "grpo", "policy_split", "policy_split_released")
):
    """Best-of-n accuracy against n for the normal mode, the high-entropy mode, and an equal budget
    split over both.
    """
    found = analyses.best_of_n(profile, folder)
    sizes = _sizes(profile, found)
    with plt.rc_context(STYLE):
        figure, axes = _panels(sizes)
        for axis, size in zip(axes[0], sizes, strict=True):
            for name in methods:
                own = found[(found["size"] == size) & (found.method == name)]
                table = (
                    analyses.over_seeds(own, ["sampling", "n"], ["accuracy"]) if len(own) else None
                )
                for sampling, (line, label) in SAMPLING.items() if table is not None else ():
                    part = table[table.sampling == sampling]
                    axis.plot(
                        part.n,
                        100 - part.accuracy,
                        line,
                        color=COLOURS[name],
                        lw=1.3,
                        marker=".",
                        ms=4,
                        label=f"{profile.method(name).label}, {label}",
                    )
            axis.set(
                title=_named(profile, size),
                xlabel="responses n",
                xscale="log",
                yscale="log",
                ylim=(0.01, 100),
            )
            axis.set_xticks(analyses.TRIES, map(str, analyses.TRIES))
            axis.minorticks_off()
        axes[0, 0].set_ylabel("questions not solved by any of n, %")
        _legend(axes, axes[0, -1], fontsize=7)
        figure.tight_layout()
    return figure


DERIVATION_COLOURS = ("#332288", "#88ccee", "#ddcc77", "#cc6677", "#bbbbbb")


def behaviour(
    profile, folder=None, methods=("original", "grpo", "policy_split", "policy_split_released")
):
    """Share of each derivation in the normal mode and under the high-entropy prompt, and the
    distance between them.
    """
    found = analyses.behaviour(profile, folder)
    sizes = _sizes(profile, found)
    with plt.rc_context(STYLE):
        figure, axes = _panels(sizes, height=3.2, sharey=True)
        for axis, size in zip(axes[0], sizes, strict=True):
            ticks = []
            for name in methods:
                own = found[(found["size"] == size) & (found.method == name)]
                for mode in ("normal", "he") if len(own) else ():
                    left, place = 0.0, -len(ticks)
                    for share, colour in zip(analyses.SHARES, DERIVATION_COLOURS, strict=True):
                        value = own[f"{share}_{mode}"].mean()
                        axis.barh(
                            place,
                            value,
                            left=left,
                            color=colour,
                            height=0.8,
                            label=None if ticks else share[6:],
                        )
                        left += value
                    ticks.append(
                        profile.method(name).label + (", HE prompt" if mode == "he" else "")
                    )
                    if mode == "he":
                        axis.text(
                            1.01, place + 0.5, f"{own.distance.mean():.2f}", va="center", fontsize=7
                        )
            axis.set_yticks([-k for k in range(len(ticks))], ticks, fontsize=8)
            axis.set(
                title=_named(profile, size),
                xlabel="share of responses; right: distance",
                xlim=(0, 1),
            )
            axis.grid(False)
        _legend(axes, axes[0, 0], loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=5)
        figure.tight_layout()
    return figure


def prompt_generalization(
    profile, folder=None, methods=("original", "grpo", "policy_split", "policy_split_released")
):
    """Change of entropy from the normal mode under the trained and the unseen system prompts; means
    with 95% intervals.
    """
    found = analyses.prompt_generalization(profile, folder)
    sizes = _sizes(profile, found)
    with plt.rc_context(STYLE):
        figure, axes = _panels(sizes, height=3.2, sharey=True)
        for axis, size in zip(axes[0], sizes, strict=True):
            for k, name in enumerate(methods):
                own = found[(found["size"] == size) & (found.method == name)]
                if len(own):
                    table = analyses.over_seeds(own, ["prompt"], ["entropy_change"])
                    places = [-place + 0.15 * (1.5 - k) for place in range(len(table))]
                    axis.errorbar(
                        table.entropy_change,
                        places,
                        xerr=table.entropy_change_ci,
                        fmt="o",
                        ms=4,
                        lw=1,
                        color=COLOURS[name],
                        label=profile.method(name).label,
                    )
                    axis.set_yticks(
                        [-place for place in range(len(table))],
                        [p.replace("_", " ") for p in table.prompt],
                    )
            axis.axvline(0, color="black", lw=0.8)
            axis.set(title=_named(profile, size), xlabel="change of entropy, bits a token")
        _legend(axes, axes[0, -1])
        figure.tight_layout()
        _say(figure, profile, _over(profile))
    return figure


def cost(profile, folder=None):
    """Seconds a step by method, split into sampling, scoring and update; means over seeds."""
    found, parts = analyses.cost(profile, folder), ("sample", "score", "update")
    sizes = _sizes(profile, found)
    with plt.rc_context(STYLE):
        figure, axes = _panels(sizes, height=3.0, sharey=True)
        for axis, size in zip(axes[0], sizes, strict=True):
            own = (
                found[found["size"] == size]
                .groupby("label", sort=False)
                .mean(numeric_only=True)[::-1]
                if len(found)
                else found
            )
            left = 0.0
            for part, colour in zip(parts, ("#88ccee", "#ddcc77", "#332288"), strict=True):
                if len(own):
                    axis.barh(
                        own.index, own[f"seconds_{part}"], left=left, color=colour, label=part
                    )
                    left = left + own[f"seconds_{part}"]
            axis.set(title=_named(profile, size), xlabel="seconds a step")
        _legend(axes, axes[0, -1])
        figure.tight_layout()
    return figure


def bonus_size(profile, folder=None):
    """How large eq. 3's addition is beside |A| at eta 0.03 in two forms, and which tokens get it,
    of the first size's base.
    """
    bonus = analyses.bonus(profile, folder)
    if bonus.empty:
        return plt.figure()
    bonus = bonus[bonus["size"] == bonus["size"].iloc[0]]
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.8, 3.0))
        for variant, name in (("paper", "policy_split"), ("released", "policy_split_released")):
            share = (bonus[variant] / bonus.advantage).abs().clip(lower=1e-5)
            left.hist(
                share,
                bins=[10 ** (-5 + k / 8) for k in range(42)],
                histtype="step",
                lw=1.6,
                color=COLOURS[name],
                label=f"{variant}, median {share.median():.3f}",
            )
        left.set(xscale="log", xlabel="|addition| / |A|", ylabel="tokens")
        left.legend(fontsize=8, loc="upper left")
        kinds = bonus.groupby("kind").bonus.mean().sort_values()
        right.barh(
            [f"{kind} ({(bonus.kind == kind).mean():.0%})" for kind in kinds.index],
            kinds,
            color="#4c72b0",
        )
        right.set(xlabel="mean B (eq. 4), standard deviations")
        figure.tight_layout()
    return figure


def checks(profile, folder=None, elsewhere=False):
    """Every check of every claim, a panel a size: its mean in half-widths of its 95% interval,
    right where the claim puts it.

    elsewhere: of the claims that are tested in another profile only, instead of all the others.
    """
    table = verdicts.checks(profile, folder)
    table = table[table.claim.map(lambda claim: "only_in" in verdicts.claims()[claim]) == elsewhere]
    if table.empty:
        return plt.figure()
    colours = {"confirmed": "#117733", "refuted": "#cc6677", "not separated": "#888888"}
    signs = {"confirmed": "o", "refuted": "X", "not separated": "|"}
    table["what"] = table.claim + np.where(table.decides, "  ", "  (beside) ") + table.check
    place = {what: -k for k, what in enumerate(table.what.unique())}
    sizes = _sizes(profile, table)
    table["scaled"] = (
        table.direction.map({"positive": 1, "negative": -1})
        * table["mean"]
        / ((table.high - table.low) / 2)
    )
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1,
            len(sizes),
            figsize=(4.6 + 2.3 * len(sizes), 0.17 * len(place) + 1.2),
            squeeze=False,
            sharey=True,
        )
        for axis, size in zip(axes[0], sizes, strict=True):
            for kind, own in table[table["size"] == size].groupby("verdict"):
                axis.errorbar(
                    own.scaled.clip(-6, 6),
                    own.what.map(place),
                    xerr=1,
                    fmt=signs[kind],
                    color=colours[kind],
                    ms=5,
                    lw=1,
                    label=kind,
                )
            axis.axvline(0, color="black", lw=0.8)
            axis.set(title=_named(profile, size), ylim=(0.7 - len(place), 0.7))
        axes[0, 0].set_yticks(list(place.values()), list(place), fontsize=6.5)
        figure.supxlabel(
            "mean difference over its interval's half-width (cut at 6); the claim's side is right",
            fontsize=8,
        )
        handles = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))
        for axis in axes[0, 1:]:
            handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        figure.legend(handles.values(), handles.keys(), fontsize=8, loc="upper left", ncols=1)
        figure.tight_layout()
        claims = (
            table.groupby("replicates")
            .claim.unique()
            .sort_values(key=lambda found: found.map(len), ascending=False)
        )
        _say(
            figure,
            profile,
            "; ".join(f"{over}: {', '.join(found)}" for over, found in claims.items()),
        )
    return figure


def worlds(profile, folder=None):
    """What training changes in each world: see tables.worlds. Dots are mean differences, bars their
    95% intervals.

    The legend names what the intervals are over.
    """
    table = tables.worlds(profile, folder)
    table["world"] += " " + table["size"]
    names, places = (
        list(table.world.unique()),
        {name: -k for k, name in enumerate(table.difference.unique())},
    )
    styles = list(
        zip(
            ("#56b4e9", "#0072b2", "#000000", "#d55e00", "#009e73", "#cc79a7"),
            "oDs^vP",
            strict=True,
        )
    )
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(11.0, 0.8 * len(places) + 1.3), sharey=True)
        for axis, (measure, what) in zip(
            axes,
            (
                ("points", "accuracy, points"),
                ("longer", "on longer sums, points"),
                ("bits", "entropy, bits a token"),
            ),
            strict=True,
        ):
            for k, (name, (colour, mark)) in enumerate(zip(names, styles, strict=False)):
                own = table[table.world == name]
                axis.errorbar(
                    own[measure],
                    own.difference.map(places) + 0.35 - 0.14 * k,
                    xerr=own[f"{measure}_ci"],
                    fmt=mark,
                    ms=4.5,
                    lw=1,
                    color=colour,
                    label=f"{name}, {own.pairs.min()} {own.replicates.iloc[0]}",
                )
            axis.axvline(0, color="black", lw=0.8)
            axis.set(xlabel=what)
        axes[0].set_yticks(list(places.values()), list(places), fontsize=8)
        _legend(axes, axes[2])
        figure.tight_layout()
    return figure


def reached(profile, folder=None):
    """Where exploration ends: accuracy on longer sums against the share of responses that work in
    steps there.

    A mark a run and mode, filled the normal mode, hollow the high-entropy mode; a panel a size.
    """
    table = analyses.derivations(profile, folder)
    table = table[table.suite == "long"]
    sizes = _sizes(profile, table)
    with plt.rc_context(STYLE):
        figure, axes = _panels(sizes)
        for axis, size in zip(axes[0], sizes, strict=True):
            for (method, mode), own in table[table["size"] == size].groupby(
                ["method", "mode"], sort=False
            ):
                axis.scatter(
                    100 * own.steps,
                    100 * own.accuracy,
                    s=18,
                    lw=0.9,
                    marker="s" if method == "original" else "o",
                    facecolor=COLOURS[method] if mode == "normal" else "white",
                    edgecolor=COLOURS[method],
                    label=profile.method(method).label + (tables.HE if mode == "he" else ""),
                )
            axis.set(
                title=_named(profile, size),
                xlabel="responses that work in steps, %",
                xlim=(-4, 104),
            )
        axes[0, 0].set_ylabel("accuracy on longer sums, %")
        _legend(axes, axes[0, -1], fontsize=7)
        figure.tight_layout()
    return figure


def parting(profile, folder=None):
    """Policy Split's inter-mode KL in training, of the runs in tables.PARTING, made beside this
    profile's: a line a base model.

    Means of five measurements, on a logarithmic scale from 0.0003 nats; below that the estimate is
    noise, and can be negative.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(tables.PARTING), figsize=(11.0, 3.0), sharey=True)
        for axis, ((name, method), what), colour in zip(
            axes, tables.PARTING.items(), ("#d62728", "#ff7f0e", "#1f77b4", "#9467bd"), strict=True
        ):
            found = analyses.dynamics(
                runs.load_profile(name), Path(folder or profile.folder).parent / name
            )
            for _, own in found[found.method == method].groupby("seed"):
                axis.plot(
                    own.step,
                    own.kl_he_from_normal.rolling(5).mean().clip(lower=3e-4),
                    color=colour,
                    lw=1.2,
                )
            axis.axhline(tables.PARTED, color="#666666", lw=0.8, ls=":")
            axis.set(xlabel="training step", yscale="log", ylim=(2.8e-4, 0.6))
            axis.set_title(textwrap.fill(what, 36), fontsize=9)
        axes[0].set_ylabel("inter-mode KL, nats a token")
        figure.tight_layout()
    return figure


def creative(profile, folder=None):
    """Diversity of stories in each mode of each method; means over seeds with 95% intervals, filled
    the normal mode.
    """
    table = tables.table2(profile, folder)
    sizes = _sizes(profile, table)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            2, len(sizes), figsize=(3.6 * len(sizes) + 2.2, 6.2), squeeze=False, sharey=True
        )
        for column, size in enumerate(sizes):
            for row, (measure, name) in enumerate(
                (("div_2gram", "Div-2-gram"), ("div_bleu4", "Div-BLEU-4"))
            ):
                for place, method in enumerate(profile.methods):
                    label = profile.method(method).label
                    for mode, shift, face in (
                        ("", 0.14, COLOURS[method]),
                        (tables.HE, -0.14, "white"),
                    ):
                        own = table[(table["size"] == size) & (table.label == label + mode)]
                        if len(own):
                            axes[row, column].errorbar(
                                own[measure],
                                -place + shift,
                                xerr=own[f"{measure}_ci"],
                                fmt="o",
                                ms=4.5,
                                color=COLOURS[method],
                                mfc=face,
                                lw=1,
                            )
                axes[row, column].set_yticks(
                    [-k for k in range(len(profile.methods))],
                    [profile.method(m).label for m in profile.methods],
                    fontsize=8,
                )
                axes[row, column].set(
                    xlabel=f"{name}, 0 to 100", title=_named(profile, size) if row == 0 else ""
                )
        figure.tight_layout()
        _say(figure, profile, _over(profile))
    return figure


def save(figure, folder, name):
    """Write a figure as <name>.svg and <name>.png, each whole or not at all, and close it."""
    for kind in ("svg", "png"):
        data = io.BytesIO()
        with plt.rc_context(STYLE):
            figure.savefig(data, format=kind, metadata={"Date": None} if kind == "svg" else None)
        checkpoint.write(folder / f"{name}.{kind}", data.getvalue())
    plt.close(figure)
