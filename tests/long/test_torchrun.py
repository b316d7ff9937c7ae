"""Worlds of one and two processes in their long form: every method, started by torchrun as a user would."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from properties import TRAINED
from reliability import record
from test_worlds import assert_same_run, saved  # noqa: F401 - a fixture

SCRIPT = Path(__file__).parents[1] / "world.py"


def torchrun(processes, *args, sharded=False, program=(SCRIPT,), **environment):
    """Start the script in so many processes; accelerate's own launcher starts one on a CPU, whatever it is told."""
    environment = {**os.environ, "ACCELERATE_USE_FSDP": str(sharded).lower(), **environment}
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
                           *map(str, (*program, *args))], capture_output=True, text=True, timeout=900, env=environment)


@pytest.mark.parametrize("sharded", [False, True])
def test_torchrun_with_two_processes_does_the_run_of_one(sharded, saved, tmp_path):  # noqa: F811
    begun, same, failures = time.perf_counter(), 0, []
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        done = torchrun(processes, saved, tmp_path / str(processes), 6, 4, *TRAINED, sharded=sharded and processes > 1)
        failures += [done.stderr[-3000:]] if done.returncode else []
    for name in TRAINED:
        try:
            assert_same_run(tmp_path / "1", tmp_path / "2", name, sharded, within=1e-6)  # the norms are in float32
            same += 1
        except (AssertionError, OSError) as error:  # another run, or none
            failures.append((name, error))
    kind = ", weights sharded by FSDP2" if sharded else ""
    record(f"worlds of one and two processes (torchrun, gloo, float64{kind}): {len(TRAINED)} methods, 6 steps each",
           len(TRAINED), same, time.perf_counter() - begun)
    assert not failures and same == len(TRAINED), failures


def test_torchrun_ends_with_an_error_where_questions_cannot_be_shared_out(saved, tmp_path):  # noqa: F811
    done = torchrun(2, saved, tmp_path, 1, 3, "grpo")
    assert done.returncode != 0
    assert "ValueError: 3 prompts cannot be shared out evenly among 2 processes" in done.stderr


@pytest.mark.parametrize("extra", [["grade=0"], ["grade=0", "graph_tokens=0"], ["dtype=float32"], ["recompute=true"]])
def test_sharded_steps_without_a_live_group_in_float32_or_with_recomputing_are_those_of_one_process(extra, saved, tmp_path):  # noqa: F811
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        done = torchrun(processes, saved, tmp_path / str(processes), 3, 4, "policy_split", *extra, sharded=processes > 1)
        assert done.returncode == 0, done.stderr[-3000:]
    if extra == ["dtype=float32"]:
        alone, ours = ([pd.read_json(tmp_path / f"{n}/policy_split-0.json", typ="series").metrics[0][k] for k in ("grad_norm", "loss")]
                       for n in (1, 2))
        assert ours == pytest.approx(alone, rel=1e-5, abs=1e-6)
    else:
        assert_same_run(tmp_path / "1", tmp_path / "2", "policy_split", sharded=True, within=1e-6)


@pytest.mark.parametrize("second", [1, 2])
def test_a_sharded_run_goes_on_from_its_checkpoint_in_two_processes_or_in_one(second, saved, tmp_path):  # noqa: F811
    for name, steps, processes in (("1", 4, 1), ("2", 2, 2), ("2", 4, second)):
        (tmp_path / name).mkdir(exist_ok=True)
        done = torchrun(processes, saved, tmp_path / name, steps, 4, "policy_split", "save_every=2", sharded=processes > 1)
        assert done.returncode == 0, done.stderr[-3000:]
    if second == 2:
        assert_same_run(tmp_path / "1", tmp_path / "2", "policy_split", sharded=True, last=2)
    whole, ours = (pd.read_json(tmp_path / name / "policy_split-0.json", typ="series") for name in "12")
    for metrics, expected in zip(ours.metrics, whole.metrics[2:], strict=True):
        assert metrics == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_the_chains_training_run_works_in_two_processes_and_ends_them_all_at_an_error(tmp_path):
    def train(processes, results, *args, **more):
        return torchrun(processes, "train", "smoke", "policy_split", "0.2m", 1, *args, program=("-m", "pslib"),
                        PSLIB_RESULTS=str(tmp_path / results), **more)

    runs = {}
    for results, processes, sharded in (("one", 1, False), ("two", 2, False), ("sharded", 2, True)):
        done = train(processes, results, "--processes", processes, sharded=sharded)
        assert done.returncode == 0, done.stderr[-3000:]
        folder = tmp_path / results / "local/smoke/runs/policy_split-0.2m-s1"
        assert {"params.yaml", "metrics.csv", "manifest.json", "rollouts.parquet", "model"} <= {path.name for path in folder.iterdir()}
        runs[results] = pd.read_csv(folder / "metrics.csv").drop(columns=["seconds_sample", "seconds_score", "seconds_update"])
    for results in ("two", "sharded"):
        pd.testing.assert_frame_equal(runs[results], runs["one"], rtol=1e-4)
    (tmp_path / "two/local/smoke/runs/policy_split-0.2m-s1/params.yaml").write_text("method: another\n")
    done = train(2, "two", "--processes", 2)
    assert done.returncode != 0 and "was made with other settings" in done.stderr
    done = train(2, "two", "--processes", 3)
    assert done.returncode != 0 and "3 processes were asked for and 2 started" in done.stderr
