"""The nano world: sums worked out in words, in which the forces of Policy Split act at laptop
scale.

A question is a sum of one-digit numbers, bare or with lettered options. Its answer can be reached
by several *derivations*: in steps (one number at a time), in pairs, in halves (several numbers at
once) or at a glance (the total at once). Steps and pairs take as many additions and are about
equally reliable; halves and a glance are shorter and less so: a glance is a short cut that mostly
fails. How common each derivation is without a system prompt is a setting of the world, apart from
how well it is practised: all are also practised under system prompts that name them. The wording
around the sums is free.

In some worlds system prompts of many words mean something: words of two lists, among others that
mean nothing, say how freely to answer (see `lean`).

Everything here is text; the model that learns it is made in `base`.
"""

import random
import re
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from itertools import accumulate
from math import fsum
from pathlib import Path

import yaml

DERIVATIONS = ("steps", "pairs", "halves", "glance")


@dataclass(frozen=True)
class World:
    """How common derivations are without a system prompt, and how often practised under their own.

    Both are shares over DERIVATIONS and sum to 1; `named` is the share of the corpus with a
    derivation's system prompt, `neutral` the share with a system prompt that says nothing of
    derivations; `told` is the share of the stories that are told under such a neutral prompt, the
    others having none.

    `mixed` is the share of the corpus with a mixed prompt (see `mixed_prompt`). Under such a prompt
    the shares of derivations and the weights of the free wording are tempered: share^(1/T),
    normalised, with T = 2^(strength * x), where x is the prompt's `lean`. In a world with mixed
    prompts, stories are told under mixed prompts, and each response is drawn by its own generator.
    So worlds that differ in strength alone differ only in responses under mixed prompts.
    """

    shares: dict
    practice: dict
    named: float = 0.6
    neutral: float = 0.15
    choice: float = 0.2
    story: float = 0.06
    told: float = 0.0
    mixed: float = 0.0
    strength: float = 0.0

    def __post_init__(self):
        if self.mixed and (self.neutral or self.named + self.mixed > 1):
            raise ValueError(
                "a world with mixed prompts has neutral=0, and named + mixed is at most 1; got "
                f"neutral={self.neutral}, named={self.named}, mixed={self.mixed}"
            )
        for name in ("shares", "practice"):
            given = getattr(self, name)
            named = set(given) == set(DERIVATIONS) and min(given.values()) >= 0
            if not named or abs(fsum(given.values()) - 1) > 1e-9:
                raise ValueError(
                    f"{name} must give each of {DERIVATIONS} a share, summing to 1; got {given}"
                )


_PRACTICE = {"steps": 0.60, "pairs": 0.15, "halves": 0.10, "glance": 0.15}
_RARE = {"steps": 0.07, "pairs": 0.13, "halves": 0.65, "glance": 0.15}
_UNDERSTOOD = World(_RARE, _PRACTICE, named=0.3, neutral=0.0, told=0.5, mixed=0.5, strength=1.0)
WORLDS = {
    # Exploration has something to find: the most reliable derivation is rare at the start.
    "rare": World(_RARE, _PRACTICE),
    # The same, but the model also tells stories under a system prompt, so that it can under the
    # high-entropy one.
    "told": World(_RARE, _PRACTICE, told=0.5),
    # The same shares, but no system prompt ever meant anything: the model has learned to pay them
    # no heed.
    "unheeded": World(_RARE, _PRACTICE, named=0.0, neutral=0.75),
    # The control: the common derivation is the most reliable one already.
    "common": World({"steps": 0.65, "pairs": 0.13, "halves": 0.07, "glance": 0.15}, _PRACTICE),
    # Words of system prompts say how freely to answer.
    "understood": _UNDERSTOOD,
    # Its control: the same prompts and questions, and the words say nothing.
    "understood_control": replace(_UNDERSTOOD, strength=0.0),
}

# A response says first how it will go about it, so the choice of derivation is one token.
PLANS = {"steps": "stepwise:", "pairs": "pairwise:", "halves": "halves:", "glance": "glance:"}
NAMED_PROMPTS = {
    "steps": ("Add one number at a time.", "Go from left to right in small steps."),
    "pairs": ("Add in pairs.", "Put the numbers into pairs and add the pairs."),
    "halves": ("Add each half at once.", "Split the numbers in two and add the halves."),
    "glance": ("Give the total at a glance.", "Say the total at once, with no steps."),
}
# Words of system prompts: neutral ones say nothing of derivations; those of mixed prompts ask for
# free answers (exploratory) or for strict ones (focused).
_WORDS = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"))
NEUTRAL_WORDS, EXPLORATORY_WORDS, FOCUSED_WORDS = (
    _WORDS[kind].split() for kind in ("neutral", "exploratory", "focused")
)
# The other words of mixed prompts
PLAIN_WORDS = [word for word in NEUTRAL_WORDS if word not in {*EXPLORATORY_WORDS, *FOCUSED_WORDS}]

