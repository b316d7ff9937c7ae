"""The command line: one clear sentence and a non-zero exit for what is wrong, and no earlier result
touched.
"""

import hashlib
import re
import signal
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
import typer

from pslib import policy
from pslib.lab import cli, place, publish, reproduce, runs


def _said(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("pslib: ")
    return lines[0]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["reproduce", "fast"], "no profile is called 'fast'"),
        (["compare", "fast"], "no profile is called 'fast'"),
        (["notebook", "99_none"], "no notebook is called '99_none'; there are 00_tour"),
        (
            ["notebook", "06_train", "-p", "sede", "1"],
            "06_train has no parameter 'sede'; it has profile, method, size, seed",
        ),
        (
            ["notebook", "06_train", "-p", "seed", "false"],
            "parameter seed must be int, like 1; got 'false'",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PSLIB_RESULTS", str(tmp_path))
    assert cli.main(arguments) == 1
    assert said in _said(capsys)
    assert not list(tmp_path.iterdir())


def test_an_error_inside_a_notebook_is_said_and_stays_in_the_executed_notebook(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("PSLIB_RESULTS", str(tmp_path))
    out = tmp_path / "executed.ipynb"
    assert cli.main(["notebook", "06_train", "--out", str(out), "-p", "method", "ppo"]) == 1
    assert "06_train stopped with ValueError: no method is called 'ppo'" in capfd.readouterr().err
    outputs = [o for cell in nbformat.read(out, 4).cells for o in cell.get("outputs", [])]
    assert any(o.output_type == "error" and "ppo" in o.evalue for o in outputs)


@pytest.mark.parametrize(
    "stop, code", [(KeyboardInterrupt(), 130), (KeyboardInterrupt(signal.SIGTERM), 143)]
)
def test_a_command_that_is_asked_to_stop_says_how_to_go_on(stop, code, monkeypatch, capsys):
    def stopped(profile):
        raise stop

    monkeypatch.setattr(reproduce, "compare", stopped)
    assert cli.main(["compare", "smoke"]) == code
    assert _said(capsys) == "pslib: stopped; run the same command again to continue"


def test_a_command_that_is_killed_takes_its_chain_with_it(tmp_path):
    # the command is killed outright: the chain has only the closed pipe to learn it by
    code = (
        "import subprocess, sys; from pslib.lab.reproduce import LEASH\n"
        "chain = subprocess.Popen(['sh', '-c', LEASH, 'sh', 'sh', '-c', 'echo begun; sleep 60; "
        "echo ended'],\n"
        "                         stdin=subprocess.PIPE, start_new_session=True)\nchain.wait()"
    )
    command = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert command.stdout.readline() == "begun\n"
    command.kill()
    assert (
        command.communicate(timeout=20)[0] == ""
    )  # the end of the output: every process that held it is gone


@pytest.mark.parametrize(
    "command, rest",
    [
        ("compare", []),
        ("publish", []),
        ("figures", []),
        ("ask", []),
        ("train", ["grpo", "0.2m", "4"]),
        ("export", ["grpo", "0.2m", "4", "--out", "there"]),
    ],
)
def test_commands_take_the_path_of_a_profile(command, rest, tmp_path, monkeypatch):
    from pslib.evidence import artefacts, pretrained
    from pslib.lab import chain, export

    given, seen = (runs.PROFILES / "smoke.yaml").read_text().replace("seeds: [1]", "seeds: [4]"), []
    (tmp_path / "mine.yaml").write_text(given)
    monkeypatch.chdir(tmp_path)

    def note(profile, *rest):
        seen.append((profile.name, profile.seeds))
        return ""

    for module, name in (
        (reproduce, "compare"),
        (publish, "publish"),
        (artefacts, "write_all"),
        (pretrained, "ask"),
        (chain, "train_run"),
        (export, "export"),
    ):
        monkeypatch.setattr(module, name, note)
    assert cli.main([command, "mine.yaml", *rest]) == 0
    assert seen == [("mine", [4])]


def test_steps_that_run_elsewhere_are_given_a_profiles_whole_path(tmp_path, monkeypatch):
    import papermill

    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "reproduce", lambda name, cores: seen.append(name))
    monkeypatch.setattr(
        papermill,
        "execute_notebook",
        lambda path, out, values, **named: seen.append(values["profile"]),
    )
    for arguments in (
        ["reproduce", "mine.yaml"],
        ["reproduce", "./mine.yaml"],
        ["notebook", "06_train", "-p", "profile", "mine.yaml"],
    ):
        assert cli.main(arguments) == 0
    assert seen == [str(tmp_path.resolve() / "mine.yaml")] * 3
    cli.main(["notebook", "06_train", "-p", "profile", "smoke"])
    assert seen[-1] == "smoke"


def test_every_command_has_an_example_and_every_argument_a_word_of_help():
    commands = typer.main.get_command(cli.app).commands
    assert set(commands) >= {"reproduce", "notebook", "train", "export", "figures"}
    for name, command in commands.items():
        assert f"python -m pslib {name}" in command.help or f"-m pslib {name}" in command.help
        assert all(parameter.help for parameter in command.params)


def test_a_misspelt_command_is_refused_with_exit_code_2(capsys):
    assert cli.main(["reprodcue", "smoke"]) == 2
    assert "No such command 'reprodcue'" in capsys.readouterr().err


def test_the_notebooks_of_runs_are_published_where_runs_and_base_models_are_few(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setenv("PSLIB_RESULTS", str(tmp_path / "mine"))
    published = {}
    for name in ("quick", "understood_low", "understood"):
        profile = runs.load_profile(name)
        book = nbformat.v4.new_notebook()
        book.metadata["papermill"] = {"input_path": f"{place.ROOT}/notebooks/06_train.ipynb"}
        (profile.folder / "notebooks").mkdir(parents=True)
        nbformat.write(book, profile.folder / "notebooks" / "06_train-grpo.ipynb")
        (tmp_path / "results" / name).mkdir(parents=True)
        publish.publish(profile)
        published[name] = (tmp_path / "results" / name / "notebooks").exists()
    assert published == {"quick": True, "understood_low": False, "understood": False}


def test_publishing_copies_small_results_and_condenses_evaluations(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setenv("PSLIB_RESULTS", str(tmp_path / "mine"))
    profile = runs.load_profile("smoke")
    run = runs.run_folder(profile, "grpo", "0.2m", 1)
    (run / "model").mkdir(parents=True)
    (run / "model" / "model.safetensors").write_text("large")
    row = {"suite": "like", "mode": "normal", "question_id": "a", "correct": 1, "tokens": 4}
    row |= {"entropy_bits": 0.5, "derivation": "steps"}
    pd.DataFrame([row, {**row, "correct": 0}]).to_csv(run / "evaluation.csv")
    links = nbformat.v4.new_markdown_cell(
        "[a](../docs/world.md) [b](25_understood.ipynb) [c](https://d)"
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1"), links])
    book.metadata["papermill"] = {"input_path": f"{place.ROOT}/notebooks/06_train.ipynb"}
    book.cells[0].outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="step 1/3"),
        nbformat.v4.new_output("stream", name="stdout", text=f"in {place.ROOT}"),
    ]
    (profile.folder / "notebooks").mkdir()
    nbformat.write(book, profile.folder / "notebooks" / "06_train-grpo.ipynb")
    publish.publish(profile)
    to = tmp_path / "results" / "smoke"
    table = pd.read_csv(to / "runs" / run.name / "evaluation.csv")
    assert table.samples.tolist() == [2] and table.correct.tolist() == [0.5]
    assert pd.read_csv(to / "runs" / run.name / "derivations.csv").steps.tolist() == [1.0]
    assert not (to / "runs" / run.name / "model").exists()
    code, links = nbformat.read(to / "notebooks" / "06_train-grpo.ipynb", 4).cells
    (shown,) = code.outputs
    up = "../../.."
    assert (
        links.source
        == f"[a]({up}/docs/world.md) [b]({up}/notebooks/25_understood.ipynb) [c](https://d)"
    )
    assert shown.text == "in ."
    sums = (to / "SHA256SUMS").read_text().splitlines()
    assert [line.partition("  ")[2] for line in sums] == [
        f"runs/{run.name}/derivations.csv",
        f"runs/{run.name}/evaluation.csv",
    ]
    assert _sum_of(to / "runs" / run.name / "evaluation.csv") == sums[1].partition("  ")[0]


def _sum_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


SUMS = sorted((place.ROOT / "results").glob("*/SHA256SUMS"))


@pytest.mark.parametrize("path", SUMS, ids=lambda path: path.parent.name)
def test_the_committed_files_of_runs_are_those_that_were_published(path):
    listed = dict(line.split("  ")[::-1] for line in path.read_text().splitlines())
    assert set(listed) == {
        own.relative_to(path.parent).as_posix() for own in path.parent.glob("runs/*/*")
    }
    changed = [name for name, known in listed.items() if _sum_of(path.parent / name) != known]
    assert listed and not changed


def test_a_full_disk_is_said_in_one_sentence(monkeypatch, capsys):
    def full(profile):
        raise OSError(28, "No space left on device", "metrics.csv")

    monkeypatch.setattr(reproduce, "compare", full)
    assert cli.main(["compare", "smoke"]) == 1
    assert "the disk is full (metrics.csv); free some space" in _said(capsys)


def test_a_machine_on_which_nothing_can_be_written_is_told_what_to_do(monkeypatch, capsys):
    def no_folder():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(place.tempfile, "gettempdir", no_folder)
    assert cli.main(["compare", "smoke"]) == 1
    assert "found in ['/tmp']; free some space, or set TMPDIR to a folder" in _said(capsys)


def test_a_profile_whose_results_are_in_use_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PSLIB_RESULTS", str(tmp_path))
    code = (
        "import sys; from pslib.lab import runs\n"
        "with runs.owned(runs.load_profile('smoke').folder):\n print('mine', flush=True); "
        "sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "mine\n"
        assert cli.main(["reproduce", "smoke"]) == 1
        assert "is in use by process" in _said(capsys)
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    "profile, slow, said",
    [("smollm2_taught", True, True), ("smollm2_taught", False, False), ("smoke", True, False)],
)
def test_a_chain_with_bf16_says_first_what_it_costs_here(
    tmp_path, monkeypatch, capsys, profile, slow, said
):
    monkeypatch.setenv("PSLIB_RESULTS", str(tmp_path))
    monkeypatch.setattr(policy, "slow_bf16", lambda device: slow)
    monkeypatch.setattr(reproduce, "_run", lambda *given: None)
    assert cli.main(["reproduce", profile]) == 1  # no step has been made
    assert ("set bf16 to false" in capsys.readouterr().out) is said


@pytest.mark.parametrize(
    "done, seconds, left",
    [
        (2, 60, ""),  # too few steps to tell
        (20, 600, "; about 20 min left, by the pace so far"),
        (59, 6000, "; about 2 min left, by the pace so far"),
        (60, 6000, ""),
    ],
)
def test_a_chain_says_how_long_it_will_still_take(done, seconds, left):
    said = f"{done} of 60 steps ({100 * done // 60}%) done"
    assert reproduce.still(said, seconds) == left


def test_the_smoke_chain_runs_is_not_repeated_and_shows_its_table(tmp_path, monkeypatch, capsys):
    # where a path is odd, no home can be written to, TMPDIR is missing and the terminal is ASCII
    (tmp_path / "home").touch()
    odd = {
        "PSLIB_RESULTS": tmp_path / "it's {here}",
        "HOME": tmp_path / "home",
        "TMPDIR": tmp_path / "none",
        "LC_ALL": "C",
        "PYTHONIOENCODING": "ascii",
    }
    for name, value in odd.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("HF_HOME", "")
    monkeypatch.delenv("HF_HOME")  # set by the command, and put back after the test
    assert cli.main(["reproduce", "smoke"]) == 0
    shown = capsys.readouterr().out
    assert (
        "9 of 9 steps (100%) done" in shown
        and "Policy Split + HE prompt" in shown
        and "paper, Qwen3-1.7B" in shown
        and "bits a token, one run each\n" in shown
    )
    folder = runs.load_profile("smoke").folder
    assert {p.stem for p in (folder / "tables").iterdir()} == {
        "table1_effects",
        "table1_general",
        "derivations",
        "dynamics",
        "learning",
    }
    assert {p.stem for p in (folder / "notebooks").iterdir()} == {
        "05_base_model-0.2m",
        "06_train-grpo-0.2m-s1",
        "06_train-policy_split-0.2m-s1",
        "07_evaluate-original-0.2m",
        "07_evaluate-grpo-0.2m",
        "07_evaluate-policy_split-0.2m",
        "10_table1_general",
    }
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.csv")}
    assert cli.main(["reproduce", "smoke"]) == 0
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.csv")} == before


@pytest.mark.parametrize(
    "profile, analyses",
    [
        ("paper", {"table2_creative", "dynamics"}),
        ("stories", {"table2_creative", "dynamics"}),
        (
            "nano",
            {
                "table2_creative",
                "dynamics",
                "best_of_n",
                "behaviour",
                "prompt_generalization",
                "cost",
            },
        ),
    ],
)
def test_the_chain_of_a_profile_can_be_planned_to_its_last_table(profile, analyses, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "snakemake",
            "-n",
            "--cores",
            "1",
            "--snakefile",
            str(runs.ROOT / "notebooks" / "Snakefile"),
            "--directory",
            str(tmp_path),
            "--config",
            f"profile={profile}",
        ],
        capture_output=True,
        text=True,
    )
    planned = done.stdout + done.stderr
    assert done.returncode == 0, planned
    assert {name for name in re.findall(r"output: .*/tables/(\w+)\.csv", planned)} - {
        "table1_general",
        "ablations",
        "verdicts",
    } == analyses
    assert ("rule base_model" in planned) is (profile != "paper")  # a real model is not made here
