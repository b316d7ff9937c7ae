"""Checkpoints: written whole or not at all, verified when read, and enough for an exact resume.

A checkpoint is one safetensors file (weights, optimiser, generators: no pickles) and a small JSON
beside it, written last, with the step and the file's SHA-256. It is used only where that JSON is,
byte for byte, what the file calls for.
"""

import hashlib
import json
import os
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors


def write(path, data):
    """Write bytes or text to a path, which then holds the old content or the new, whole.

    OSError names the path and the reason, wherever on the way the system refused.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        why = f"{error.strerror or error}; nothing earlier was lost: put this right and run again"
        raise OSError(error.errno, why, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync(path):
    """Wait until a file or a folder's list of names is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def state_of(model, optimiser, generators):
    """Everything that an exact resume needs, as one flat {name: tensor}."""
    named = {f"model.{name}": t for name, t in model.state_dict().items()}
    for k, state in optimiser.state_dict()["state"].items():
        named |= {f"optimiser.{k}.{key}": torch.as_tensor(t) for key, t in state.items()}
    named |= {f"generator.{name}": g.get_state() for name, g in generators.items()}
    # Tied weights share memory, which safetensors refuses: store each tensor on its own.
    return {name: t.detach().cpu().contiguous().clone() for name, t in sorted(named.items())}


def restore(tensors, model, optimiser, generators):
    """Put what `state_of` gave back into a model, its optimiser and its generators."""
    model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
    kept = optimiser.state_dict() | {"state": {}}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, k, key = name.split(".", 2)
            kept["state"].setdefault(int(k), {})[key] = tensor
    optimiser.load_state_dict(kept)
    for name, generator in generators.items():
        generator.set_state(tensors[f"generator.{name}"])


def _name(step):
    return f"step-{step:06d}"


def _seal(step, data):
    return json.dumps({"step": step, "sha256": hashlib.sha256(data).hexdigest()})


def save(folder, step, tensors, keep=2):
    """Save tensors as the checkpoint of a step, and delete all but the newest `keep`, it included.

    Later ones are deleted too: a run that has come to an earlier step could not use them.
    """
    folder = Path(folder)
    for unfinished in folder.glob(".step-*.tmp"):  # of a process that was killed while it wrote
        unfinished.unlink()
    data = save_tensors(tensors)
    write(folder / f"{_name(step)}.safetensors", data)
    write(folder / f"{_name(step)}.json", _seal(step, data))
    found = {path.stem for path in folder.glob("step-*")}
    kept = sorted((name for name in found if name <= _name(step)), reverse=True)[:keep]
    for path in sorted(folder.glob("step-*")):  # the JSON first
        if path.stem not in kept:
            path.unlink()


def load_newest(folder):
    """The newest checkpoint of a folder that is whole: (step, tensors), or None.

    Says which damaged ones it passed.
    """
    for name in sorted({path.stem for path in Path(folder).glob("step-*")}, reverse=True):
        try:
            step, data = int(name[5:]), (Path(folder) / f"{name}.safetensors").read_bytes()
            if (Path(folder) / f"{name}.json").read_bytes() == _seal(step, data).encode():
                return step, load_tensors(data)
        except (OSError, ValueError, SafetensorError):
            pass
        said = (
            f"checkpoint {name} in {folder} is damaged or incomplete; going back to an earlier one"
        )
        warnings.warn(said, stacklevel=2)
    return None


def save_run(folder, run, made_of):
    """Save a checkpoint from which `resume_run` goes on exactly; run: a train.Run; made_of: dict of
    what the run is made of.
    """
    state = state_of(run.model, run.optimiser, run.generators)
    state["made_of"] = torch.tensor(list(json.dumps(made_of).encode()), dtype=torch.uint8)
    save(folder, run.done, state | {"beyond": torch.tensor(run.beyond)})


def resume_run(folder, run, made_of):
    """Take a train.Run to its newest good checkpoint, if there is one.

    ValueError where the checkpoint's run was made of something else.
    """
    found = load_newest(folder)
    if not found:
        return
    step, tensors = found
    if "made_of" not in tensors:
        raise ValueError(
            f"the checkpoints in {folder} do not say which run they are of; end that run with the "
            "version of this project that began it, or remove the folder to train from the start"
        )
    theirs = json.loads(bytes(tensors["made_of"].tolist()))
    if others := [name for name in made_of if theirs.get(name) != made_of[name]]:
        raise ValueError(
            f"the checkpoints in {folder} are of another run, with other {', '.join(others)}; give "
            "each run a folder of its own"
        )
    run.done, run.beyond = step, int(tensors["beyond"])
    restore(tensors, run.model, run.optimiser, run.generators)


@contextmanager
def undone_on_error(optimiser, generators):
    """Where the block raises: gradients are zero and the generators as they were before it."""
    before = {name: generator.get_state() for name, generator in generators.items()}
    try:
        yield
    except Exception:  # a reward function may end in any way
        optimiser.zero_grad()
        for name, generator in generators.items():
            generator.set_state(before[name])
        raise
