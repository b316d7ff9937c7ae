"""What all tests share: one thread, no network, repeatable examples, and a language model of ten
thousand weights.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test may depend on the hub

import copy

import hypothesis
import pytest
import torch
from transformers.models.qwen3 import modeling_qwen3

from pslib import modes
from pslib.nano import base, worlds

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")
torch.set_num_threads(1)

# hidden, layers, feed-forward, heads, key-value heads, head dimension: two layers and grouped
# heads, as small as may be
TINY = (16, 2, 32, 4, 2, 8)


@pytest.fixture
def device():
    """The device of the tests that say nothing of their own: cpu, or what PSLIB_TEST_DEVICE says
    (see `make test-gpu`).
    """
    name = os.environ.get("PSLIB_TEST_DEVICE", "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU here")
    return name


def pytest_collection_modifyitems(items):
    """Mark the tests that take a device, for `make test-gpu`."""
    for item in items:
        if "device" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.device)


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-pair tokenizer of 200 tokens, learned from a little of the nano corpus."""
    examples = worlds.corpus(worlds.WORLDS["rare"], 150, seed=0)
    return base.build_tokenizer(
        [text for example in examples for text in example if text], vocab_size=200
    )


@pytest.fixture(scope="session")
def _lively(tokenizer):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(base.SIZES, "tiny", TINY)
        model = base.build_model("tiny", tokenizer, seed=0)
    # Fresh weights give nearly uniform logits, whose argmax repeats one token for ever; larger ones
    # make the next token depend on all that came before, so that a wrong position or a wrong cache
    # entry changes the output. Fresh norms are all ones; unlike ones show when one is taken for
    # another.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.uniform_(0.5, 1.5, generator=generator)
            elif "embed" not in name:
                weight.mul_(15)
    return model.eval()


@pytest.fixture
def model(_lively):
    """A copy of the tiny Qwen3 model, so that a test may train it; float32, in eval mode."""
    return copy.deepcopy(_lively)


@pytest.fixture
def model64(_lively, monkeypatch):
    """The same in float64 throughout, for comparisons in which rounding must not decide.

    The norms of transformers compute in float32 whatever they are given, which would cost nine
    digits.
    """
    monkeypatch.setattr(
        modeling_qwen3.Qwen3RMSNorm,
        "forward",
        lambda self, x: torch.nn.functional.rms_norm(
            x, x.shape[-1:], self.weight, self.variance_epsilon
        ),
    )
    return copy.deepcopy(_lively).double()


class LowRank(torch.nn.Module):
    """A linear layer with an adapter, as PEFT puts one in its place: x W' + x A B."""

    def __init__(self, layer, rank=2):
        super().__init__()
        self.base_layer = layer
        generator = torch.Generator().manual_seed(0)
        self.down = torch.nn.Parameter(
            torch.randn(layer.in_features, rank, generator=generator, dtype=layer.weight.dtype)
        )
        self.up = torch.nn.Parameter(
            torch.randn(rank, layer.out_features, generator=generator, dtype=layer.weight.dtype)
        )

    @property
    def weight(self):
        """The base layer's alone, as PEFT's layers give it."""
        return self.base_layer.weight

    def forward(self, x):
        """The layer's output."""
        return self.base_layer(x) + x @ self.down @ self.up


class Tuner(torch.nn.Module):
    """What PEFT puts between a wrapped model and its wrapper."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *given, **named):
        """The model's output: logits, and no hidden state."""
        return self.model(*given, **named)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.model, name)


class Wrapped(Tuner):
    """A model as PEFT wraps it: frozen but for adapters, `base_model` being no transformers
    model.
    """

    def __init__(self, model, adapted="q_proj"):
        for weight in model.parameters():
            weight.requires_grad_(False)
        for module in list(model.modules()):
            if isinstance(getattr(module, adapted, None), torch.nn.Linear):
                setattr(module, adapted, LowRank(getattr(module, adapted)))
        super().__init__(model)
        del self.model
        self.base_model = Tuner(model)

    def forward(self, *given, **named):
        """The model's output."""
        return self.base_model(*given, **named)

    def get_base_model(self):
        """The transformers model, its adapters in place."""
        return self.base_model.model

    def __getattr__(self, name):
        if name == "base_model":
            return torch.nn.Module.__getattr__(self, name)
        try:
            return torch.nn.Module.__getattr__(self, name)
        except AttributeError:
            return getattr(self.base_model, name)


def laid_out(packed):
    """The (prompt, response) ids of each row of a Packed, read back from its places."""
    rows, width = [], packed.prompt_at.shape[1]
    for row in range(packed.shape[0]):
        first = packed.predictor[packed.rows == row][
            0
        ]  # the last token of the prompt predicts the first of the response
        places = packed.prompt_at[packed.owner[row], :width].tolist()
        prompt = packed.tokens[places[: places.index(int(first)) + 1]]
        rows.append((tuple(prompt.tolist()), tuple(packed.target[packed.rows == row].tolist())))
    return rows


@pytest.fixture(scope="session")
def he():
    """A high-entropy mode with a short prompt: the paper's would be most of the tiny model's
    context.
    """
    return modes.Mode("he", "Think of something new.")


@pytest.fixture(scope="session")
def questions():
    """Three questions, two of them with the same text and of one length, the third longer."""
    return [
        {"id": "first", "question": "7+8+6+1+2+3", "answer": "27"},
        {"id": "second", "question": "7+8+6+1+2+3", "answer": "27"},
        {"id": "third", "question": "9+9+1+1+5+5+2+4", "answer": "36"},
    ]
