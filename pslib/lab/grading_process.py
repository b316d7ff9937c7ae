"""math-verify at arm's length: whether two LaTeX answers are equal, told by another process.

What is compared was written by a model that is paid for passing. So each comparison is a fork with
a second of CPU time and 512 MB, in which text can become code only if it is a number, and which can
write, start or reach nothing. Numbers are exact: what rounding alone makes equal is wrong.

This file is also that process's program: only there is math-verify imported.
"""

import atexit
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import lru_cache

# For one comparison; CPU time, so that a busy machine changes no reward.
CPU_SECONDS, SECONDS, BYTES = 1.0, 1.5, 2**29
FIGURES = 500  # in which constants that are no fractions must agree

_process, _lock = None, threading.Lock()


def _start():
    global _process
    _process = subprocess.Popen(
        [sys.executable, "-P", "-B", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        start_new_session=True,
    )
    return _reply(60)


def _reply(seconds):
    return _process.stdout.read(1) if select.select([_process.stdout], [], [], seconds)[0] else b""


@atexit.register
def _stop():
    global _process
    if _process:
        process, _process = _process, None
        process.kill()
        process.stdin.close()
        process.stdout.close()
        process.wait()


def _forget():
    """In a forked child: leave the parent's process to the parent."""
    global _process, _lock
    if _process:
        _process.stdin.close()
        _process.stdout.close()
        _process.returncode = 0
    _process, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


@lru_cache(maxsize=2**14)
def equal(answer, given):
    """Whether math-verify takes two answers to be equal; False beyond the limits.

    RuntimeError if its process cannot be kept alive.
    """
    request = json.dumps([answer, given]).encode() + b"\n"
    with _lock:
        for _ in range(2):  # no answer can end the process, but someone else may have
            reply = b""
            try:
                with suppress(BrokenPipeError):
                    if _process or _start():
                        _process.stdin.write(request)
                        reply = _reply(10)
            finally:
                if not reply:
                    # also when interrupted: a late reply must not be taken for the next answer's
                    _stop()
            if reply:
                return reply == b"1"
    raise RuntimeError(
        "the process that compares LaTeX answers does not stay alive; check that memory is left "
        f"and that `{sys.executable} -c 'import math_verify'` works"
    )


def _confine():
    """Bound this process's time and memory, and end it before it can do anything but arithmetic."""
    import resource

    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)  # it ends the process, wherever that hangs
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    if sys.platform != "darwin":  # which does not keep this limit
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    os.close(1)  # the verdict is the exit code alone

    # All that sympy compiles of its own: figures, and its monomial arithmetic.
    source = re.compile(
        rb"from sympy import \*|Integer \(\d{1,200} \)|Float \('[\d.eE+-]{1,200}' \)"
        rb"|def monomial_[^._'\"\[]*"
    )
    families = {"os", "subprocess", "socket", "shutil", "ctypes", "fcntl", "mmap"}
    harmless = {"os.listdir", "os.scandir"}

    def refuse(event, args):
        """End the process at once at what no comparison needs."""
        if event == "compile":
            text, file = args
            known = isinstance(text, bytes) and source.fullmatch(text)
            bad = str(file).startswith("<") and not known
        elif event == "open":
            bad = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            bad = event not in harmless and event.split(".")[0] in families
        if bad:
            os._exit(1)

    sys.addaudithook(refuse)


def _make_exact():
    """Let math-verify compare exactly what it is given.

    By itself it rounds, so that 0.3333333 is 1/3, and takes last letters for units, so that
    \\pi r^2 h is \\pi r^2.
    """
    from latex2sympy2_extended import math_normalization
    from math_verify import grader
    from sympy import Float, MatrixBase, Rational, nan, oo, zoo

    math_normalization.units_regex = re.compile("(?!)()")  # nothing: units are off already
    numeric, symbolic = grader.sympy_numeric_eq, grader.sympy_symbolic_eq

    def exact(side):
        fractions = {number: Rational(repr(float(number))) for number in side.atoms(Float)}
        return side.xreplace(fractions)

    def numeric_eq(answer, given, *rounding):
        """Whether two expressions have one value, to FIGURES digits where it is not rational."""
        answer, given = exact(answer), exact(given)
        sides = (answer, given)
        atomic = any(grader.is_atomic_or_pct_atomic(side, grader.Number) for side in sides)
        if atomic or any(isinstance(side, MatrixBase) for side in sides):
            return numeric(answer, given, *rounding)  # without decimals it rounds nothing
        if any(side.free_symbols for side in sides):
            return False  # what cancels is for symbolic_eq to see
        x, y = (side.evalf(FIGURES + 20) for side in sides)
        return bool(x == y or abs(x - y) < abs(x) * Rational(1, 10**FIGURES))

    def symbolic_eq(answer, given):
        if any(side.has(oo, -oo, zoo, nan) for side in (answer, given)):
            return False  # now and then simplify makes 42 + oo^oo 0
        return symbolic(exact(answer), exact(given))

    grader.sympy_numeric_eq, grader.sympy_symbolic_eq = numeric_eq, symbolic_eq


# Pairs of answers of each kind
_TYPICAL = (
    ("x=3", "y=3"),
    ("\\frac{1}{2}\\pi", "0.5\\pi"),
    ("\\frac{7\\pi}{3}", "2\\pi"),
    ("(1,2)", "(4,2)"),
    ("\\{1,2\\}", "2,1"),
    ("(1,2]", "[1,2)"),
    ("2\\sqrt{3}", "\\sqrt{7}"),
    ("x^2+1", "2x"),
    ("x<2", "(-\\infty,2)"),
    ("\\text{B}", "(B)"),
)


def _serve():
    """Answer each line of stdin, a JSON pair, with the byte 1 or 0, until stdin ends."""
    from math_verify import LatexExtractionConfig, parse, verify

    _make_exact()

    def same(answer, given):
        # Timeouts of its own would need SIGALRM. LaTeX alone: sympy's own parser, which is eval, is
        # not for such text.
        how = {"extraction_config": [LatexExtractionConfig()], "parsing_timeout": None}
        sides = [parse(f"${text}$", **how) for text in (answer, given)]
        return verify(*sides, timeout_seconds=None)

    for pair in _TYPICAL:
        same(*pair)  # what is loaded and learned here, no fork has to
    os.write(1, b"!")
    for line in sys.stdin.buffer:
        child = os.fork()
        if not child:
            try:
                _confine()
                os._exit(42 if same(*json.loads(line)) else 1)
            finally:
                os._exit(1)
        os.write(1, b"1" if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42 else b"0")


if __name__ == "__main__":
    _serve()
