"""Answers to grade, for the tests of rewards: crafted hostile ones, fuzzed ones and benign pairs,
all repeatable.
"""

import random

# Python that would leave a trace: a file in the working folder, a variable, a connection.
CODE = [
    "__import__('os').system('touch canary')",
    "open('canary','w')",
    'exec(\'open("canary","w")\')',
    "eval(compile('open(\"canary\",\"w\")','','exec'))",
    "().__class__.__base__.__subclasses__()",
    "__import__('os').environ.__setitem__('PSLIB_CANARY','1')",
    "__import__('socket').create_connection(('127.0.0.1',PORT))",
    "(lambda:open('canary','w'))()",
    'sympify(\'open("canary","w")\')',
    "{{7*7}}${7*7}`touch canary`$(touch canary)",
    "1;import os;os.mkdir('canary')",
    "[x for x in [open('canary','w')]]",
]

_DEEP = {n: "".join("\\frac{1}{" for _ in range(n)) + "2" + "}" * n for n in (17, 20, 3000)}
CRAFTED = [
    *CODE,
    # Code where LaTeX lets text stand, so that it becomes the name of a symbol or function.
    "\\text{__import__('os').system('touch canary')}=1",
    "\\variable{open('canary','w')}+x",
    "\\mathrm{exec}(\\text{open('canary','w')})",
    "\\operatorname{exec}(x)",
    "\\operatorname{__import__}(\\text{os})",
    "x_{open('canary','w')}^2+1=0",
    "\\text{open('canary','w')}^5-\\text{open('canary','w')}+1=0",
    "\\operatorname{eye}(10^9)",
    "\\operatorname{zeros}(100000,100000)",
    # Numbers that do not fit in a computer.
    "9**9**9",
    "9^9^9",
    "9^{9^{9}}",
    "9^{9^{9^{9^{9}}}}",
    "2^{2^{2^{2^{2^{2}}}}}",
    "10^{10^{10}}+x",
    "(10^9)!",
    "(((9!)!)!)!",
    "1000000!!",
    "\\binom{10^9}{5\\cdot10^8}",
    "1e999999999",
    "1E999999999",
    "x=1E-999999999",
    "10^{999999999}\\pi",
    "(1+10^{-100})^{10^{100}}",
    "\\sqrt{9^{9^{9}}}",
    "\\sqrt[9^{9}]{2^{9^{9}}}",
    "e^{e^{e^{e^{e}}}}",
    "\\log_{2}(9^{9^{9}})",
    "9^{9^{9}}\\mod 7",
    "\\sin(9^{9^{9}})",
    "\\frac{1}{0}",
    "\\frac{0}{0}+x",
    "0^{0}",
    "\\infty-\\infty",
    "-\\infty^{\\infty}",
    "0.\\overline{3}^{9^{9}}",
    "1" * 10**6,
    "0." + "3" * 10**6,
    "1/" + "7" * 10**6,
    "1," * 333333,
    "9" * 190 + "!",
    "(" + "9" * 90 + ")^{" + "9" * 90 + "}",
    # Work without end.
    "\\sum_{n=1}^{1000000000} \\frac{1}{n}",
    "\\prod_{n=1}^{10^9} n",
    "\\int_0^1 x^{x^{x^{x}}} dx",
    "\\int e^{-x^2}\\sin(x^x) dx",
    "\\lim_{x \\to 0} \\sin(1/x)^{1/x}",
    "x^{5}-x+1=0",
    "x^{100}-x^{99}+x-1<0",
    "\\sin x=\\frac{x}{3}",
    "x^x^x=2",
    "\\cos(\\sin(x^3))<x",
    "(x+1)^{1000000}",
    "(a+b+c+d+e+f+g)^{60}",
    "(x^2-1)^{999}=(x-1)^{999}",
    "\\begin{pmatrix}" + "1&" * 80 + "1\\end{pmatrix}",
    "\\begin{pmatrix}" + "x\\\\" * 50 + "\\end{pmatrix}^{10^{9}}",
    "\\{" + ",".join(f"x^{{{k}}}" for k in range(2, 26)) + "\\}",
    "|" * 150,
    "1<" * 90 + "1",
    "x=" * 90 + "1",
    "+-" * 90 + "1",
    "--" * 90 + "1",
    "!" * 180,
    "1" + "!" * 150,
    "x" * 199,
    "()" * 95,
    # Braces and boxes.
    "{" * 90 + "1" + "}" * 90,
    "{" * 10**5,
    "}" * 10**5,
    "\\boxed{" * 10**5,
    "\\boxed{1}" * 10**5,
    "\\boxed{\\boxed{\\boxed{1}}}",
    "1}\\boxed{2",
    "\\boxed{",
    "\\boxed",
    "\\boxed 5",
    "\\boxed{1}\\boxed{x+1}\\boxed{",
    "(" * 90 + "x" + ")" * 90,
    "[" * 190,
    *_DEEP.values(),
    "\\sqrt{" * 25 + "2" + "}" * 25,
    "x^{" * 45 + "2" + "}" * 45,
    "\\left(" * 15 + "1" + "\\right)" * 15,
    "\\left" * 40,
    "$" * 150,
    # LaTeX that a TeX would run.
    "\\input{/etc/passwd}",
    "\\def\\a{\\a\\a}\\a",
    "\\newcommand{\\x}{\\x\\x}\\x",
    "\\immediate\\write18{touch canary}",
    "\\loop\\iftrue\\repeat",
    "\\csname x\\endcsname",
    "\\catcode`\\@=11",
    "\\href{file:///etc/passwd}{1}",
    "\\url{http://127.0.0.1:PORT/}",
    "%\n1",
    "\\" * 199,
    # Characters.
    "\u0664\u0662",
    "1\u0664",
    "\uff11\uff12",
    "\u00b2\u00b3",
    "\u2460",
    "x\u0302=\u0661",
    "\x00",
    "1\x002",
    "\x00" * 150,
    "\ud800",
    "1\udfff",
    "\\text{\ud83d}",
    "\u202e24",
    "4\u200b2",
    "\u20662\u2069",
    "\ufeff42",
    "\U0001d7d9",
    "\u221a4",
    "\u03c0/2",
    "1\u20442",
    "\u221e",
    "\U0001f600",
    "a\u0300" * 90,
    "\r\n\t\v\f",
    "1\u20282",
    "\x1b[2J",
    "nan",
    "inf",
    "-inf",
    "None",
    "True",
    "zoo",
    "I",
    "E",
    "S",
    "Q",
    "oo",
    "lambda",
    "x.__class__",
    "f'(x)",
    '"""',
    "#",
]