# Free wording: any of these may stand in its place; the weights fall by rank.
OPENERS = ("", "Okay,", "Well,", "Let me see,", "Right,", "Now,", "Sure,", "Hm,")
JOINS = (",", " then", " so", ";", " next", " and", " now", " with that")
CLOSERS = ("The total is", "That makes", "So we get", "Answer:", "In all", "Thus")


def tempered(shares, temperature):
    """Shares (a dict by name) at a temperature: share^(1/T), normalised; T = 1 changes nothing."""
    powers = {name: share ** (1 / temperature) for name, share in shares.items()}
    total = fsum(powers.values())
    return {name: power / total for name, power in powers.items()}


def _ranked(rng, items, temperature=1.0):
    """One of the items, weighted by 0.6^(rank / temperature); it takes one uniform number."""
    return rng.choices(items, weights=[0.6 ** (k / temperature) for k in range(len(items))])[0]


# a quarter each of test and tuning, half for training
SPLITS = ("test", "tuning", "train", "train")


def split_of(numbers):
    """The split of a sum, by a hash of its numbers; the three never meet."""
    return SPLITS[zlib.crc32(repr(numbers).encode()) % 4]


@dataclass(frozen=True)
class Sum:
    """One question: the numbers to add and, for multiple choice, the totals offered, one right.

    A choice is answered by its value, not by a letter: binding totals to letters takes a model of
    this size longer to learn than all the rest of the world.
    """

    numbers: tuple
    options: tuple = ()

    @property
    def text(self):
        """The question as it is put to the model, e.g. `7+8+6` or `7+8+6: 31 or 21 or 11`."""
        offered = " or ".join(map(str, self.options))
        return "+".join(map(str, self.numbers)) + (f": {offered}" if offered else "")

    @property
    def words(self):
        """The same to a reader, e.g. `7 + 8 + 6` or `7 + 8 + 6 (one of 31, 21, 11)`."""
        offered = f" (one of {', '.join(map(str, self.options))})" if self.options else ""
        return " + ".join(map(str, self.numbers)) + offered

    @property
    def answer(self):
        """The total."""
        return str(sum(self.numbers))


def draw_sum(rng, terms, options=0, split="train", least=1):
    """A random sum of `terms` numbers from `least` to 9 within a split, with 0 to 9 options."""
    if split not in SPLITS or options > 9:
        raise ValueError(
            f"a sum has a split of {', '.join(sorted(set(SPLITS)))} and up to 9 options; got "
            f"{split!r}, {options}"
        )
    while True:
        numbers = tuple(rng.randint(least, 9) for _ in range(terms))
        if split_of(numbers) == split:
            break
    if not options:
        return Sum(numbers)
    total, near = sum(numbers), set()
    while len(near) < options - 1:
        near.add(total + rng.choice((-10, -3, -2, -1, 1, 2, 3, 10)))
    offered = [total, *sorted(near)]
    rng.shuffle(offered)
    return Sum(numbers, tuple(offered))


def _running(parts):
    """The running additions that join up parts: [[3], [4], [5]] -> [[3, 4], [7, 5]]."""
    totals = list(accumulate(sum(p) for p in parts))
    return [[total, sum(part)] for total, part in zip(totals, parts[1:], strict=False)]


def steps_of(numbers, derivation):
    """The worked steps of a sum under a derivation, as texts; a glance has none."""
    if derivation == "glance":
        return []
    if derivation == "steps":
        steps = _running([[n] for n in numbers])
    else:
        size = 2 if derivation == "pairs" else (len(numbers) + 1) // 2
        parts = [numbers[k : k + size] for k in range(0, len(numbers), size)]
        steps = [p for p in parts if len(p) > 1] + _running([[sum(p)] for p in parts])
    return ["+".join(map(str, step)) + f"={sum(step)}" for step in steps]


