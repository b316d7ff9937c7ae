"""Rewards: the text of a response -> 1.0 if its last boxed answer is right, else 0.0.

What is read here was written by a model that is paid for passing, so as little as possible is done with it. First an
answer's dress is taken off: fonts, brackets, signs of Unicode, a unit and so on, all that the tables below name. Then answers are
compared as text, then as exact numbers. Where the reference is a number nothing is worked out: a question copied into the
box (`2^{10}`, `7+8`) is no answer to it, unless `worked_out` allows that. A power of ten is notation, no question.
Other references (`2\\sqrt{3}`, `(1, 2]`, `x=1`) go to math-verify, in a process of its own: each comparison in a fork with
a second of CPU time and 512 MB, in which text can become code only if it is a number, and which can write, start or reach
nothing. There too numbers are exact: what only rounding makes equal is wrong. Words are compared as text; so is
whatever is no ASCII out of its dress, leaves an integral, sum, product or limit to be worked out, or has signs
that math-verify reads over (the base of a number, about-equals).

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
FIGURES = 500  # to which constants that are no fractions must agree

# --- the box ---------------------------------------------------------------------------------------------------------
_OPENS = re.compile(r"\\boxed\s{0,9}\{")
# What stands in a box that waits for an answer: spaces, dots, empty fonts.
_EMPTY = re.compile(r"(?:[\s$~{}_?…]|\.{2,}|\\[ ,;:!]|\\(?:q?quad|[lc]?dots|(?:text|math)[a-z]*)(?![A-Za-z]))*")


def boxed(text):
    """The content of the last \\boxed{...} whose braces match, empty ones passed over; "" if all are empty, None without one."""
    found, at = None, text.rfind("\\boxed")
    while at >= 0:
        if opens := _OPENS.match(text, at):
            depth, start = 0, opens.end() - 1
            longest = start + LONGEST_ANSWER + 2
            for place in range(start, min(len(text), longest)):
                depth += {"{": 1, "}": -1}.get(text[place], 0)
                if depth == 0:
                    if not _EMPTY.fullmatch(text, start + 1, place):
                        return text[start + 1 : place]
                    found = ""
                    break
            else:
                if len(text) >= longest:
                    return None  # too long to be an answer, and not to be replaced by an earlier one
        at = text.rfind("\\boxed", 0, at)
    return found


# --- dress: what an answer may wear ----------------------------------------------------------------------------------
# Characters of Unicode, as LaTeX writes them. √ becomes a word, since as \sqrt it would reach over one digit only.
_UNICODE = str.maketrans({
    **dict.fromkeys("−–—‐‑‒﹣", "-"), **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000", " "),
    **dict.fromkeys("\u200b\u2060\ufeff", ""), **dict.fromkeys("“”„", '"'), **dict.fromkeys("‘’′", "'"), "″": "''",
    **dict.fromkeys("⁄∕", "/"), **dict.fromkeys("·⋅", "\\cdot "), **dict.fromkeys("€£¥₹", "\\$"), "×": "\\times ", "∗": "*", "。": ".",
    "√": "sqrt ", "∛": "cbrt ", "∞": "\\infty ", "°": "^\\circ ", "±": "\\pm ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ",
    "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "∅": "\\emptyset ", "≈": "\\approx ",
    **{letter: f"\\mathbb{{{name}}}" for letter, name in zip("ℂℕℚℝℤ", "CNQRZ", strict=True)},
    **{letter: f"\\{name} " for letter, name in zip(
        "αβγδεζηθικλμνξπρσςτυφχψωΓΔΘΛΞΠΣΦΨΩ",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma varsigma tau upsilon phi chi psi "
        "omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split(), strict=True)},
    **{letter: f"\\frac{{{over}}}{{{under}}}" for letter, over, under in zip(
        "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", "112131234151357", "233445555668888", strict=True)},
    **{0xFEE0 + code: chr(code) for code in range(0x21, 0x7F)},  # full width
    **{0x1D7CE + k: str(k % 10) for k in range(50)},  # digits of mathematical fonts
})
_RAISED, _LOWERED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+"), re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋ₙ]+")
_FIGURES = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n" * 2)

_FONT = r"\\(?:(?:text|math)(?:bf|it|md|normal|rm|sc|sf|sl|tt|up)?|boldsymbol|bm|pmb|mbox|hbox|fbox|emph|underline|ensuremath)"
# (what an answer may wear, what is left of it), anywhere in an answer; gone through in this order until nothing changes.
_REPLACED = [(re.compile(pattern, re.ASCII), left) for pattern, left in (
    (r",\s*\\!\s*(?=\d{3})", "{,}"),  # 32,\!348: thousands
    (r"(?<=\d)(?:\\[,;: ]|~|\{\\,\})(?=\d{3}(?!\d))", "{,}"),  # 1\,234
    (r"(?<!\\)\\!|\\+\s*$", ""),
    (r"(?<!\\)\\(?:[,;:> ]|(?:q?quad|enspace|thinspace|hfill|newline)(?![A-Za-z])|hspace\*?\{[^{}]*\})|~", " "),  # spacing
    (r"\\(?:(?:display|text|script|scriptscript)style|bf|rm|it|sf|tt|bfseries|tiny|small|normalsize|large|Large|LARGE|huge|Huge)"
     r"(?![A-Za-z])\s*", ""),
    (r"\\color\s*\{[^{}]*\}|\\textcolor\s*\{[^{}]*\}\s*(?=\{)", ""),
    (r"(?<![\w)}])\*\*([^*]+)\*\*(?![\w({])", r"\1"),  # Markdown's bold
    (r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])(?!\s*\.)\s*", ""),  # the size of a bracket
    (r"\\(?:[dtc]|nice|s)frac(?![A-Za-z])", r"\\frac"),
    (r"\\frac\s+(?=[\d{])", r"\\frac"),
    (r"(\\frac(?:\d|\{[^{}]*\}))\s+(?=[\d{])", r"\1"),  # \frac 5 9
    (_FONT + r"\s*\{\s*([+-]?[\d.,]*\d)\s*\}", r"{\1}"),  # a font around a number
    (_FONT + r"\s*\{\s*([+-]?)\s*((?:\\infty|infinity|\\pi|pi)\s*)\}", r"\1\2 "),
    (r"([(\[])\s*" + _FONT + r"\s*\{\s*([A-Z])\s*\}\s*(?=[)\]])", r"\1\2"),  # a font around a choice
    (r"(?<![_^])(\{[+-]?\d{1,3}),(?=\d{3}\})", r"\1"),
    (r"(^|[=\s(+$\-{])\{([+-]?[\d.,]*\d)\}(?![\d{])", r"\1\2"),  # braces around a number
    (r"(?<![A-Za-z\\])(?:positive|plus)\s+infinity", r"\\infty "),  # roots, pi and infinity in words
    (r"(?<![A-Za-z\\])(?:negative|minus)\s+infinity", r"-\\infty "),
    (r"(?<![A-Za-z\\])(?:[iI]nfinity|infty|inf)(?![A-Za-z])", r"\\infty "),
    (r"\+\s*\\infty", r"\\infty"),
    (r"(?<![A-Za-z\\])(?:pi|Pi)(?![A-Za-z])", r"\\pi "),
    (r"(?<![A-Za-z\\])(?:the )?square root of(?![A-Za-z])", "sqrt"),
    (r"(?<![A-Za-z\\])(?:the )?cube root of(?![A-Za-z])", "cbrt"),
    (r"(?<!\\)(?:\\surd|sqrt)\s*(?:\(((?:[^()]|\([^()]*\))*)\)|\{([^{}]*)\}|(\d+|\\?[A-Za-z]+))", r"\\sqrt{\1\2\3}"),
    (r"(?<!\\)cbrt\s*(?:\(((?:[^()]|\([^()]*\))*)\)|\{([^{}]*)\}|(\d+|\\?[A-Za-z]+))", r"\\sqrt[3]{\1\2\3}"),
    (r"\s+", " "),
)]
# What may stand around a whole answer.
_AROUND = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"),
           ("`", "`"), ("``", "''"), ('"', '"'), ("'", "'"))
_BRACED = re.compile(rf"(?:{_FONT}\s*)?(?=\{{)")
# f(x) =, x_{1} =, \angle ABC =: a name, and no other left side, since an equation may hold the question.
_NAME = re.compile(
    rf"(?:m?\\(?:angle|triangle)\s*)?(?:(?:{_FONT}|\\overline|\\bar|\\hat|\\vec|\\operatorname)\s*\{{[A-Za-z ]+\}}|\\?[A-Za-z]+(?: [a-z]+)*)"
    r"(?:'+|\s*_\s*(?:\{[^{}]*\}|\w)|\s*\^\s*\{(?:\s*\\prime)+\s*\}|\s*\^\s*\\prime|\^\{-1\})*"
    r"(?:\s*\((?:[^()]|\([^()]*\))*\))?\s*:?=(?!=)\s*", re.ASCII)
# Units that may stand after a number bare. Other words may in \text{}, but for such as change a number.
_UNITS = """
mm cm dm km ft yd mi in inch inches foot feet yard mile meter metre millimeter centimeter kilometer millimetre centimetre
kilometre ml cl dl liter litre milliliter millilitre gal gallon quart pint cup mg kg gram kilogram milligram ton tonne lb lbs
pound oz ounce ms sec second min minute hr hrs hour day week month year degree deg radian rad Hz kHz MHz hertz Pa kPa pascal atm
joule kJ watt kW volt ohm ampere amp newton mol mole mph kph km/h m/s eV keV MeV GeV cal kcal calorie kelvin celsius fahrenheit
dollar cent euro USD EUR unit square cubic sq cu per way people person student point piece coin marble ball
""".split()
_LETTER_UNITS = "mgshLlNJWVAKCFTH"
_BARE_UNIT = "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True))
_NO_UNIT = re.compile(r"(?i)\b(?:[mbtr]illions?|hundreds?|thousands?|dozens?|half|halves|thirds?|quarters?|tenths?"
                      r"|or|and|not|to|times|plus|minus|over|mod|base|squared|cubed|factorial|more|less|greater|least|most|about"
                      r"|pi|infinity|approx\w*|around|nearly|almost|roughly|sqrt|root|sin|cos|tan|log|ln|exp|if|when|choose)\b")
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|\d))?"
_UNIT = re.compile(
    rf"\s*(?:(?P<percent>\\?%|(?:\\text\s*\{{)?\s*(?:\\?%|per\s?cent)\s*\}}?)|\\?\$"
    rf"|(?:\\cdot|/|\*)?\s*{_FONT}\s*\{{(?P<text>[^{{}}\\\d]*(?:\^\d|\$\^\d\$)?[^{{}}\\\d]*)\}}{_POWER}"
    rf"|\^\s*\{{?\s*\\circ\s*\}}?\s*[CF]?|\\degree(?:\s*[CF])?|(?:(?<=[\s\d\}}])|/\s*|\\cdot\s*)(?:{_BARE_UNIT})(?:e?s)?\.?{_POWER}"
    rf"|(?:(?<=\s)|(?<=[A-Za-z])/)[{_LETTER_UNITS}]{_POWER})\s*$", re.ASCII)

_INTEGER = r"\d{1,40}"
_PLAIN = re.compile(r"[+-]?\d{1,40}", re.ASCII)
_THOUSANDS = re.compile(r"([+-]?[1-9]\d{0,2})(,|\{,\}| )\d{3}(?:\2\d{3})*(?:\.\d+)?(?!\d)", re.ASCII)
_DECIMAL = re.compile(r"([+-]?)(?=\.?\d)(\d{0,40})(?:\.(\d{0,40}))?", re.ASCII)
_SCIENTIFIC = re.compile(  # 1.5 \times 10^{3}, 10^3, 1.5e3; the power of ten is a part of the number
    r"(?:(?P<front>[+-]?[\d.]+)\s*(?:\\times|\\cdot|\\ast|\*|x)\s*|(?P<sign>[+-]?))10\s*(?:\^|\*\*)\s*"
    r"(?:\{\s*(?P<power>[+-]?\s?\d{1,3})\s*\}|\(\s*(?P<within>[+-]?\d{1,3})\s*\)|(?P<short>[+-]?\d{1,3}))"
    r"|(?P<figures>[+-]?[\d.]+)[eE](?P<exponent>[+-]?\d{1,3})", re.ASCII)
# 1/2, \frac{1}{2}, \frac12, 1 \over 2, with a whole number before it (a mixed number) or not
_FRACTION = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:(?P<whole>{_INTEGER})(?:\s+(?=\d)|\s*(?=\\frac)))?"
    rf"(?:\\frac(?:\{{\s*(?P<a>[+-]?\s?{_INTEGER})\s*\}}|(?P<b>\d))(?:\{{\s*(?P<c>[+-]?\s?{_INTEGER})\s*\}}|(?P<d>\d))"
    rf"|(?P<e>[+-]?{_INTEGER}|\([+-]?{_INTEGER}\))\s*(?:/|\\over(?![A-Za-z]))\s*(?P<f>[+-]?{_INTEGER}|\([+-]?{_INTEGER}\)))",
    re.ASCII)

# The letter of a choice: alone, or set off from the option's text.
_LETTER = re.compile(rf"(?:(?:{_FONT})\s*\{{)?\s*\(?\s*([A-Z])\s*\)?\s*[.:]?\s*\}}?")
_CHOSEN = re.compile(
    rf"(?:(?i:(?:the )?(?:correct |right |final )?(?:option|choice|answer)(?: is)?)\s*:?\s*)?(?P<font>{_FONT}\s*\{{\s*)?"
    r"(?:(?P<closed>[(\[]\s*(?P<within>[A-Z])\s*[)\]])|(?P<letter>[A-Z])"
    r"(?P<mark>\s*[).:]| - (?=[A-Za-z]{2})|(?(font)\s*\}(?:\s*[).:]|\s+(?=[\w$\\(]))))?)(?P<rest>.*)", re.DOTALL)
_ANOTHER = re.compile(r"\W*[A-Z]\W*|.*[(\[]\s*[A-Z]\s*[)\]].*|.*\b(?:or|and|is|not|option|choice)\s+\W*[A-Z]\b.*|.*\b[A-Z][.:)].*|.*[,/&]\s*[A-Z]\W*", re.DOTALL)
_WORDS = re.compile(r"[A-Za-z][A-Za-z0-9 ]*|[A-Za-z]{2,}(?:[ '-]+[A-Za-z]{2,})+")
# What math-verify may read: no work left to do, no about-equals, no number with a base, no figures with a space between.
_READABLE = re.compile(r"(?!.*\\(?:i*int|oint|sum|prod|lim|approx|sim|simeq|doteq|cong)(?![A-Za-z]))(?!.*[\d)\]]\s*\}?\s*_)"
                       r"(?!.*\d \d)(?!.*(?=[\d.]{17})\d*\.\d)[ -~]+")
_PRIMED = re.compile(r"([A-Za-z])(?:_\{?(\w+)\}?)?('+|\^\s*\\prime(?![A-Za-z])|\^\s*\{(?:\s*\\prime)+\s*\})")
_MONEY = re.compile(r"\\?\$\s*")


def _unwrapped(text):
    """An answer without the outermost thing that stands around the whole of it."""
    for opening, closing in _AROUND:
        if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
            inside = text[len(opening) : -len(closing)]
            if opening not in inside and closing not in inside:
                return inside
    if (font := _BRACED.match(text)) and _closed(text, font.end(), "{", "}"):
        return text[font.end() + 1 : -1]
    return text[:-1] if text[-1:] in (".", ",", ";") and text[-2:] != ".." else text


def _closed(text, start, opening, closing):
    """Whether the bracket at `start` is closed by the last character and not before."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == opening) - (text[place] == closing)
        if depth == 0:
            return place == len(text) - 1
    return False


