"""Modes: one question, two prompts, told apart by the system turn alone."""

import copy

import pytest

from pslib import modes


def test_the_normal_mode_renders_the_question_alone(tokenizer):
    ids = modes.render(tokenizer, modes.NORMAL, "7+8")
    assert isinstance(ids, list) and all(type(i) is int for i in ids)
    assert tokenizer.decode(ids) == "<|user|>7+8<|end|><|assistant|>"


def test_a_system_prompt_comes_before_the_same_question(tokenizer, he):
    plain, prompted = modes.render(tokenizer, modes.NORMAL, "7+8"), modes.render(tokenizer, he, "7+8")
    assert tokenizer.decode(prompted) == "<|system|>Think of something new.<|end|><|user|>7+8<|end|><|assistant|>"
    # eq. 1: pi_HE(. | q) = pi(. | s, q), so all that differs is a prefix
    assert prompted[-len(plain):] == plain


def test_each_role_is_one_token_and_the_response_starts_after_the_assistants(tokenizer, he):
    ids = modes.render(tokenizer, he, "7+8")
    roles = tokenizer.convert_tokens_to_ids(["<|system|>", "<|user|>", "<|assistant|>"])
    assert [i for i in ids if i in roles] == roles and ids[-1] == roles[2]


def test_an_empty_system_prompt_is_no_system_turn(tokenizer):
    assert modes.render(tokenizer, modes.Mode("plain", ""), "7+8") == modes.render(tokenizer, modes.NORMAL, "7+8")


KNOWS = ("{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is defined and enable_thinking is false %}"
         "<think></think>{% endif %}{% endif %}")


def test_thinking_is_asked_of_the_template_and_one_that_ignores_it_is_refused(tokenizer):
    knows = copy.deepcopy(tokenizer)
    knows.chat_template = tokenizer.chat_template.split("{% if add_generation_prompt %}")[0] + KNOWS

    def asked(thinking):
        return knows.decode(modes.render(knows, modes.Mode("normal", thinking=thinking), "7+8"))

    assert asked(None) == asked(True) == "<|user|>7+8<|end|><|assistant|>"
    assert asked(False) == "<|user|>7+8<|end|><|assistant|><think></think>"
    for thinking in (True, False):
        with pytest.raises(ValueError, match="sets enable_thinking, and the tokenizer's chat template ignores it"):
            modes.render(tokenizer, modes.Mode("normal", thinking=thinking), "7+8")


def test_a_tokenizer_without_a_chat_template_is_refused(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        modes.render(bare, modes.NORMAL, "7+8")


def test_the_normal_mode_has_no_system_prompt():
    assert modes.NORMAL == modes.Mode("normal", None)


def test_the_high_entropy_mode_is_the_papers_prompt_unless_told():
    mode = modes.he_mode()
    assert mode.name == "he"
    assert mode.system.startswith('You are now in the "High Entropy" mode. Your primary directive is to explore')
    assert mode.system.endswith("while ensuring the final output is still precise and factually sound.")
    assert "\n" not in mode.system and "  " not in mode.system


def test_the_short_prompt_is_the_first_sentence_of_the_papers():
    short = modes.he_mode("high_entropy_short").system
    assert short.endswith("mode.") and modes.he_mode().system.startswith(short + " ")


def test_every_mode_prompt_is_distinct_and_makes_the_high_entropy_mode():
    names = list(modes.prompts()["modes"])
    assert {"high_entropy", "rewritten_high_entropy", "low_entropy"} <= set(names)
    made = [modes.he_mode(name) for name in names]
    assert len({mode.system for mode in made}) == len(names) and {mode.name for mode in made} == {"he"}


def test_an_unknown_prompt_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="'loud'.*high_entropy.*low_entropy"):
        modes.he_mode("loud")


def test_the_papers_question_templates_and_stories_are_there():
    data = modes.prompts()
    assert data["questions"]["math"].format(query="1+1").endswith("within \\boxed{}.\n\n1+1")
    assert "### Choices\n\nA or B" in data["questions"]["choice"].format(question="?", choices="A or B")
    assert len(data["stories"]) == 13 and all(s.startswith("Write a story about ") for s in data["stories"])
