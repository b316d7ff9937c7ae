"""Real processes: killed, stopped, racing for one folder."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pslib.lab import chain, checkpoint, runs
from tests.long.reliability import record
from tests.support import crashes

# --- SIGKILL --------------------------------------------------------------------------------------
METHODS = ("policy_split", "clip_cov", "entropy_regularization")


def test_200_kills_lose_at_most_a_save_interval_each_and_end_in_the_same_weights(tmp_path):
    begun, rng, tried, survived = time.time(), random.Random(1), 0, 0
    with crashes.small_profile(tmp_path, steps=6, save_every=2) as profile:
        log = tmp_path / "base.log"
        crashes.end(crashes.start(lambda: chain.make_base(profile, crashes.SIZE), log), log)
        expected, longest = {}, 0.0
        for method in METHODS:
            since = time.time()
            crashes.survive(profile, method, tmp_path / method, None, rng, kills=0, longest=0)
            expected[method], longest = (
                crashes.outcome(tmp_path / method),
                max(longest, time.time() - since),
            )
        number = cut_off = 0
        while tried < 200:
            method, folder = METHODS[number % len(METHODS)], tmp_path / f"killed-{number}"
            killed, cut, good = crashes.survive(
                profile, method, folder, expected[method], rng, min(8, 200 - tried), longest
            )
            tried, survived, cut_off, number = (
                tried + killed,
                survived + killed * good,
                cut_off + cut,
                number + 1,
            )
            shutil.rmtree(folder)
    record("Crash safety: SIGKILL at random moments", tried, survived, time.time() - begun)
    record(
        "Crash safety: those of them that cut a checkpoint's file off",
        cut_off,
        cut_off * (tried == survived),
        0,
    )
    assert (
        cut_off > 20
        and tried == survived == 200
        and len({outcome[0] for outcome in expected.values()}) == len(METHODS)
    )


# --- SIGTERM, Ctrl-C ------------------------------------------------------------------------------
PROFILE = """
model: nano
sizes: ["0.2m"]
methods: [original, entropy_regularization]
seeds: [1]
he_prompt: high_entropy_short
base: {world: rare, steps: 2, batch_size: 16}
train:
  {steps: 24, questions: 16, group_size: 8, pool: 64, learning_rate: 3.0e-4, max_new_tokens: 24,
   save_every: 1000}
evaluate: {questions: 4, samples: 2, temperature: 1.0, top_k: 0, top_p: 1.0, max_new_tokens: 24}
# 24 steps of half a second, saved at the end alone; the entropy term moves weights although no
# answer is right
"""
NOTEBOOK = [
    "notebook",
    "06_train",
    "-p",
    "profile",
    "stops",
    "-p",
    "method",
    "entropy_regularization",
]
RUN = "entropy_regularization-0.2m-s1"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the code with a profile of its own."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("pslib", "notebooks", "results/paper"):
        shutil.copytree(runs.ROOT / name, root / name)
    (root / "pslib" / "profiles" / "stops.yaml").write_text(PROFILE)
    return root


def command(checkout, results, *arguments):
    env = {**os.environ, "PYTHONPATH": str(checkout), "PSLIB_RESULTS": str(results)}
    return subprocess.Popen(
        [sys.executable, "-m", "pslib", *arguments],
        cwd=results,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def living(results):
    """Processes that have a results folder in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(results).encode() in path.read_bytes() and path.parent.name != str(os.getpid()):
                found.append(path.parent.name)
        except OSError:
            pass
    return found


def steps_taken(run):
    return (
        (run / "metrics.csv").read_text().count("\n") - 1 if (run / "metrics.csv").exists() else 0
    )


def stopped(checkout, results, arguments, number, after):
    """Start a command, signal it once its run has taken so many steps -> (exit code, words,
    seconds, steps by then).
    """
    run, job = results / "local" / "stops" / "runs" / RUN, command(checkout, results, *arguments)
    while steps_taken(run) < after:
        assert job.poll() is None, job.communicate()
        time.sleep(0.02)
    steps, begun = steps_taken(run), time.time()
    job.send_signal(number)
    words = job.communicate(timeout=120)[1]
    return job.returncode, words, time.time() - begun, steps


def ended(run):
    """A finished run's weights and metrics, without the seconds."""
    metrics = pd.read_csv(run / "metrics.csv", dtype=str)
    return load_file(run / "model" / "model.safetensors"), metrics[
        [c for c in metrics if not c.startswith("seconds")]
    ]


