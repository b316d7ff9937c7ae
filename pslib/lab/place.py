"""Where this process runs: the checkout around the package, folders that can be written to, and
what the terminal can show. Light to import: every command begins here.
"""

import atexit
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SNAKEFILE = ROOT / "notebooks" / "Snakefile"
# These commands need no checkout where PSLIB_RESULTS is set; all others read what is in one.
WITHOUT_CHECKOUT = {"export", "train"}


def check(command):
    """RuntimeError where a command lacks what it reads: a checkout, or a results folder alone."""
    if SNAKEFILE.exists():
        return
    if command not in WITHOUT_CHECKOUT:
        raise RuntimeError(
            f"`{command}` needs the notebooks and results of a checkout, which the package "
            f"installed in {ROOT} does not have; clone the repository and run it there"
        )
    if not os.environ.get("PSLIB_RESULTS"):
        raise RuntimeError(
            f"`{command}` must be told where results are, since {ROOT} is not a checkout; set "
            "PSLIB_RESULTS to a folder and run again"
        )


def results_root():
    """The results folder: of this checkout, or PSLIB_RESULTS where that is set."""
    return Path(os.environ.get("PSLIB_RESULTS") or ROOT / "results").absolute()


def whole_path(profile):
    """A profile's path as an absolute one, since steps run in other folders; a name as it is."""
    is_path = profile and profile.endswith((".yaml", ".yml"))
    return str(Path(profile).resolve()) if is_path else profile


def whole_source(source):
    """A model's or a data set's folder as an absolute path, also one given relative to this
    project's root; a hub id as it is.
    """
    own = ROOT / source
    return str(own) if own.is_dir() else source


def use_writable_folders():
    """Give this process and those it starts a TMPDIR and a home that can be written to.

    Snakemake, Jupyter and matplotlib fail without. The hub's cache stays where it is: models are
    read from there. OSError where nothing can be written.
    """
    if os.environ.get("PSLIB_RESULTS"):  # relative to where this command was started
        os.environ["PSLIB_RESULTS"] = str(results_root())
    try:  # TMPDIR itself, or the first of the usual folders that can be written to
        os.environ["TMPDIR"] = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise OSError(
            f"{error.strerror}; free some space, or set TMPDIR to a folder that can be written to"
        ) from None
    home = os.path.expanduser("~")
    try:
        with tempfile.TemporaryFile(dir=home, buffering=0) as file:
            file.write(b"x")
    except OSError:
        os.environ.setdefault("HF_HOME", os.path.join(home, ".cache", "huggingface"))
        os.environ["HOME"] = tempfile.mkdtemp(prefix="pslib-home-")
        atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)


def print_anywhere():
    """Let a terminal without a sign like ± show "?", where printing would end in an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
