"""Checkpoints: written whole or not at all, verified when read, and enough to go on exactly where a run stopped.

A checkpoint is one safetensors file (weights, optimiser, generators: no pickles) and a small JSON beside it with the
file's SHA-256, written last. A file without a matching hash is not used.
"""

import hashlib
import json
import os
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors


def write(path, data):
    """Write bytes or text to a path so that it holds the old content or the new, whole, whatever happens."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def state_of(model, optimiser, generators):
    """Everything that an exact resume needs, as one flat {name: tensor}."""
    tensors = {f"model.{name}": t.detach().contiguous() for name, t in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors.update({f"optimiser.{index}.{key}": torch.as_tensor(value).contiguous() for key, value in state.items()})
    tensors.update({f"generator.{name}": g.get_state() for name, g in generators.items()})
    # Tied weights share memory, which safetensors refuses: store each tensor on its own.
    return {name: t.clone() for name, t in tensors.items()}


def restore(tensors, model, optimiser, generators):
    """Put what `state_of` gave back into a model, its optimiser and its generators."""
    model.load_state_dict({name[6:]: t for name, t in tensors.items() if name.startswith("model.")})
    state = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    for name, generator in generators.items():
        generator.set_state(tensors[f"generator.{name}"])


def save(folder, step, tensors, keep=2):
    """Save tensors as the checkpoint of a step, and delete all but the newest `keep`."""
    folder, data = Path(folder), save_tensors(tensors)
    write(folder / f"step-{step:06d}.safetensors", data)
    write(folder / f"step-{step:06d}.json", json.dumps({"step": step, "sha256": hashlib.sha256(data).hexdigest()}))
    for old in sorted(folder.glob("step-*.json"))[:-keep]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)


def load_newest(folder):
    """The newest checkpoint of a folder that is whole: (step, tensors), or None. Says which damaged ones it passed."""
    for path in sorted(Path(folder).glob("step-*.json"), reverse=True):
        try:
            meta = json.loads(path.read_text())
            data = path.with_suffix(".safetensors").read_bytes()
            if hashlib.sha256(data).hexdigest() == meta["sha256"]:
                return meta["step"], load_tensors(data)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            pass
        warnings.warn(f"checkpoint {path.stem} in {folder} is damaged; going back to the one before it", stacklevel=2)
    return None
