"""Dress: all that an answer may wear and that tells nothing of whether it is right.

`bare` takes it off: fonts, spaces, sizes of brackets, signs of Unicode, Markdown. `value` reads a
number exactly, in whatever spelling, with its units. `choice` reads the letter of an option.
Nothing here works anything out: 7+8 is no number. Each pattern takes milliseconds at most for a
text of 200 characters, whatever is in it.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import yaml

_KNOWN = yaml.safe_load(Path(__file__).with_name("dress.yaml").read_text(encoding="utf-8"))
LAYERS = 12  # so many things one in another are taken off; more are no dress

# --- what is taken off, or written in LaTeX's way -------------------------------------------------
_SPACES = "\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000"
_FRACTIONS = zip("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", "112131234151357", "233445555668888", strict=True)
_SIGNS = {**_KNOWN["signs"], **_KNOWN["greek"]}
_UNICODE = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑‒﹣", "-"),
        **dict.fromkeys(_SPACES, " "),
        **dict.fromkeys("\u200b\u2060\ufeff", ""),  # spaces of no width
        **dict.fromkeys("“”„", '"'),
        **dict.fromkeys("‘’′", "'"),
        **dict.fromkeys("⁄∕", "/"),
        **dict.fromkeys("€£¥₹", "\\$"),
        **{sign: f"\\{name} " for sign, name in _SIGNS.items()},
        **{sign: f"\\mathbb{{{name}}}" for sign, name in zip("ℂℕℚℝℤ", "CNQRZ", strict=True)},
        **{sign: f"\\frac{{{top}}}{{{bottom}}}" for sign, top, bottom in _FRACTIONS},
        "√": "sqrt ",
        "∛": "cbrt ",  # as words: \sqrt would reach over one digit alone
        "″": "''",
        "∗": "*",
        "。": ".",
        "°": "^\\circ ",
        **{0xFEE0 + code: chr(code) for code in range(0x21, 0x7F)},  # of full width
        **{0x1D7CE + k: str(k % 10) for k in range(50)},  # digits of mathematical fonts
    }
)
_RAISED, _LOWERED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+"), re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋ₙ]+")
_ON_THE_LINE = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n" * 2)

_FONT = (
    r"\\(?:(?:text|math)(?:bf|it|md|normal|rm|sc|sf|sl|tt|up)?|boldsymbol|bm|pmb|mbox|hbox|fbox"
    r"|emph|underline|ensuremath)"
)
_SWITCH = (
    r"(?:display|text|script|scriptscript)style|bf|rm|it|sf|tt|bfseries|tiny|small|normalsize|large"
    r"|Large|LARGE|huge|Huge"
)
_NO_LETTER_BEFORE, _NO_LETTER_AFTER = r"(?<![A-Za-z\\])", r"(?![A-Za-z])"
# What needs no braces to be the top or bottom of a fraction.
_SHORT = rf"\d|\\(?:{'|'.join(_KNOWN['greek'].values())}){_NO_LETTER_AFTER}"
# What a root written as a word reaches over: (...), {...}, a number or a name.
_UNDER = r"\s*(?:\(((?:[^()]|\([^()]*\))*)\)|\{([^{}]*)\}|(\d+|\\?[A-Za-z]+))"
# What is said before an answer.
_SAID = "(?i:(?:the )?(?:final |correct |right )?(?:answer|option|choice))"
# (what may stand anywhere in an answer, what is left of it), in this order until nothing changes
_REPLACED = [
    (re.compile(pattern, re.ASCII), left)
    for pattern, left in (
        # 32,\!348 and 1\,234: thousands
        (r",\s*\\!\s*(?=\d{3})", "{,}"),
        (r"(?<=\d)(?:\\[,;: ]|~|\{\\,\})(?=\d{3}(?!\d))", "{,}"),
        # spaces
        (r"(?<!\\)\\!|\\+\s*$|^(?:\\\\)+(?![A-Za-z])", ""),
        (r"(?<!\\)\\[,;:> ]|~", " "),
        (r"\\(?:q?quad|enspace|thinspace|hfill|newline)" + _NO_LETTER_AFTER, " "),
        (r"\\hspace\*?\{[^{}]*\}", " "),
        # fonts that are switched to, colours, the size of a bracket, Markdown's bold
        (rf"\\(?:{_SWITCH}){_NO_LETTER_AFTER}\s*", ""),
        (r"\\color\s*\{[^{}]*\}|\\textcolor\s*\{[^{}]*\}\s*(?=\{)", ""),
        (rf"\\(?:left|right|[bB]igg?[lrm]?){_NO_LETTER_AFTER}(?!\s*\.)\s*", ""),
        (r"(?<![\w)}])\*\*([^*]+)\*\*(?![\w({])", r"\1"),
        # \dfrac 5 9 and \frac\pi2: one spelling of fractions
        (r"\\(?:[dtc]|nice|s)frac" + _NO_LETTER_AFTER, r"\\frac"),
        (r"\\frac\s+(?=\{)", r"\\frac"),
        (rf"\\frac(?:\s*({_SHORT})|\s+([A-Za-z]))", r"\\frac{\1\2}"),
        (r"(\\frac\{[^{}]*\})\s+(?=\{)", r"\1"),
        (rf"(\\frac\{{[^{{}}]*\}})\s*({_SHORT}|[A-Za-z])", r"\1{\2}"),
        (r"(?<![_^])(\{[+-]?\d{1,3}),(?=\d{3}\})", r"\1"),
        # a font around a number, a constant, a letter in brackets, an index; braces around one
        (_FONT + r"\s*\{\s*([+-]?[\d.,]*\d)\s*\}", r"{\1}"),
        (_FONT + r"\s*\{\s*([+-]?)\s*((?:\\infty|infinity|\\pi|pi)\s*)\}", r"\1\2 "),
        (r"(?<!\d)" + _FONT + r"\s+(?=[+-]?\d)", ""),
        (r"([(\[])\s*" + _FONT + r"\s*\{\s*([A-Z])\s*\}\s*(?=[)\]])", r"\1\2"),
        (rf"_\s*\{{\s*{_FONT}\s*(\{{[^{{}}]*\}})\s*\}}|_\s*{_FONT}\s*(\{{[^{{}}]*\}})", r"_\1\2"),
        (r"(^|[=\s(+$\-{])\{([+-]?[\d.,]*\d)\}(?![\d{])", r"\1\2"),
        # a font around what is said first, a colon in a font, the answer is
        (rf"^{_FONT}\s*\{{\s*({_SAID}[^{{}}\\]*(?:\bis|[:.)]))\s*\}}\s*", r"\1 "),
        (_FONT + r"\s*\{\s*:\s*\}\s*", ": "),
        (r"^(?i:(?:the )?(?:final |correct |right )?answer(?: is|:| is:)\s+)", ""),
        # infinity, pi and roots in words
        (_NO_LETTER_BEFORE + r"(?:positive|plus)\s+infinity", r"\\infty "),
        (_NO_LETTER_BEFORE + r"(?:negative|minus)\s+infinity", r"-\\infty "),
        (_NO_LETTER_BEFORE + "(?:[iI]nfinity|infty|inf)" + _NO_LETTER_AFTER, r"\\infty "),
        (r"\+\s*\\infty", r"\\infty"),
        (_NO_LETTER_BEFORE + "[pP]i" + _NO_LETTER_AFTER, r"\\pi "),
        (_NO_LETTER_BEFORE + "(?:the )?square root of" + _NO_LETTER_AFTER, "sqrt"),
        (_NO_LETTER_BEFORE + "(?:the )?cube root of" + _NO_LETTER_AFTER, "cbrt"),
        (r"(?<!\\)(?:\\surd|sqrt)" + _UNDER, r"\\sqrt{\1\2\3}"),
        (r"(?<!\\)cbrt" + _UNDER, r"\\sqrt[3]{\1\2\3}"),
        (r"\s+", " "),
    )
]
# What may stand around a whole answer: mathematics' signs, Markdown's, quotes.
_AROUND = (
    ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"),
    ("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"), ("`", "`"),
    ("``", "''"), ('"', '"'), ("'", "'"),
)  # fmt: skip
_BRACED = re.compile(rf"(?:{_FONT}\s*)?(?=\{{)")


@lru_cache(maxsize=2**14)
def bare(text):
    """An answer without its dress; in ASCII, if only the dress was not."""
    if not text.isascii():
        text = _RAISED.sub(lambda found: f"^{{{found[0].translate(_ON_THE_LINE)}}}", text)
        text = _LOWERED.sub(lambda found: f"_{{{found[0].translate(_ON_THE_LINE)}}}", text)
        text = text.translate(_UNICODE)
    for _ in range(LAYERS):
        before = text
        for pattern, left in _REPLACED:
            text = pattern.sub(left, text)
        text = _unwrapped(text.strip()).strip()
        if text == before:
            break
    return text


def _unwrapped(text):
    """An answer without the outermost thing around the whole of it, or without its full stop."""
    for opening, closing in _AROUND:
        longer = len(text) > len(opening) + len(closing)
        if longer and text.startswith(opening) and text.endswith(closing):
            inside = text[len(opening) : -len(closing)]
            if opening not in inside and closing not in inside:
                return inside
    if (font := _BRACED.match(text)) and _closed(text, font.end(), "}"):
        return text[font.end() + 1 : -1]
    return text[:-1] if text.endswith((".", ",", ";")) and not text.endswith("..") else text


def _closed(text, start, closing):
    """Whether the bracket at `start` is closed by the last character of a text, and not before."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == text[start]) - (text[place] == closing)
        if depth == 0:
            return place == len(text) - 1
    return False