@lru_cache(maxsize=2**14)
def _bare(text):
    """An answer without the dress that tells nothing, as ASCII where that dress was all that was not."""
    if not text.isascii():
        text = _RAISED.sub(lambda found: "^{" + found[0].translate(_FIGURES) + "}", text)
        text = _LOWERED.sub(lambda found: "_{" + found[0].translate(_FIGURES) + "}", text).translate(_UNICODE)
    for _ in range(12):  # each time a layer; more are no dress
        before = text
        for pattern, left in _REPLACED:
            text = pattern.sub(left, text)
        text = _unwrapped(text.strip()).strip()
        if text == before:
            break
    return text


def _number(text):
    """The exact value of a number without dress, or None: whole, decimal, fraction, mixed number or scientific notation."""
    if _THOUSANDS.fullmatch(text):
        text = re.sub(r",|\{,\}| ", "", text)
    if found := _DECIMAL.fullmatch(text):
        sign, whole, decimals = found.groups()
        value = Fraction(int(whole + (decimals or "")), 10 ** len(decimals or ""))
        return -value if sign == "-" else value
    if found := _SCIENTIFIC.fullmatch(text):
        front = found["front"] or found["figures"] or f"{found['sign']}1"
        front, power = _DECIMAL.fullmatch(front), found["power"] or found["within"] or found["short"] or found["exponent"]
        return front and _number(front[0]) * Fraction(10) ** int(power.replace(" ", ""))
    if found := _FRACTION.fullmatch(text):
        top, bottom = (int(re.sub(r"[() ]", "", found[one] or found[two] or found[three]))
                       for one, two, three in (("a", "b", "e"), ("c", "d", "f")))
        if bottom == 0 or (found["whole"] and not 0 <= top < bottom):
            return None
        value = int(found["whole"] or 0) + Fraction(top, bottom)
        return -value if found["sign"] == "-" else value
    return None


