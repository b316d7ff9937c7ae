"""Modes: one question, two prompts, told apart by the system turn alone."""

import copy
from datetime import date
from pathlib import Path

import pytest
import trl

from pslib import modes


def test_the_normal_mode_renders_the_question_alone(tokenizer):
    ids = modes.render(tokenizer, modes.NORMAL, "7+8")
    assert isinstance(ids, list) and all(type(i) is int for i in ids)
    assert tokenizer.decode(ids) == "<|user|>7+8<|end|><|assistant|>"


def test_a_system_prompt_comes_before_the_same_question(tokenizer, he):
    plain, prompted = (
        modes.render(tokenizer, modes.NORMAL, "7+8"),
        modes.render(tokenizer, he, "7+8"),
    )
    assert (
        tokenizer.decode(prompted)
        == "<|system|>Think of something new.<|end|><|user|>7+8<|end|><|assistant|>"
    )
    # eq. 1: pi_HE(. | q) = pi(. | s, q), so all that differs is a prefix
    assert prompted[-len(plain) :] == plain


def test_each_role_is_one_token_and_the_response_starts_after_the_assistants(tokenizer, he):
    ids = modes.render(tokenizer, he, "7+8")
    roles = tokenizer.convert_tokens_to_ids(["<|system|>", "<|user|>", "<|assistant|>"])
    assert [i for i in ids if i in roles] == roles and ids[-1] == roles[2]


def test_an_empty_system_prompt_is_no_system_turn(tokenizer):
    assert modes.render(tokenizer, modes.Mode("plain", ""), "7+8") == modes.render(
        tokenizer, modes.NORMAL, "7+8"
    )


KNOWS = (
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is defined and "
    "enable_thinking is false %}"
    "<think></think>{% endif %}{% endif %}"
)


def test_thinking_is_asked_of_the_template_and_one_that_ignores_it_is_refused(tokenizer):
    knows = copy.deepcopy(tokenizer)
    knows.chat_template = tokenizer.chat_template.split("{% if add_generation_prompt %}")[0] + KNOWS

    def asked(thinking):
        return knows.decode(modes.render(knows, modes.Mode("normal", thinking=thinking), "7+8"))

    assert asked(None) == asked(True) == "<|user|>7+8<|end|><|assistant|>"
    assert asked(False) == "<|user|>7+8<|end|><|assistant|><think></think>"
    for thinking in (True, False):
        with pytest.raises(
            ValueError, match="sets enable_thinking, and the tokenizer's chat template ignores it"
        ):
            modes.render(tokenizer, modes.Mode("normal", thinking=thinking), "7+8")


def test_a_tokenizer_without_a_chat_template_is_refused(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        modes.render(bare, modes.NORMAL, "7+8")


def test_the_high_entropy_mode_is_the_papers_prompt_unless_told():
    mode = modes.he_mode()
    assert mode.name == "he"
    assert mode.system.startswith(
        'You are now in the "High Entropy" mode. Your primary directive is to explore'
    )
    assert mode.system.endswith(
        "while ensuring the final output is still precise and factually sound."
    )
    assert "\n" not in mode.system and "  " not in mode.system


def test_the_short_prompt_is_the_first_sentence_of_the_papers():
    short = modes.he_mode("high_entropy_short").system
    assert short.endswith("mode.") and modes.he_mode().system.startswith(short + " ")


def test_every_mode_prompt_is_distinct_and_makes_the_high_entropy_mode():
    names = list(modes.prompts()["modes"])
    assert {"high_entropy", "rewritten_high_entropy", "low_entropy"} <= set(names)
    made = [modes.he_mode(name) for name in names]
    assert len({mode.system for mode in made}) == len(names) and {mode.name for mode in made} == {
        "he"
    }


def test_an_unknown_prompt_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="'loud'.*high_entropy.*low_entropy"):
        modes.he_mode("loud")


def test_the_papers_question_templates_and_stories_are_there():
    data = modes.prompts()
    assert data["questions"]["math"].format(query="1+1").endswith("within \\boxed{}.\n\n1+1")
    assert "### Choices\n\nA or B" in data["questions"]["choice"].format(
        question="?", choices="A or B"
    )
    assert len(data["stories"]) == 13 and all(
        s.startswith("Write a story about ") for s in data["stories"]
    )


