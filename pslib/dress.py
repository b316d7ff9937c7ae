"""Dress: all that an answer may wear and that tells nothing of whether it is right.

`bare` takes it off: fonts, spaces, brackets' sizes, signs of Unicode, Markdown. `value` reads a number, in whatever of its
spellings, exactly. `choice` reads the letter of an option. Nothing here works anything out: 7+8 is no number.
Every pattern reads a text of 200 characters in milliseconds at most, whatever is in it.
"""

import re
from fractions import Fraction
from functools import lru_cache

LAYERS = 12  # so many things one in another are taken off; more are no dress

# --- what is taken off, or written in LaTeX's way ----------------------------------------------------
_SPACES = "\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000"
_GREEK = dict(zip(
    "αβγδεζηθικλμνξπρσςτυφχψωΓΔΘΛΞΠΣΦΨΩ",
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma varsigma "
    "tau upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split(),
    strict=True,
))
_FRACTIONS = zip("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", "112131234151357", "233445555668888", strict=True)
_SIGNS = {
    "×": "times", "·": "cdot", "⋅": "cdot", "∞": "infty", "±": "pm", "≤": "le", "≥": "ge",
    "≠": "ne", "∪": "cup", "∩": "cap", "∈": "in", "∅": "emptyset", "≈": "approx", **_GREEK,
}
_UNICODE = str.maketrans({
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
    "√": "sqrt ", "∛": "cbrt ",  # as words: \sqrt would reach over one digit alone
    "″": "''", "∗": "*", "。": ".", "°": "^\\circ ",
    **{0xFEE0 + code: chr(code) for code in range(0x21, 0x7F)},  # of full width
    **{0x1D7CE + k: str(k % 10) for k in range(50)},  # digits of mathematical fonts
})
_RAISED, _LOWERED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+"), re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋ₙ]+")
_ON_THE_LINE = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n" * 2)

_FONT = (
    r"\\(?:(?:text|math)(?:bf|it|md|normal|rm|sc|sf|sl|tt|up)?|boldsymbol|bm|pmb|mbox|hbox|fbox|emph"
    r"|underline|ensuremath)"
)
_SWITCH = (
    r"(?:display|text|script|scriptscript)style|bf|rm|it|sf|tt|bfseries|tiny|small|normalsize|large"
    r"|Large|LARGE|huge|Huge"
)
_NO_LETTER_BEFORE, _NO_LETTER_AFTER = r"(?<![A-Za-z\\])", r"(?![A-Za-z])"
# What a root written as a word reaches over: (...), {...}, a number or a name.
_UNDER = r"\s*(?:\(((?:[^()]|\([^()]*\))*)\)|\{([^{}]*)\}|(\d+|\\?[A-Za-z]+))"
# (what may stand anywhere in an answer, what is left of it), in this order until nothing changes
_REPLACED = [(re.compile(pattern, re.ASCII), left) for pattern, left in (
    # 32,\!348 and 1\,234: thousands
    (r",\s*\\!\s*(?=\d{3})", "{,}"),
    (r"(?<=\d)(?:\\[,;: ]|~|\{\\,\})(?=\d{3}(?!\d))", "{,}"),
    # spaces
    (r"(?<!\\)\\!|\\+\s*$", ""),
    (r"(?<!\\)\\[,;:> ]|~", " "),
    (r"\\(?:q?quad|enspace|thinspace|hfill|newline)" + _NO_LETTER_AFTER, " "),
    (r"\\hspace\*?\{[^{}]*\}", " "),
    # fonts that are switched to, colours, the size of a bracket, Markdown's bold
    (rf"\\(?:{_SWITCH}){_NO_LETTER_AFTER}\s*", ""),
    (r"\\color\s*\{[^{}]*\}|\\textcolor\s*\{[^{}]*\}\s*(?=\{)", ""),
    (rf"\\(?:left|right|[bB]igg?[lrm]?){_NO_LETTER_AFTER}(?!\s*\.)\s*", ""),
    (r"(?<![\w)}])\*\*([^*]+)\*\*(?![\w({])", r"\1"),
    # \dfrac 5 9: one spelling of fractions
    (r"\\(?:[dtc]|nice|s)frac" + _NO_LETTER_AFTER, r"\\frac"),
    (r"\\frac\s+(?=[\d{])", r"\\frac"),
    (r"(\\frac(?:\d|\{[^{}]*\}))\s+(?=[\d{])", r"\1"),
    (r"(?<![_^])(\{[+-]?\d{1,3}),(?=\d{3}\})", r"\1"),
    # a font around a number, a constant or a letter in brackets; braces around a number
    (_FONT + r"\s*\{\s*([+-]?[\d.,]*\d)\s*\}", r"{\1}"),
    (_FONT + r"\s*\{\s*([+-]?)\s*((?:\\infty|infinity|\\pi|pi)\s*)\}", r"\1\2 "),
    (r"([(\[])\s*" + _FONT + r"\s*\{\s*([A-Z])\s*\}\s*(?=[)\]])", r"\1\2"),
    (r"(^|[=\s(+$\-{])\{([+-]?[\d.,]*\d)\}(?![\d{])", r"\1\2"),
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
)]
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
    """An answer without the outermost thing that stands around the whole of it, or without its full stop."""
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