def _without_name(text):
    """What stands after `x =` or `f(2) =`; all of the text where no such name stands first."""
    named = _NAME.match(text)
    return _bare(text[named.end() :]) if named else text


def _without_unit(text):
    """(the text before a unit or a percent sign, whether it was a percent sign); (None, False) where there is neither."""
    unit = _UNIT.search(text)
    word = (unit and unit["text"] or "").strip()
    if not unit or unit.start() == 0 or _NO_UNIT.search(word) or (len(word) == 1 and word.isalpha() and word not in _LETTER_UNITS):
        return None, False
    return _bare(text[: unit.start()]), bool(unit["percent"])


@lru_cache(maxsize=2**14)
def _value(text):
    """(exact value, whether a percent sign was behind it) of a number in dress, or None. text: as `_bare` leaves it."""
    negative = signed = percent = False
    for _ in range(12):
        if not text or (signed and text[0] in "+-"):
            return None
        if (number := _number(text)) is not None:
            return (-number if negative else number), percent
        before, is_percent = _without_unit(text)
        if before is not None:
            text, percent = before, percent or is_percent
        elif text[0] in "+-" and not signed:
            text, signed, negative = text[1:].lstrip(), True, text[0] == "-"
        elif money := _MONEY.match(text):
            text = _bare(text[money.end() :])
        elif text[0] in "([" and "," not in text and _closed(text, 0, text[0], ")" if text[0] == "(" else "]"):
            text = _bare(text[1:-1])  # with a comma it may be a pair: (1,234)
        else:
            return None
    return None


