"""Figures of the worlds in which system prompts mean something and in which they mean nothing, of
the profile `understood` and those beside it (`taught_models`: of `smollm2_taught`). A small mark is
a base model, a large one their mean with its 95% interval.
"""

import matplotlib.pyplot as plt

from pslib.evidence import analyses, probe, stats, tables
from pslib.evidence.figures import PARTS, STYLE, WIDTH, _band, _legend, _look, _rows

# What is drawn: worlds and how they look, methods, trained prompts, kinds of tokens.
_DRAWN = analyses.written("artefacts")["understood"]
WORLDS, FORMS, GAPS, KINDS = (_DRAWN[key] for key in ("worlds", "methods", "gaps", "kinds"))


def _gap(world, method, prompt="high_entropy"):
    """The gap between the entropies under a prompt and under none, as a quantity."""
    return f"{world}/{method}@{prompt} - {world}/{method}@none"


def _reader(profile, folder):
    """A function of a quantity and measure -> its values by base model."""
    evidence, size = analyses.Evidence(profile, folder), profile.table_sizes[0]
    return lambda quantity, measure="asked_bits": evidence.quantity(quantity, size, measure)


def _dots(axis, values, place, single=True, **look):
    """The mean with its 95% interval, and below it single base models where there are several;
    nothing of no values.
    """
    if len(values):
        mean, half = stats.mean_interval(values)
        axis.errorbar(mean, place, xerr=half, ls="", ms=5.5, lw=1.3, **look)
        if single and len(values) > 1:
            look = look | {"label": None, "ls": "", "ms": 3, "mew": 0}
            axis.plot(values, [place - 0.16] * len(values), **look, alpha=0.5)


@plt.rc_context(STYLE)
def form_and_meaning(profile, folder=None):
    """Left: the normal mode's entropy after training minus before. Right: D(p), the gap under p
    after the released form minus the same after eta 0.
    """
    measured = _reader(profile, folder)
    shape = {"figsize": (WIDTH, 3.6), "gridspec_kw": {"width_ratios": [1.25, 1]}}
    figure, (left, right) = plt.subplots(1, 2, **shape)
    for shift, (world, look) in zip((0.22, -0.22), WORLDS.items(), strict=True):
        for row, method in enumerate(FORMS):
            quantity = f"{world}/{method}@none - {world}/original@none"
            _dots(left, measured(quantity), shift - row, **look)
    for row, (world, prompt) in enumerate(GAPS.values()):
        after = measured(_gap(world, "policy_split_released", prompt))
        before = measured(_gap(world, "eta_0", prompt))
        look = WORLDS.get(world, WORLDS["understood"])
        _dots(right, (after - before).dropna(), -row, **look)
    right.axvspan(-0.015, 0.015, color="#8a8a8a", alpha=0.12, lw=0)
    _rows(left, list(FORMS.values()))
    _rows(right, list(GAPS))
    left.set(xlabel="bits a token", title="normal mode's entropy, change in training")
    right.set(xlabel="bits a token", title="D: gap that the bonus adds")
    for axis in (left, right):
        axis.locator_params(axis="x", nbins=5)  # or the labels run into each other
    return _legend(figure)


@plt.rc_context(STYLE)
def gap_after_against_before(profile, folder=None):
    """The gap between the modes' entropies after training against before, by base model."""
    measured = _reader(profile, folder)
    methods = {name: FORMS[name] for name in ("eta_0", "policy_split", "policy_split_released")}
    shape = {"figsize": (WIDTH, 3.0), "sharex": True, "sharey": True}
    figure, axes = plt.subplots(1, len(methods), **shape)
    for axis, (method, said) in zip(axes, methods.items(), strict=True):
        for world, look in WORLDS.items():
            before, after = (measured(_gap(world, name)) for name in ("original", method))
            both = before.index.intersection(after.index)
            axis.plot(before[both], after[both], ls="", alpha=0.8, mew=0, **look)
        axis.axline((0, 0), slope=1, color="black", lw=0.7, ls=":")
        axis.axhline(0, color="black", lw=0.6)
        axis.axvline(0, color="black", lw=0.6)
        axis.set(title=said, xlabel="gap before training, bits")
    axes[0].set_ylabel("gap after training, bits")
    return _legend(figure)