# --- a name before an answer, a unit after it -----------------------------------------------------
# f(x) =, x_{1} =, m+n =, a/b =, \angle ABC =: names.
# Other left sides stay: they may be the question.
_ONE_NAME = (
    r"(?!\\?(?:gcd|lcm|log|ln|exp|sin|cos|tan|max|min|det|sqrt|binom)\s*[({\\\d])"
    r"(?:m?\\(?:angle|triangle)\s*)?"
    rf"(?:(?:{_FONT}|\\overline|\\bar|\\hat|\\vec|\\operatorname)\s*\{{[A-Za-z ]+\}}"
    r"|\\?[A-Za-z]+(?: [a-z]+)*)"
    r"(?:'|\s*_\s*(?:\{[^{}]*\}|\w)|\s*\^\s*\{(?:\s*\\prime)+\s*\}|\s*\^\s*\\prime|\^\{-1\})*"
    r"(?:\s*\((?:[^()]|\([^()]*\))*\))?"
)
_RATIO = r"\\frac\{[A-Za-z]+\}\{[A-Za-z]+\}"
_NAME = re.compile(
    rf"(?P<name>(?:{_RATIO}|{_ONE_NAME})(?:\s*[+\-/]\s*{_ONE_NAME})*)\s*:?=(?!=)\s*", re.ASCII
)
# Each spelling of a unit that may follow a number as a plain word, and what it means
_UNITS = [unit.split("/") for unit in _KNOWN["units"].split()]
_MEANS = {spelling: unit[0] for unit in _UNITS for spelling in unit}
_LETTER_UNITS = "".join(unit for unit in _MEANS if len(unit) == 1)
_DERIVED = {*_KNOWN["derived"].split()}  # units that stand for several others
# /s^{2}: a word of a unit and its power; a unit of one letter at the end, with its power.
_FACTOR = re.compile(r"(/)?\s*([A-Za-z]+)\.?\s*\$?(?:\^\s*\{?\s*(-?\d))?", re.ASCII)
_LONE = re.compile(r"(?<![A-Za-z])([A-Za-z])(?:\s*\^[\s{}\d-]*)?$", re.ASCII)
# A longer word is a unit too, and in \text{} any word. Not these: they change a number, or leave it
# open.
_NO_UNIT = re.compile(
    r"(?i)\b(?:[mbtr]illions?|hundreds?|thousands?|dozens?|half|halves|thirds?|quarters?|or|and"
    r"|(?:four|fif|six|seven|eigh|nin|ten|hundred|thousand)ths?|zero|below|negative|wrong"
    r"|incorrect|false|not|to|times|plus|minus|over|mod|base|squared|cubed|factorial|more|less|greater|least"
    r"|most|about|pi|infinity|approx\w*|around|nearly|almost|roughly|sqrt|root|sin|cos|tan|log|ln|exp|if"
    r"|when|choose)\b"
)
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|\d))?"
_WORD = "|".join(sorted((unit for unit in _MEANS if len(unit) > 1), key=len, reverse=True))
_UNIT = re.compile(
    r"\s*(?:"
    r"(?P<percent>\\?%|(?:\\text\s*\{)?\s*(?:\\?%|per\s?cent)\s*\}?)|\\?\$"
    r"|(?P<degree>\^\s*\{?\s*\\circ\s*\}?\s*[CF]?|\\degree(?:\s*[CF])?)"
    rf"|(?:\\cdot|/|\*)?\s*{_FONT}\s*\{{"
    rf"(?P<text>[^{{}}\\\d]*(?:(?:\^\d|\$\^\d\$|\^\{{-?\d\}}|\\cdot)[^{{}}\\\d]*)*)\}}"
    rf"(?P<power>{_POWER})"
    rf"|(?:(?<=[\s\d\}}])|/\s*|\\cdot\s*)(?P<short>{_WORD})(?:e?s)?\.?{_POWER}"
    rf"|(?:(?<=\s)|(?<=[A-Za-z])/)(?P<letter>[{_LETTER_UNITS}]){_POWER}"
    r"|(?<=\s)(?P<long>(?=[a-z]*[aeiouy])[a-z]{4,})"
    r")\s*$",
    re.ASCII,
)


