"""Artefacts: every table and figure of the evidence, made from a folder of results and written
beside them.

artefacts.yaml lists them, once. Notebooks call `show`; `python -m pslib figures` makes all of them
again from the committed results, without training.
"""

from dataclasses import asdict

import pandas as pd
from IPython.display import Markdown, display

from pslib.evidence import (
    analyses,
    figures,
    predictions,
    pretrained,
    tables,
    understood_figures,
    verdicts,
)
from pslib.lab import checkpoint, records, runs

TABLES = {
    "table1_general": tables.table1,
    "table1_effects": tables.effects,
    "table2_creative": tables.table2,
    "ablations": tables.ablations,
    "prompts": pretrained.table,
    "bonus": analyses.bonus_by_kind,
    "verdicts": verdicts.verdicts,
    "checks": verdicts.checks,
    "by_question": tables.by_question,
    "worlds": tables.worlds,
    "parting": tables.parting,
    "predictions": predictions.tested,
    "estimates": predictions.estimated,
    "at_equal_accuracy": predictions.at_equal_accuracy,
    "by_base_model": predictions.by_base_model,
}
# How a table is shown where that is not tables.shown.
SHOWN = {
    "best_of_n": tables.best_of_n_shown,
    "verdicts": verdicts.verdicts_shown,
    "checks": verdicts.checks_shown,
}
FIGURES = {
    "table1": figures.accuracy_against_entropy,
    "reached": figures.reached,
    "creative": figures.creative,
    "eta": figures.eta_ablation,
    "parts": figures.part_ablation,
    "dynamics": figures.dynamics,
    "best_of_n": figures.best_of_n,
    "behaviour": figures.behaviour,
    "prompt_generalization": figures.prompt_generalization,
    "bonus": figures.bonus_size,
    "worlds": figures.worlds,
    "parting": figures.parting,
    "form_and_meaning": understood_figures.form_and_meaning,
    "gap_after_against_before": understood_figures.gap_after_against_before,
    "what_carries_the_gap": understood_figures.what_carries_the_gap,
}


class Shown(pd.DataFrame):
    """A table that a notebook shows without its index, and with its texts on the left."""

    def _repr_html_(self):
        text = self.to_html(index=False, justify="left", border=0)
        return text.replace("<td>", '<td style="text-align: left">')


def listed():
    """What artefacts.yaml says: {artefact: its notebook, needs, tables and figures}."""
    return tables.registry()["artefacts"]


def has(settings, name):
    """Whether a profile, given as a dictionary, has what an artefact needs."""
    artefact = listed()[name]
    own = artefact.get("profile", settings["name"]) == settings["name"]
    return own and all(_setting(settings, each) for each in artefact.get("needs", ()))


def _setting(found, path):
    for part in path.split("."):
        found = part in found if isinstance(found, list) else (found or {}).get(part)
    return found


def _described(table):
    """What artefacts.yaml says of a table."""
    return next(each["tables"][table] for each in listed().values() if table in each["tables"])


def table(profile, name, folder):
    """A table of an artefact, by its own name, from the results in a folder."""
    if name in TABLES:
        return TABLES[name](profile, folder)
    given = _described(name)
    found = getattr(analyses, given["runs"])(profile, folder)
    found = found[found.method.isin(profile.methods)]
    keys = ["size", "method", "label", *given["rows"]]
    return tables.with_replicates(analyses.over_seeds(found, keys, given["means"]), profile)


def _artefact(name):
    if name not in listed():
        raise ValueError(f"no artefact is called {name!r}; there are {', '.join(listed())}")
    return listed()[name]


def as_text(profile, name, made, folder):
    """A table as a page of Markdown: title, caption, the table or its parts, and a key to its
    columns.
    """
    given = _described(name)
    parts = _shown(name, made)
    text = [f"# {given['title']} (profile `{profile.name}`)", given["caption"]]
    for heading, part in parts.items():
        text += [f"## {heading}"] if heading else []
        text.append(part.to_markdown(index=False, disable_numparse=True))
    heads = {head for part in parts.values() for head in part}
    meanings = tables.registry()["heads"].values()
    key = [f"- **{head}**: {said}" for head, said in meanings if said and head in heads]
    text += ["Columns:\n\n" + "\n".join(dict.fromkeys(key))] if key else []
    text += [records.unrecorded(profile, folder)]
    return "\n\n".join(filter(None, text)).replace(" ± ", "\u00a0±\u00a0") + "\n"


def _shown(name, made):
    """The parts of a table as people read them: {heading: table}, one without a heading."""
    parts = SHOWN.get(name, tables.shown)(made)
    return parts if isinstance(parts, dict) else {"": parts}


def write(profile, name, folder=None):
    """Make an artefact's tables (tables/<name>.csv and .md) and figures (figures/<name>.svg and
    .png); -> the first table.

    folder: the profile's results, by default this machine's; ValueError for an artefact that there
    is not.
    """
    artefact, folder, made = _artefact(name), folder or profile.folder, {}
    for each in artefact["tables"]:
        made[each] = table(profile, each, folder)
        path, text = folder / "tables" / each, as_text(profile, each, made[each], folder)
        checkpoint.write(path.with_suffix(".md"), text)
        checkpoint.write(path.with_suffix(".csv"), made[each].round(4).to_csv(index=False))
    for each in artefact.get("figures", ()):
        figures.save(FIGURES[each](profile, folder), folder / "figures", each)
    return next(iter(made.values()))


def show(profile, name, folder):
    """An artefact's tables as people read them, by name; of one in parts the parts, by heading.
    Beside this machine's results all of it is written too; committed ones are only read.
    """
    if folder == profile.folder:
        write(profile, name, folder)
    shown = {each: _shown(each, table(profile, each, folder)) for each in _artefact(name)["tables"]}
    return {
        heading or each: Shown(part)
        for each, parts in shown.items()
        for heading, part in parts.items()
    }


def show_cards(profile, folder):
    """A card for each of the paper's claims: what the paper reports, what came out here and why,
    with a strip of intervals by world.
    """
    checks = verdicts.checks(profile, folder)
    for text, own in verdicts.cards(verdicts.verdicts(profile, folder, checks), checks):
        display(Markdown(text))
        if len(own):
            figure = figures.strip(own)
            display(figure)
            figures.plt.close(figure)


def write_all(profile, folder):
    """Every artefact that a profile has, from its results in `folder`; -> the names."""
    names = [name for name in listed() if has(asdict(profile), name)]
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
