"""Where the project runs: odd paths, no home, no TMPDIR, an ASCII terminal, no checkout.

The chain itself is run in such a place by test_main.py.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from pslib.lab import cli, place, reproduce, runs

ODD = "it's a {folder}"


def python(folder, *arguments, **environment):
    """Run Python with the package that lies in a folder -> the ended process, with its output."""
    given = {name: value for name, value in os.environ.items() if name != "PSLIB_RESULTS"}
    given |= {name: str(value) for name, value in environment.items()} | {"PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=given,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


@pytest.fixture
def checkout(tmp_path):
    """A copy of the checkout in an odd folder; of two more notebooks one is killed as it runs."""
    root = tmp_path / ODD
    for name in ("pslib", "notebooks", "results/paper", "results/quick/tables"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(runs.ROOT / name, root / name, ignore=ignored)
    for name, source in (
        ("place", "import pslib\nprint(pslib.__file__)"),
        ("killed", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"),
    ):
        book = new_notebook(cells=[new_code_cell(source)])
        nbformat.write(book, root / "notebooks" / f"{name}.ipynb")
    return root


# Two commands in one process, for it takes seconds to import.
ANYWHERE = """
import sys
from pslib.lab import cli
sys.exit(cli.main(["notebook", "place", "--out", sys.argv[1]]) or cli.main(["compare", "quick"]))
"""


def test_commands_work_in_an_odd_folder_without_home_and_tmpdir_in_ascii(checkout, tmp_path):
    home, out = tmp_path / "home", checkout / "results" / "executed.ipynb"
    home.touch()
    tables = checkout / "results" / "quick" / "tables"
    shutil.copytree(tables, checkout / "results" / "local" / "quick" / "tables")
    done = python(
        checkout,
        "-c",
        ANYWHERE,
        out,
        HOME=home,
        TMPDIR=tmp_path / "none",
        LC_ALL="C",
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode == 0, done.stderr
    printed = nbformat.read(out, 4).cells[0].outputs[0].text
    assert printed.strip() == str(checkout / "pslib" / "__init__.py")
    assert "mean ? 95% interval" in done.stdout and "Policy Split" in done.stdout


def test_a_notebook_whose_process_is_killed_says_what_to_do(checkout, monkeypatch, capsys):
    monkeypatch.setattr(place, "ROOT", checkout)
    assert cli.main(["notebook", "killed", "--out", str(checkout / "executed.ipynb")]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("pslib: killed was killed, most likely because memory ran out; ")
    assert "free memory or use --cores 1" in said


def test_every_command_of_the_chain_survives_odd_paths_of_python_and_checkout(checkout, tmp_path):
    odd_python = tmp_path / ODD / "python"
    odd_python.symlink_to(sys.executable)
    dry_run = [
        odd_python,
        "-m",
        "snakemake",
        "-n",
        "-p",
        "--cores",
        "64",
        "--directory",
        checkout,
        "--snakefile",
        checkout / "notebooks" / "Snakefile",
        "--config",
        "profile=paper",
    ]
    done = subprocess.run(
        list(map(str, dry_run)),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    commands = re.findall(r"Shell command: (.* .*)", done.stdout + done.stderr)
    kinds = {"notebook": 0, "accelerate.commands.launch": 0, "figures": 0}
    for command in commands:
        words = shlex.split(command.replace("exec srun", "srun"))
        inner = words if str(odd_python) in words else shlex.split(words[words.index("-c") + 1])
        assert str(odd_python) in inner
        module = inner[inner.index("-m") + 1]
        kind = inner[inner.index("-m") + 2] if module == "pslib" else module
        kinds[kind] += 1
        if kind == "accelerate.commands.launch":
            config = Path(inner[inner.index("--config_file") + 1])
            assert config.is_file() and config.is_relative_to(checkout)
    assert all(kinds.values()), kinds


# Three steps that fail: one killed, one with an error of Python, one with a sentence of ours.
FAILING = """
rule all:
    input: "mine/a", "mine/b", "mine/c"
rule a:
    output: touch("mine/a")
    log: "mine/logs/a.log"
    shell: "exec sh -c 'kill -9 $$' > '{log}' 2>&1"
rule b:
    output: touch("mine/b")
    log: "mine/logs/b.log"
    shell: "exec sh -c 'echo Traceback; echo ImportError: no module; exit 1' > '{log}' 2>&1"
rule c:
    output: touch("mine/c")
    log: "mine/logs/c.log"
    shell: "exec sh -c 'echo pslib: the data is not there; exit 1' > '{log}' 2>&1"
"""


def snakemake(folder, text):
    """Run Snakemake as `reproduce` does -> the chain's log."""
    log = folder / "mine" / "chain.log"
    log.parent.mkdir(exist_ok=True)
    (folder / "Snakefile").write_text(text)
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        folder / "Snakefile",
        "--cores",
        "1",
        "--nolock",
        "--directory",
        folder,
        "--quiet",
        "rules",
        "--keep-going",
    ]
    with open(log, "w") as file:
        done = subprocess.run(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT)
    assert done.returncode
    return log