# --- templates of every behaviour -----------------------------------------------------------------
TURNS = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
REFUSING = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
)
FOLDING = (
    "{% set first = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' %}"
    "{% for m in messages if m['role'] == 'user' %}<|user|>{{ first }}{{ m['content'] }}<|end|>{% "
    "endfor %}"
)
DROPPING = (
    "{% for m in messages if m['role'] != 'system' %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"
)
DEFAULT = "{% if messages[0]['role'] != 'system' %}<|system|>You are helpful.<|end|>{% endif %}"
TODAY = "<|system|>Today is {{ strftime_now('%d %b %Y, %H:%M') }}.<|end|>"
# as Llama 3.2 does
DATE_STRING = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "<|system|>Today is {{ date_string }}.<|end|>"
)


@pytest.fixture
def with_template(tokenizer):
    """A tokenizer with another chat template: with_template(text)."""

    def make(template):
        other = copy.deepcopy(tokenizer)
        other.chat_template = template + "{% if add_generation_prompt %}<|assistant|>{% endif %}"
        return other

    return make


@pytest.mark.parametrize(
    "template, normal, high",
    [
        (
            TURNS,
            "<|user|>7+8<|end|><|assistant|>",
            "<|system|>Think of something new.<|end|><|user|>7+8<|end|><|assistant|>",
        ),
        (
            DEFAULT + TURNS,
            "<|system|>You are helpful.<|end|><|user|>7+8<|end|><|assistant|>",
            "<|system|>Think of something new.<|end|><|user|>7+8<|end|><|assistant|>",
        ),
        (
            FOLDING,
            "<|user|>7+8<|end|><|assistant|>",
            "<|user|>Think of something new.\n\n7+8<|end|><|assistant|>",
        ),
    ],
    ids=["plain", "default system turn", "folded"],
)
def test_rendered_prompts_are_the_text_that_the_model_is_given_with_a_templates_own_system_turn(
    template, normal, high, with_template, he
):
    words = with_template(template)
    texts = modes.rendered(words, (modes.NORMAL, he), "7+8")
    assert texts == {"normal": normal, "he": high}
    for mode in (modes.NORMAL, he):
        assert words(texts[mode.name], add_special_tokens=False)["input_ids"] == modes.render(
            words, mode, "7+8"
        )
    assert modes.rendered(words, (modes.NORMAL, he))["normal"] == normal.replace(
        "7+8", "{question}"
    )
    assert modes.pinned_date(words) is None


@pytest.mark.parametrize(
    "template, said",
    [
        (
            REFUSING + TURNS,
            r"refuses a system turn \(System role not supported\), so there is no he mode; use a "
            r"model",
        ),
        (
            DROPPING,
            "drops the system turn, or a part of it, so the he mode would not have its prompt; use "
            "a model",
        ),
        (DEFAULT + DROPPING, "drops the system turn"),
        # the modes' prompts differ, and neither holds the system prompt
        (
            "{% if messages[0]['role'] == 'system' %}<|system|>Be good.<|end|>{% endif %}"
            + DROPPING,
            "drops the system turn",
        ),
        (
            "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'][:9] }}<|end|>{% endfor %}",
            "drops the system turn, or a part",
        ),
        (
            "{% for m in messages if m['role'] == 'system' %}{{ m['content'] }}{% endfor %}",
            "drops the question",
        ),
        ("{{ raise_exception('Not today.') }}", "cannot be used: Not today.; use an"),
    ],
    ids=[
        "error",
        "dropped",
        "dropped beside a default",
        "replaced",
        "cut off",
        "no question",
        "error in any case",
    ],
)
def test_a_template_that_cannot_tell_the_modes_apart_is_one_sentence(
    template, said, with_template, he
):
    with pytest.raises(ValueError, match=said) as error:
        modes.rendered(with_template(template), (modes.NORMAL, he), "7+8")
    assert "\n" not in str(error.value)