_PIECES = (
    "\\frac{",
    "\\sqrt{",
    "}",
    "{",
    "^",
    "_",
    "^{",
    "(",
    ")",
    "[",
    "]",
    "\\pi",
    "\\infty",
    "\\text{",
    "x",
    "y",
    "=",
    "<",
    "\\le ",
    ",",
    ";",
    "+",
    "-",
    "*",
    "/",
    "!",
    "\\cdot ",
    "\\cup ",
    "\\{",
    "\\}",
    "\\in ",
    "\\%",
    "%",
    "\\$",
    "$",
    ".",
    "9",
    "0",
    "12",
    "1e9",
    "\\sin ",
    "\\log_",
    "\\pm ",
    "\\left(",
    "\\right)",
    "|",
    "&",
    "\\\\",
    " ",
    "\n",
    "\x00",
    "\u0663",
    "\u202e",
    "\ud800",
    "\\int ",
    "\\sum_{n=1}^{9}",
    "\\boxed{",
    "'",
    "__",
    "e",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "\\operatorname{",
    "\\mathrm{",
    "\\circ",
    "\\lim_{x\\to 0}",
    "i",
    ":",
)


def fuzzed(count, seed=0):
    """`count` strings: draws from pieces of LaTeX, and benign or hostile answers cut, joined,
    doubled, wrapped and mixed.
    """
    rng = random.Random(seed)
    kept = [text for text in CRAFTED if len(text) <= 200] + [
        side for pair in benign(200, seed + 1) for side in pair[1:]
    ]
    for _ in range(count):
        if rng.random() < 0.2:
            yield "".join(rng.choices(_PIECES, k=rng.randint(1, 40)))
            continue
        text = rng.choice(kept)
        for _ in range(rng.randint(1, 4)):
            a, b = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
            text = rng.choice(
                (
                    text[:a] + text[b:],
                    text[:a] + text[a:b] * 2 + text[b:],
                    text[:a] + rng.choice(_PIECES) + text[a:],
                    text[:a] + rng.choice(kept) + text[b:],
                    text[:a] + text[a:b][::-1] + text[b:],
                    text[:a]
                    + rng.choice(
                        (
                            "{%s}",
                            "\\frac{%s}{2}",
                            "\\sqrt{%s}",
                            "(%s)",
                            "\\text{%s}",
                            "^{%s}",
                            "\\boxed{%s}",
                        )
                    )
                    % text[a:b]
                    + text[b:],
                    text[:a]
                    + chr(
                        rng.choice(
                            (rng.randrange(128), rng.randrange(0x3000), rng.randrange(0x110000))
                        )
                    )
                    + text[a:],
                )
            )[:4000]
        yield text