def respond(question, derivation, rng, temperature=1.0):
    """A right response by a derivation, in freely drawn wording, ending in \\boxed{answer}.

    temperature: of the wording's weights, see `tempered`.
    """
    words = [_ranked(rng, OPENERS, temperature), PLANS[derivation]]
    steps = steps_of(question.numbers, derivation)
    for k, step in enumerate(steps):
        words.append(step + (_ranked(rng, JOINS, temperature) if k < len(steps) - 1 else "."))
    words += [_ranked(rng, CLOSERS, temperature), question.answer]
    return " ".join(w for w in words if w) + f" \\boxed{{{question.answer}}}"


def _numbers_of(question):
    """The numbers that a question asks to add; none of a question that is no sum."""
    asked = re.match(r"([\d+]+)(?::|$)", question)
    return [int(n) for n in re.findall(r"\d+", asked[1])] if asked else []


def worked_right(question, response):
    """Whether worked steps alone lead from a sum's numbers to its total, all of them right.

    A step adds numbers of the question or totals of earlier steps, each of them used once, and
    after the last step one number is left. So any way of adding will do, and a glance, which shows
    no step, will not.
    """
    left, steps = Counter(_numbers_of(question)), re.findall(r"[\d+]*=\d*", response)
    for step in steps:
        if not re.fullmatch(r"\d{1,9}(\+\d{1,9})+=\d{1,9}", step):
            return False
        *parts, total = map(int, re.split(r"[+=]", step))
        if sum(parts) != total or not Counter(parts) <= left:
            return False
        left = left - Counter(parts) + Counter([total])
    return bool(steps) and left.total() == 1


def derivation_of(question, response):
    """The derivation of a response, by its steps' left-hand sides, or "other"."""
    numbers = _numbers_of(question)
    if len(numbers) < 2 or ("\\boxed{" not in response and "=" not in response):
        return "other"
    written = re.findall(r"([\d+]+)=", response)
    best, most = "other", 0
    for derivation in DERIVATIONS:
        ideal = [step.split("=")[0] for step in steps_of(numbers, derivation)]
        if [s.count("+") for s in written] != [s.count("+") for s in ideal]:
            continue
        if not ideal:
            return derivation if "\\boxed{" in response else "other"
        same = sum(a == b for a, b in zip(written, ideal, strict=False))
        best, most = (derivation, same) if same > most else (best, most)
    return best


def total_of(question):
    """The answer of a sum as a question puts it; "" for any other question."""
    numbers = re.fullmatch(r"(\d{1,9}(?:\+\d{1,9})+)(?::.*)?", question, re.ASCII)
    return str(sum(map(int, numbers[1].split("+")))) if numbers else ""


KINDS = {
    "plan": r"(?:stepwise|pairwise|halves|glance):",
    "box": r"\\boxed\{[^}]*\}?",
    "sum": r"[\d+=]+",
}


def kinds_of(response):
    """The kind of each character: "plan", "sum", "box" or "wording", as a list."""
    kinds = ["wording"] * len(response)
    for kind, pattern in reversed(KINDS.items()):
        for found in re.finditer(pattern, response):
            kinds[found.start() : found.end()] = [kind] * (found.end() - found.start())
    return kinds


# --- stories: a small grammar with many more continuations than any response shows ----------------
HEROES, PLACES, THINGS, DEEDS, MOODS, ENDS = (
    tuple(_WORDS["stories"][kind])
    for kind in ("heroes", "places", "things", "deeds", "moods", "ends")
)


def story_prompts():
    """The story questions of the nano world, one for each hero and thing."""
    return [f"Write a story about {hero} and {thing}." for hero in HEROES for thing in THINGS]


def story(prompt, rng, temperature=1.0):
    """A story to a prompt of `story_prompts`, by the grammar; temperature: see `tempered`."""
    hero, thing = re.fullmatch(r"Write a story about (an? .+) and (a .+)\.", prompt).groups()
    lines = [f"Once {_ranked(rng, PLACES, temperature)} lived {hero}."]
    for k in range(rng.randint(2, 4)):
        thing = thing if k == 0 else _ranked(rng, THINGS, temperature)
        deed, place = _ranked(rng, DEEDS, temperature), _ranked(rng, PLACES, temperature)
        lines.append(f"The {hero.split(' ', 1)[1]} {deed} {thing} {place}.")
        if rng.random() < 0.5:
            lines.append(_ranked(rng, MOODS, temperature))
    return " ".join([*lines, _ranked(rng, ENDS, temperature)])


def is_story(response):
    """Whether a response is a story of the grammar's kind, and not, say, a sum."""
    return response.startswith("Once ") and "\\boxed" not in response