def _same(one, other):
    """Whether two values are equal; what bears a percent sign may also mean the hundredth."""
    (x, x_percent), (y, y_percent) = one, other
    return x == y or (x_percent != y_percent and (x == 100 * y if x_percent else y == 100 * x))


def _choice(text):
    """The letter that an answer chooses: alone, with the word option, or set off from the option's text. None of two."""
    if alone := _LETTER.fullmatch(text):
        return alone[1]
    chosen = _CHOSEN.match(text)
    if not chosen:
        return None
    rest = chosen["rest"].lstrip("} ")
    set_off = not rest or chosen["closed"] or chosen["mark"]
    if not set_off or rest[:1] in tuple("^_+*/=<>") or _ANOTHER.fullmatch(rest):
        return None
    return chosen["within"] or chosen["letter"]


def _squeezed(text):
    """An answer as text to compare: no spaces but between figures, no braces around one raised or lowered character."""
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", re.sub(r"(?<!\d) | (?!\d)", "", text))


def _primed(text):
    """f''(x) with a name that says how often f is primed, since math-verify reads over the primes."""
    return _PRIMED.sub(lambda found: f"{found[1]}_{{{found[2] or ''}prime{len(re.findall(chr(39) + '|prime', found[3]))}}}", text)


def grade(text, answer, worked_out=False, thinking=False):
    """1.0 if the last boxed answer of a response equals `answer`, else 0.0; an answer over 200 characters is wrong, unread.

    worked_out: whether, where `answer` is a number, what comes to it is right too, as `2^{10}` for 1024; without it, a
    question copied into the box is wrong. thinking: whether the response begins with thinking, which must then
    be closed by `</think>`. A comparison takes at most 1.5 s once math-verify's process runs, whatever is in either.

    RuntimeError if math-verify is needed and its process cannot be kept alive.
    """
    if thinking and text.rfind("</think>") <= text.rfind("<think>"):
        return 0.0
    given, answer = (boxed(text) or "").strip(), answer.strip()
    if not given or len(answer) > LONGEST_ANSWER:
        return 0.0
    if given == answer:
        return 1.0
    if _PLAIN.fullmatch(given) and _PLAIN.fullmatch(answer):
        return float(int(given) == int(answer))
    return _compared(_bare(given), _bare(answer), worked_out)