def benign(count, seed=0):
    """`count` triples (kind, reference, answer) as honest questions have them; about half of the
    answers are right.
    """
    rng = random.Random(seed)
    kinds = list(_KINDS)
    for k in range(count):
        kind = kinds[k % len(kinds)]
        yield kind, *_KINDS[kind](rng, rng.random() < 0.5)


def _off(rng, n, right):
    return n if right else n + rng.choice((-10, -2, -1, 1, 2, 10))


def _integer(rng, right):
    n = rng.randint(-500, 500)
    m = _off(rng, n, right)
    return str(n), rng.choice((f"{m}", f" {m} ", f"{m}.0", f"${m}$", f"+{m}" if m > 0 else f"{m}"))


def _thousands(rng, right):
    n = rng.randint(1000, 10**7)
    forms = (f"{n:,}", f"{n}", f"{n:,}".replace(",", "{,}"))
    m = _off(rng, n, right)
    return rng.choice(forms), rng.choice((f"{m:,}", f"{m}", f"{m:,}".replace(",", "{,}")))


def _decimal(rng, right):
    n = rng.randint(-5000, 5000)
    m = _off(rng, n, right)
    return f"{n / 100:.2f}", rng.choice(
        (f"{m / 100:.2f}", f"{m / 100:.3f}", f"{m / 100:g}", f"\\frac{{{m}}}{{100}}")
    )


def _ratio(rng, right):
    a, b, k = rng.randint(1, 30), rng.randint(2, 12), rng.randint(1, 4)
    return a, b, k * _off(rng, a, right), k * b


def _fraction(rng, right):
    a, b, c, d = _ratio(rng, right)
    return rng.choice((f"{a}/{b}", f"\\frac{{{a}}}{{{b}}}")), rng.choice(
        (f"{c}/{d}", f"{c} / {d}" if c < 0 else f"{c}/{d}")
    )


def _latex_fraction(rng, right):
    a, b, c, d = _ratio(rng, right)
    short = f"\\frac{c}{d}" if 0 < c < 10 and d < 10 else f"\\dfrac{{{c}}}{{{d}}}"
    return rng.choice((f"{a}/{b}", f"\\frac{{{a}}}{{{b}}}")), rng.choice(
        (f"\\frac{{{c}}}{{{d}}}", short, f"\\tfrac{{{c}}}{{{d}}}")
    )


def _percentage(rng, right):
    n = rng.randint(1, 99)
    m = _off(rng, n, right)
    return rng.choice((f"{n}", f"{n}\\%", f"0.{n:02}")), rng.choice((f"{m}\\%", f"{m}%"))


def _units(rng, right):
    n = rng.randint(1, 500)
    m = _off(rng, n, right)
    unit = rng.choice(
        (
            "\\text{ cm}",
            "\\ \\text{m}",
            "\\,\\text{kg}",
            "\\mathrm{ km}",
            "\\text{ cm}^2",
            "^\\circ",
            "^{\\circ}",
            "\\text{ hours}",
        )
    )
    return rng.choice((f"{n}", f"{n}{unit}")), f"{m}{unit}"


def _dollars(rng, right):
    n = rng.randint(1, 500)
    m = _off(rng, n, right)
    return rng.choice((f"{n}", f"\\${n}")), rng.choice(
        (f"\\${m}", f"\\${m}.00", f"{m}\\text{{ dollars}}")
    )