def name(text):
    """The name that a bare answer begins with, as f(2) of `f(2) = 5`; "" without one."""
    named = _NAME.match(text)
    return squeezed(named["name"]) if named else ""


def names_one(text):
    """Whether a bare answer begins with one name and an equals sign, unlike x+y = 5."""
    return bool(re.match(rf"{_ONE_NAME}\s*:?=", text, re.ASCII))


def without_name(text):
    """What stands after `x =` or `x = y =` in a bare answer; all of it where no name is first."""
    for _ in range(LAYERS):
        named = _NAME.match(text)
        if not named:
            break
        text = bare(text[named.end() :])
    return text


def without_unit(text):
    """(what stands before the last unit of a bare answer, the unit); ("", "") without one.

    A unit is "%", or what _MEANS knows it as with its power (cm2; m s-1), or "?" where that does
    not know it.
    """
    unit = _UNIT.search(text)
    if not unit:
        return "", ""
    word = (unit["text"] or unit["short"] or unit["letter"] or unit["long"] or "").strip()
    if unit["percent"]:
        known = "%"
    elif unit["degree"]:
        known = _MEANS[unit["degree"][-1]] if unit["degree"][-1] in "CF" else "degree"
    elif unit["text"]:
        known = _factors(word.replace("\\cdot", " ") + unit["power"])
    else:
        known = _factors(word + "".join(re.findall(r"\^.*", unit[0])))
    if not known or _NO_UNIT.search(word):
        return "", ""
    return bare(text[: unit.start()]), known


