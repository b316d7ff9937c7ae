"""Export: a run's model as an ordinary Hugging Face folder with both modes' prompts and a model card, to be used without pslib."""

import json
import shutil
from pathlib import Path

import pandas as pd
import yaml

from pslib import chain, checkpoint, evaluate, modes, runs

CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [policy-split, reinforcement-learning]
{origin}---
# {label}, {size}, seed {seed}

A causal language model trained with *{label}* (coefficients: {coefficients}), as the paper Policy Split
([arXiv:2604.11510](https://arxiv.org/abs/2604.11510)) describes it, by an independent reproduction (profile `{profile}`, commit `{commit}`).
It has two modes, told apart by the system prompt alone; trained here: {trained}.

- Start: {base}
- Training questions: {data}
- Training: {train}

## Prompts

Normal mode: no system prompt. High-entropy mode:

> {he}

## Measured

From the run's own files, one seed. Training, last step in which all was measured: {last}. Evaluation:

{measured}

## Use

`modes.json` holds each mode's system prompt.

```python
import json
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file lies
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
for mode, system in json.load(open(f"{{folder}}/modes.json")).items():
    turns = [*([{{"role": "system", "content": system}}] if system else []), {{"role": "user", "content": {question!r}}}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True, return_tensors="pt"{flags})
    out = model.generate(**ids, do_sample=True, {drawn})
    print(mode, tokenizer.decode(out[0, ids["input_ids"].shape[1]:]))
```

## Licence

{licence} The high-entropy prompt is quoted from the paper, CC BY 4.0.
"""


def card(profile, method, size, seed):
    """The model card of a finished run, as Markdown, from the run's own files."""
    folder, recipe = runs.run_folder(profile, method, size, seed), profile.method(method)
    manifest, settings = json.loads((folder / "manifest.json").read_text()), profile.evaluate
    start, params = profile.model.replace("{size}", size), yaml.safe_load((folder / "params.yaml").read_text())
    hub, nano = not Path(start).exists() and profile.model != "nano", profile.model == "nano"
    found = folder / "evaluation.csv"
    measured = "Not evaluated yet."
    if found.exists():
        measured = evaluate.summary(pd.read_csv(found)).round(4).to_markdown(index=False)
    last = pd.read_csv(folder / "metrics.csv").filter(regex="^(step|accuracy|entropy|kl|unfinished)").dropna().iloc[-1].round(4)
    return CARD.format(
        origin=f"base_model: {start}\n" if hub else "", label=recipe.label, size=size, seed=seed, profile=profile.name,
        coefficients=", ".join(f"{name} {value}" for name, value in params["coefficients"].items()) or "none",
        commit=(manifest["commit"] or "unknown") + " with uncommitted changes" * manifest["dirty"], trained=" and ".join(recipe.training), he=profile.modes[1].system,
        base="a model made from nothing in the nano world" if nano else manifest["inputs"]["base"],
        data="sums of the nano world" if nano else manifest["inputs"]["data"],
        train=", ".join(f"{name} {value}" for name, value in params["train"].items()),
        last=", ".join(f"{name} {value:g}" for name, value in last.items()), measured=measured,
        question=profile.questions("like", 1, "tuning")[0]["question"] if nano else (
            modes.prompts()["questions"]["math"].format(query="What is 7 times 8?")),
        flags="" if profile.enable_thinking is None else f", enable_thinking={profile.enable_thinking}",
        drawn=f"temperature={settings.temperature}, top_k={settings.top_k}, top_p={settings.top_p}, max_new_tokens={settings.max_new_tokens}",
        licence="Weights: MIT, like the code that made them." if nano else f"The weights derive from {start} and stay under its licence.")


def export(profile, method, size, seed, out):
    """Write a finished run's model, its card and modes.json to the new folder `out`.

    ValueError if `out` is there already or the method trains nothing; FileNotFoundError if the run is not finished.
    """
    out = Path(out)
    if not profile.method(method).training:
        raise ValueError(f"{profile.method(method).label} is not trained, so there is nothing of ours to export")
    if out.exists():
        raise ValueError(f"{out} is there already; name a folder that is not")
    source, temporary = chain.trained_folder(profile, method, size, seed), out.with_name(f".{out.name}.tmp")
    try:
        shutil.copytree(source, temporary, dirs_exist_ok=True)
        checkpoint.write(temporary / "modes.json", json.dumps({mode.name: mode.system for mode in profile.modes}, indent=1))
        checkpoint.write(temporary / "README.md", card(profile, method, size, seed))
        chain.put(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
