"""Modes: one model, two policies, told apart by a system prompt alone.

pi_HE(. | q) = pi(. | s, q) (eq. 1): the normal mode has no system prompt, the high-entropy mode has s.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Mode:
    """A name and the system prompt that makes it; None: none is given (a chat template may put its own, as SmolLM2's does)."""

    name: str
    system: str | None = None
    one_turn: bool = False  # all of it in one user turn that begins with the word "system", as the released code trains
    thinking: bool | None = None  # enable_thinking, of chat templates that know it like Qwen3's; None: their own default


NORMAL = Mode("normal")


@cache
def prompts():
    """The paper's prompts (appendix C), as data: {"modes": {name: text}, "questions": ..., "stories": ...}."""
    return yaml.safe_load((Path(__file__).parent / "prompts.yaml").read_text(encoding="utf-8"))


def he_mode(prompt="high_entropy"):
    """The high-entropy mode under one of the prompts in prompts.yaml; ValueError names those there are."""
    texts = {**prompts()["modes"], **prompts()["first_sentences"]}
    if prompt not in texts:
        raise ValueError(f"no mode prompt is called {prompt!r}; there are {', '.join(texts)}")
    return Mode("he", texts[prompt])


def render(tokenizer, mode, question):
    """The token ids of a question under a mode, by the tokenizer's chat template, up to where the response starts.

    -> list of int. ValueError if the tokenizer has no chat template: without one there is no system turn, and so no
    second mode; also if its template fails, reaches for what a template may not have, or ignores the mode's `thinking`.
    """
    if not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template, so it has no system turn to tell the modes apart; "
                         "use an instruction-tuned model or set tokenizer.chat_template")
    turns = [{"role": "system", "content": mode.system}] if mode.system else []
    if mode.one_turn:
        turns, question = [], f"system\n{mode.system}\nuser\n{question}\nassistant\n"

    def written(**flags):
        return tokenizer.apply_chat_template([*turns, {"role": "user", "content": question}], tokenize=True,
                                             add_generation_prompt=True, return_dict=False, **flags)

    try:
        if mode.thinking is None:
            return written()
        ids, other = written(enable_thinking=mode.thinking), written(enable_thinking=not mode.thinking)
    except Exception as error:  # a template is a program in a sandbox, and can end in any way
        raise ValueError(f"the tokenizer's chat template cannot be used: {' '.join(str(error).split())}; use an "
                         "instruction-tuned model that you trust") from error
    if ids == other:
        raise ValueError("the profile sets enable_thinking, and the tokenizer's chat template ignores it; take the setting out, "
                         "or use a model whose template knows it, like Qwen3's")
    return ids


def rendered(tokenizer, both, question="{question}"):
    """The prompt of a question under each mode as the text that the model is given -> {mode name: text}."""
    return {mode.name: tokenizer.decode(render(tokenizer, mode, question)) for mode in both}