def _factors(text):
    """What the words of a unit and their powers mean, in order of the alphabet; "" for no unit.

    Words alone, as degrees Celsius, mean "?" where they are more than one.
    """
    found, known = _FACTOR.findall(text), []
    for per, word, power in found:
        if len(word) == 1 and word not in _LETTER_UNITS:
            return ""  # a variable
        singular = (word, word.removesuffix("s"), word.removesuffix("es"))
        meaning = next((_MEANS[one] for one in singular if one in _MEANS), "?")
        exponent = int(power or 1) * (-1 if per else 1)
        known.append(meaning if exponent == 1 else f"{meaning}{exponent}")
    joined = len(found) == 1 or re.search(r"[/^]", text)
    return " ".join(sorted(known)) if joined and "?" not in "".join(known) else "?"


def without_units(text, variables):
    """(a bare answer that is no number without its units, the units, the last one first).

    Words in a font that are no known unit stay. So does a lone letter that is a variable: one of
    `variables`, a set, or behind other letters, as in \\pi r^2 h.
    """
    rest, units, lone = text, (), None
    for _ in range(LAYERS):
        before, unit = without_unit(rest)
        if not before or unit == "%" or (unit == "?" and rest.endswith("}")):
            break
        if letter := _LONE.search(rest):
            if letter[1] in variables:
                break
            lone = letter
        rest, units = before, (*units, unit)
    return (text, ()) if lone and letters(rest) else (rest, units)


