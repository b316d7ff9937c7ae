"""Figures: one function each, from results to a matplotlib Figure.

Policy Split is in colour, what it is compared with is grey, each method has its own marker; the
normal mode is filled or a full line, the high-entropy mode hollow or dashed.
"""

import io
import textwrap

import matplotlib.pyplot as plt
import numpy as np

from pslib import methods
from pslib.evidence import analyses, tables
from pslib.evidence.analyses import over_seeds
from pslib.evidence.stats import mean_interval
from pslib.lab import checkpoint

# A notebook's backend shows figures because it makes pyplot interactive when it is loaded, which is
# at the first figure unless it is here: then inside a rc_context, whose end would undo it, and no
# later figure would be shown.
plt.switch_backend(plt.get_backend())

STYLE = analyses.written("artefacts")["style"]
LOOKS = analyses.written("artefacts")["looks"]
COLOURS = {method: colour for method, (colour, _) in LOOKS.items()}
# What stands for parts of a whole, which are no methods; told apart by lightness too.
PARTS = ("#20386b", "#5b7fb5", "#a9c4e4", "#e3b23c", "#d9d9d9")
PLAIN, NAMED = "#5b7fb5", "#e3b23c"
WIDTH = 8.4  # inches, shown 838 pixels wide in a README: a point is then a little over a pixel


# --- shapes that figures share --------------------------------------------------------------------
def _sizes(profile, found):
    """The sizes that have results, in the profile's order; all of them where none has."""
    return [s for s in profile.table_sizes if s in set(found["size"])] or profile.table_sizes


def _panels(profile, found, height=2.9, **shared):
    """A figure with a panel a size that has results -> (figure, [(axis, the size's rows)])."""
    sizes = _sizes(profile, found)
    width = WIDTH if len(sizes) > 1 else 0.68 * WIDTH
    figure, axes = plt.subplots(1, len(sizes), figsize=(width, height), squeeze=False, **shared)
    for axis, size in zip(axes[0], sizes, strict=True):
        axis.set_title(profile.origin.label(size))
    rows = (found[found["size"] == size] for size in sizes)
    return figure, list(zip(axes[0], rows, strict=True))


def _look(method, mode="normal", **more):
    """How a mark of a method's mode is drawn; a variant looks like Policy Split."""
    colour, marker = LOOKS.get(method, LOOKS["policy_split"])
    face = colour if mode == "normal" else "white"
    return {"color": colour, "marker": marker, "mfc": face, **more}


def _line(method, mode="normal"):
    colour, _ = LOOKS.get(method, LOOKS["policy_split"])
    return {"color": colour, "ls": "-" if mode == "normal" else "--", "lw": 1.5}


def _called(profile, method, mode):
    return profile.method(method).label + (", HE mode" if mode == "he" else "")


def _reach(mean, half, low=-np.inf, high=np.inf):
    """How far an interval is drawn below and above its mean (2, n), within what can be."""
    mean, half = (np.atleast_1d(np.asarray(each, float)) for each in (mean, half))
    return np.stack([np.minimum(half, mean - low), np.minimum(half, high - mean)]).clip(min=0)


def _intervals(axis, table, measure, places, **look):
    """Means as marks with their 95% intervals as bars, at these places of the vertical axis."""
    reach = _reach(table[measure], table[f"{measure}_ci"])
    axis.errorbar(table[measure], places, xerr=reach, **{"ls": "", "ms": 5, "lw": 1, **look})


def _band(axis, table, x, y, bounds, **look):
    """A line of means with its 95% band."""
    axis.plot(table[x], table[y], **look)
    below, above = _reach(table[y], table[f"{y}_ci"], *bounds)
    low, high = table[y] - below, table[y] + above
    axis.fill_between(table[x], low, high, color=look["color"], alpha=0.13, lw=0)


def _rows(axis, names):
    """Names down the vertical axis, the first on top, and a line at no difference."""
    axis.set_yticks([-k for k in range(len(names))], names)
    axis.set_ylim(0.4 - max(1, len(names)), 0.6)
    axis.axvline(0, color="black", lw=0.8, zorder=0)


