"""Rewards: the text of a response -> 1.0 if its last boxed answer is right, else 0.0.

What is read here was written by a model that is paid for passing, so as little as possible is done
with it. First an answer's dress is taken off (see `dress`). Then answers are compared as text, then
as exact numbers. Where the reference is a number nothing is worked out: a question copied into the
box (`2^{10}`, `7+8`) is no answer to it, unless a task asks for worked-out answers. A power of ten
is notation and no question. Other references (`2\\sqrt{3}`, `(1, 2]`, `x=1`) go to math-verify (see
`grading_process`). Words are compared as text. So is whatever is not ASCII without its dress,
leaves an integral, sum, product or limit to be worked out, or has what math-verify reads over, as
the base of a number.
"""

import re

from pslib.lab import dress, grading_process

LONGEST_ANSWER = 200  # characters; a longer one is wrong, unread

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
    """1.0 if the last boxed answer of a response equals `answer`, a text or number, else 0.0.

    worked_out: whether `2^{10}` is right where `answer` is 1024; without it, what is left to be
    worked out is wrong where `answer` is a number. thinking: whether the model thinks first, so
    that a response without a closing `</think>` is unfinished, and wrong. An answer over 200
    characters is wrong, unread. A comparison takes at most 1.5 s once math-verify's process runs.

    ValueError for an answer that is neither. RuntimeError if math-verify is needed and its process
    cannot be kept alive.
    """
    if thinking and text.rfind("</think>") <= text.rfind("<think>"):
        return 0.0
    if type(answer) in (int, float) and answer == answer:  # NaN is not
        answer = str(answer)
    if not isinstance(answer, str):
        raise ValueError(f"a question's answer must be a text or a number; got {answer!r}")
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
    return all(map(_READABLE.fullmatch, sides)) and grading_process.equal(*sides)
