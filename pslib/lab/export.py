"""Export: a run's model as an ordinary Hugging Face folder with its prompts and a model card, to be
used without pslib.
"""

import json
import re
import shutil
from pathlib import Path
from string import Template

import pandas as pd
import yaml
from transformers import AutoTokenizer

from pslib import modes
from pslib.evidence import evaluate
from pslib.lab import chain, checkpoint, runs


def _quoted(prompts):
    """The prompts, {mode name: text}, as Markdown, in a fence longer than any of theirs."""
    parts = []
    for name, text in prompts.items():
        fence = "`" * max([2, *map(len, re.findall("`+", text))]) + "`"
        title = "High-entropy" if name == "he" else name.capitalize()
        parts.append(f"{title} mode:\n\n{fence}text\n{text}\n{fence}")
    return "\n\n".join(parts)


def _listed(given):
    return ", ".join(f"{name} {value}" for name, value in given.items()) or "none"


def _dated(date):
    if not date:
        return ""
    return (
        f" The template asks for the date, and was always told {date}: in this folder's chat "
        "template that is written down."
    )


def card(profile, method, size, seed, both):
    """The model card of a finished run, as Markdown, from the run's own files.

    The prompts are those that the run recorded; of a run from before prompts were recorded, those
    of its tokenizer.
    """
    folder, recipe = runs.run_folder(profile, method, size, seed), profile.method(method)
    manifest = json.loads((folder / "manifest.json").read_text())
    params = yaml.safe_load((folder / "params.yaml").read_text())
    recorded = params.get("inputs") or {}
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    dirty = " with uncommitted changes" if manifest["dirty"] else ""
    thinking = profile.enable_thinking
    drawn = dict(vars(profile.evaluate.decoding))
    del drawn["batch_tokens"]  # no setting of transformers
    return Template(Path(__file__).with_name("card.md").read_text(encoding="utf-8")).substitute(
        **profile.origin.card(size, manifest["inputs"]),
        label=recipe.label,
        size=size,
        seed=seed,
        coefficients=_listed(params["coefficients"]),
        trained=" and ".join(recipe.training),
        profile=profile.name,
        commit=(manifest["commit"] or "unknown") + dirty,
        he=both[1].system,
        prompts=_quoted(recorded.get("prompts") or modes.rendered(tokenizer, both)),
        date=_dated(recorded.get("date") or modes.pinned_date(tokenizer)),
        train=_listed(params["train"]),
        **_results(folder),
        flags="" if thinking is None else f", enable_thinking={thinking}",
        drawn=", ".join(f"{key}={value}" for key, value in drawn.items()),
    )


def _results(folder):
    """What a run's files say of its last step and its evaluation."""
    kept = "^(step|reward_|accuracy|entropy|kl|unfinished)"
    metrics = pd.read_csv(folder / "metrics.csv").filter(regex=kept).dropna()
    last = {name: f"{value:.4g}" for name, value in metrics.iloc[-1].items()}
    found, measured = folder / "evaluation.csv", "not yet."
    if found.exists():
        measured = evaluate.summary(pd.read_csv(found)).round(4).to_markdown(index=False)
    return {"last": _listed(last), "measured": measured}


def export(profile, method, size, seed, out):
    """Write a finished run's model, its card (README.md) and modes.json to the new folder `out`.

    ValueError if `out` is there already or the method trains nothing; FileNotFoundError if the run
    is not finished.
    """
    out = Path(out)
    if not profile.method(method).training:
        raise ValueError(
            f"{profile.method(method).label} is not trained, so there is nothing of ours to export"
        )
    if out.exists():
        raise ValueError(f"{out} is there already; name a folder that is not")
    source = chain.trained_folder(profile, method, size, seed)
    temporary = out.with_name(f".{out.name}.tmp")
    tokenizer = AutoTokenizer.from_pretrained(source)
    both = profile.modes_of(size, tokenizer)
    params = yaml.safe_load((source.parent / "params.yaml").read_text())
    trained = params.get("inputs", {}).get("prompts")
    if trained and trained != modes.rendered(tokenizer, both):
        raise ValueError(
            f"{source.parent} was trained under other prompts than the profile's modes give now; "
            "put the prompts back before exporting it"
        )
    try:
        shutil.copytree(source, temporary, dirs_exist_ok=True)
        if modes.pinned_date(tokenizer):
            modes.dated(tokenizer).save_pretrained(temporary)
        systems = json.dumps({mode.name: mode.system for mode in both}, indent=1)
        checkpoint.write(temporary / "modes.json", systems)
        checkpoint.write(temporary / "README.md", card(profile, method, size, seed, both))
        chain.put(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