def _written(rng, words):
    """Words as a prompt, with full stops and capitals here and there."""
    words = [w.title() if rng.random() < 0.15 else w for w in words]
    return " ".join(
        f"{w}." if rng.random() < 0.1 else f'"{w}"' if rng.random() < 0.05 else w for w in words
    )


def neutral_prompt(rng):
    """A system prompt of 4 to 120 random words, mostly few."""
    longest = rng.choices((12, 32, 120), (6, 3, 1))[0]
    return _written(rng, [rng.choice(NEUTRAL_WORDS) for _ in range(rng.randint(4, longest))])


# --- prompts that mean something ----------------------------------------------------------------
def lean(prompt):
    """x of a prompt, from -1 to 1: exploratory minus focused words, over all words of both lists.

    0 for a prompt without such words, and for None.
    """
    words = re.findall(r"[a-z]+", (prompt or "").lower())
    exploratory = sum(word in EXPLORATORY_WORDS for word in words)
    focused = sum(word in FOCUSED_WORDS for word in words)
    return (exploratory - focused) / max(1, exploratory + focused)


def mixed_prompt(rng, exploratory, focused, plain):
    """A system prompt of so many random words of each kind, in random order."""
    words = rng.choices(EXPLORATORY_WORDS, k=exploratory)
    words += rng.choices(FOCUSED_WORDS, k=focused) + rng.choices(PLAIN_WORDS, k=plain)
    rng.shuffle(words)
    return _with_commas(rng, words)


def _with_commas(rng, words):
    """Words as a mixed prompt: written as a neutral one is, and with commas here and there.

    A comma also joins worked steps. A model that never read one in a prompt takes it for a step's,
    and loses 5 to 70 points of accuracy under prompts with many.
    """
    words = _written(rng, words).split()
    return " ".join(f"{w}," if w[-1] != "." and rng.random() < 0.1 else w for w in words)


def _any_mixed_prompt(rng):
    """A mixed prompt of 0 to 24 words of the lists, in any mixture, and 2 to 100 plain ones."""
    listed = rng.randint(0, 24)
    exploratory = rng.randint(0, listed)
    return mixed_prompt(rng, exploratory, listed - exploratory, rng.randint(2, 100))


def plain_prompt(rng, tokens, count):
    """A prompt of plain words, written as a mixed prompt is, of exactly so many tokens.

    count(text) gives a text's tokens. ValueError where words cannot be fitted to that length.
    """
    text = ""
    for _ in range(1000 + 10 * tokens):
        longer = f"{text} {_with_commas(rng, [rng.choice(PLAIN_WORDS)])}".strip()
        if count(longer) <= tokens:
            text = longer
        if count(text) == tokens:
            return text
    raise ValueError(f"no prompt of plain words has {tokens} tokens; ask for more tokens")


def corpus(world, size, seed):
    """Training examples: a list of (system prompt or None, question, response)."""
    rng, out = random.Random(seed), []
    for number in range(size):
        # Older worlds draw all from one stream, and keep their corpora so.
        own = random.Random(f"{seed}/{number}") if world.mixed else rng
        if rng.random() < world.story:
            prompt = rng.choice(story_prompts())
            # No draw where nothing is told under a prompt: such worlds keep their corpora.
            system, temperature = None, 1.0
            if world.told and rng.random() < world.told:
                system = _any_mixed_prompt(rng) if world.mixed else neutral_prompt(rng)
                temperature = 2 ** (world.strength * lean(system))
            out.append((system, prompt, story(prompt, own, temperature)))
            continue
        offered = rng.choice((3, 4, 5, 6)) if rng.random() < world.choice else 0
        question = draw_sum(rng, rng.choices((6, 7, 8), (1, 2, 1))[0], offered)
        kind, system, temperature = rng.random(), None, 1.0
        if kind < world.named:
            derivation = _drawn(rng, world.practice)
            system = rng.choice(NAMED_PROMPTS[derivation])
        elif kind < world.named + world.mixed:
            system = _any_mixed_prompt(rng)
            temperature = 2 ** (world.strength * lean(system))
            derivation = _drawn(own, tempered(world.shares, temperature))
        else:
            derivation = _drawn(own, world.shares)
            if kind < world.named + world.neutral:
                system = neutral_prompt(rng)
        out.append((system, question.text, respond(question, derivation, own, temperature)))
    return out


def _drawn(rng, shares):
    """A derivation by its share."""
    return rng.choices(DERIVATIONS, [shares[d] for d in DERIVATIONS])[0]