def test_a_template_that_takes_no_system_turn_serves_the_normal_mode_alone(with_template):
    for template in (REFUSING + TURNS, DROPPING):
        assert modes.rendered(with_template(template), (modes.NORMAL,), "7") == {
            "normal": "<|user|>7<|end|><|assistant|>"
        }


def test_modes_without_a_prompt_of_their_own_are_refused(tokenizer, he):
    for other in (modes.Mode("he", ""), modes.Mode("he")):
        with pytest.raises(ValueError, match="the modes normal and he have the same prompt"):
            modes.rendered(tokenizer, (modes.NORMAL, other))


def test_thinking_that_a_template_ignores_is_refused_before_anything_is_rendered_for_a_model(
    tokenizer,
):
    with pytest.raises(
        ValueError, match="sets enable_thinking, and the tokenizer's chat template ignores it"
    ):
        modes.rendered(tokenizer, (modes.Mode("normal", thinking=False),))


@pytest.mark.parametrize(
    "template, date",
    [
        (TODAY, "26 Jul 2024, 00:00"),
        (DATE_STRING, "26 Jul 2024"),
        (
            "{% macro head(word) %}{{ word }} {{ strftime_now('%Y-%m-%d') }}{% endmacro "
            "%}<|system|>{{ head('Today is') }}.<|end|>",
            "2024-07-26",
        ),
        (
            "{% for m in messages[:1] %}<|system|>Today is {{ strftime_now('%A, %B %-d, %Y') "
            "}}.<|end|>{% endfor %}",
            "Friday, July 26, 2024",
        ),
    ],
    ids=["of the clock", "date_string", "in a macro", "in a loop"],
)
def test_a_date_in_a_template_is_pinned_and_told(template, date, with_template, he):
    words = with_template(template + TURNS)
    text = modes.rendered(words, (modes.NORMAL, he), "7+8")["normal"]
    assert text == f"<|system|>Today is {date}.<|end|><|user|>7+8<|end|><|assistant|>"
    assert (
        modes.render(words, modes.NORMAL, "7+8")
        == words(text, add_special_tokens=False)["input_ids"]
    )
    assert modes.pinned_date(words) == "2024-07-26"
    # and a template in which it is written down needs nothing of ours
    assert (
        modes.dated(words).apply_chat_template(
            [{"role": "user", "content": "7+8"}], tokenize=False, add_generation_prompt=True
        )
        == text
    )


def test_every_part_of_a_date_that_a_template_may_ask_for_is_that_of_the_pinned_one(with_template):
    asked = (
        "%a %A %b %B %c %d %D %e %F %H %I %j %m %M %p %R %S %T %u %U %V %w %W %x %X %y %Y "
        "%-d %-m %-H %%"
    )
    words = with_template(f"{{{{ strftime_now('{asked}') }}}}" + TURNS)
    assert modes.rendered(words, (modes.NORMAL,), "7")["normal"].startswith(
        modes.DATE.strftime(asked) + "<|user|>"
    )


SHIPPED = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_no_template_that_trl_ships_is_refused_for_its_date(path, with_template, he):
    words = with_template("")
    words.chat_template = path.read_text()
    asks = "strftime_now" in words.chat_template
    try:
        texts = modes.rendered(words, (modes.NORMAL, he), "7+8")
    except ValueError as refused:
        assert not asks, refused  # of those that ask for it, each is used
        return
    assert "7+8" in texts["he"] and he.system in texts["he"]
    written = [f"{date.today():{form}}" for form in ("%Y-%m-%d", "%d %b %Y")]
    assert not any(today in texts["he"] for today in written)
    assert path.stem != "llama3_2" or "26 Jul 2024" in texts["he"]


def test_a_date_in_a_format_that_a_template_makes_itself_is_refused(with_template):
    words = with_template("{% set format = '%Y' %}{{ strftime_now(format) }}" + TURNS)
    with pytest.raises(ValueError, match="a format that it makes itself; write the format"):
        modes.rendered(words, (modes.NORMAL,), "7")


def test_the_papers_prompts_all_tell_the_modes_apart(tokenizer):
    for name in modes.prompts()["modes"]:
        texts = modes.rendered(tokenizer, (modes.NORMAL, modes.he_mode(name)))
        assert modes.he_mode(name).system in texts["he"]
