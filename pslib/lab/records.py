"""Records: what each step of the chain was made from, written before it computes and checked by
every later reader.

A record is a YAML file beside a step's results: the step's settings and, under `inputs`, what the
settings only name: hashes of the questions, the weights, the tokenizer, the chat template and the
model's configuration, the ids that end a response, and the text of every mode's prompt. A step is
taken for done, or goes on, only where its record says what would be recorded now. Results from
before inputs were recorded are compared by their settings alone.
"""

import hashlib
import json
from dataclasses import MISSING, asdict, fields
from functools import lru_cache
from pathlib import Path

import pandas as pd
import torch
import yaml

from pslib import methods, modes
from pslib.evidence import evaluate
from pslib.lab import checkpoint, origins, runs
from pslib.lab.settings import Training
from pslib.nano import worlds
from pslib.policy import stop_ids

# What a model's configuration says of the library and the process, and not of the model.
_INCIDENTAL = {"transformers_version", "dtype", "torch_dtype"}


def digest(*parts):
    """The first 16 digits of the SHA-256 of texts and bytes, in order."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.encode() if isinstance(part, str) else part)
    return whole.hexdigest()[:16]


def files_digest(folder):
    """One hash over the model and tokenizer files of a Hugging Face folder."""
    kept = (".safetensors", ".json", ".jinja")
    paths = [path for path in sorted(Path(folder).glob("*")) if path.suffix in kept]
    return digest(*(part for path in paths for part in (path.name, path.read_bytes())))


def of_questions(questions):
    """The hash of some questions: every column of every row, in order."""
    return digest(*(json.dumps(row, sort_keys=True, default=str) for row in questions))


def of_weights(model):
    """The hash of a model's weights, whatever file they came from."""
    whole = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        own = tensor.detach().cpu().contiguous()
        whole.update(f"{name} {own.dtype} {tuple(own.shape)} ".encode())
        whole.update(own.reshape(-1).view(dtype=torch.uint8).numpy().tobytes())
    return whole.hexdigest()[:16]


def of_tokenizer(tokenizer):
    """The hash of what a tokenizer does to a text; how it last padded is left out."""
    backend, content = getattr(tokenizer, "backend_tokenizer", None), tokenizer.get_vocab()
    if backend is not None:
        content = json.loads(backend.to_str())
        content = {key: content[key] for key in content if key not in ("padding", "truncation")}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return digest(json.dumps([content, special], sort_keys=True, default=str))


def of_model(model, tokenizer, both):
    """What a record says of a model: hashes, the ids that end a response, the prompts."""
    config = model.config.to_dict()
    config = {k: v for k, v in config.items() if k not in _INCIDENTAL and not k.startswith("_")}
    date = modes.pinned_date(tokenizer)
    return {
        "weights": of_weights(model),
        "config": digest(json.dumps(config, sort_keys=True, default=str)),
        "tokenizer": of_tokenizer(tokenizer),
        "chat_template": digest(str(tokenizer.chat_template)),
        "stops": [int(stop) for stop in stop_ids(model, tokenizer)],
        "prompts": modes.rendered(tokenizer, both),
        **({"date": date} if date else {}),
    }


def training_settings(profile, method, size, seed):
    """All that a profile says of a training run; under `inputs` which method a variant is of."""
    given = profile.variants.get(method)
    of = {"inputs": {"of": given.get("of", method)}} if given else {}
    return {
        "method": method,
        "size": size,
        "seed": seed,
        "split": "train",
        "coefficients": dict(profile.method(method).coefficients),
        "train": asdict(profile.train),
        **_asking(profile, size),
        **of,
    }


def evaluation_settings(profile, size):
    """All that a profile says of an evaluation, beside the model that is asked."""
    settings = asdict(profile.evaluate)
    del settings["batch_tokens"]  # on which no draw depends
    return {"split": "test", "evaluate": settings, **_asking(profile, size)}