def _tuple(rng, right):
    parts = [rng.randint(-9, 9) for _ in range(rng.randint(2, 3))]
    other = [_off(rng, parts[0], right), *parts[1:]]
    return f"({','.join(map(str, parts))})", rng.choice(
        (f"({', '.join(map(str, other))})", f"\\left({','.join(map(str, other))}\\right)")
    )


def _set(rng, right):
    parts = rng.sample(range(-9, 20), rng.randint(2, 4))
    other = parts if right else [parts[0] + 30, *parts[1:]]
    rng.shuffle(other)
    form = rng.choice(("{}", "\\{{{}\\}}"))
    return form.format(",".join(map(str, parts))), form.format(", ".join(map(str, other)))


def _radical(rng, right):
    a, b = rng.randint(2, 9), rng.choice((2, 3, 5, 6, 7, 10))
    c = _off(rng, a, right)
    return f"{a}\\sqrt{{{b}}}", rng.choice(
        (
            f"{c}\\sqrt{{{b}}}",
            f"{c} \\sqrt{b}" if b < 10 else f"{c}\\sqrt{{{b}}}",
            f"\\sqrt{{{c * c * b}}}",
        )
    )


def _pi(rng, right):
    a, b, c, d = _ratio(rng, right)
    return f"\\frac{{{a}\\pi}}{{{b}}}", rng.choice(
        (f"\\frac{{{c}\\pi}}{{{d}}}", f"\\frac{{{c}}}{{{d}}}\\pi", f"{c}\\pi/{d}")
    )


def _equation(rng, right):
    n, name = rng.randint(-20, 20), rng.choice("xyn")
    m = _off(rng, n, right)
    return rng.choice((f"{n}", f"{name}={n}")), rng.choice((f"{name}={m}", f"{name} = {m}"))


def _interval(rng, right):
    a, b = rng.randint(-9, 3), rng.randint(4, 12)
    left, closing = rng.choice("(["), rng.choice(")]")
    a, b = rng.choice(((str(a), str(b)), ("-\\infty", str(b)), (str(a), "\\infty")))
    left, closing = ("(" if "infty" in a else left), (")" if "infty" in b else closing)
    other = (
        (left, a, b, closing)
        if right
        else (left, a + "1", b, closing)
        if "infty" in b
        else (left, a, b + "1", closing)
    )
    return f"{left}{a},{b}{closing}", rng.choice(("{}{}, {}{}", "\\left{}{},{}\\right{}")).format(
        *other
    )


def _choice(rng, right):
    letter = rng.choice("ABCDEFGH")
    other = letter if right else rng.choice([x for x in "ABCDEFGH" if x != letter])
    return rng.choice((letter, f"\\text{{{letter}}}", f"({letter})")), rng.choice(
        (other, f"\\text{{{other}}}", f"({other})", f"\\text{{({other})}}")
    )


def _word(rng, right):
    word, other = rng.sample(
        ("even", "odd", "yes", "no", "increasing", "monday", "circle", "none"), 2
    )
    return rng.choice((word, f"\\text{{{word}}}")), rng.choice(("{}", "\\text{{{}}}")).format(
        word if right else other
    )


def _polynomial(rng, right):
    a, b, c = rng.randint(2, 9), rng.randint(1, 9), rng.randint(1, 9)
    d = _off(rng, c, right)
    return f"{a}x^2+{b}x+{c}", rng.choice(
        (f"{d}+{b}x+{a}x^2", f"{a}x^2 + {b}x + {d}", f"{a}x^{{2}}+{b}x+{d}")
    )


_KINDS = {
    "integer": _integer,
    "thousands separator": _thousands,
    "decimal": _decimal,
    "fraction": _fraction,
    "LaTeX fraction": _latex_fraction,
    "percentage": _percentage,
    "units": _units,
    "dollars": _dollars,
    "tuple": _tuple,
    "set": _set,
    "radical": _radical,
    "multiple of pi": _pi,
    "equation": _equation,
    "interval": _interval,
    "choice": _choice,
    "word": _word,
    "polynomial": _polynomial,
}