# --- a name before an answer, a unit after it --------------------------------------------------------
# f(x) =, x_{1} =, \angle ABC =: a name, and no other left side, since an equation may hold the question.
_NAME = re.compile(
    r"(?:m?\\(?:angle|triangle)\s*)?"
    rf"(?:(?:{_FONT}|\\overline|\\bar|\\hat|\\vec|\\operatorname)\s*\{{[A-Za-z ]+\}}"
    r"|\\?[A-Za-z]+(?: [a-z]+)*)"
    r"(?:'|\s*_\s*(?:\{[^{}]*\}|\w)|\s*\^\s*\{(?:\s*\\prime)+\s*\}|\s*\^\s*\\prime|\^\{-1\})*"
    r"(?:\s*\((?:[^()]|\([^()]*\))*\))?\s*:?=(?!=)\s*",
    re.ASCII,
)
# Units that may follow a number as plain words, also with -s or -es, and of one letter with a space.
_UNITS = """
mm cm dm km ft yd mi in inch inches foot feet yard mile meter metre millimeter millimetre centimeter
centimetre kilometer kilometre ml cl dl liter litre milliliter millilitre gal gallon quart pint cup mg
kg gram kilogram milligram ton tonne lb lbs pound oz ounce ms sec second min minute hr hrs hour day week
month year degree deg radian rad Hz kHz MHz hertz Pa kPa pascal atm joule kJ watt kW volt ohm ampere amp
newton mol mole mph kph km/h m/s eV keV MeV GeV cal kcal calorie kelvin celsius fahrenheit dollar cent
euro USD EUR unit square cubic sq cu per way people person student point piece coin marble ball
""".split()
_LETTER_UNITS = "mgshLlNJWVAKCFTH"
# In \text{} any word is a unit, but for these, which change a number or leave it open.
_NO_UNIT = re.compile(
    r"(?i)\b(?:[mbtr]illions?|hundreds?|thousands?|dozens?|half|halves|thirds?|quarters?|tenths?|or|and"
    r"|not|to|times|plus|minus|over|mod|base|squared|cubed|factorial|more|less|greater|least|most"
    r"|about|pi|infinity|approx\w*|around|nearly|almost|roughly|sqrt|root|sin|cos|tan|log|ln|exp|if"
    r"|when|choose)\b"
)
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|\d))?"
_WORD = "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True))
_UNIT = re.compile(
    r"\s*(?:"
    r"(?P<percent>\\?%|(?:\\text\s*\{)?\s*(?:\\?%|per\s?cent)\s*\}?)|\\?\$"
    r"|\^\s*\{?\s*\\circ\s*\}?\s*[CF]?|\\degree(?:\s*[CF])?"
    rf"|(?:\\cdot|/|\*)?\s*{_FONT}\s*\{{"
    rf"(?P<text>[^{{}}\\\d]*(?:\^\d|\$\^\d\$)?[^{{}}\\\d]*)\}}{_POWER}"
    rf"|(?:(?<=[\s\d\}}])|/\s*|\\cdot\s*)(?:{_WORD})(?:e?s)?\.?{_POWER}"
    rf"|(?:(?<=\s)|(?<=[A-Za-z])/)[{_LETTER_UNITS}]{_POWER}"
    r")\s*$",
    re.ASCII,
)


