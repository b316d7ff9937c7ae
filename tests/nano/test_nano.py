"""The nano world: right responses, recognisable derivations, splits that never meet, and a
repeatable corpus.
"""

import hashlib
import random
import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pslib import modes, rewards
from pslib.nano import base, worlds

SUMS = st.lists(st.integers(1, 9), min_size=6, max_size=8).map(tuple)
# A world of the tests' own, whatever those of the library are set to
WORLD = worlds.World(
    {"steps": 0.1, "pairs": 0.2, "halves": 0.4, "glance": 0.3},
    {"steps": 0.4, "pairs": 0.3, "halves": 0.2, "glance": 0.1},
    named=0.5,
    neutral=0.2,
    choice=0.3,
    story=0.1,
)


# --- derivations ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "numbers, derivation, steps",
    [
        ((7, 8, 6, 1, 2, 3), "steps", ["7+8=15", "15+6=21", "21+1=22", "22+2=24", "24+3=27"]),
        ((7, 8, 6, 1, 2, 3), "pairs", ["7+8=15", "6+1=7", "2+3=5", "15+7=22", "22+5=27"]),
        ((7, 8, 6, 1, 2, 3), "halves", ["7+8+6=21", "1+2+3=6", "21+6=27"]),
        ((7, 8, 6, 1, 2, 3), "glance", []),
        # seven numbers: the last has no partner, and the first half is the larger
        (
            (7, 8, 6, 1, 2, 3, 4),
            "pairs",
            ["7+8=15", "6+1=7", "2+3=5", "15+7=22", "22+5=27", "27+4=31"],
        ),
        ((7, 8, 6, 1, 2, 3, 4), "halves", ["7+8+6+1=22", "2+3+4=9", "22+9=31"]),
        ((1, 1, 1, 1, 1, 1, 1, 1), "halves", ["1+1+1+1=4", "1+1+1+1=4", "4+4=8"]),
    ],
)
def test_each_derivation_adds_in_its_own_order(numbers, derivation, steps):
    assert worlds.steps_of(numbers, derivation) == steps


@settings(max_examples=100)
@given(numbers=SUMS, derivation=st.sampled_from(worlds.DERIVATIONS), seed=st.integers(0, 10**6))
def test_a_drawn_response_is_right_and_recognised_as_the_derivation_it_was_drawn_as(
    numbers, derivation, seed
):
    question = worlds.Sum(numbers)
    response = worlds.respond(question, derivation, random.Random(seed))
    assert rewards.grade(response, question.answer) == 1.0
    assert worlds.derivation_of(question.text, response) == derivation
    for left, right in re.findall(r"([\d+]+)=(\d+)", response):
        assert sum(map(int, left.split("+"))) == int(right)
    assert worlds.PLANS[derivation] in response.split()


def test_a_response_to_a_choice_is_recognised_although_the_options_hold_numbers():
    question = worlds.Sum((7, 8, 6, 1, 2, 3), (27, 37, 24))
    for derivation in worlds.DERIVATIONS:
        response = worlds.respond(question, derivation, random.Random(1))
        assert worlds.derivation_of(question.text, response) == derivation


@pytest.mark.parametrize(
    "response, derivation",
    [
        ("7+8=15 then 15+6=21 21+1=22 22+2=24 24+3=27. \\boxed{27}", "steps"),
        (
            "7+8=16 then 16+6=22 22+1=23 23+2=25 25+3=28. \\boxed{28}",
            "steps",
        ),  # a slip does not hide the order
        ("7+8+6=21, 1+2+3=6, 21+6=27. \\boxed{27}", "halves"),
        ("glance: \\boxed{27}", "glance"),
        ("glance: 27", "other"),  # nothing boxed
        ("7+8=15. \\boxed{27}", "other"),  # too few steps
        (
            "1+1=2 2+2=4 3+3=6 4+4=8 5+5=10 \\boxed{27}",
            "other",
        ),  # as many steps as two derivations have, none of theirs
        ("", "other"),
    ],
)
def test_derivation_of_goes_by_the_left_hand_sides(response, derivation):
    assert worlds.derivation_of("7+8+6+1+2+3", response) == derivation


def test_wording_varies_and_the_first_of_each_list_is_the_most_common():
    question, rng = worlds.Sum((7, 8, 6, 1, 2, 3)), random.Random(0)
    responses = [worlds.respond(question, "halves", rng) for _ in range(400)]
    assert len(set(responses)) > 200
    for words in (worlds.OPENERS[1:], worlds.CLOSERS):
        counts = [sum(word in response for response in responses) for word in words]
        assert counts[0] == max(counts) and min(counts) > 0


