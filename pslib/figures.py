"""Figures: one function each, from results to a matplotlib Figure; saving is `save`'s business."""

import io

import matplotlib.pyplot as plt
import pandas as pd

from pslib import checkpoint, runs, tables

# A notebook's backend shows figures because it makes pyplot interactive when it is loaded, which is at the first figure unless
# it is here: then inside a rc_context, whose end would undo it, and no later figure would be shown.
plt.switch_backend(plt.get_backend())

# One colour a method in every figure; the two modes of Policy Split share one hue.
COLOURS = {
    "original": "#7f7f7f", "grpo": "#1f77b4", "forking": "#17becf", "clip_cov": "#2ca02c", "entropy_driven": "#8c564b",
    "entropy_regularization": "#bcbd22", "entropy_advantage": "#e377c2", "policy_split": "#d62728",
    "policy_split_released": "#ff7f0e",
}
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
         "figure.dpi": 110, "savefig.bbox": "tight", "svg.hashsalt": "pslib", "legend.frameon": False}


def accuracy_against_entropy(profile, folder=None):
    """Table 1 as a picture: average accuracy against average entropy, a panel a size, a mark a method and mode.

    Large marks are means over seeds with 95% intervals, small ones single seeds; hollow marks are the HE mode.
    """
    found, table = tables.per_seed(profile, folder), tables.table1(profile, folder)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(profile.sizes), figsize=(2.2 + 4.2 * len(profile.sizes), 3.8), squeeze=False)
        for axis, size in zip(axes[0], profile.sizes):
            for name in profile.methods:
                for mode in profile.method(name).sampling:
                    own = found[(found["size"] == size) & (found.method == name) & (found["mode"] == mode)]
                    if not len(own):
                        continue
                    mean = table[(table["size"] == size) & (table.label == own.label.iloc[0])].iloc[0]
                    face = COLOURS[name] if mode == "normal" else "white"
                    axis.scatter(own.average_ent, own.average_acc, s=9, color=COLOURS[name], alpha=0.45, linewidths=0)
                    axis.errorbar(mean.average_ent, mean.average_acc, xerr=mean.average_ent_ci, yerr=mean.average_acc_ci,
                                  fmt="s" if name == "original" else "o", ms=7, color=COLOURS[name], mfc=face, lw=0.8,
                                  label=mean.label)
            axis.set(title=f"nano {size}" if profile.model == "nano" else size,
                     xlabel="entropy, bits a token (average of four suites)")
        axes[0, 0].set_ylabel("accuracy, % (average of four suites)")
        axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8)
    return figure


def training_curves(profile, size, methods=("grpo", "policy_split"), seeds=None, folder=None):
    """Training of some methods: reward, and each mode's entropy in bits, means over seeds in windows of five measurements.

    Thin lines are seeds; dashed lines are the high-entropy mode.
    """
    root = (folder or profile.folder) / "runs"
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.2))
        for name in methods:
            paths = [root / runs.run_id(name, size, seed) / "metrics.csv" for seed in seeds or profile.seeds]
            found = [pd.read_csv(path).set_index("step") for path in paths if path.exists()]
            if not found:
                continue
            for mode in profile.method(name).sampling:
                line = "-" if mode == "normal" else "--"
                label = profile.method(name).label + (", HE mode" if mode == "he" else "")
                for axis, column in ((left, f"accuracy_{mode}"), (right, f"entropy_bits_{mode}")):
                    smooth = [seed[column].dropna().rolling(5, min_periods=1).mean() for seed in found]
                    for seed in smooth:
                        axis.plot(seed.index, seed, line, color=COLOURS[name], lw=0.5, alpha=0.4)
                    mean = pd.concat(smooth, axis=1).mean(axis=1)
                    axis.plot(mean.index, mean, line, color=COLOURS[name], lw=1.8, label=label)
        left.set(xlabel="step", ylabel="accuracy of the step's rollouts")
        right.set(xlabel="step", ylabel="entropy, bits a token")
        right.legend(fontsize=8)
        figure.tight_layout()
    return figure


def base_properties(measured):
    """What the base model does: share and accuracy of each derivation, without a prompt and under its own.

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
        right.barh([p + 0.2 for p in places], default.accuracy[order], height=0.38, color="#4c72b0", label="no system prompt")
        right.barh([p - 0.2 for p in places], named.accuracy[order], height=0.38, color="#dd8452",
                   label="system prompt that names it")
        right.set(xlabel="accuracy when it is used", xlim=(0, 1))
        right.set_yticks(list(places), order)
        right.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2)
        figure.tight_layout()
    return figure


def save(figure, folder, name):
    """Write a figure as <name>.svg and <name>.png, each whole or not at all, and close it."""
    for kind in ("svg", "png"):
        data = io.BytesIO()
        with plt.rc_context(STYLE):
            figure.savefig(data, format=kind, metadata={"Date": None} if kind == "svg" else None)
        checkpoint.write(folder / f"{name}.{kind}", data.getvalue())
    plt.close(figure)