def _compared(given, answer, worked_out):
    """What `grade` gives for two answers, as `_bare` leaves them."""
    if "=" not in answer:
        given = _without_name(given)
    if not given or not answer:
        return 0.0
    if (wanted := _value(answer)) is not None:
        value = _value(given)
        if value is not None:
            return float(_same(value, wanted))
        return float(worked_out and _worth(answer, given))
    if letter := _LETTER.fullmatch(answer):
        return float(_choice(given) == letter[1])
    if _squeezed(given) == _squeezed(answer):
        return 1.0
    if _squeezed(answer) in ("\\infty", "-\\infty") and not worked_out:
        return 0.0  # 2\infty is a question too
    if all(_WORDS.fullmatch(side) or _value(side) is not None for side in (given, answer)):
        return float(given.lower() == answer.lower())  # yes and Yes; a lone letter is a choice, or a name, and stays what it is
    return float(_worth(answer, given) or _worth(answer, _without_unit(given)[0] or ""))


def _worth(answer, given):
    """Whether math-verify may read two answers and takes them to be equal."""
    answer, given = (_primed(side.replace("{,}", "")) for side in (answer, given))
    return bool(_READABLE.fullmatch(given) and _READABLE.fullmatch(answer) and _equal(answer, given))


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


def _make_exact():
    """Let math-verify compare numbers exactly: it rounds to 6 decimals and 15 figures, so that 0.3333333 is 1/3 to it."""
    from math_verify import grader
    from sympy import Float, MatrixBase, Rational

    numeric, symbolic = grader.sympy_numeric_eq, grader.sympy_symbolic_eq

    def exact(side):
        return side.xreplace({decimal: Rational(repr(float(decimal))) for decimal in side.atoms(Float)})

    def numeric_eq(answer, given, *rounding):
        answer, given = exact(answer), exact(given)
        sides = (answer, given)
        if any(isinstance(side, MatrixBase) or grader.is_atomic_or_pct_atomic(side, grader.Number) for side in sides):
            return numeric(answer, given, *rounding)  # without decimals it rounds nothing
        if any(side.free_symbols for side in sides):
            return False  # what cancels is for symbolic_eq to see
        x, y = (side.evalf(FIGURES + 20) for side in sides)
        return bool(x == y or abs(x - y) < abs(x) * Rational(1, 10**FIGURES))

    def symbolic_eq(answer, given):
        return symbolic(exact(answer), exact(given))

    grader.sympy_numeric_eq, grader.sympy_symbolic_eq = numeric_eq, symbolic_eq


def _serve():
    """Answer each line of stdin, a JSON pair, with the byte 1 or 0; ends when stdin does, and so with its parent."""
    from math_verify import LatexExtractionConfig, parse, verify

    _make_exact()

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