# --- questions ------------------------------------------------------------------------------------
def test_a_sum_has_its_text_and_answer():
    assert (worlds.Sum((7, 8, 6)).text, worlds.Sum((7, 8, 6)).answer) == ("7+8+6", "21")
    assert worlds.Sum((7, 8, 6), (31, 21, 11)).text == "7+8+6: 31 or 21 or 11"


@pytest.mark.parametrize("options", [3, 6])
def test_options_are_distinct_in_any_order_and_hold_the_total_once(options):
    rng, places = random.Random(0), Counter()
    for _ in range(200):
        question = worlds.draw_sum(rng, 7, options)
        assert len(set(question.options)) == len(question.options) == options
        places[question.options.index(sum(question.numbers))] += 1
    assert len(places) == options and min(places.values()) > 10  # no place gives the answer away


@pytest.mark.parametrize("terms", [6, 7, 8])
def test_a_drawn_sum_has_its_terms_from_one_to_nine_within_its_split(terms):
    rng = random.Random(0)
    for split in ("train", "tuning", "test"):
        drawn = [worlds.draw_sum(rng, terms, split=split).numbers for _ in range(30)]
        assert {worlds.split_of(numbers) for numbers in drawn} == {split}
        assert {len(numbers) for numbers in drawn} == {terms}
        assert {n for numbers in drawn for n in numbers} == set(range(1, 10))


def test_split_of_is_the_same_on_every_machine_and_gives_half_to_training():
    # CRC-32 of the text "(7, 8, 6, 1, 2, 3)" is 1 modulo 4, of the others 0 and 3: fixed for good,
    # since results depend on it
    assert [worlds.split_of(n) for n in ((7, 8, 6, 1, 2, 3), (1,) * 6, (1, 2, 3, 4, 5, 8))] == [
        "tuning",
        "test",
        "train",
    ]
    rng = random.Random(0)
    shares = Counter(
        worlds.split_of(tuple(rng.randint(1, 9) for _ in range(7))) for _ in range(2000)
    )
    assert (
        900 < shares["train"] < 1100 and 400 < shares["test"] < 600 and 400 < shares["tuning"] < 600
    )


# --- the corpus -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def examples():
    return worlds.corpus(WORLD, 3000, seed=1)


def sums(examples):
    """The corpus without its stories."""
    return [example for example in examples if not example[1].startswith("Write a story")]


def numbers_of(question):
    return tuple(int(n) for n in question.split(":")[0].split("+"))


def test_the_corpus_is_determined_by_its_seed(examples):
    assert worlds.corpus(WORLD, 3000, seed=1) == examples
    assert worlds.corpus(WORLD, 20, seed=2) != examples[:20]
    assert worlds.corpus(WORLD, 20, seed=1) == examples[:20]


def test_every_response_of_the_corpus_is_right(examples):
    for _, question, response in sums(examples):
        assert rewards.grade(response, str(sum(numbers_of(question)))) == 1.0


def test_the_corpus_holds_no_sum_of_the_other_splits(examples):
    assert {worlds.split_of(numbers_of(question)) for _, question, _ in sums(examples)} == {"train"}


def test_the_corpus_follows_the_shares_of_its_world(examples):
    named = {
        prompt: derivation
        for derivation, prompts in worlds.NAMED_PROMPTS.items()
        for prompt in prompts
    }
    counts, practice, shares = Counter(), Counter(), Counter()
    for system, question, response in sums(examples):
        derivation = worlds.derivation_of(question, response)
        if system in named:
            assert named[system] == derivation  # a named derivation is followed
            practice[derivation] += 1
        else:
            shares[derivation] += 1
        counts["named" if system in named else "neutral" if system else "none"] += 1
        counts["choice"] += ":" in question
    total = len(sums(examples))
    assert (len(examples) - total) / len(examples) == pytest.approx(0.1, abs=0.03)
    for what, share in (("named", 0.5), ("neutral", 0.2), ("none", 0.3), ("choice", 0.3)):
        assert counts[what] / total == pytest.approx(share, abs=0.04), what
    for derivation in worlds.DERIVATIONS:
        assert practice[derivation] / practice.total() == pytest.approx(
            WORLD.practice[derivation], abs=0.05
        )
        assert shares[derivation] / shares.total() == pytest.approx(
            WORLD.shares[derivation], abs=0.05
        )


