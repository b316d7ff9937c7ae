"""Training runs that are killed, and runs that cannot write: what the short and the long tests of
both have in common.

A process that has to import torch and transformers needs seconds before it trains. So the process
that tests imports
everything and forks: each child is a real process that runs `chain.train_run` and dies a real death
(SIGKILL), without the seconds. What is forked holds no open file, lock or thread of a run.
"""

import copy
import json
import os
import signal
import time
import traceback
import warnings
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pslib import rewards
from pslib.lab import chain, checkpoint, records, runs
from tests.support import faults
from tests.support.steps import parity

SIZE, SEED = "0.2m", 1


@contextmanager
def small_profile(results, **train):
    """The smoke profile on a base model of two steps and with short responses, in a results folder
    of its own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PSLIB_RESULTS", str(results))
        patch.setenv(
            "TOKENIZERS_PARALLELISM", "false"
        )  # which tokenizers would warn of in each child
        patch.setattr(rewards, "grade", parity)
        smoke = runs.load_profile("smoke")
        yield replace(
            smoke,
            base=replace(smoke.base, steps=2),
            train=replace(smoke.train, max_new_tokens=8, **train),
        )


@contextmanager
def base_kept(profile):
    """Let a run start from a copy of the base model in memory, since reading it takes longer than a
    short run.
    """
    with pytest.MonkeyPatch.context() as patch:
        model, tokenizer, losses = chain.make_base(profile, SIZE)
        patch.setattr(chain, "make_base", lambda *_: (copy.deepcopy(model), tokenizer, losses))
        yield


# --- processes ------------------------------------------------------------------------------------
def start(job, log):
    """Run a function in a forked process that exits 0, or 1 with its traceback in a log -> its
    id.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        job()
        os._exit(0)
    except BaseException:
        Path(f"{log}.failed").write_text(traceback.format_exc())
    finally:
        os._exit(1)


def end(pid, log):
    """Wait for a process -> whether it was killed; AssertionError with its traceback if it failed
    on its own.
    """
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, Path(f"{log}.failed").read_text()
    return os.WIFSIGNALED(status)


def run_and_kill(job, folder, log, rng, longest):
    """Start a job and SIGKILL it, half of the time while it writes a checkpoint, else anywhere ->
    whether it still ran.
    """
    pid = start(job, log)
    until, writes, seen = (
        time.monotonic() + rng.uniform(0, longest),
        rng.choice([0, 0, 0, 1, 2, 3]),
        set(),
    )
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        with suppress(FileNotFoundError):  # a run that ends removes the folder
            seen.update(folder.glob("checkpoints/.step-*.tmp"))
        if len(seen) >= writes if writes else time.monotonic() > until:
            time.sleep(rng.choice([0, rng.uniform(0, 0.003)]))
            break
        time.sleep(0.0003)
    os.kill(pid, signal.SIGKILL)
    return end(pid, log)


# --- what a run's folder holds --------------------------------------------------------------------
def outcome(folder):
    """A finished run's result, without its times: hash of the weights, metrics, rollouts."""
    metrics = pd.read_csv(folder / "metrics.csv", dtype=str)
    return (
        json.loads((folder / "manifest.json").read_text())["inputs"]["model"],
        records.files_digest(folder / "model"),
        metrics[[name for name in metrics if not name.startswith("seconds")]].to_csv(),
        pd.read_parquet(folder / "rollouts.parquet").to_csv(),
    )


def lost_steps(folder):
    """Steps in a stopped run's metrics that its newest checkpoint does not have; every file there
    must be whole.
    """
    if (folder / "manifest.json").exists():
        return 0 if outcome(folder) else None
    if (folder / "params.yaml").exists():
        assert yaml.safe_load((folder / "params.yaml").read_text())["size"] == SIZE
    if (folder / "rollouts.parquet").exists():
        assert len(pd.read_parquet(folder / "rollouts.parquet"))
    if not (folder / "metrics.csv").exists():
        return 0
    steps = pd.read_csv(folder / "metrics.csv").step.tolist()
    assert steps == list(range(1, len(steps) + 1))  # each once
    with warnings.catch_warnings(
        action="ignore"
    ):  # a save that was cut off is said; here it does not matter
        found = checkpoint.load_newest(folder / "checkpoints")
    return len(steps) - (found[0] if found else 0)


def survive(profile, method, folder, expected, rng, kills, longest):
    """Kill a run up to `kills` times, unless it ends before, then let it end.

    -> (times killed, how many of these cut a checkpoint's file off, whether all was well)
    """
    log, killed, cut, good = f"{folder}.log", 0, 0, True
    folder.parent.mkdir(parents=True, exist_ok=True)

    def job():
        chain.train_run(profile, method, SIZE, SEED, folder=folder)

    while killed < kills and run_and_kill(job, folder, log, rng, longest):
        killed += 1
        cut += any(folder.glob("checkpoints/.step-*.tmp"))
        good &= lost_steps(folder) <= profile.train.save_every
    end(start(job, log), log)
    return killed, cut, good and outcome(folder) == expected


# --- writes that fail -----------------------------------------------------------------------------
def fail_and_go_on(job, folder, expected, number, code, result=outcome):
    """Let one writing call of a job fail, then run the job again: one clear sentence, whole files,
    the same end.
    """
    with faults.watched(faults.Calls(number, code)), pytest.raises(OSError) as error:
        job()
    said = str(error.value)
    assert (
        error.value.errno == code
        and os.strerror(code) in said
        and str(folder) in said
        and "\n" not in said
    )
    assert "nothing earlier was lost" in said
    assert lost_steps(folder) <= 1
    job()
    assert result(folder) == expected
