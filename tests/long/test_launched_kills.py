"""Launched runs of two processes that are killed outright, between two checkpoints."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pslib.lab import runs
from tests.support import torchrun
from tests.support.small_paper import left, paper_profile

STEPS, SAVED = 8, 3


@pytest.fixture(scope="module")
def mine(tmp_path_factory, _lively, tokenizer):
    with paper_profile(tmp_path_factory.mktemp("launched"), _lively, tokenizer) as path:
        yield path


def start(profile, method):
    """Start a run in two processes; its words go to a log beside the profile."""
    with open(f"{profile}.log", "w") as log:
        return subprocess.Popen(
            torchrun.command(2, "-m", "tests.long.launch", profile, method, "tiny", 1),
            cwd=runs.ROOT,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )


def said(profile):
    return Path(f"{profile}.log").read_text()[-3000:]


def finish(profile, method):
    """Start a run and wait for its end -> what it left."""
    job = start(profile, method)
    assert job.wait(timeout=600) == 0, said(profile)
    return left(runs.run_folder(runs.load_profile(str(profile)), method, "tiny", 1))


def kill(job):
    """SIGKILL a launcher and the processes that it started."""
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    assert len(children) == 2
    for process in (job.pid, *map(int, children)):
        os.kill(process, signal.SIGKILL)
    job.wait()


def steps_taken(folder):
    return len(pd.read_csv(folder / "metrics.csv")) if (folder / "metrics.csv").exists() else 0


@pytest.mark.parametrize("method", ["policy_split", "clip_cov"])
def test_two_processes_that_are_killed_go_on_to_the_weights_of_a_run_that_was_not(mine, method):
    given = yaml.safe_load(mine.read_text())
    given["methods"] = ["original", method]
    given["train"] |= {"steps": STEPS, "save_every": SAVED, "learning_rate": 1.0e-3}
    whole, killed = (mine.with_name(f"{name}-{method}.yaml") for name in ("whole", "killed"))
    for path in (whole, killed):
        path.write_text(yaml.safe_dump(given))
    weights, metrics = finish(whole, method)
    folder = runs.run_folder(runs.load_profile(str(killed)), method, "tiny", 1)
    for step in (2, 5, 7):  # before the first checkpoint, and twice between two
        job = start(killed, method)
        while steps_taken(folder) < step:
            assert job.poll() is None, said(killed)
            time.sleep(0.02)
        kill(job)
        assert not (folder / "manifest.json").exists()
    again, its_metrics = finish(killed, method)
    assert metrics.live_groups.max() > 0 and len(metrics) == STEPS
    assert max(float((again[name] - weights[name]).abs().max()) for name in weights) < 1e-4
    pd.testing.assert_frame_equal(its_metrics, metrics)