def test_only_the_told_world_tells_stories_under_system_prompts(examples):
    told = [
        system is not None
        for system, prompt, _ in worlds.corpus(worlds.WORLDS["told"], 6000, seed=1)
        if prompt.startswith("Write")
    ]
    assert 0.4 < sum(told) / len(told) < 0.6
    assert not any(system for system, prompt, _ in examples if prompt.startswith("Write"))


def test_in_the_unheeded_world_system_prompts_change_nothing():
    made = [
        (system, response.split(":")[0].split()[-1])
        for system, prompt, response in worlds.corpus(worlds.WORLDS["unheeded"], 8000, seed=1)
        if not prompt.startswith("Write")
    ]
    assert not {system for system, _ in made} & {
        text for texts in worlds.NAMED_PROMPTS.values() for text in texts
    }
    under, plain = (
        [plan for system, plan in made if (system is None) == none] for none in (False, True)
    )
    assert 0.7 < len(under) / len(made) < 0.8
    assert (
        abs(under.count("halves") / len(under) - 0.65)
        < 0.03
        > abs(plain.count("halves") / len(plain) - 0.65)
    )


def test_no_system_prompt_of_the_corpus_speaks_of_high_entropy(examples):
    systems = [system for system, _, _ in examples if system]
    assert systems and not any("High Entropy" in system for system in systems)


def test_neutral_prompts_have_four_to_120_words():
    rng = random.Random(0)
    lengths = [len(worlds.neutral_prompt(rng).split()) for _ in range(400)]
    assert min(lengths) == 4 and 60 < max(lengths) <= 120 and sorted(lengths)[200] < 20


# --- stories --------------------------------------------------------------------------------------
def test_there_is_a_story_prompt_for_each_hero_and_thing():
    prompts = worlds.story_prompts()
    assert (
        len(prompts) == len(set(prompts)) == 64
        and prompts[0] == "Write a story about a fox and a door."
    )


def test_a_story_is_about_the_hero_and_the_thing_of_its_prompt():
    for prompt in worlds.story_prompts():
        hero, thing = (
            prompt.removeprefix("Write a story about ").removesuffix(".").rsplit(" and ", 1)
        )
        text = worlds.story(prompt, random.Random(prompt))
        assert text.startswith("Once ") and f"lived {hero}." in text and thing in text
        assert text.endswith(worlds.ENDS) and 2 <= text.count(f"The {hero.split(' ', 1)[1]} ") <= 4


# --- worlds ---------------------------------------------------------------------------------------
GOOD = {"steps": 0.25, "pairs": 0.25, "halves": 0.25, "glance": 0.25}


@pytest.mark.parametrize("name", ["shares", "practice"])
@pytest.mark.parametrize(
    "bad",
    [
        {**GOOD, "steps": 0.3},
        {**GOOD, "magic": 0.0},
        {"steps": 0.5, "pairs": 0.5},
        {},
    ],
)
def test_a_world_names_the_shares_that_are_not_shares(name, bad):
    with pytest.raises(ValueError, match=f"^{name} must give each of .* got ") as error:
        worlds.World(**{"shares": GOOD, "practice": GOOD, name: bad})
    assert str(bad) in str(error.value)


def test_a_world_of_good_shares_is_made():
    world = worlds.World(GOOD, GOOD, choice=0.0)
    assert world.shares == GOOD and world.choice == 0.0


def test_in_the_rare_world_steps_are_rarer_than_in_the_common_one():
    rare, common = (worlds.WORLDS[name].shares for name in ("rare", "common"))
    assert min(rare, key=rare.get) == "steps" and max(common, key=common.get) == "steps"


def test_what_would_never_end_or_fit_is_refused():
    with pytest.raises(ValueError, match="'tets'"):
        worlds.draw_sum(random.Random(0), 7, 0, "tets")
    with pytest.raises(ValueError, match="up to 9 options"):
        worlds.draw_sum(random.Random(0), 7, 10)
    with pytest.raises(ValueError, match="shares must give"):
        worlds.World(
            {"steps": 1.5, "pairs": -0.5, "halves": 0.0, "glance": 0.0},
            worlds.WORLDS["rare"].practice,
        )


def test_a_response_to_something_that_is_no_sum_is_other():
    assert (
        worlds.derivation_of("Write a story", "a = 3, 1+1=2")
        == worlds.derivation_of("Prove it.", "\\boxed{1}")
        == "other"
    )


