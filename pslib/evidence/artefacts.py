"""Artefacts: every table and figure of the evidence, made from a folder of results and written
beside them.

Notebooks call `show`; `python -m pslib figures` makes all of them again from the committed results,
without training.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from pslib.evidence import analyses, figures, tables, verdicts
from pslib.lab import checkpoint, records, runs
from pslib.nano import worlds


@dataclass(frozen=True)
class Artefact:
    """Tables, as {name: (function of profile and folder, how it is shown)}, and figures, as {name:
    function}.
    """

    tables: dict
    figures: dict = field(default_factory=dict)
    needs: Callable = lambda profile: True  # whether a profile has it


def _over_seeds(function, keys, measures):
    """A table over seeds of a table of runs."""
    return lambda profile, folder: analyses.with_replicates(
        analyses.over_seeds(function(profile, folder), keys, measures), profile
    )


def _probes(part):
    return lambda profile: getattr(profile.probe, part) > 0


_RUN, _MODE_ENDS = (
    ["size", "method", "label"],
    [
        f"{measure}_{when}"
        for measure in ("entropy_bits_normal", "entropy_bits_he", "kl_he_from_normal")
        for when in ("start", "end")
    ]
    + ["kl_he_from_normal_peak"],
)
ARTEFACTS = {
    "table1_general": Artefact(
        {
            "table1_general": (tables.table1, tables.as_shown),
            "table1_effects": (tables.effects, tables.shown),
        },
        {
            "table1": figures.accuracy_against_entropy,
            "training": lambda profile, folder: figures.training_curves(
                profile, profile.table_sizes[len(profile.table_sizes) // 2], folder=folder
            ),
        },
    ),
    "derivations": Artefact(
        {
            "derivations": (
                _over_seeds(
                    analyses.derivations,
                    [*_RUN, "mode", "suite"],
                    ["accuracy", *worlds.DERIVATIONS],
                ),
                tables.shown,
            )
        },
        {"reached": figures.reached},
        lambda profile: profile.model == "nano",
    ),
    "table2_creative": Artefact(
        {"table2_creative": (tables.table2, tables.shown)},
        {"creative": figures.creative},
        _probes("stories"),
    ),
    "ablations": Artefact(
        {"ablations": (tables.ablations, tables.ablations_shown)},
        {"eta": figures.eta_ablation, "parts": figures.part_ablation},
        lambda profile: bool(profile.variants),
    ),
    "dynamics": Artefact(
        {
            "dynamics": (_over_seeds(analyses.start_and_end, _RUN, _MODE_ENDS), tables.shown),
            "learning": (
                _over_seeds(analyses.learning, [*_RUN, "mode"], analyses.QUARTERS),
                tables.shown,
            ),
        },
        {"dynamics": figures.dynamics},
        lambda profile: "grpo" in profile.methods,
    ),
    "best_of_n": Artefact(
        {
            "best_of_n": (
                _over_seeds(analyses.best_of_n, [*_RUN, "sampling", "n"], ["accuracy"]),
                tables.best_of_n_shown,
            ),
            "solved_by_one": (
                _over_seeds(analyses.solved_by_one, _RUN, ["only_normal", "only_he", "neither"]),
                tables.shown,
            ),
        },
        {"best_of_n": figures.best_of_n},
        _probes("best_of_n"),
    ),
    "behaviour": Artefact(
        {
            "behaviour": (
                _over_seeds(analyses.behaviour, _RUN, ["distance", "chance", "kl"]),
                tables.shown,
            )
        },
        {"behaviour": figures.behaviour},
        _probes("prompts"),
    ),
    "prompt_generalization": Artefact(
        {
            "prompt_generalization": (
                _over_seeds(
                    analyses.prompt_generalization,
                    [*_RUN, "prompt"],
                    ["entropy_change", "accuracy_change", "kl_from_normal"],
                ),
                tables.shown,
            )
        },
        {"prompt_generalization": figures.prompt_generalization},
        _probes("prompts"),
    ),
    "bonus": Artefact(
        {"bonus": (analyses.bonus_by_kind, tables.shown)},
        {"bonus": figures.bonus_size},
        lambda p: bool(p.variants),
    ),
    "verdicts": Artefact(
        {
            "verdicts": (verdicts.verdicts, tables.shown),
            "checks": (verdicts.checks, tables.shown),
            "by_question": (tables.by_question, tables.shown),
            "worlds": (tables.worlds, tables.shown),
        },
        {
            "checks": figures.checks,
            "worlds": figures.worlds,
            "checks_elsewhere": lambda profile, folder: figures.checks(
                profile, folder, elsewhere=True
            ),
        },
        lambda profile: bool(profile.variants),
    ),
    "parting": Artefact(
        {"parting": (tables.parting, tables.shown)},
        {"parting": figures.parting},
        lambda profile: bool(profile.variants),
    ),
    "cost": Artefact(
        {
            "cost": (
                _over_seeds(
                    analyses.cost,
                    _RUN,
                    ["seconds", "seconds_sample", "seconds_score", "seconds_update"],
                ),
                tables.shown,
            )
        },
        {"cost": figures.cost},
        _probes("prompts"),
    ),
}


def _artefact(name):
    if name not in ARTEFACTS:
        raise ValueError(f"no artefact is called {name!r}; there are {', '.join(ARTEFACTS)}")
    return ARTEFACTS[name]


def write(profile, name, folder=None):
    """Make an artefact's tables (tables/<name>.csv and .md) and figures (figures/<name>.svg and
    .png); -> the first table.

    folder: the profile's results, by default this machine's; ValueError for an artefact that there
    is not.
    """
    artefact, folder, made = _artefact(name), folder or profile.folder, []
    for table_name, (function, shown) in artefact.tables.items():
        made.append(function(profile, folder))
        path = folder / "tables" / table_name
        text = shown(made[-1]).to_markdown(index=False, disable_numparse=True) + "\n"
        unrecorded = records.unrecorded(profile, folder)
        checkpoint.write(
            path.with_suffix(".md"), text + (f"\n{unrecorded}\n" if unrecorded else "")
        )
        checkpoint.write(path.with_suffix(".csv"), made[-1].round(4).to_csv(index=False))
    for figure_name, draw in artefact.figures.items():
        figures.save(draw(profile, folder), folder / "figures", figure_name)
    return made[0]


def show(profile, name, folder):
    """An artefact's tables as people read them, by name. Beside this machine's results all of it is
    written too; committed ones are only read.
    """
    if folder == profile.folder:
        write(profile, name, folder)
    return {
        key: shown(function(profile, folder))
        for key, (function, shown) in _artefact(name).tables.items()
    }


def write_all(profile, folder):
    """Every artefact that a profile has, from its results in `folder`; -> the names."""
    names = [name for name, artefact in ARTEFACTS.items() if artefact.needs(profile)]
    for name in names:
        write(profile, name, folder)
    return names


def committed():
    """The profiles that have committed results, each with its folder."""
    return [
        (runs.load_profile(path.parent.name), path.parent)
        for path in sorted((runs.ROOT / "results").glob("*/runs"))
        if path.parent.name != "local"
    ]