def _asking(profile, size):
    """Which model a profile starts from, and how questions are put to it."""
    own = {"base": of_base(profile)} if profile.base else {}
    model = profile.model.replace("{size}", size)
    named = ("data", "enable_thinking", "wording", "terms", "engine")
    others = {name: getattr(profile, name) for name in named}
    return {"he_prompt": profile.he_prompt, "model": model, **own, **others}


def probe_settings(profile, size, probe):
    """All that a profile says of one of its probes, but of which methods' models."""
    wanted = {name: value for name, value in asdict(probe).items() if name != "methods"}
    return {"probe": wanted, **evaluation_settings(profile, size)}


def base_record(profile, size):
    """The record of a base model made here: its training, and the hashes of its world and, where
    that is a folder, of the model that it was taught from.
    """
    world, start = worlds.WORLDS[profile.base.world], runs.ROOT / profile.model
    inputs = {"world": digest(json.dumps(asdict(world), sort_keys=True))}
    if start.is_dir():
        inputs["start"] = files_digest(start)
    return {"size": size, "model": profile.model, **of_base(profile), "inputs": inputs}


def of_base(profile):
    """How a profile's base models are trained, as arguments of base.train and taught.teach."""
    return {name: value for name, value in asdict(profile.base).items() if name != "shared"}


def _flat(record, prefix=""):
    """A record as {dotted name: value}."""
    out = {}
    for key, value in record.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return out


def _defaults_of(cls):
    """{field: default} of the fields of a dataclass that have one."""
    return {f.name: f.default for f in fields(cls) if f.default is not MISSING}


def _defaults(method):
    """What a record that does not name a setting is taken to say of it."""
    known = methods.known()
    return _flat(
        {
            **_defaults_of(runs.Profile),
            "model": origins.NANO,
            "train": _defaults_of(Training),
            "evaluate": _defaults_of(evaluate.Settings),
            "probe": _defaults_of(evaluate.Probe),
            "base": _defaults_of(runs.BaseSettings),
            "coefficients": known[method].coefficients if method in known else {},
        }
    )


def changes(recorded, wanted):
    """What a record says otherwise than `wanted`, as texts; inputs where both name them."""
    out, defaults = [], _defaults(recorded.get("method"))
    old, new = (_flat({**record, "inputs": {}}) for record in (recorded, wanted))
    for name in dict.fromkeys([*new, *old]):
        was, becomes = (record.get(name, defaults.get(name)) for record in (old, new))
        if was != becomes:
            out.append(f"{name} ({was!r} then, {becomes!r} now)")
    old, new = (_flat(record.get("inputs") or {}) for record in (recorded, wanted))
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            what, _, part = name.partition(".")
            out.append(f"the {_WORDS.get(what, what)}" + (f" of {part}" if part else ""))
    return out


_WORDS = {
    "weights": "base model's weights",
    "start": "model that was taught",
    "config": "model's configuration",
    "chat_template": "chat template",
    "stops": "tokens that end a response",
    "prompts": "prompt text",
    "model": "trained model",
    "of": "method that the variant is of",
}


def load(path):
    """A record, or None where there is none."""
    return yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader) if path.exists() else None


def same(path, wanted):
    """The record at a path, or None; ValueError names what differs from `wanted`."""
    recorded = load(path)
    if recorded:
        _refuse(path, changes(recorded, wanted))
    return recorded


def begin(path, wanted):
    """Write a step's record before the step begins; one that is there must say the same."""
    if same(path, wanted) is None:
        checkpoint.write(path, yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True))


def untouched(folder):
    """ValueError where a finished step's model is not the one that its manifest names."""
    made = json.loads((folder / "manifest.json").read_text())["inputs"].get("model")
    if made != files_digest(folder / "model"):
        raise ValueError(
            f"{folder / 'model'} is not the model that was made there (its manifest.json names "
            "another hash); bring its files back, or remove that folder to make it again"
        )


def whole_curve(folder, steps, once=False):
    """ValueError where a metrics.csv lacks one of the run's first `steps` steps; see `_once`."""
    path = folder / "metrics.csv"
    if _once(rows_missing, path, steps) if once else rows_missing(path, steps):
        raise ValueError(
            f"{path} lacks some of the run's first {steps} steps; bring the file back, or remove "
            "the run and train it again"
        )