def _legend(figure, said="", ncols=3):
    """The figure with one legend below all panels, under what is said of the marks."""
    found = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    if found or said:
        place = {"loc": "outside lower center", "ncols": ncols}
        figure.legend(found.values(), found, title=said or None, **place)
    return figure


def _over(profile, drawn, *said, untrained="original"):
    """What is said of a figure, and what its intervals are over: nothing of it where each row has
    one run, and so no interval. drawn: a table of runs, or of rows with a column seeds.
    """
    by_row = drawn.groupby(["size", "method"]).seed.nunique() if "seed" in drawn else drawn.seeds
    trained, untrained = profile.replicates(), profile.replicates(untrained)
    over = trained if trained == untrained else f"{trained}; Original's over {untrained}"
    return "; ".join([*said, *([f"95% intervals over {over}"] if by_row.max() > 1 else [])])


# --- table 1 --------------------------------------------------------------------------------------
@plt.rc_context(STYLE)
def accuracy_against_entropy(profile, folder=None):
    """Average accuracy against average entropy: large marks are means over seeds with 95%
    intervals, small ones single seeds.
    """
    found = analyses.suites(profile, folder)
    found = found[found.method.isin(profile.methods)]
    figure, panels = _panels(profile, found, height=3.6)
    for axis, table in panels:
        for (method, mode, label), own in table.groupby(["method", "mode", "label"], sort=False):
            look = _look(method, mode, ls="")
            axis.plot(own.average_ent, own.average_acc, **look, ms=3, alpha=0.4)
            (x, across), (y, up) = mean_interval(own.average_ent), mean_interval(own.average_acc)
            reach = {"xerr": _reach(x, across, 0), "yerr": _reach(y, up, 0, 100)}
            axis.errorbar(x, y, **reach, **look, ms=7.5, lw=1, label=label)
        axis.set_xlabel("entropy, bits a token")
    panels[0][0].set_ylabel("accuracy, %")
    return _legend(
        figure, _over(profile, found, "average of four suites; small: single runs"), ncols=2
    )


# --- the base model -------------------------------------------------------------------------------
@plt.rc_context(STYLE)
def base_properties(measured):
    """Share and accuracy of each derivation without a prompt and under its own (base.measure)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.8), sharey=True)
    default = measured[measured.measure == "default"].set_index("derivation")
    named = measured[measured.measure == "named"].set_index("derivation").loc[default.index]
    places = -np.arange(len(default))
    left.barh(places, default.share, color=PLAIN)
    left.set(xlabel="share of responses without a system prompt", xlim=(0, 1))
    look = {"height": 0.38, "color": PLAIN, "label": "no system prompt"}
    right.barh(places + 0.2, default.accuracy, **look)
    look |= {"color": NAMED, "label": "system prompt that names it"}
    right.barh(places - 0.2, named.accuracy, **look)
    right.set(xlabel="accuracy when it is used", xlim=(0, 1))
    right.set_yticks(places, default.index)
    return _legend(figure)


@plt.rc_context(STYLE)
def bonus_size(profile, folder=None):
    """How large eq. 3's addition is beside |A| at eta 0.03, and which tokens get it."""
    bonus = analyses.bonus(profile, folder)
    if bonus.empty:
        return plt.figure()
    bonus = bonus[bonus["size"] == bonus["size"].iloc[0]]
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.8))
    forms = {"paper": ("policy_split", "-"), "released": ("policy_split_released", "--")}
    for form, (name, line) in forms.items():
        share = (bonus[form] / bonus.advantage).abs().clip(lower=1e-4)
        label = f"{form}, median {share.median():.3f}"
        look = {"histtype": "step", "lw": 1.6, "ls": line, "color": COLOURS[name]}
        left.hist(share, bins=np.logspace(-4, 0.25, 35), label=label, **look)
    left.set(xscale="log", xlabel="|addition| / |A|", ylabel="tokens", xlim=(1e-4, 3))
    left.set_ylim(top=1.3 * left.get_ylim()[1])  # room for the legend
    left.legend(loc="upper left")
    kinds = bonus.groupby("kind").bonus.mean().sort_values()
    names = [f"{kind} ({(bonus.kind == kind).mean():.0%})" for kind in kinds.index]
    right.barh(names, kinds, color=PLAIN)
    right.set(xlabel="mean B (eq. 4), standard deviations")
    return figure


