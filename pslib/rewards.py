"""Rewards: the text of a response -> 1.0 if its last boxed answer is right, else 0.0.

What is read here was written by a model that is paid for passing, so as little as possible is done with it. Answers are
compared as text, then as exact numbers. Where the reference is a number nothing is worked out: a question copied into the
box (`2^{10}`, `7+8`) is no answer to it. Other references (`2\\sqrt{3}`, `(1, 2]`, `x=1`) go to math-verify, in a process
of its own: each comparison in a fork with a second of CPU time and 512 MB, in which text can become code only if it is a
number, and which can write, start or reach nothing. Words are compared as text; so is whatever is not ASCII or
leaves an integral, sum, product or limit to be worked out.

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
from fractions import Fraction
from functools import lru_cache

LONGEST_ANSWER = 200  # characters; a longer one is wrong, unread
CPU_SECONDS, SECONDS, BYTES = 1.0, 1.5, 2**29  # for one comparison; CPU time, so that a busy machine changes no reward

_NUMBER = re.compile(r"([+-]?)(?=\.?\d)(\d{0,40})(?:\.(\d{1,40})|/(\d{1,40}))?", re.ASCII)
_FRACTION = re.compile(r"([+-]?)\\[dt]?frac(?:\{([+-]?\d{1,40})\}\{(\d{1,40})\}|(\d)(\d))", re.ASCII)
# What a number may wear: x = before it; %, a unit in \text{} or a degree sign after it; dollar signs.
_DRESSED = re.compile(r"(?:\\?[A-Za-z]+(?:_\w)?\s*=)?\s*(?P<sign>[+-]?)\s*(?:\\?\$)?(?P<number>.*?)"
                      r"(?:\s|~|\\[ ,;:!])*(?:(?P<percent>\\?%)|\\(?:text|mathrm|mbox)\s*\{[^{}\\\d]*\}(?:\^\{?\d\}?)?"
                      r"|\^\{?\\circ\}?|\\degree)?", re.ASCII)
# The letter of a choice, and what it may wear.
_LETTER = re.compile(r"(?:\\(?:text|math)(?:bf|rm|it)?\s*\{)?\s*\(?\s*([A-Z])\s*\)?\s*[.:]?\s*\}?")
_WORDS = re.compile(r"[A-Za-z][A-Za-z0-9 ]*")
_READABLE = re.compile(r"(?!.*\\(?:i*int|oint|sum|prod|lim)(?![A-Za-z]))[ -~]+")


def boxed(text):
    """The content of the last \\boxed{...} whose braces match, or None."""
    at = text.rfind("\\boxed{")
    while at >= 0:
        depth, start = 0, at + len("\\boxed")
        longest = start + LONGEST_ANSWER + 2
        for place in range(start, min(len(text), longest)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[start + 1 : place]
        if len(text) >= longest:
            return None  # too long to be an answer, and not to be replaced by an earlier one
        at = text.rfind("\\boxed{", 0, at)
    return None


def _bare(text):
    text = " ".join(text.split())
    return text[1:-1].strip() if len(text) > 1 and text[:1] == text[-1:] == "$" else text


def _number(text):
    text = text.replace("{,}", ",")
    if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?", text, re.ASCII):
        text = text.replace(",", "")
    if fraction := _FRACTION.fullmatch(text):
        sign, top, bottom, digit, other = fraction.groups()
        text = f"{sign}{top or digit}/{bottom or other}"
    found = _NUMBER.fullmatch(text)
    if not found or (found[4] and int(found[4]) == 0):
        return None
    sign, whole, decimals, denominator = found.groups()
    value = Fraction(int(whole + (decimals or "")), 10 ** len(decimals or "")) / int(denominator or 1)
    return -value if sign == "-" else value


def _is_number(given, value):
    found = _DRESSED.fullmatch(given)
    number = _number(found["sign"] + found["number"]) if found else None
    return number is not None and (number == value or bool(found["percent"]) and number == 100 * value)


def grade(text, answer):
    """1.0 if the last boxed answer of a response equals `answer`, else 0.0; an answer over 200 characters is wrong, unread.

    A comparison takes at most 1.5 s once math-verify's process runs, whatever is in either.

    RuntimeError if math-verify is needed and its process cannot be kept alive.
    """
    given, answer = _bare(boxed(text) or ""), _bare(answer)
    if not given or len(answer) > LONGEST_ANSWER:
        return 0.0
    if given == answer:
        return 1.0
    wanted = _number(answer)
    if wanted is not None:
        return float(_is_number(given, wanted))
    if letter := _LETTER.fullmatch(answer):
        found = _LETTER.fullmatch(given)
        return float(bool(found) and found[1] == letter[1])
    if all(_WORDS.fullmatch(side) or _number(side) is not None for side in (given, answer)):
        return float(given.lower() == answer.lower())  # yes and Yes; a lone letter is a choice, or a name, and stays what it is
    return float(bool(_READABLE.fullmatch(given) and _READABLE.fullmatch(answer)) and _equal(answer, given))


# --- math-verify, at arm's length -----------------------------------------------------------------------------------
_process, _lock = None, threading.Lock()


def _start():
    global _process
    _process = subprocess.Popen([sys.executable, "-P", "-B", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, bufsize=0, start_new_session=True)
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
    """Whether math-verify takes two answers to be equal; False for what it cannot tell within the limits."""
    request = json.dumps([answer, given]).encode() + b"\n"
    with _lock:
        for _ in range(2):  # no answer can end the process, but someone else may have
            reply = b""
            try:
                if _process or _start():
                    _process.stdin.write(request)
                    reply = _reply(10)
            except BrokenPipeError:
                pass
            finally:
                if not reply:
                    _stop()  # also when interrupted: a late reply must not be taken for the next answer's
            if reply:
                return reply == b"1"
    raise RuntimeError("the process that compares LaTeX answers does not stay alive; check that memory is left and that "
                       f"`{sys.executable} -c 'import math_verify'` works")


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
    source = re.compile(rb"from sympy import \*|Integer \(\d{1,200} \)|Float \('[\d.eE+-]{1,200}' \)"
                        rb"|def monomial_[^._'\"\[]*")
    families, harmless = {"os", "subprocess", "socket", "shutil", "ctypes", "fcntl", "mmap"}, {"os.listdir", "os.scandir"}

    def refuse(event, args):
        if event == "compile":
            text, file = args
            bad = str(file).startswith("<") and not (isinstance(text, bytes) and source.fullmatch(text))
        elif event == "open":
            bad = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            bad = event not in harmless and event.split(".")[0] in families
        if bad:
            os._exit(1)

    sys.addaudithook(refuse)


def _serve():
    """Answer each line of stdin, a JSON pair, with the byte 1 or 0; ends when stdin does, and so with its parent."""
    from math_verify import LatexExtractionConfig, parse, verify

    def equal(answer, given):
        # Timeouts of its own would need SIGALRM. LaTeX alone: sympy's own parser, which is eval, is not for such text.
        answer, given = (parse(f"${text}$", [LatexExtractionConfig()], parsing_timeout=None) for text in (answer, given))
        return verify(answer, given, timeout_seconds=None)

    for pair in (("x=3", "y=3"), ("\\frac{1}{2}\\pi", "0.5\\pi"), ("\\frac{7\\pi}{3}", "2\\pi"), ("(1,2)", "(4,2)"),
                 ("\\{1,2\\}", "2,1"), ("(1,2]", "[1,2)"), ("2\\sqrt{3}", "\\sqrt{7}"), ("x^2+1", "2x"),
                 ("x<2", "(-\\infty,2)"), ("\\text{B}", "(B)")):
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
