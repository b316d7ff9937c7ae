"""Modes: one model, two policies, told apart by a system prompt alone.

pi_HE(. | q) = pi(. | s, q) (eq. 1): the normal mode has no system prompt, the high-entropy mode has
s.
"""

import copy
import re
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Mode:
    """A name and the system prompt that makes it; None: none is given (a chat template may put its
    own, as SmolLM2's does).
    """

    name: str
    system: str | None = None
    # all of it in one user turn that begins with the word "system", as the released code trains
    one_turn: bool = False
    # enable_thinking, of chat templates that know it like Qwen3's; None: their own default
    thinking: bool | None = None


NORMAL = Mode("normal")
# What a chat template that asks for today's date is told, so that a prompt is the same tomorrow:
# the day that Llama 3's templates name where they are told none.
DATE = datetime(2024, 7, 26)


@cache
def prompts():
    """The paper's prompts (appendix C): {"modes": {name: text}, "questions": ..., ...}."""
    return yaml.safe_load((Path(__file__).parent / "prompts.yaml").read_text(encoding="utf-8"))


def he_mode(prompt="high_entropy"):
    """The high-entropy mode under a prompt of prompts.yaml; ValueError names those there are."""
    texts = {**prompts()["modes"], **prompts()["first_sentences"]}
    if prompt not in texts:
        raise ValueError(f"no mode prompt is called {prompt!r}; there are {', '.join(texts)}")
    return Mode("he", texts[prompt])


def one_turn(mode):
    """The mode as the released code renders it for the responses that the other mode drew."""
    return replace(mode, name=f"{mode.name}, one turn", one_turn=True)


def turns(mode, messages):
    """A conversation as a mode reads it: the mode's system prompt first, above the text of a system
    turn it may have.

    messages: [{"role", "content"}, ...] -> such a list; the same one in a mode without a system
    prompt.
    """
    if not mode.system:
        return messages
    if messages[0]["role"] == "system":
        own, *messages = messages
        return [{"role": "system", "content": f"{mode.system}\n\n{own['content']}"}, *messages]
    return [{"role": "system", "content": mode.system}, *messages]


def render(tokenizer, mode, question):
    """The token ids of a question under a mode, by the tokenizer's chat template, up to where the
    response starts.

    -> list of int. ValueError if the tokenizer has no chat template: without one there is no system
    turn, and so no second mode; also if its template fails, refuses the system turn, reaches for
    what a template may not have, or ignores the mode's `thinking`. A template that asks for today's
    date is told DATE.
    """
    return _written(tokenizer, mode, question, tokenize=True)


def rendered(tokenizer, both, question="{question}"):
    """Check that every mode has a prompt of its own, and write them out: {mode name: the text that
    the model is given}.

    A system turn that the chat template puts into a mode without one is in that mode's text.
    ValueError, in one sentence, where `render` would raise one, and where the template leaves out
    the system prompt or the question.
    """
    texts = {}
    for mode in both:

        def written(mode=mode, question=question):
            return _written(tokenizer, mode, question, tokenize=False)

        text = texts[mode.name] = written()
        # Templates may trim, quote or move a text, so what shows that it is written is that another
        # one changes the prompt.
        other = [None, f"{mode.system} {mode.system}"] if mode.system else []
        if text in [written(replace(mode, system=system)) for system in other]:
            raise ValueError(
                "the tokenizer's chat template drops the system turn, or a part of it, so the "
                f"{mode.name} mode would not have its prompt; use a model whose template writes "
                "it, like Qwen3's"
            )
        if text == written(question=f"{question} {question}"):
            raise ValueError(
                "the tokenizer's chat template drops the question, or a part of it; use an "
                "instruction-tuned model for text"
            )
    if len(set(texts.values())) < len(texts):
        raise ValueError(
            f"the modes {' and '.join(texts)} have the same prompt, so they would be one policy; "
            "give each a system prompt of its own"
        )
    return texts


def pinned_date(tokenizer):
    """The date, like "2024-07-26", that stands in prompts for today's where the chat template asks
    for it; else None.
    """
    return f"{DATE:%Y-%m-%d}" if "strftime_now" in str(tokenizer.chat_template) else None


def pinned(template):
    """A chat template in which the answers of `strftime_now`, which reads the clock, are DATE's.

    ValueError where it asks for a format that does not stand in the call itself.
    """
    asked = r"""strftime_now\(\s*(["'])(.*?)\1\s*\)"""
    told = re.sub(asked, lambda found: repr(DATE.strftime(found[2])), template)
    told = re.sub(r"strftime_now\s+is\s+defined", "true", told)  # as Llama 3.2 asks first
    told = re.sub(r"strftime_now\s+is\s+not\s+defined", "false", told)
    if "strftime_now" in told:
        raise ValueError(
            "the chat template uses strftime_now in a way that is not known here, like a format "
            "that it makes itself; write the format into its call of strftime_now"
        )
    return told


def dated(tokenizer):
    """The tokenizer, or where its chat template asks for the date a copy that is told DATE's."""
    if pinned_date(tokenizer):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = pinned(tokenizer.get_chat_template())
    return tokenizer


def _written(tokenizer, mode, question, tokenize):
    """A question under a mode, by the chat template: the token ids or, not tokenized, the text."""
    if not tokenizer.chat_template:
        raise ValueError(
            "the tokenizer has no chat template, so it has no system turn to tell the modes apart; "
            "use an instruction-tuned model or set tokenizer.chat_template"
        )
    asked = turns(mode, [{"role": "user", "content": question}])
    if mode.one_turn:
        text = f"system\n{mode.system}\nuser\n{question}\nassistant\n"
        asked = [{"role": "user", "content": text}]

    def written(messages, **flags):
        if pinned_date(tokenizer):
            flags["chat_template"] = pinned(tokenizer.get_chat_template())
        return tokenizer.apply_chat_template(
            messages, tokenize=tokenize, add_generation_prompt=True, return_dict=False, **flags
        )

    try:
        if mode.thinking is None:
            return written(asked)
        prompt = written(asked, enable_thinking=mode.thinking)
        other = written(asked, enable_thinking=not mode.thinking)
    except Exception as error:  # a template is a program in a sandbox, and can end in any way
        said = " ".join(str(error).split())
        if asked[0]["role"] == "system" and _works(written, asked[1:]):
            raise ValueError(
                f"the tokenizer's chat template refuses a system turn ({said}), so there is no "
                f"{mode.name} mode; use a model whose template takes one, like Qwen3's"
            ) from error
        raise ValueError(
            f"the tokenizer's chat template cannot be used: {said}; use an instruction-tuned model "
            "that you trust"
        ) from error
    if prompt == other:
        raise ValueError(
            "the profile sets enable_thinking, and the tokenizer's chat template ignores it; take "
            "the setting out, or use a model whose template knows it, like Qwen3's"
        )
    return prompt


def _works(written, messages):
    try:
        written(messages)
    except Exception:
        return False
    return True
