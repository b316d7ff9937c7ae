"""Rewards: the text of a response -> 1.0 if its last boxed answer is right, else 0.0.

What is read here was written by a model that is paid for passing, so as little as possible is done
with it. First an answer's dress is taken off (see `dress`). Then answers are compared as text, then
as exact numbers. Where the reference is a number nothing is worked out: a question copied into the
box (`2^{10}`, `7+8`) is no answer to it, unless a task asks for worked-out answers. A power of ten
is notation and no question. Other references (`2\\sqrt{3}`, `(1, 2]`, `x=1`) go to math-verify, in
a process of its own: each comparison in a fork with a second of CPU time and 512 MB, in which text
can become code only if it is a number, and which can write, start or reach nothing. There, too,
numbers are exact: what rounding alone makes equal is wrong. Words are compared as text. So is
whatever is not ASCII without its dress, leaves an integral, sum, product or limit to be worked out,
or has what math-verify reads over, as the base of a number.

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

if __name__ != "__main__":  # the process that compares answers needs no more than this file
    from pslib.lab import dress

LONGEST_ANSWER = 200  # characters; a longer one is wrong, unread
# For one comparison; CPU time, so that a busy machine changes no reward.
CPU_SECONDS, SECONDS, BYTES = 1.0, 1.5, 2**29
FIGURES = 500  # in which constants that are no fractions must agree

_OPENS = re.compile(r"\\boxed\s{0,9}\{")
# What a box that waits for its answer holds: spaces, dots, fonts around nothing.
_EMPTY = re.compile(
    r"(?:[\s$~{}_?…]|\.{2,}|\\[ ,;:!]|\\(?:q?quad|[lc]?dots|square|Box|(?:text|math)[a-z]*)"
    r"(?![A-Za-z]))*"
)
_INTEGER = re.compile(r"[+-]?\d{1,40}", re.ASCII)
_WORDS = re.compile(r"[A-Za-z][A-Za-z0-9 ]*|[A-Za-z]{2,}(?:[ '-]+[A-Za-z]{2,})+")
# What equals only itself: a letter (I is i to math-verify, and A is A^T) and infinity (which is
# infinity + 1).
_ALONE = re.compile(r"[A-Za-z]|[+-]?\\infty")
# What math-verify may read. It would not see these, each of which makes a difference:
_READABLE = re.compile(
    r"(?!.*\\(?:i*int|oint|sum|prod|lim|gcd|lcm)(?![A-Za-z]))"  # work that is left to do
    r"(?!.*\\(?:approx|sim|simeq|doteq|cong)(?![A-Za-z]))"  # that a number is rounded
    r"(?!.*[\d)\]]\s*\}?\s*_)"  # the base of a number
    r"(?!.*\d \d)"  # where one number ends and the next begins
    r"(?!.*(?=[\d.]{17})\d*\.\d)"  # decimals that no float holds
    r"[ -~]+"
)


def boxed(text):
    """The content of the last \\boxed{...} whose braces match, or None.

    An empty box is passed over, since it waits for an answer; "" where all are empty.
    """
    found, at = None, text.rfind("\\boxed")
    while at >= 0:
        if opens := _OPENS.match(text, at):
            depth, start = 0, opens.end() - 1
            longest = start + LONGEST_ANSWER + 2
            for place in range(start, min(len(text), longest)):
                depth += {"{": 1, "}": -1}.get(text[place], 0)
                if depth == 0:
                    break
            if depth == 0 and not _EMPTY.fullmatch(text, start + 1, place):
                return text[start + 1 : place]
            if depth == 0:
                found = ""
            elif len(text) >= longest:
                return None  # too long to be an answer, and not to be replaced by an earlier one
        at = text.rfind("\\boxed", 0, at)
    return found


def grade(text, answer, worked_out=False, thinking=False):
    """1.0 if the last boxed answer of a response equals `answer`, else 0.0.

    worked_out: whether `2^{10}` is right where `answer` is 1024; without it, what is left to be
    worked out is wrong where `answer` is a number. thinking: whether the model thinks first, so
    that a response without a closing `</think>` is unfinished, and wrong. An answer over 200
    characters is wrong, unread. A comparison takes at most 1.5 s once math-verify's process runs.

    RuntimeError if math-verify is needed and its process cannot be kept alive.
    """
    if thinking and text.rfind("</think>") <= text.rfind("<think>"):
        return 0.0
    given, answer = (boxed(text) or "").strip(), answer.strip()
    if not given or len(answer) > LONGEST_ANSWER:
        return 0.0
    if given == answer:
        return 1.0
    if _INTEGER.fullmatch(given) and _INTEGER.fullmatch(answer):
        return float(int(given) == int(answer))
    return float(_right(dress.bare(given), dress.bare(answer), worked_out))


def _right(given, answer, worked_out):
    """Whether an answer without dress is right."""
    if "=" not in answer:
        given = dress.without_name(given)
    if not given or not answer:
        return False
    wanted, number = dress.value(answer), dress.value(given)
    if wanted is not None and number is not None:
        return wanted.same(number)
    if wanted is not None and not worked_out:
        return False
    if letter := dress.LETTER.fullmatch(answer):
        return dress.choice(given) == letter[1]
    if dress.squeezed(given) == dress.squeezed(answer):
        return True
    if _ALONE.fullmatch(given) or _ALONE.fullmatch(answer):
        return False
    if _WORDS.fullmatch(answer) and (_WORDS.fullmatch(given) or number is not None):
        return given.lower() == answer.lower()  # yes and Yes; a lone letter was compared above
    return _worth(answer, given)


def _worth(answer, given):
    """Whether math-verify may read two answers and finds them equal."""
    rest, units = dress.without_units(given, dress.letters(answer))
    asked, theirs = dress.without_units(answer, dress.letters(given))
    if dress.units_differ(units, theirs):
        return False
    given, answer = rest, answer if "?" in theirs else asked
    for unseen in (dress.words, dress.name):  # x \text{ is odd}, f(2) =
        if unseen(given) and unseen(answer) and unseen(given) != unseen(answer):
            return False
    if not dress.words_that_change(given) <= dress.words(answer):
        return False  # \pi\text{ million} is not \pi
    if "=" in answer and "=" not in given and not dress.names_one(answer):
        return False  # 5 is not x+y=5
    ours, theirs = dress.letters(given), dress.letters(answer)
    if ours != theirs and {x.lower() for x in ours} == {x.lower() for x in theirs}:
        return False  # \pi r^2 is not \pi R^2
    sides = [dress.primed(dress.improper(side.replace("{,}", ""))) for side in (answer, given)]
    return all(map(_READABLE.fullmatch, sides)) and _equal(*sides)


# --- math-verify, at arm's length -----------------------------------------------------------------
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
def _equal(answer, given):
    """Whether math-verify takes two answers to be equal; False beyond the limits."""
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

    def equal(answer, given):
        # Timeouts of its own would need SIGALRM. LaTeX alone: sympy's own parser, which is eval, is
        # not for such text.
        how = {"extraction_config": [LatexExtractionConfig()], "parsing_timeout": None}
        sides = [parse(f"${text}$", **how) for text in (answer, given)]
        return verify(*sides, timeout_seconds=None)

    for pair in _TYPICAL:
        equal(*pair)  # what is loaded and learned here, no fork has to
    os.write(1, b"!")
    for line in sys.stdin.buffer:
        child = os.fork()
        if not child:
            try:
                _confine()
                os._exit(42 if equal(*json.loads(line)) else 1)
            finally:
                os._exit(1)
        os.write(1, b"1" if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42 else b"0")


if __name__ == "__main__":
    _serve()