@plt.rc_context(STYLE)
def what_carries_the_gap(profile, folder=None):
    """Which kinds of tokens carry the gap, before training and after each form: a kind's bits
    divided by all tokens, so that parts add up to the gap.
    """
    measured = _reader(profile, folder)
    methods = {"original": "before training"}
    methods |= {name: FORMS[name] for name in ("grpo", "eta_0", "policy_split_released")}
    shape = {"figsize": (WIDTH, 3.2), "sharex": True, "sharey": True}
    figure, axes = plt.subplots(1, len(WORLDS), **shape)
    for axis, (world, look) in zip(axes, WORLDS.items(), strict=True):
        for k, kind in enumerate(probe.KINDS):
            own = {"color": PARTS[k], "marker": "os^Dv"[k], "label": KINDS[kind], "mec": "#333333"}
            for row, method in enumerate(methods):
                found = measured(_gap(world, method), f"part_{kind}")
                _dots(axis, found, 0.13 * (2 - k) - row, single=False, **own)
        _rows(axis, list(methods.values()))
        axis.set(title=look["label"], xlabel="part of the gap, bits a token")
    return _legend(figure, ncols=5)


@plt.rc_context(STYLE)
def taught_models(profile, folder=None):
    """A pretrained model that was taught either world: the normal mode's entropy, and the gap
    between the modes, before training and after each method; where there are several taught models
    a small dot is one.

    It takes the profile `smollm2_taught` and the folder of its results.
    """
    measured = _reader(profile, folder)
    names = ("grpo", "policy_split", "policy_split_released")
    methods = {"original": "before training"} | {name: FORMS[name] for name in names}
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.0))
    for shift, (world, look) in zip((0.2, -0.2), WORLDS.items(), strict=True):
        taught = world.replace("understood", profile.name)
        for row, method in enumerate(methods):
            _dots(left, measured(f"{taught}/{method}@none"), shift - row, **look)
            _dots(right, measured(_gap(taught, method)), shift - row, **look)
    titles = "normal mode's entropy", "gap between the modes"
    for axis, title in zip((left, right), titles, strict=True):
        _rows(axis, list(methods.values()))
        axis.set(xlabel="bits a token", title=title)
        axis.locator_params(axis="x", nbins=5)
    return _legend(figure)


WAYS = {  # of spending k responses: how each is drawn, and called
    "normal": ({"mode": "normal", "ls": "-"}, "normal mode"),
    "he": ({"mode": "he", "ls": "--"}, "under the HE prompt"),
    "both": ({"mode": "normal", "ls": ":", "marker": ""}, "half of k in each"),
}


@plt.rc_context(STYLE)
def pass_at_k(profile, folder=None):
    """Pass@k against k, a row a criterion and a column a method: the normal mode, the high-entropy
    mode, and half of k in each, with 95% bands over base models.

    GRPO's normal mode is a thin line in each panel.
    """
    found = tables.pass_at_k(profile, folder)
    methods = [name for name in ("original", *FORMS) if name in set(found.method)]
    shape = {"figsize": (WIDTH, 4.6), "sharex": True, "sharey": True, "squeeze": False}
    figure, axes = plt.subplots(len(analyses.CRITERIA), max(1, len(methods)), **shape)
    said = {"answer": "answer right, %", "steps": "and every step right, %"}
    for row, criterion in zip(axes, said, strict=True):
        own = found[found.criterion == criterion]
        grpo = own[(own.method == "grpo") & (own.sampling == "normal")]
        for axis, method in zip(row, methods, strict=False):
            axis.plot(grpo.n, grpo.accuracy, color="black", lw=0.7, label="GRPO, normal mode")
            for way, (look, label) in WAYS.items():
                table = own[(own.method == method) & (own.sampling == way)]
                named = label if method == methods[0] else None  # in grey, as no method's own
                drawn = _look(method, **look, ms=3.5, lw=1.3, label=named)
                _band(axis, table, "n", "accuracy", (0, 100), **drawn)
            axis.set_xscale("log", base=2)
        row[0].set_ylabel(said[criterion])
    for axis, method in zip(axes[0], methods, strict=False):
        axis.set_title(FORMS.get(method, "before training"))
    for axis in axes[-1]:
        axis.set_xlabel("k responses")
        axis.set_xticks([1, 4, 16, 64, 256], ["1", "4", "16", "64", "256"])
    return _legend(figure, ncols=4)