def units_differ(mine, theirs):
    """Whether each of two answers has one unit and these are not the same, as far as is known.

    Several factors may be what another unit stands for: kg m s-2 and N are not known to differ.
    """
    both = {*mine, *theirs}
    if not len(mine) == len(theirs) == 1 or both & {"?", "%"}:
        return False
    derived = any(" " in unit for unit in both) and both & _DERIVED
    return mine != theirs and not derived


# --- numbers --------------------------------------------------------------------------------------
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,|\{,\}| )\d{3}(?:\1\d{3})*(?:\.\d+)?", re.ASCII)
_DECIMAL = re.compile(r"([+-]?)(?=\.?\d)(\d{0,40})(?:\.(\d{0,40}))?", re.ASCII)
# 0.1\overline{6}
_REPEATING = re.compile(r"([+-]?)(\d{0,9})\.(\d{0,9})\\(?:overline|bar)\s*\{(\d{1,9})\}", re.ASCII)
# 1.5 \times 10^{3}, 10^3, 1.5e3: the power of ten is part of how a number is written.
_SCIENTIFIC = re.compile(
    r"(?:(?P<front>[+-]?[\d.]+)\s*(?:\\times|\\cdot|\\ast|\*|x)\s*|(?P<sign>[+-]?))"
    r"10\s*(?:\^|\*\*)\s*(?:\{\s*(?P<braced>[+-]?\s?\d{1,3})\s*\}"
    r"|\((?P<bracketed>[+-]?\d{1,3})\)|(?P<open>[+-]?\d{1,3}))"
    r"|(?P<figures>[+-]?[\d.]+)[eE](?P<exponent>[+-]?\d{1,3})",
    re.ASCII,
)
# 1/2, (1)/(2), 1 \over 2, \frac{1}{2}, and mixed numbers: one of them after a whole number
_WHOLE = r"[+-]?\s?\d{1,40}"
_PART = rf"\{{\s*(?:{_WHOLE}|\({_WHOLE}\))\s*\}}"
_FRACTION = re.compile(
    r"(?P<sign>[+-]?)\s*"
    r"(?:(?P<whole>\d{1,40})(?:\s+(?:and\s+)?(?=\d)|\s*(?:and\s*)?(?=\\frac)))?"
    rf"(?:\\frac(?P<top>{_PART})(?P<bottom>{_PART})"
    rf"|(?P<left>\d{{1,40}}|\({_WHOLE}\))\s*(?:/|\\over(?![A-Za-z]))\s*"
    rf"(?P<right>{_WHOLE}|\({_WHOLE}\)))",
    re.ASCII,
)
# A mixed number within something else: 3 1/2 pi is not three halves of pi, but x^2 1/2 is x^2/2.
_MIXED = re.compile(
    r"(?:(?<![\w^.\]])|(?<=\\cdot)|(?<=\\times))(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}", re.ASCII
)
_OPTION = re.compile(r"(?i:option|choice)\s*(?:\([A-Z]\)|[A-Z])\s*:\s*")
_MONEY = re.compile(r"\\?\$\s*")
_BRACKETS = (("(", ")"), ("[", "]"), ("\\{", "\\}"))