def rows_missing(path, steps):
    """Whether a metrics.csv lacks one of the rows of steps 1 to `steps`."""
    if not path.exists():
        return True
    return pd.read_csv(path, usecols=["step"]).step.tolist()[:steps] != [*range(1, steps + 1)]


# Every table checks all runs, so each file is read once for as long as it is not written again.
def _once(read, path, *given):
    """read(path, *given): `load` or `rows_missing`."""
    return _read_at(path.stat().st_mtime_ns if path.exists() else None, read, path, *given)


@lru_cache(maxsize=8192)
def _read_at(stamp, read, path, *given):
    return read(path, *given)


def check(profile, folder=None):
    """ValueError unless all results of a profile's runs in a folder belong together and to it.

    A run may not be made with other settings or lack steps, an evaluation not be of another model
    than the run's, a probe not of other settings, and runs of one size may not differ in questions
    or base model.
    """
    root, seen = Path(folder or profile.folder) / "runs", {}
    for method, size, seed in profile.grid:
        own = root / runs.run_id(method, size, seed)
        trained = _once(load, own / "params.yaml")
        asked = _once(load, own / "evaluation.yaml")
        if trained:
            _check_training(profile, own, trained, (method, size, seed))
            _check_alike(own, trained, ("trained", size), ("weights", "questions", "prompts"), seen)
        if asked:
            _check_evaluation(profile, own, asked, size)
            # the weights are those of the run's own model
            _check_alike(own, asked, ("evaluated", size), ("questions", "prompts"), seen)
            if not profile.method(method).training:  # or of the model that all others began with
                _check_alike(own, asked, ("trained", size), ("weights",), seen)
        for name in ("probe", "probe_later"):
            path, section = own / f"{name}.yaml", getattr(profile, name)
            if (found := _once(load, path)) and method in section.methods:
                _refuse(path, changes(found, probe_settings(profile, size, section)))


def _check_training(profile, own, trained, which):
    _refuse(own / "params.yaml", changes(trained, training_settings(profile, *which)))
    if (own / "manifest.json").exists():
        whole_curve(own, profile.train.steps, once=True)


def _check_evaluation(profile, own, asked, size):
    _refuse(own / "evaluation.yaml", changes(asked, evaluation_settings(profile, size)))
    made = _once(load, own / "manifest.json")
    if made and asked["inputs"].get("model") not in (None, made["inputs"]["model"]):
        raise ValueError(
            f"{own / 'evaluation.csv'} is of another model than the one that this run trained; "
            "remove it and evaluate again"
        )


def _check_alike(own, record, group, names, seen):
    """Check a record's inputs against those of the first of its group, which `seen` holds."""
    for name in names if record.get("inputs") else ():
        value = record["inputs"].get(name)
        first, place = seen.setdefault((*group, name), (value, own))
        if first != value:
            raise ValueError(
                f"{own} and {place} differ in their {_WORDS.get(name, name)}, so they cannot stand "
                "in one table; move one of them away"
            )


def _refuse(path, differing):
    if differing:
        raise ValueError(
            f"{path.parent} was made with other settings or inputs: {', '.join(differing)}; put "
            "this back, or move that folder away, before going on"
        )


def inputs_recorded(folder):
    """Whether a run's record says what the run was made from."""
    recorded = _once(load, Path(folder) / "params.yaml")
    return bool(recorded and recorded.get("inputs"))


def unrecorded(profile, folder=None):
    """A sentence on how many training runs lack recorded inputs; "" for none."""
    root = Path(folder or profile.folder) / "runs"
    folders = [root / runs.run_id(*which) for which in profile.grid]
    found = [own for own in folders if (own / "params.yaml").exists()]
    lacking = sum(not inputs_recorded(own) for own in found)
    return f"Inputs not recorded: {lacking} of {len(found)} training runs." if lacking else ""