# --- training -------------------------------------------------------------------------------------
CURVES = {
    "accuracy": ("accuracy of the rollouts", (0, 1)),
    "entropy_bits": ("entropy, bits a token", (0,)),
    "kl_he_from_normal": ("inter-mode KL, nats a token", (0,)),
}


@plt.rc_context(STYLE)
def dynamics(profile, folder=None, methods=None, grid=None):
    """Figure 1c, ours: accuracy, entropy and inter-mode KL in training, means over seeds with 95%
    bands, a row a size. methods: by default `compared` of claims.yaml; grid: the runs (method,
    size, seed).
    """
    found = analyses.dynamics(profile, folder, grid)
    sizes, measures = _sizes(profile, found), [*analyses.ACCURACIES, *analyses.APART]
    methods = methods or [m for m in analyses.written()["compared"] if m in profile.methods]
    shape = {"figsize": (WIDTH, 2.2 * len(sizes) + 0.6), "squeeze": False, "sharex": True}
    figure, axes = plt.subplots(len(sizes), 3, **shape)
    for row, size in zip(axes, sizes, strict=True):
        for name in methods:
            own = found[(found["size"] == size) & (found.method == name)]
            table = over_seeds(own, ["step"], measures)
            modes = profile.method(name).sampling if len(own) else ()
            for axis, (measure, (_, bounds)) in zip(row, CURVES.items(), strict=True):
                for mode in modes if measure != "kl_he_from_normal" else modes[1:]:
                    column = measure if measure in table else f"{measure}_{mode}"
                    look = _line(name, mode) | {"label": _called(profile, name, mode)}
                    _band(axis, table, "step", column, bounds, **look)
        row[0].set_ylabel(profile.origin.label(size))
    for axis, (said, _) in zip(axes[0], CURVES.values(), strict=True):
        axis.set_title(said)
    for axis in axes[-1]:
        axis.set_xlabel("training step")
    return _legend(figure, _over(profile, found, untrained=""))


@plt.rc_context(STYLE)
def beside_figure_1c(*given):
    """The paper's figure 1c beside Policy Split's training in some (profile, folder), on the same
    scales; the paper's bands are what its plot could be read to.
    """
    reading = {f"{measure}_ci": 0.01 for measure in analyses.APART}
    sources = {"reported: figure 1c\n(read by eye)": tables.reported_figure_1c().assign(**reading)}
    for profile, folder in given:
        found = analyses.dynamics(profile, folder)
        found = found[(found["size"] == profile.ablation_unit) & (found.method == "policy_split")]
        eta = profile.method("policy_split").coefficients["eta"]
        name = f"ours: {profile.name} {profile.ablation_unit}, eta {eta:g}"
        name += f"\n({profile.replicates()})"
        sources[name] = over_seeds(found, ["step"], analyses.APART)
    shape = {"figsize": (WIDTH, 4.6), "sharex": "col", "sharey": "row"}
    figure, axes = plt.subplots(2, len(sources), **shape)
    for (entropy, kl), (name, table) in zip(axes.T, sources.items(), strict=True):
        entropy.set_title(name)
        kl.set_xlabel("training step")
        for axis, measure in zip((entropy, entropy, kl), analyses.APART, strict=True):
            mode = "normal" if "bits_normal" in measure else "he"
            look = _line("policy_split", mode) | {"label": f"{mode} mode".replace("he", "HE")}
            _band(axis, table, "step", measure, (0,), **look)
    axes[0, 0].set_ylabel("entropy, bits a token")
    axes[1, 0].set_ylabel("KL, nats a token")
    return _legend(figure)