def _number(text):
    """The exact value of a number that wears nothing, as a Fraction; None for what is no number."""
    if _THOUSANDS.fullmatch(text):
        text = re.sub(r",|\{,\}| ", "", text)
    if found := _DECIMAL.fullmatch(text):
        sign, whole, decimals = found[1], found[2], found[3] or ""
        value = Fraction(int(whole + decimals), 10 ** len(decimals))
        return -value if sign == "-" else value
    if found := _REPEATING.fullmatch(text):
        sign, whole, first, again = found.groups()
        nines = 10 ** len(again) - 1
        value = Fraction(int(f"0{whole}{first}{again}") - int(f"0{whole}{first}"), nines)
        return (-value if sign == "-" else value) / 10 ** len(first)
    if found := _SCIENTIFIC.fullmatch(text):
        front = _number(found["front"] or found["figures"] or f"{found['sign']}1")
        power = found["braced"] or found["bracketed"] or found["open"] or found["exponent"]
        return None if front is None else front * Fraction(10) ** int(power.replace(" ", ""))
    if found := _FRACTION.fullmatch(text):
        top = _integer(found["top"] or found["left"])
        bottom = _integer(found["bottom"] or found["right"])
        if bottom == 0 or (found["whole"] and not 0 <= top < bottom):
            return None  # 7\frac{8}{1} is a product
        value = int(found["whole"] or 0) + Fraction(top, bottom)
        return -value if found["sign"] == "-" else value
    return None


def improper(text):
    """A bare answer in which mixed numbers are fractions: 3\\frac{1}{2} is \\frac{7}{2}.

    A whole number before a fraction that is no part of one is a product, and written as such.
    """

    def one(found):
        whole, top, bottom = (int(part) for part in found.groups())
        if top < bottom:
            return f"\\frac{{{whole * bottom + top}}}{{{bottom}}}"
        return f"{whole}\\cdot\\frac{{{top}}}{{{bottom}}}"

    return _MIXED.sub(one, text)


def _unbracketed(text):
    """What is in brackets around the whole of a text, "" without them; (1,234) may be a pair."""
    if "," in text:
        return ""
    for opening, closing in _BRACKETS:
        if text.startswith(opening) and _closed(text, len(opening) - 1, closing[-1]):
            return text[len(opening) : -len(closing)]
    return ""


def _integer(text):
    return int(re.sub(r"[(){} ]", "", text))


@dataclass(frozen=True)
class Value:
    """A number and the units behind it, the last one first."""

    number: Fraction
    units: tuple

    def same(self, other):
        """Whether two values are equal; one percent sign more may mean the hundredth."""
        if units_differ(self.units, other.units):
            return False  # 5 cm and 5 m
        scale = ("%" in other.units) - ("%" in self.units)
        return self.number in (other.number, other.number / Fraction(100) ** scale)


@lru_cache(maxsize=2**14)
def value(text):
    """The Value of a number in a bare answer; None for what is no number.

    A number may wear a sign, a currency, units, the name of an option (Option C:), and brackets
    around it alone, also in each other.
    """
    negative, signed, units = False, False, ()
    for _ in range(LAYERS):
        if not text or (signed and text[0] in "+-"):
            return None
        if (number := _number(text)) is not None:
            return Value(-number if negative else number, units)
        before, unit = without_unit(text)
        if before:
            text, units = before, (*units, unit)
        elif text[0] in "+-" and not signed:
            signed, negative = True, text[0] == "-"
            text = text[1:].lstrip()
        elif money := _MONEY.match(text):
            text = bare(text[money.end() :])
        elif option := _OPTION.match(text):
            text = bare(text[option.end() :])
        elif inside := _unbracketed(text):
            text = bare(inside)
        else:
            return None
    return None


