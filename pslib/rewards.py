"""Rewards: the text of a response -> 1.0 if its last boxed answer is right, else 0.0.

Nothing is evaluated: answers are compared as text, then as exact integers, decimals and fractions.
"""

import re
from fractions import Fraction

LONGEST_ANSWER = 200  # characters; a longer one is wrong, unread
_NUMBER = re.compile(r"([+-]?)(\d{1,40})(?:\.(\d{1,40})|/(\d{1,40}))?", re.ASCII)


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


def _number(text):
    text = text.strip().strip("$").strip()
    if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?", text, re.ASCII):
        text = text.replace(",", "")
    text = re.sub(r"\A([+-]?)\\[dt]?frac\{([+-]?\d{1,40})\}\{(\d{1,40})\}\Z", r"\1\2/\3", text)
    found = _NUMBER.fullmatch(text)
    if not found or (found[4] and int(found[4]) == 0):
        return None
    sign, whole, decimals, denominator = found.groups()
    value = Fraction(int(whole + (decimals or "")), 10 ** len(decimals or "")) / int(denominator or 1)
    return -value if sign == "-" else value


def grade(text, answer):
    """1.0 if the last boxed answer of a response equals `answer`, as text or as an exact number, else 0.0."""
    given = boxed(text)
    if given is None or not given.strip():
        return 0.0
    if given.strip() == answer.strip():
        return 1.0
    ours, theirs = _number(given), _number(answer)
    return float(ours is not None and ours == theirs)
