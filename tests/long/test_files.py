"""Files: every damage to a checkpoint is noticed, every write that fails is said, and a disk that
is really full.
"""

import errno
import os
import random
import shutil
import subprocess
import sys
import time
import warnings

import pytest
import torch

from pslib.lab import chain, checkpoint, runs
from tests.long.reliability import record
from tests.support import crashes, faults


def test_1000_damages_to_a_checkpoint_are_noticed_and_the_one_before_it_is_used(model, tmp_path):
    begun, rng, survived, missed = time.time(), random.Random(0), 0, []
    optimiser = torch.optim.AdamW(model.parameters())
    sum(weight.sum() for weight in model.parameters()).backward()
    saved = {}
    for step in (1, 2):
        optimiser.step()
        saved[step] = checkpoint.state_of(
            model, optimiser, {"g": torch.Generator().manual_seed(step)}
        )
        checkpoint.save(tmp_path, step, saved[step])
    whole = {end: (tmp_path / f"step-000002.{end}").read_bytes() for end in ("json", "safetensors")}
    for number in range(1000):
        path = tmp_path / f"step-000002.{('json', 'safetensors')[number % 2]}"
        done = faults.damage(path, rng)
        with warnings.catch_warnings(record=True, action="always") as caught:
            step, tensors = checkpoint.load_newest(tmp_path)
        noticed = (
            step == 1
            and len(caught) == 1
            and "checkpoint step-000002" in str(caught[0].message)
            and tensors.keys() == saved[1].keys()
            and all(torch.equal(tensor, saved[1][name]) for name, tensor in tensors.items())
        )
        survived += noticed
        missed += [] if noticed else [done]
        path.write_bytes(whole[path.suffix[1:]])
    assert checkpoint.load_newest(tmp_path)[0] == 2  # undamaged, it is the newest
    record(
        "Verified load: one byte changed, dropped or added, a file cut short or lost",
        1000,
        survived,
        time.time() - begun,
    )
    assert survived == 1000, missed


def test_every_writing_call_of_a_run_and_an_evaluation_may_fail_in_three_ways(tmp_path):
    begun, tried, failed = time.time(), 0, []
    with (
        crashes.small_profile(tmp_path, steps=2, save_every=1) as profile,
        crashes.base_kept(profile),
    ):

        def train(folder):
            return lambda: chain.train_run(
                profile, "grpo", crashes.SIZE, crashes.SEED, folder=folder
            )

        def evaluate(folder):
            return lambda: chain.evaluate_run(
                profile, "original", crashes.SIZE, crashes.SEED, folder=folder
            )

        for job, result in (
            (train, crashes.outcome),
            (evaluate, lambda folder: (folder / "evaluation.csv").read_text()),
        ):
            whole = tmp_path / f"{job.__name__}-whole"
            with faults.watched(faults.Calls()) as calls:
                job(whole)()
            for number in range(1, len(calls.made) + 1):
                for code in (errno.ENOSPC, errno.EIO, errno.EACCES):
                    folder, tried = tmp_path / f"{job.__name__}-{number}-{code}", tried + 1
                    try:
                        crashes.fail_and_go_on(
                            job(folder), folder, result(whole), number, code, result
                        )
                    except (AssertionError, OSError, pytest.fail.Exception) as error:
                        failed.append((folder.name, calls.made[number - 1], repr(error)[:300]))
                    shutil.rmtree(folder)
    record(
        "Write faults: no space, I/O error, no permission at every call of a run and an evaluation",
        tried,
        tried - len(failed),
        time.time() - begun,
    )
    assert tried > 300 and not failed


@pytest.fixture
def disk(tmp_path):
    """A real disk of a few MB: disk(kilobytes) makes it, and later changes its size."""
    at = tmp_path / "disk"
    at.mkdir()

    def size(kilobytes):
        options = f"size={kilobytes}k" if not os.path.ismount(at) else f"remount,size={kilobytes}k"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)],
            capture_output=True,
            text=True,
        )
        if done.returncode and not os.path.ismount(at):
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        return at

    yield size
    if os.path.ismount(at):
        subprocess.run(["umount", str(at)], check=True)


def test_a_disk_that_is_really_full_is_said_and_with_space_the_run_goes_on(tmp_path, disk):
    begun, tried, failed = time.time(), 0, []
    with (
        crashes.small_profile(tmp_path, steps=4, save_every=1) as profile,
        crashes.base_kept(profile),
    ):
        whole = tmp_path / "whole"
        chain.train_run(profile, "grpo", crashes.SIZE, crashes.SEED, folder=whole)
        expected = crashes.outcome(whole)
        for kilobytes in range(
            8, 9000, 300
        ):  # a run needs three checkpoints and a model: from next to nothing to all
            folder, tried = disk(kilobytes) / "run", tried + 1
            try:
                chain.train_run(profile, "grpo", crashes.SIZE, crashes.SEED, folder=folder)
                break  # it fits
            except OSError as error:
                said, kept = str(error), crashes.lost_steps(folder) <= 1
            disk(32_000)
            chain.train_run(profile, "grpo", crashes.SIZE, crashes.SEED, folder=folder)
            if not (
                "No space left" in said
                and "\n" not in said
                and kept
                and crashes.outcome(folder) == expected
            ):
                failed.append((kilobytes, said, kept))
            shutil.rmtree(folder)
    tried -= 1  # the last had space enough
    # the command: exit code 1 and one sentence
    results = disk(1500) / "results"
    results.mkdir(exist_ok=True)
    shutil.rmtree(disk(1500) / "run", ignore_errors=True)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pslib",
            "notebook",
            "06_train",
            "--out",
            str(tmp_path / "out.ipynb"),
        ],
        env={**os.environ, "PYTHONPATH": str(runs.ROOT), "PSLIB_RESULTS": str(results)},
        capture_output=True,
        text=True,
    )
    said = [line for line in done.stderr.splitlines() if line.startswith("pslib: ")]
    if not (
        done.returncode == 1
        and len(said) == 1
        and "No space left" in said[0]
        and "Traceback" not in done.stderr
    ):
        failed.append(("command", done.returncode, done.stderr[-500:]))
    record(
        "Write faults: a disk that is really full, at a run's every size",
        tried + 1,
        tried + 1 - len(failed),
        time.time() - begun,
    )
    assert tried > 5 and not failed