# --- letters of options, texts --------------------------------------------------------------------
LETTER = re.compile(rf"(?:{_FONT}\s*\{{)?\s*\(?\s*([A-Z])\s*\)?\s*[.:]?\s*\}}?")
# A letter set off from the option's text: C: 12, (C) 12, \textbf{C} 12; or after the word option.
_CHOSEN = re.compile(
    r"(?:(?i:(?:the )?(?:correct |right |final )?(?:option|choice|answer)(?: is)?)\s*:?\s*)?"
    rf"(?P<font>{_FONT}\s*\{{\s*)?"
    r"(?:(?P<enclosed>[(\[]\s*(?P<within>[A-Z])\s*[)\]])|(?P<letter>[A-Z])"
    r"(?P<mark>\s*[).:]| - (?=[A-Za-z]{2})|(?(font)\s*\}(?:\s*[).:]|\s+(?=[\w$\\(]))| (?=\()))?)"
    r"(?P<rest>.*)",
    re.DOTALL,
)
# A text that chooses one more: D, (D), or D, D., ..., D
_ANOTHER = re.compile(
    r"(?!(?:[Bb]oth|[Ee]ither|[Nn]either|[Aa]ll|[Nn]one)\b)(?:"
    r"\W*[A-Z]\W*|.*[(\[]\s*[A-Z]\s*[)\]].*|.*\b(?:or|and|is|not|option|choice)\s+\W*[A-Z]\b.*"
    r"|.*\b[A-Z][.:)].*|.*[,/&]\s*[A-Z]\W*)",
    re.DOTALL,
)
_IN_FONT = re.compile(rf"{_FONT}\s*\{{([^{{}}]*)\}}")
_PRIMED = re.compile(
    r"([A-Za-z])(?:_\{?(\w+)\}?)?('+|\^\s*\\prime(?![A-Za-z])|\^\s*\{(?:\s*\\prime)+\s*\})"
)


def choice(text):
    """The letter that a bare answer chooses, alone or with the option's text; None if none or
    two.
    """
    if alone := LETTER.fullmatch(text):
        return alone[1]
    chosen = _CHOSEN.match(text)
    if not chosen:
        return None
    rest = chosen["rest"].lstrip("} ")
    set_off = not rest or chosen["enclosed"] or chosen["mark"]
    if not set_off or rest.startswith(tuple("^_+*/=<>")) or _ANOTHER.fullmatch(rest):
        return None
    return chosen["within"] or chosen["letter"]


def squeezed(text):
    """A bare answer to compare as text: spaces only between digits, no braces around an index."""
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", re.sub(r"(?<!\d) | (?!\d)", "", text))


def words(text):
    """The words in fonts in a bare answer, but for those between the parts of a list; a set."""
    inside = " ".join(_IN_FONT.findall(text)).lower()
    return set(re.findall("[a-z]+", inside)) - {"or", "and"}


def words_that_change(text):
    """Those of the words in fonts that change a number or leave it open, as million; a set."""
    return {word for word in words(text) if _NO_UNIT.fullmatch(word)}


def letters(text):
    """The letters in a bare answer that are of no command, font or word; a set."""
    symbols = re.sub(r"\\[A-Za-z]+|[A-Za-z]{3,}", "", _IN_FONT.sub("", text))
    return set(re.findall("[A-Za-z]", symbols))


def primed(text):
    """A bare answer in which f''(x) bears a name of its own, for readers that pass primes over."""

    def named(found):
        primes = len(re.findall("'|prime", found[3]))
        return f"{found[1]}_{{{found[2] or ''}prime{primes}}}"

    return _PRIMED.sub(named, text)
