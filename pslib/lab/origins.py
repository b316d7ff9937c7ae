"""Where a profile's base models come from, and what they can do: `Nano` ones are made here, from
nothing, in a nano world; a `Pretrained` one is a folder's or the hub's; `Taught` ones are such a
model, taught a nano world here. Each holds its profile.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pslib import modes, policy
from pslib.lab import place
from pslib.nano import base, taught, worlds

NANO = "nano"  # as a profile's `model`
# as he_prompt: not the same text for all, but each nano base model's own, which means nothing
NEUTRAL = "neutral"


def load(source, device="cpu"):
    """A model and its tokenizer from a folder, also one given relative to this project's root, or
    from the hub, on one of policy.DEVICES.

    ValueError in one sentence for what cannot serve; see `policy.load`.
    """
    return policy.load(place.whole_source(source), device=device)


def _faults_of_world(name):
    """What is wrong with the name of a nano world, as sentences."""
    if name not in worlds.WORLDS:
        yield f"no nano world is called {name!r}; there are {', '.join(worlds.WORLDS)}"


@dataclass(frozen=True)
class Nano:
    """Small models of a nano world, trained once by the chain."""

    profile: Any
    made_here = True
    has_derivations = True  # whether a response can be told by how it adds
    knows_words = False  # whether prompts and stories may be of any words

    def faults(self):
        """What is wrong with the profile, as sentences."""
        made = self.profile.base
        if not made:
            yield "it lacks the setting 'base', which says how nano models are made"
        else:
            yield from _faults_of_world(made.world)
        if self.profile.he_prompt != NEUTRAL:
            modes.he_mode(self.profile.he_prompt)  # raises for a prompt that there is not
        for size in self.profile.sizes:
            base.parse(size)  # raises for a size that there is not

    def make(self, size, settings, checkpoints, report):
        """Train a base model -> (model, tokenizer, losses); settings: see base.train. Minutes are
        not worth checkpoints.
        """
        return base.train(size, **settings, report=report)

    def parse(self, size):
        """The kind of a size, and which base model of that kind it is."""
        return base.parse(size)

    def label(self, size):
        """A size as figures call it."""
        return f"nano {size}"

    @property
    def stories(self):
        """Prompts for stories."""
        return worlds.story_prompts()

    def neutral_prompts(self, size, tokenizer):
        """{NEUTRAL: a base model's own prompt without meaning, as long as the paper's}."""
        seed = self.profile.base.seed + base.parse(size)[1]
        return {NEUTRAL: base.neutral_prompt(tokenizer, seed)}

    def card(self, size, inputs):
        """What a model card says of the origin and the questions."""
        asked = self.profile.questions("like", 1, "tuning")[0]["question"]
        return {
            "origin": "",
            "base": "a model made from nothing in the nano world",
            "data": "sums of the nano world",
            "question": repr(asked),
            "licence": "Weights: MIT, as the code that made them.",
        }


@dataclass(frozen=True)
class Pretrained:
    """A folder's or the hub's model, with {size} in its name where there are several."""

    profile: Any
    made_here = False
    has_derivations = False
    knows_words = True

    def faults(self):
        """What is wrong with the profile, as sentences."""
        model, sizes = self.profile.model, self.profile.sizes
        if len(sizes) > 1 and "{size}" not in model:
            yield (
                f"it has {len(sizes)} sizes, so its model must say where the size goes, like "
                f"Qwen/Qwen3-{{size}}; got {model!r}"
            )
        modes.he_mode(self.profile.he_prompt)  # raises for a prompt that there is not

    def parse(self, size):
        """The size, and that there is one model of it."""
        return size, 0

    def label(self, size):
        """A size as figures call it."""
        return size

    @property
    def stories(self):
        """Prompts for stories: the paper's."""
        return modes.prompts()["stories"]

    def neutral_prompts(self, size, tokenizer):
        """None: what means nothing to a nano model means something to this one."""
        return {}

    def card(self, size, inputs):
        """What a model card says of the origin and the questions."""
        start = self.profile.model.replace("{size}", size)
        asked = modes.prompts()["questions"]["math"].format(query="What is 7 times 8?")
        return {
            "origin": "" if Path(start).exists() else f"base_model: {start}\n",
            "base": inputs["base"],
            "data": inputs["data"],
            "question": repr(asked),
            "licence": f"The weights derive from {start}; its licence applies.",
        }


@dataclass(frozen=True)
class Taught(Pretrained):
    """A folder's or the hub's model, which the chain first teaches a nano world, once for each
    size: "135m.t2" is the one taught with seed 2.
    """

    made_here = True
    has_derivations = True

    def faults(self):
        """What is wrong with the profile, as sentences."""
        yield from _faults_of_world(self.profile.base.world)
        modes.he_mode(self.profile.he_prompt)  # raises for a prompt that there is not
        for size in self.profile.sizes:
            taught.parse(size)  # raises for what is no name of a taught model

    def make(self, size, settings, checkpoints, report):
        """Teach the model -> (model, tokenizer, losses); goes on from the checkpoints."""
        model, tokenizer = load(self.profile.model, self.profile.device)
        settings = {**settings, "seed": settings["seed"] + self.parse(size)[1]}
        losses = taught.teach(model, tokenizer, **settings, folder=checkpoints, report=report)
        return model, tokenizer, losses

    def parse(self, size):
        """The kind of a size, and the seed that it was taught with."""
        return taught.parse(size)

    def card(self, size, inputs):
        """What a model card says of the origin and the questions."""
        asked = self.profile.questions("like", 1, "tuning")[0]["question"]
        made = {
            "base": f"{self.profile.model}, taught the nano world {self.profile.base.world}",
            "data": "sums of the nano world",
        }
        return super().card(size, made) | {"question": repr(asked)}
