"""Worlds of one and two processes in their long form: every method, started by torchrun as a user would."""

import subprocess
import sys
import time
from pathlib import Path

from properties import TRAINED
from reliability import record
from test_worlds import assert_same_run, saved  # noqa: F401 - a fixture

SCRIPT = Path(__file__).parents[1] / "world.py"


def torchrun(processes, *args):
    """Start the script in so many processes; accelerate's own launcher starts one on a CPU, whatever it is told."""
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
                           SCRIPT, *map(str, args)], capture_output=True, text=True, timeout=900)


def test_torchrun_with_two_processes_does_the_run_of_one(saved, tmp_path):  # noqa: F811
    begun, same, failures = time.perf_counter(), 0, []
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        done = torchrun(processes, saved, tmp_path / str(processes), 6, 4, *TRAINED)
        failures += [done.stderr[-3000:]] if done.returncode else []
    for name in TRAINED:
        try:
            assert_same_run(tmp_path / "1", tmp_path / "2", name)
            same += 1
        except (AssertionError, OSError) as error:  # another run, or none
            failures.append((name, error))
    record(f"worlds of one and two processes (torchrun, gloo, float64): {len(TRAINED)} methods, 6 steps each",
           len(TRAINED), same, time.perf_counter() - begun)
    assert not failures and same == len(TRAINED), failures


def test_torchrun_ends_with_an_error_where_questions_cannot_be_shared_out(saved, tmp_path):  # noqa: F811
    done = torchrun(2, saved, tmp_path, 1, 3, "grpo")
    assert done.returncode != 0
    assert "ValueError: 3 prompts cannot be shared out evenly among 2 processes" in done.stderr