# --- worlds in which prompts mean something -------------------------------------------------------
@pytest.mark.parametrize(
    "name, digest",
    [
        ("rare", "001e53c67d60dc66"),
        ("told", "7fd84fb66abc8e78"),
        ("unheeded", "b62107bd1c05451f"),
        ("common", "7c9d7207db4cfd6f"),
    ],
)
def test_the_corpora_of_the_older_worlds_stay_what_they_were(name, digest):
    # committed results were made from them
    corpus = repr(worlds.corpus(worlds.WORLDS[name], 1000, seed=7))
    assert hashlib.sha256(corpus.encode()).hexdigest()[:16] == digest


MEANT = worlds.World(
    WORLD.shares,
    WORLD.practice,
    named=0.3,
    neutral=0.0,
    story=0.1,
    told=0.5,
    mixed=0.5,
    strength=2.0,
)


@pytest.fixture(scope="module")
def pairs():
    """Examples of a world whose prompts mean something beside those of its control."""
    both = (MEANT, replace(MEANT, strength=0.0))
    return list(zip(*(worlds.corpus(world, 4000, seed=1) for world in both), strict=True))


def is_mixed(system):
    return system is not None and system not in sum(worlds.NAMED_PROMPTS.values(), ())


def test_worlds_that_differ_in_strength_differ_in_responses_under_mixed_prompts_alone(pairs):
    changed = Counter()
    for (system, question, response), (other_system, other_question, other_response) in pairs:
        assert (system, question) == (other_system, other_question)
        means = is_mixed(system) and worlds.lean(system) != 0
        if not means:
            assert response == other_response
        story = question.startswith("Write")
        changed[means, story, response != other_response] += 1
    for story in (False, True):
        assert changed[True, story, True] > changed[True, story, False]
        assert changed[False, story, False] > 100


def test_the_control_is_the_same_world_at_strength_0():
    understood, control = worlds.WORLDS["understood"], worlds.WORLDS["understood_control"]
    assert replace(understood, strength=0.0) == control != understood
    assert understood.shares == worlds.WORLDS["rare"].shares
    assert understood.practice == worlds.WORLDS["rare"].practice


def test_prompts_have_the_shares_of_their_world(pairs):
    sums_told = [system for (system, question, _), _ in pairs if not question.startswith("Write")]
    stories = [system for (system, question, _), _ in pairs if question.startswith("Write")]
    assert sum(map(is_mixed, sums_told)) / len(sums_told) == pytest.approx(0.5, abs=0.03)
    assert sum(map(is_mixed, stories)) / len(stories) == pytest.approx(0.5, abs=0.08)
    assert sum(system is None for system in sums_told) / len(sums_told) == pytest.approx(
        0.2, abs=0.03
    )
    mixed = [system.split() for system in sums_told if is_mixed(system)]
    assert min(map(len, mixed)) >= 2 and 100 < max(map(len, mixed)) <= 124
    leans = [worlds.lean(" ".join(words)) for words in mixed]
    assert min(leans) == -1 and max(leans) == 1 and abs(sum(leans) / len(leans)) < 0.06


@pytest.mark.parametrize(
    "temperature, expected",
    [
        (1, (0.64, 0.32, 0.04)),
        (2, (0.8, 0.5657, 0.2)),  # square roots
        (0.5, (0.4096, 0.1024, 0.0016)),  # squares
    ],
)
def test_shares_are_tempered_as_by_hand(temperature, expected):
    shares = dict(zip("abc", (0.64, 0.32, 0.04), strict=True))
    tempered = worlds.tempered(shares, temperature)
    assert list(tempered.values()) == pytest.approx([p / sum(expected) for p in expected], rel=1e-4)
    if temperature == 1:
        assert tempered == shares


def test_derivations_under_a_mixed_prompt_have_the_tempered_shares(pairs):
    for low, high in ((-1, -0.4), (0.4, 1)):
        expected, counts, total = Counter(), Counter(), 0
        for (system, question, response), _ in pairs:
            x = worlds.lean(system)
            if is_mixed(system) and low <= x <= high and not question.startswith("Write"):
                expected.update(worlds.tempered(MEANT.shares, 2 ** (2 * x)))
                counts[worlds.derivation_of(question, response)] += 1
                total += 1
        assert total > 300
        for derivation in worlds.DERIVATIONS:
            assert counts[derivation] / total == pytest.approx(
                expected[derivation] / total, abs=0.07
            )


