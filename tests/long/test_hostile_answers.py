"""No answer, as response or as reference, runs code, takes over 2 s or 512 MB, or crashes; benign
ones are graded as math-verify does.
"""

import contextlib
import logging
import os
import resource
import socket
import time

import pytest

from pslib import rewards
from pslib.lab import grading_process
from tests.long.reliability import record
from tests.support import answers

SECONDS, MEGABYTES = 2.0, 512


@pytest.fixture
def canaries(tmp_path, monkeypatch):
    """A working folder, an environment and a port in which code that ran would leave a trace; ->
    (port, what was left).
    """
    monkeypatch.chdir(tmp_path)
    grading_process._stop()
    grading_process.equal.cache_clear()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        environment = dict(os.environ)

        def left():
            found = list(tmp_path.iterdir()) + [
                name
                for name in os.environ
                if environment.get(name) != os.environ[name] and name != "PYTEST_CURRENT_TEST"
            ]
            with contextlib.suppress(BlockingIOError):
                found.append(server.accept())
            return found

        yield server.getsockname()[1], left


def _tried(strings):
    """Grade each string as response and as reference -> (strings, those that took under 2 s and
    gave 0 or 1, MB of the worst).
    """
    rewards.grade("\\boxed{1+x}", "x+1")  # starting the process is no answer's doing
    own, survived, slow = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0, []
    for text in strings:
        fine = True
        for response, reference in (
            (text, "42"),
            (f"\\boxed{{{text}}}", "42"),
            (f"\\boxed{{{text}}}", "x+\\sqrt{2}"),
            ("\\boxed{x+\\sqrt{2}}", text),
        ):
            begun = time.perf_counter()
            reward = rewards.grade(response, reference)
            if time.perf_counter() - begun > SECONDS or reward not in (0.0, 1.0):
                fine = False
                slow.append((time.perf_counter() - begun, text[:80]))
        survived += fine
    # The process and all its forks, from the system's own account of them; it ends when its stdin
    # is closed.
    process = grading_process._process
    process.stdin.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    grading_process._stop()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - own
    assert not slow, slow[:5]
    assert process.returncode == 0
    return survived, max(usage.ru_maxrss, grown) / 2**10


@pytest.mark.parametrize(
    "claim, strings",
    [
        ("hostile answers, crafted", answers.CRAFTED),
        ("hostile answers, fuzzed", list(answers.fuzzed(10_000))),
    ],
    ids=["crafted", "fuzzed"],
)
def test_no_answer_runs_code_or_outgrows_its_limits(claim, strings, canaries):
    port, left = canaries
    begun, survived, traces = time.time(), 0, ["not looked for"]
    try:
        survived, megabytes = _tried([text.replace("PORT", str(port)) for text in strings])
        traces = left()
    finally:
        record(claim, len(strings), 0 if traces else survived, time.time() - begun)
    assert traces == [] and survived == len(strings)
    assert (
        40 < megabytes < MEGABYTES
    )  # less than an idle Python with sympy would say that the account is wrong


def test_benign_answers_are_graded_as_math_verify_does():
    # Of these pairs none is graded differently. Where the definitions do differ is in
    # tests/test_rewards.py, with reasons.
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)

    def theirs(reference, given):
        parsed = [
            math_verify.parse(f"${text.strip().strip('$')}$", parsing_timeout=None)
            for text in (reference, given)
        ]
        return float(math_verify.verify(*parsed, timeout_seconds=None))

    begun = time.time()
    graded = [
        (
            kind,
            reference,
            given,
            rewards.grade(f"\\boxed{{{given}}}", reference),
            theirs(reference, given),
        )
        for kind, reference, given in answers.benign(1000)
    ]
    different = [row for row in graded if row[3] != row[4]]
    record(
        "benign answers graded as math-verify does",
        len(graded),
        len(graded) - len(different),
        time.time() - begun,
    )
    assert 300 < sum(row[4] for row in graded) < 700  # right and wrong ones
    assert len(different) <= 5, different