def test_a_command_that_is_asked_to_stop_saves_within_a_step_and_5_s_and_goes_on(
    checkout, tmp_path
):
    begun, tried, survived, notes = time.time(), 0, 0, []
    (tmp_path / "whole").mkdir()
    whole = command(checkout, tmp_path / "whole", *NOTEBOOK)
    words = whole.communicate(timeout=300)[1]
    assert whole.returncode == 0, words
    weights, metrics = ended(tmp_path / "whole" / "local" / "stops" / "runs" / RUN)
    for arguments in (NOTEBOOK, ["reproduce", "stops", "--cores", "1"]):
        for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
            results = tmp_path / f"{arguments[0]}-{code}"
            results.mkdir()
            run = results / "local" / "stops" / "runs" / RUN
            returned, words, seconds, steps = stopped(checkout, results, arguments, number, after=5)
            step, _ = checkpoint.load_newest(run / "checkpoints")
            said = [line for line in words.splitlines() if line.startswith("pslib: ")]
            step_seconds = (
                pd.read_csv(run / "metrics.csv").filter(like="seconds_").sum(axis=1).max()
            )
            saved_after = (run / "checkpoints" / f"step-{step:06d}.json").stat().st_mtime - (
                time.time() - seconds
            )
            good = [
                returned == code,
                steps <= step <= steps + 1,
                "Traceback" not in words,
                not living(results),
                said == ["pslib: stopped; run the same command again to continue"],
                saved_after <= step_seconds + 5,
            ]
            again = command(checkout, results, *NOTEBOOK)
            words = again.communicate(timeout=300)[1]
            new_weights, new_metrics = ended(run) if again.returncode == 0 else ({}, None)
            good += [
                again.returncode == 0
                and new_metrics.equals(metrics)
                and all(torch.equal(weights[name], new_weights[name]) for name in weights)
            ]
            tried, survived = tried + 1, survived + all(good)
            notes.append((arguments[0], code, good, round(seconds, 1), words[-500:]))
    record(
        "Stop request: SIGTERM and Ctrl-C to a notebook's command and to the whole chain",
        tried,
        survived,
        time.time() - begun,
    )
    assert tried == survived == 4, notes


def test_a_chain_whose_command_is_killed_outright_ends_too(checkout, tmp_path):
    returned, _, _, steps = stopped(
        checkout, tmp_path, ["reproduce", "stops", "--cores", "1"], signal.SIGKILL, after=3
    )
    since = time.time()
    while living(tmp_path) and time.time() - since < 60:
        time.sleep(0.1)
    step, _ = checkpoint.load_newest(tmp_path / "local" / "stops" / "runs" / RUN / "checkpoints")
    record(
        "Stop request: the command of a chain killed outright (SIGKILL) leaves no process and a "
        "checkpoint",
        1,
        int(not living(tmp_path) and step >= steps),
        time.time() - since,
    )
    assert returned == -signal.SIGKILL and not living(tmp_path) and step >= steps


# --- two at once ----------------------------------------------------------------------------------
def contender(folder, ready, go, done):
    """Wait for the starting gun, then try to own a folder: say on `done` how it went, and keep what
    was won.
    """
    os.write(ready, b".")
    os.read(go, 1)
    try:
        with runs.owned(folder):
            os.write(done, f"{os.getpid()} works\n".encode())
            time.sleep(60)
    except (
        Exception
    ) as error:  # BlockingIOError is what it should be; the race's verdict reads the words
        os.write(done, f"{os.getpid()} refused: {error}\n".encode())


def race(folder, log):
    """Two processes ask for one folder at once; the winner is killed while it has it -> whether all
    went as it must.
    """
    (ready, ready_end), (go, go_end), (done, done_end) = os.pipe(), os.pipe(), os.pipe()
    pids = [
        crashes.start(lambda: contender(folder, ready_end, go, done_end), log) for _ in range(2)
    ]
    for _ in pids:
        os.read(ready, 1)
    os.write(go_end, b"..")
    said = ""
    while said.count("\n") < 2:
        said += os.read(done, 4096).decode()
    works = [int(pid) for pid in re.findall(r"(\d+) works", said)]
    refused = re.findall(r"(\d+) refused: .* is in use by process (\d+) on ", said)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        crashes.end(pid, log)
    for end in (ready, ready_end, go, go_end, done, done_end):
        os.close(end)
    return len(works) == len(refused) == 1 and int(refused[0][1]) == works[0] != int(refused[0][0])


def test_of_two_processes_one_works_the_other_says_who_and_a_dead_owners_folder_is_free(tmp_path):
    begun = time.time()
    # each race begins with the lock and the name that the winner of the race before it left when it
    # was killed
    good = sum(race(tmp_path / "run", tmp_path / "log") for _ in range(50))
    record(
        "Two at once: races for a folder whose last owner was killed", 50, good, time.time() - begun
    )
    assert good == 50