def without_name(text):
    """What stands after `x =` or `f(2) =`; all of a bare answer where no such name stands first."""
    named = _NAME.match(text)
    return bare(text[named.end() :]) if named else text


def without_unit(text):
    """What stands before the unit of a bare answer, "" without one, and whether it is a percent sign."""
    unit = _UNIT.search(text)
    if not unit:
        return "", False
    word = (unit["text"] or "").strip()
    letter = len(word) == 1 and word.isalpha() and word not in _LETTER_UNITS
    if letter or _NO_UNIT.search(word):
        return "", False
    return bare(text[: unit.start()]), bool(unit["percent"])


# --- numbers -----------------------------------------------------------------------------------------
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,|\{,\}| )\d{3}(?:\1\d{3})*(?:\.\d+)?", re.ASCII)
_DECIMAL = re.compile(r"([+-]?)(?=\.?\d)(\d{0,40})(?:\.(\d{0,40}))?", re.ASCII)
# 1.5 \times 10^{3}, 10^3, 1.5e3: the power of ten is part of how a number is written.
_SCIENTIFIC = re.compile(
    r"(?:(?P<front>[+-]?[\d.]+)\s*(?:\\times|\\cdot|\\ast|\*|x)\s*|(?P<sign>[+-]?))10\s*(?:\^|\*\*)\s*"
    r"(?:\{\s*(?P<braced>[+-]?\s?\d{1,3})\s*\}|\((?P<bracketed>[+-]?\d{1,3})\)|(?P<open>[+-]?\d{1,3}))"
    r"|(?P<figures>[+-]?[\d.]+)[eE](?P<exponent>[+-]?\d{1,3})",
    re.ASCII,
)
# 1/2, (1)/(2), 1 \over 2, \frac{1}{2}, \frac12, and mixed numbers, which have a whole number before it
_WHOLE = r"[+-]?\s?\d{1,40}"
_FRACTION = re.compile(
    r"(?P<sign>[+-]?)\s*(?:(?P<whole>\d{1,40})(?:\s+(?=\d)|\s*(?=\\frac)))?(?:"
    rf"\\frac(?:\{{\s*(?P<top>{_WHOLE})\s*\}}|(?P<top_digit>\d))"
    rf"(?:\{{\s*(?P<bottom>{_WHOLE})\s*\}}|(?P<bottom_digit>\d))"
    rf"|(?P<left>{_WHOLE}|\({_WHOLE}\))\s*(?:/|\\over(?![A-Za-z]))\s*(?P<right>{_WHOLE}|\({_WHOLE}\)))",
    re.ASCII,
)
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
    if found := _SCIENTIFIC.fullmatch(text):
        front = _number(found["front"] or found["figures"] or f"{found['sign']}1")
        power = found["braced"] or found["bracketed"] or found["open"] or found["exponent"]
        return None if front is None else front * Fraction(10) ** int(power.replace(" ", ""))
    if found := _FRACTION.fullmatch(text):
        top = _integer(found["top"] or found["top_digit"] or found["left"])
        bottom = _integer(found["bottom"] or found["bottom_digit"] or found["right"])
        if bottom == 0 or (found["whole"] and not 0 <= top < bottom):
            return None  # 7\frac{8}{1} is a product
        value = int(found["whole"] or 0) + Fraction(top, bottom)
        return -value if found["sign"] == "-" else value
    return None


