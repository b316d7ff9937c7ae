"""Artefacts: every table and figure of the evidence, made from a folder of results and written
beside them.

artefacts.yaml lists them. Notebooks call `show`; `python -m pslib figures` makes all again.
"""

from dataclasses import asdict
from pkgutil import resolve_name

import pandas as pd
from IPython.display import Markdown, display

from pslib.evidence import analyses, figures, tables, verdicts
from pslib.lab import checkpoint, records, runs


class Shown(pd.DataFrame):
    """A table that a notebook shows without its index, with its texts on the left, and with no line
    that breaks at ±; a part of its columns or rows is shown so too.
    """

    @property
    def _constructor(self):
        return Shown

    def _repr_html_(self):
        text = self.to_html(index=False, justify="left", border=0)
        return tables.unbroken(text).replace("<td>", '<td style="text-align: left">')


def listed():
    """{artefact: its notebook, needs, tables and figures}."""
    return analyses.written("artefacts")["artefacts"]


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
    return next(each["tables"][table] for each in listed().values() if table in each["tables"])


def _function(name):
    """The function that artefacts.yaml names as module:name."""
    return resolve_name(f"pslib.evidence.{name}")


def table(profile, name, folder, made=()):
    """A table of an artefact by its own name; made: {name: table} of its artefact so far."""
    given = _described(name)
    if "made_by" in given:
        more = [made[given["from"]]] if given.get("from") in made else []
        return _function(given["made_by"])(profile, folder, *more)
    found = _function(f"analyses:{given['runs']}")(profile, folder)
    found = found[found.method.isin(profile.methods)]
    keys = ["size", "method", "label", *given["rows"]]
    return tables.with_replicates(analyses.over_seeds(found, keys, given["means"]), profile)


def make(profile, name, folder):
    """All tables of an artefact: {name: table}; ValueError for an artefact that there is not."""
    if name not in listed():
        raise ValueError(f"no artefact is called {name!r}; there are {', '.join(listed())}")
    made = {}
    for each in listed()[name]["tables"]:
        made[each] = table(profile, each, folder, made)
    return made


def parts_of(name, made):
    """The parts of a table as people read them: {heading: table}, one without a heading."""
    parts = _function(_described(name).get("shown_by", "tables:shown"))(made)
    return parts if isinstance(parts, dict) else {"": parts}


def as_text(profile, name, made, folder):
    """A table as a page of Markdown: title, caption, its parts, and a key to its columns."""
    given, parts = _described(name), parts_of(name, made)
    text = [f"# {given['title']} (profile `{profile.name}`)", given["caption"]]
    for heading, part in parts.items():
        text += [f"## {heading}"] if heading else []
        text.append(part.to_markdown(index=False, disable_numparse=True))
    heads = {head for part in parts.values() for head in part}
    meanings = analyses.written("artefacts")["heads"].values()
    key = [f"- **{head}**: {said}" for head, said in meanings if said and head in heads]
    text += ["Columns:\n\n" + "\n".join(dict.fromkeys(key))] if key else []
    text.append(records.unrecorded(profile, folder))
    return tables.unbroken("\n\n".join(filter(None, text))) + "\n"


def write(profile, name, folder=None):
    """Make an artefact's tables (.csv and .md) and figures (.svg and .png) in the folder of the
    profile's results, by default this machine's -> {name: table}.
    """
    folder = folder or profile.folder
    made = make(profile, name, folder)
    for each, found in made.items():
        path, text = folder / "tables" / each, as_text(profile, each, found, folder)
        checkpoint.write(path.with_suffix(".md"), text)
        checkpoint.write(path.with_suffix(".csv"), found.round(4).to_csv(index=False))
    for each, function in listed()[name].get("figures", {}).items():
        figures.save(_function(function)(profile, folder), folder / "figures", each)
    return made


def show(profile, name, folder):
    """An artefact's tables as people read them, by name or heading. Beside this machine's results
    all of it is written too; committed ones are only read.
    """
    made = (write if folder == profile.folder else make)(profile, name, folder)
    return {
        heading or each: Shown(part)
        for each, found in made.items()
        for heading, part in parts_of(each, found).items()
    }


def show_judged(profile, folder):
    """The judges' scores of stories as people read them; one sentence where no judge scored."""
    found = tables.judged(profile, folder)
    scored = found[found.judge != ""].dropna(subset="judge")
    return Shown(scored) if len(scored) else Markdown("No judge is configured: no scores of ours.")


def show_cards(profile, folder):
    """A card for each of the paper's claims, with a strip of intervals by world."""
    checks = verdicts.checks(profile, folder)
    for text, own in verdicts.cards(verdicts.verdicts(profile, folder, checks), checks):
        display(Markdown(text))
        if len(own):
            display(figures.strip(own))
            figures.plt.close()


def write_all(profile, folder):
    """Every artefact that a profile has, from its results in `folder`; -> the names."""
    names = [name for name in listed() if has(asdict(profile), name)]
    for name in names:
        write(profile, name, folder)
    return names


def committed():
    """The project's profiles that have committed results, each with its folder; results of a
    profile of one's own are left out.
    """
    there = {path.stem for path in runs.PROFILES.glob("*.yaml")}
    folders = [path.parent for path in sorted((runs.ROOT / "results").glob("*/runs"))]
    return [(runs.load_profile(at.name), at) for at in folders if at.name in there]