@plt.rc_context(STYLE)
def parting(profile, folder=None):
    """Policy Split's inter-mode KL in training in the runs of `parting` in claims.yaml: a line a
    base model, means of five. Below 0.0003 nats the estimate is noise, and can be negative.
    """
    given = analyses.written()["parting"]
    figure, axes = plt.subplots(1, len(given), figsize=(WIDTH, 2.7), sharey=True)
    for axis, each in zip(axes, given, strict=True):
        found = analyses.dynamics(*analyses.beside(profile, folder, each["profile"]))
        for _, own in found[found.method == each["method"]].groupby("seed"):
            kl = own.kl_he_from_normal.rolling(5).mean().clip(lower=3e-4)
            axis.plot(own.step, kl, color=COLOURS[each["method"]], lw=1.2)
        axis.axhline(tables.PARTED, color="#666666", lw=0.8, ls=":")
        axis.set(xlabel="training step", yscale="log", ylim=(2.8e-4, 0.6))
        axis.set_title(textwrap.fill(each["what"], 27))
    axes[0].set_ylabel("inter-mode KL, nats a token")
    return figure


# --- ablations ------------------------------------------------------------------------------------
@plt.rc_context(STYLE)
def eta_ablation(profile, folder=None):
    """Accuracy, entropy and final inter-mode KL of both modes against eta, and GRPO's band."""
    table = tables.ablations(profile, folder)
    given = methods.METHODS["policy_split"]
    swept = [name for name in {*table.variant} if profile.method(name).same_but("eta", given)]
    table = table[table.variant.isin(swept) & (table.seeds > 0)].sort_values("eta")
    collapsed = table[table.average_acc < 20]  # would hide all the rest
    table = table.drop(collapsed.index)
    grpo = tables.table1(profile, folder).set_index(["size", "label"])
    grpo = grpo.loc[(profile.ablation_unit, "GRPO")]
    panels = {
        "average_acc": ("accuracy, %", (0, 100)),
        "average_ent": ("entropy, bits a token", (0,)),
        "kl_end": ("inter-mode KL at the end, nats", (0,)),
    }
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 3.0))
    ticks = sorted(set(table.eta))
    for axis, (measure, (name, bounds)) in zip(axes, panels.items(), strict=True):
        for mode in ("normal", "he") if measure in grpo else ("he",):
            own = table[table["mode"] == mode]
            reach = _reach(own[measure], own[f"{measure}_ci"], *bounds)
            look = _look("policy_split", mode, ms=4.5) | _line("policy_split", mode)
            label = _called(profile, "policy_split", mode)
            axis.errorbar(own.eta, own[measure], reach, label=label, **look)
        if measure in grpo:
            mean, half = grpo[measure], grpo[f"{measure}_ci"]
            axis.axhline(mean, color=COLOURS["grpo"], lw=1.2, label="GRPO")
            axis.axhspan(mean - half, mean + half, color=COLOURS["grpo"], alpha=0.12, lw=0)
        axis.set_xscale("symlog", linthresh=0.03)
        axis.set_xticks(ticks, [f"{eta:g}" for eta in ticks])
        axis.minorticks_off()
        axis.set(xlabel="eta", title=name, xlim=(-0.01, 1.3 * max(ticks, default=1.0) + 0.03))
    lines = [
        f"eta {row.eta:g}, {row.mode} mode: {row.average_acc:.0f}%, {row.average_ent:.1f} "
        f"bits, KL {row.kl_end:.2f}"
        for row in collapsed.itertuples()
    ]
    said = "not drawn, collapsed: " + "; ".join(lines) + "\n" if lines else ""
    return _legend(figure, said + _over(profile, table, untrained=""))