def test_the_reason_of_a_failed_chain_is_that_of_the_step_that_failed(tmp_path):
    log = snakemake(tmp_path, FAILING)
    text = log.read_text()
    assert (
        reproduce.why_failed(log, 1) == "pslib: the data is not there"
    )  # said by a step, and no guess
    told = {}
    for part in text.split("RuleException:")[1:]:
        log.write_text(part)
        step = re.search(r"logs/(\w)\.log", part)[1]
        told[step] = reproduce.why_failed(log, 1)
    assert told["a"].startswith("a was killed, most likely because memory ran out; free memory")
    log_of_b = tmp_path / "mine" / "logs" / "b.log"
    assert told["b"] == f"b ended with: ImportError: no module (its log is {log_of_b})"
    assert told["c"] == "pslib: the data is not there"


def test_the_reason_of_a_chain_that_cannot_begin_is_snakemakes_own(tmp_path):
    log = snakemake(tmp_path, "rule all:\n    input: 'mine/{x}'\n")
    said = reproduce.why_failed(log, 1)
    assert said.startswith("Snakemake ended with: WildcardError in") and "\n" not in said
    assert str(tmp_path / "Snakefile") in said and said.endswith(f"(its log is {log})")
    log.write_text("Building DAG of jobs...\n")
    killed, ended = reproduce.why_failed(log, -signal.SIGKILL), reproduce.why_failed(log, 2)
    assert killed.startswith("Snakemake was killed, most likely because memory ran out")
    assert ended == f"Snakemake ended with: Building DAG of jobs... (its log is {log})"


# --- a package without a checkout -----------------------------------------------------------------
# In one process, for imports take seconds: what each command says, and what the package carries.
WITHOUT_CHECKOUT = """
import contextlib, io, json, os, sys
from pslib.lab import cli
from pslib import modes
from pslib.lab import runs
from pslib.evidence import verdicts
from pslib.lab import export

said = {}
export_one = ["export", "smoke", "grpo", "0.2m", "1", "--out", "exported"]
for command in (["reproduce", "smoke"], ["notebook", "06_train"], ["figures"], ["compare", "smoke"],
                ["publish", "smoke"], ["train", "smoke", "grpo", "0.2m", "1"],
                ["trace", "smoke", "grpo", "original", "bits"], export_one):
    with contextlib.redirect_stderr(io.StringIO()) as text:
        assert cli.main(command) == 1
    said[command[0]] = text.getvalue()
os.environ["PSLIB_RESULTS"] = sys.argv[1]
with contextlib.redirect_stderr(io.StringIO()) as text:
    assert cli.main(export_one) == 1
said["told where"] = text.getvalue()
profiles = [path.stem for path in runs.PROFILES.glob("*.yaml")]
for name in profiles:
    runs.load_profile(name)
assert modes.prompts() and verdicts.claims()
assert export.Path(export.__file__).with_name("card.md").exists()
assert runs.manifest(1, 1.0, {})["commit"] == ""
print(json.dumps([runs.__file__, profiles, said]))
"""


def test_a_wheel_without_a_checkout_has_its_data_and_says_what_it_lacks(tmp_path):
    source, target = tmp_path / "source", tmp_path / "repository" / "site"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(runs.ROOT / "pslib", source / "pslib", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(runs.ROOT / name, source)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    made = python(source, "-c", build)
    assert made.returncode == 0, made.stderr
    zipfile.ZipFile(next((source / "dist").glob("*.whl"))).extractall(target)
    # Somebody's repository around it, of which the package is no part.
    for command in (
        ["init", "--quiet"],
        [
            "-c",
            "user.name=x",
            "-c",
            "user.email=x@x",
            "commit",
            "--quiet",
            "--allow-empty",
            "--message",
            "theirs",
        ],
    ):
        subprocess.run(["git", "-C", target.parent, *command], check=True)
    done = python(target, "-c", WITHOUT_CHECKOUT, tmp_path / "results")
    assert done.returncode == 0, done.stderr
    file, profiles, said = json.loads(done.stdout.splitlines()[-1])
    assert Path(file).is_relative_to(target) and {"smoke", "quick", "paper"} <= set(profiles)
    assert all(text.startswith("pslib: ") and text.count("\n") == 1 for text in said.values())
    for command in ("reproduce", "notebook", "figures", "compare", "publish", "trace"):
        assert f"`{command}` needs the notebooks and results of a checkout" in said[command]
    for command in ("train", "export"):
        assert f"`{command}` must be told where results are" in said[command]
        assert "set PSLIB_RESULTS" in said[command]
    assert "is not trained yet" in said["told where"]
    assert not (target / "results").exists()
