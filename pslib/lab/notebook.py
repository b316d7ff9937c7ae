"""One notebook of the chain, executed with checked parameters."""

import ast
import re
from pathlib import Path

import papermill
from nbclient.exceptions import DeadKernelError
from traitlets.config import Config

from pslib.lab import place

# Asked to stop, papermill interrupts the kernel and waits for so many seconds, in which a training
# step can end. The kernel's own log would then fill the screen with its trouble in answering.
STOPPING = {
    "config": Config(KernelManager={"shutdown_wait_time": 600.0}),
    "extra_arguments": ["--log-level=CRITICAL"],
}


def killed(what):
    """The sentence for a process that was killed."""
    return (
        f"{what} was killed, most likely because memory ran out; free memory or use --cores 1, "
        "and run again"
    )


def execute(name, out, given):
    """Execute a notebook with parameters {name: text}, each checked by name and type first.

    ValueError names what is wrong with them; RuntimeError says with what error the notebook ended.
    """
    path = place.ROOT / "notebooks" / f"{Path(name).stem}.ipynb"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.ipynb")))
        raise ValueError(f"no notebook is called {name!r}; there are {known}")
    values = _typed(path, given)
    out = Path(out or f"{path.stem}-executed.ipynb").absolute()
    if out.suffix != ".ipynb" or out.resolve() == path:
        raise ValueError(
            f"the executed notebook must go to a file of its own that ends in .ipynb; got {out}"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            _plain(path),
            _plain(out),
            values,
            log_output=True,
            progress_bar=False,
            kernel_name="python3",
            cwd=str(place.ROOT),
            **STOPPING,
        )
    except papermill.PapermillExecutionError as error:
        if error.ename == "KeyboardInterrupt":
            raise KeyboardInterrupt from None
        reason = re.sub(r"\x1b\[[0-9;]*m", "", f"{error.ename}: {error.evalue}")
        said = f"{path.stem} stopped with {reason}"
    except DeadKernelError:
        said = killed(path.stem)
    else:
        return
    raise RuntimeError(f"{said} (the notebook up to there is {out})")


def _plain(path):
    """A path for papermill, which fills in {parameters}: their values would choose the file."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _typed(path, given):
    """The given texts as the types of the notebook's defaults; ValueError names a bad one."""
    found = papermill.inspect_notebook(_plain(path)).values()
    known, values = {p["name"]: ast.literal_eval(p["default"]) for p in found}, {}
    for name, text in given.items():
        if name not in known:
            raise ValueError(f"{path.stem} has no parameter {name!r}; it has {', '.join(known)}")
        kind = type(known[name])
        try:
            is_bool = kind is bool
            values[name] = {"true": True, "false": False}[text.lower()] if is_bool else kind(text)
        except (ValueError, KeyError):
            raise ValueError(
                f"parameter {name} must be {kind.__name__}, like {known[name]!r}; got {text!r}"
            ) from None
    if "profile" in values:
        values["profile"] = place.whole_path(values["profile"])
    return values
