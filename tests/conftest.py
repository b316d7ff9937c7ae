"""What all tests share: one thread, no network, repeatable examples, and a language model of ten
thousand weights.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test may depend on the hub

import copy
import dataclasses

import hypothesis
import pytest
import torch
from transformers.models.qwen3 import modeling_qwen3

from pslib import methods, modes, rewards, train
from pslib.nano import base, worlds
from tests.support import steps

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


@pytest.fixture
def graded_by_parity(monkeypatch):
    """An untrained model is never right: grade by the text alone, so that groups are alive."""
    monkeypatch.setattr(rewards, "grade", steps.parity)


@pytest.fixture
def start(tokenizer, he):
    """A Run of a model: start(model, method, setting=value, ...); the method by name or as it
    is.
    """

    def make(model, method, seed=0, **changes):
        method = methods.get(method) if isinstance(method, str) else method
        return train.Run(
            copy.deepcopy(model),
            tokenizer,
            method,
            (modes.NORMAL, he),
            dataclasses.replace(steps.SETTINGS, **changes),
            seed,
        )

    return make