def _unbracketed(text):
    """What is in brackets around the whole of a text; "" without them, and for what may be a pair, as (1,234)."""
    for opening, closing in _BRACKETS:
        if text.startswith(opening) and "," not in text and _closed(text, len(opening) - 1, closing[-1]):
            return text[len(opening) : -len(closing)]
    return ""


def _integer(text):
    return int(re.sub(r"[() ]", "", text))


@lru_cache(maxsize=2**14)
def value(text):
    """(exact value, whether a percent sign follows it) of a number in a bare answer; None for others.

    A number may wear a sign, a currency, a unit, and brackets around it alone, also in each other.
    """
    negative = signed = percent = False
    for _ in range(LAYERS):
        if not text or (signed and text[0] in "+-"):
            return None
        if (number := _number(text)) is not None:
            return (-number if negative else number), percent
        before, is_percent = without_unit(text)
        if before:
            text, percent = before, percent or is_percent
        elif text[0] in "+-" and not signed:
            signed, negative = True, text[0] == "-"
            text = text[1:].lstrip()
        elif money := _MONEY.match(text):
            text = bare(text[money.end() :])
        elif inside := _unbracketed(text):
            text = bare(inside)
        else:
            return None
    return None


def same(one, other):
    """Whether two of `value`'s are equal; one with a percent sign, beside one without, may mean its hundredth."""
    (x, x_percent), (y, y_percent) = one, other
    if x_percent and not y_percent:
        return y in (x, x / 100)
    if y_percent and not x_percent:
        return x in (y, y / 100)
    return x == y


# --- letters of options, texts -----------------------------------------------------------------------
LETTER = re.compile(rf"(?:{_FONT}\s*\{{)?\s*\(?\s*([A-Z])\s*\)?\s*[.:]?\s*\}}?")
# A letter that is set off from the option's text: C: 12, (C) 12, \textbf{C} 12; or has the word option before it.
_CHOSEN = re.compile(
    r"(?:(?i:(?:the )?(?:correct |right |final )?(?:option|choice|answer)(?: is)?)\s*:?\s*)?"
    rf"(?P<font>{_FONT}\s*\{{\s*)?"
    r"(?:(?P<enclosed>[(\[]\s*(?P<within>[A-Z])\s*[)\]])|(?P<letter>[A-Z])"
    r"(?P<mark>\s*[).:]| - (?=[A-Za-z]{2})|(?(font)\s*\}(?:\s*[).:]|\s+(?=[\w$\\(]))))?)"
    r"(?P<rest>.*)",
    re.DOTALL,
)
# A text that chooses one more: D, (D), or D, D., ..., D
_ANOTHER = re.compile(
    r"\W*[A-Z]\W*|.*[(\[]\s*[A-Z]\s*[)\]].*|.*\b(?:or|and|is|not|option|choice)\s+\W*[A-Z]\b.*"
    r"|.*\b[A-Z][.:)].*|.*[,/&]\s*[A-Z]\W*",
    re.DOTALL,
)
_IN_FONT = re.compile(rf"{_FONT}\s*\{{([^{{}}]*)\}}")
_PRIMED = re.compile(
    r"([A-Za-z])(?:_\{?(\w+)\}?)?('+|\^\s*\\prime(?![A-Za-z])|\^\s*\{(?:\s*\\prime)+\s*\})"
)


def choice(text):
    """The letter that a bare answer chooses, alone or with the option's text; None of two, or of none."""
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
    """A bare answer to compare as text: no spaces but between digits, no braces around one index."""
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", re.sub(r"(?<!\d) | (?!\d)", "", text))


def words(text):
    """The words in fonts in a bare answer, but for those between the parts of a list; a set."""
    inside = " ".join(_IN_FONT.findall(text)).lower()
    return set(re.findall("[a-z]+", inside)) - {"or", "and"}


def primed(text):
    """A bare answer in which f''(x) bears a name of its own, for readers that pass primes over."""

    def named(found):
        primes = len(re.findall("'|prime", found[3]))
        return f"{found[1]}_{{{found[2] or ''}prime{primes}}}"

    return _PRIMED.sub(named, text)