@plt.rc_context(STYLE)
def part_ablation(profile, folder=None):
    """What each part and departure changes against Policy Split with the same eta."""
    table = tables.ablations(profile, folder)
    table = table[(table.reference != "grpo") & (table.seeds > 0)]
    second = analyses.written()["second_reference"]
    for row in table.itertuples():
        twice = second.get(row.variant) == row.reference
        more = f", against {row.reference}" if twice else f" (eta {row.eta:g})"
        table.loc[row.Index, "name"] = f"{row.variant}{more}".replace("_", " ")
    names = list(table.get("name", table.variant).unique())
    panels = {"average_acc": "accuracy, points", "average_ent": "entropy, bits a token"}
    shape = {"figsize": (WIDTH, 0.3 * len(names) + 1.2), "sharey": True}
    figure, axes = plt.subplots(1, 2, **shape)
    for axis, (measure, name) in zip(axes, panels.items(), strict=True):
        for mode, own in table.groupby("mode", sort=False):
            place = (0.14 if mode == "normal" else -0.14) - own.name.map(names.index)
            said = "normal mode" if mode == "normal" else "HE mode"
            look = _look("policy_split", mode, label=said)
            _intervals(axis, own, f"{measure}_change", place, **look)
        _rows(axis, names)
        axis.set_title(f"change of {name}")
    return _legend(figure, _over(profile, table, untrained=""))


# --- what was asked beside the suites -------------------------------------------------------------
@plt.rc_context(STYLE)
def best_of_n(profile, folder=None):
    """The share of questions that none of n responses solves, in each mode and half in each; a line
    ends where all are solved.
    """
    ways = {"normal": "-", "he": "--", "both": ":"}
    figure, panels = _panels(profile, analyses.best_of_n(profile, folder), sharey=True)
    for axis, found in panels:
        for name in analyses.written()["compared"]:
            table = over_seeds(found[found.method == name], ["sampling", "n"], ["accuracy"])
            split = len(profile.method(name).sampling) > 1
            for way in ways if split else ["normal"]:
                part = table[(table.sampling == way) & (table.accuracy < 100 - 1e-9)]
                mode = "normal" if way == "both" else way
                look = _look(name, mode, ms=4) | _line(name, mode) | {"ls": ways[way]}
                half = ", half in each mode" if way == "both" else ""
                label = _called(profile, name, mode) + half
                axis.plot(part.n, 100 - part.accuracy, **look, label=label)
        axis.set(xlabel="responses n", xscale="log", yscale="log", ylim=(0.01, 100))
        axis.set_xticks(analyses.TRIES, map(str, analyses.TRIES))
        axis.minorticks_off()
    panels[0][0].set_ylabel("questions not solved by any of n, %")
    return _legend(figure, ncols=2)


@plt.rc_context(STYLE)
def behaviour(profile, folder=None):
    """Shares of the derivations without and with the high-entropy prompt, and how far apart."""
    figure, panels = _panels(profile, analyses.behaviour(profile, folder), sharey=True)
    for axis, found in panels:
        own = found.drop(columns=["size", "label", "seed"])
        means = own.groupby("method", sort=False).mean()
        methods = [m for m in analyses.written()["compared"] if m in means.index]
        for row, mode in enumerate(("normal", "he")):
            places = -2 * np.arange(len(methods)) - row
            left = 0.0
            for share, colour in zip(analyses.SHARES, PARTS, strict=True):
                width = means.loc[methods, f"{share}_{mode}"]
                label = share.removeprefix("share_")
                axis.barh(places, width, left=left, color=colour, height=0.8, label=label)
                left = left + width
        for k, distance in enumerate(means.distance[methods]):
            axis.text(1.01, -2 * k - 0.5, f"{distance:.2f}", va="center", fontsize=8)
        prompts = [f"{profile.method(m).label}{p}" for m in methods for p in ("", ", HE prompt")]
        axis.set_yticks([-k for k in range(len(prompts))], prompts)
        axis.set(xlabel="share; right: distance", xlim=(0, 1))
        axis.grid(False)
    return _legend(figure, ncols=5)