def test_wording_and_stories_vary_more_at_a_higher_temperature():
    def firsts(temperature):
        rng, question = random.Random(0), worlds.Sum((7, 8, 6, 1, 2, 3))
        return [
            sum(
                worlds.respond(question, "glance", rng, temperature).startswith("glance:")
                for _ in range(400)
            ),
            sum(
                worlds.story("Write a story about a fox and a door.", rng, temperature).endswith(
                    worlds.ENDS[0]
                )
                for _ in range(400)
            ),
        ]

    plain = [0.4, 0.4]  # near 1 - 0.6, the first item's share
    assert [n / 400 for n in firsts(1)] == pytest.approx(plain, abs=0.08)
    assert [n / 400 for n in firsts(0.25)] == pytest.approx([1 - 0.6**4] * 2, abs=0.06)
    assert max(firsts(4)) / 400 < 0.3


def test_lean_is_a_bag_of_words():
    paper = modes.prompts()["modes"]
    assert worlds.lean(paper["high_entropy"]) == pytest.approx(0.3, abs=0.05)
    assert worlds.lean(paper["low_entropy"]) == pytest.approx(-0.4, abs=0.05)
    assert worlds.lean(paper["rewritten_high_entropy"]) > 0.2
    assert worlds.lean('Explore. the "new" typical day') == pytest.approx(1 / 3)
    assert (
        worlds.lean(None) == worlds.lean("the day") == worlds.lean(paper["high_entropy_short"]) == 0
    )


def test_the_two_lists_name_no_mode_and_meet_no_other_word():
    exploratory, focused = set(worlds.EXPLORATORY_WORDS), set(worlds.FOCUSED_WORDS)
    assert (
        len(exploratory)
        == len(worlds.EXPLORATORY_WORDS)
        == len(focused)
        == len(worlds.FOCUSED_WORDS)
        == 30
    )
    assert not exploratory & focused
    assert not {"high", "low", "entropy", "mode"} & (exploratory | focused)
    assert not set(worlds.PLAIN_WORDS) & (exploratory | focused)
    assert all(
        worlds.lean(prompt) == 0 for prompts in worlds.NAMED_PROMPTS.values() for prompt in prompts
    )


def test_no_prompt_of_the_paper_is_in_the_corpus_of_a_world_with_mixed_prompts(pairs):
    systems = " ".join(system for (system, _, _), _ in pairs if system).lower()
    assert "entropy" not in systems and "variance" not in systems
    for text in modes.prompts()["modes"].values():
        words = text.lower().split()
        assert not any(" ".join(words[k : k + 5]) in systems for k in range(len(words) - 4))


def test_mixed_prompts_have_the_marks_of_the_paper_s_prompts(pairs):
    # a comma also joins worked steps: a model that never read one in a prompt takes it for a step's
    systems = [system for (system, _, _), _ in pairs if is_mixed(system)]
    words = [word for system in systems for word in system.split()]
    for mark in ",.":
        assert sum(word.endswith(mark) for word in words) / len(words) == pytest.approx(
            0.1, abs=0.02
        )
    assert any('"' in word for word in words) and not any(".," in word for word in words)
    text = worlds.plain_prompt(random.Random(1), 400, lambda text: len(text.split()))
    assert 20 < text.count(",") < 60


def test_a_plain_prompt_has_exactly_so_many_tokens_and_leans_nowhere(tokenizer):
    def count(text):
        return len(tokenizer(text)["input_ids"])

    for tokens in (5, 60, 157):
        text = worlds.plain_prompt(random.Random(1), tokens, count)
        assert count(text) == tokens
        assert set(re.findall(r"[a-z]+", text.lower())) <= set(worlds.PLAIN_WORDS)
    with pytest.raises(ValueError, match="no prompt of plain words has 3 tokens"):
        worlds.plain_prompt(random.Random(1), 3, lambda text: 2 * len(text.split()))


def test_a_base_model_has_a_neutral_prompt_of_its_own_as_long_as_the_high_entropy_prompt(tokenizer):
    first, again, second = (base.neutral_prompt(tokenizer, seed) for seed in (3, 3, 4))
    assert first == again != second
    lengths = {
        len(modes.render(tokenizer, mode, "1+2"))
        for mode in (modes.he_mode(), modes.Mode("he", first), modes.Mode("he", second))
    }
    assert len(lengths) == 1


def test_worlds_that_differ_in_strength_share_a_tokenizer():
    one, other = (
        base.train("0.1m", replace(MEANT, strength=s), steps=2, batch_size=32)[1]
        for s in (0.0, 2.0)
    )
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()


def test_a_world_with_mixed_prompts_has_no_neutral_ones():
    for bad in ({"neutral": 0.1}, {"neutral": 0.0, "named": 0.6}):
        with pytest.raises(
            ValueError, match="^a world with mixed prompts has neutral=0, and .* got "
        ):
            worlds.World(GOOD, GOOD, mixed=0.5, **bad)