@plt.rc_context(STYLE)
def prompt_generalization(profile, folder=None):
    """Change of entropy from the normal mode under the trained and the unseen prompts."""
    found = analyses.prompt_generalization(profile, folder)
    prompts = list(found.prompt.unique())
    figure, panels = _panels(profile, found, height=3.4, sharey=True)
    for axis, rows in panels:
        for k, name in enumerate(analyses.written()["compared"]):
            own = rows[rows.method == name]
            table = over_seeds(own, ["prompt"], ["entropy_change"])
            places = 0.18 * (1.5 - k) - table.prompt.map(prompts.index)
            if len(own):
                look = _look(name, label=profile.method(name).label)
                _intervals(axis, table, "entropy_change", places, **look)
        _rows(axis, [prompt.replace("_", " ") for prompt in prompts])
        axis.set_xlabel("entropy, bits a token")
    return _legend(figure, _over(profile, found), ncols=2)


@plt.rc_context(STYLE)
def reached(profile, folder=None):
    """Accuracy on longer sums against the share of responses that work in steps there."""
    table = analyses.derivations(profile, folder)
    table = table[(table.suite == "long") & table.method.isin(profile.methods)]
    figure, panels = _panels(profile, table, height=4.0, sharex=True)
    for axis, found in panels:
        for (method, mode), own in found.groupby(["method", "mode"], sort=False):
            label = analyses.label_of(profile, method, mode)
            look = _look(method, mode, ls="", ms=5, label=label)
            axis.plot(100 * own.steps, 100 * own.accuracy, **look)
        axis.set_xlabel("responses that work in steps, %")
    panels[0][0].set_ylabel("accuracy on longer sums, %")
    return _legend(figure, ncols=2)


@plt.rc_context(STYLE)
def worlds(profile, folder=None):
    """What training changes in each world: mean differences with 95% intervals."""
    table = tables.worlds(profile, folder)
    over = table.replicates.str.removesuffix(" of one base model")
    table["world"] += " " + table["size"] + ", " + table.pairs.astype(str) + " " + over
    names, given = list(table.world.unique()), analyses.written()["worlds"]["differences"]
    panels = ("accuracy, points", "on longer sums, points", "entropy, bits a token")
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 0.75 * len(names) + 1.5), sharey=True)
    for axis, measure, what in zip(axes, tables.WORLDS, panels, strict=True):
        for k, said in enumerate(table.difference.unique()):
            own, (term, _) = table[table.difference == said], analyses.terms(given[k])
            look = _look(term.method, term.at, label=said)
            places = 0.15 * (2 - k) - own.world.map(names.index)
            _intervals(axis, own, measure, places, **look)
        _rows(axis, names)
        axis.set_title(what)
    return _legend(figure, "95% intervals over what stands beside each world", ncols=2)


@plt.rc_context(STYLE)
def strip(checks):
    """One check in several forms and worlds: 95% intervals; the claim's side is shaded."""
    figure, axis = plt.subplots(figsize=(0.8 * WIDTH, 0.24 * len(checks) + 0.6))
    names = []
    for k, row in enumerate(checks.to_dict("records")):
        # what is said by the profile's name is not said again
        form = row["claim"].partition(" ")[2].removeprefix(row["profile"]).strip()
        form = f" ({form})".replace("released", "released bonus") if form else ""
        names.append(f"{row['profile']} {row['size']}{form}")
        look = _look("policy_split_released" if "released" in form else "policy_split")
        reach = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
        axis.errorbar(row["mean"], -k, xerr=reach, ms=5, lw=1.2, **look)
    _rows(axis, names)
    low, high = axis.get_xlim()
    side = (0, high) if row["direction"] == "positive" else (low, 0)
    axis.axvspan(*side, color="#8a8a8a", alpha=0.12, lw=0)
    first = checks.iloc[0]
    axis.set(xlim=(low, high), xlabel=f"{first.check}, {first.unit}")
    return figure


def save(figure, folder, name):
    """Write a figure whole as <name>.svg and .png and close it; of an empty one neither is left."""
    for kind in ("svg", "png"):
        if not figure.axes:
            (folder / f"{name}.{kind}").unlink(missing_ok=True)
            continue
        data = io.BytesIO()
        with plt.rc_context(STYLE):
            figure.savefig(data, format=kind, metadata={"Date": None} if kind == "svg" else None)
        checkpoint.write(folder / f"{name}.{kind}", data.getvalue())
    plt.close(figure)
