"""Faults to inject, for the short and the long tests alike: damaged bytes, failing system calls,
numbers not finite.
"""

import builtins
import os
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from pslib import losses, methods, rewards, train
from pslib.lab import checkpoint


# --- damaged files --------------------------------------------------------------------------------
def damage(path, rng):
    """Change, cut off, drop or add one byte of a file, anywhere, or lose the file; -> what was
    done.
    """
    data = bytearray(path.read_bytes())
    kind, at = rng.choice(["change", "cut", "drop", "add", "lose"]), rng.randrange(len(data))
    if kind == "change":
        data[at] ^= rng.randrange(1, 256)
    elif kind == "cut":
        del data[at:]
    elif kind == "drop":
        del data[at]
    elif kind == "add":
        data.insert(at, rng.randrange(256))
    path.write_bytes(data)
    if kind == "lose":
        path.unlink()
    return f"{kind} byte {at} of {path.name}"


# --- failing calls --------------------------------------------------------------------------------
class Calls:
    """The calls by which `checkpoint` writes, counted; the one numbered `failing` raises OSError
    with `code`.
    """

    def __init__(self, failing=None, code=0):
        self.made, self.failing, self.code = [], failing, code

    def __call__(self, name, path=""):
        self.made.append(name)
        if len(self.made) == self.failing:
            raise OSError(self.code, os.strerror(self.code), str(path))

    @contextmanager
    def file(self, path):
        """A file that writes half of what it is given before it fails, as a full disk would."""
        self("open", path)
        with builtins.open(path, "wb") as real:

            def write(data):
                real.write(data[: len(data) // 2])
                self("write")
                real.write(data[len(data) // 2 :])

            def flush():
                real.flush()
                self("flush")

            yield SimpleNamespace(write=write, flush=flush, fileno=real.fileno)
        self("close", path)

    def before(self, name):
        def call(*args, **kwargs):
            self(name)
            return getattr(os, name)(*args, **kwargs)

        return call


@contextmanager
def watched(calls):
    """Let `checkpoint` write through `calls`."""
    with pytest.MonkeyPatch.context() as patch:
        through = {name: calls.before(name) for name in ("fsync", "replace", "open", "close")}
        patch.setattr(checkpoint, "os", SimpleNamespace(**{**vars(os), **through}))
        patch.setattr(checkpoint, "open", lambda path, mode: calls.file(path), raising=False)
        yield calls


# --- numbers that are not finite ------------------------------------------------------------------
def _spoilt(function, change):
    return lambda *args, **kwargs: change(function(*args, **kwargs))


def _last(bad):
    """Replace a tensor's last row, or its only value, on a copy that keeps the gradient."""

    def change(values):
        if not values.ndim:
            return values + bad
        spoil = torch.zeros_like(values)
        spoil[-1] = bad
        return values + spoil

    return change


def _forward(which, only_learning):
    def inject(patch, state, bad):
        def forward(self, *args):
            out = list(plain(self, *args))
            if torch.is_grad_enabled() or not only_learning:
                out[which] = _last(bad)(out[which])
            return tuple(out)

        plain = train.Policy.forward
        patch.setattr(train.Policy, "forward", forward)

    return inject


def _reward(patch, state, bad):
    patch.setattr(rewards, "grade", lambda text, answer: bad)


def _advantage(patch, state, bad):
    kinds = {
        mode: _spoilt(advantage, _last(bad)) for mode, advantage in state.method.advantage.items()
    }
    patch.setattr(state, "method", methods.replace(state.method, advantage=kinds))


def _surrogate(patch, state, bad):
    patch.setattr(losses, "clipped_surrogate", _spoilt(losses.clipped_surrogate, lambda t: t + bad))


def _loss(patch, state, bad):
    patch.setattr(losses, "token_mean", _spoilt(losses.token_mean, _last(bad)))


def _gradient(patch, state, bad):
    clip = train.clip_grad_norm_

    def spoil(parameters, norm):
        parameters = list(parameters)
        parameters[-1].grad.view(-1)[-1] = bad
        return clip(parameters, norm)

    patch.setattr(train, "clip_grad_norm_", spoil)


# where -> (how it is injected, what the message calls it, settings that it needs)
NOT_FINITE = {
    "reward": (_reward, "rewards", {}),
    "old log-prob": (_forward(0, False), "log-probs", {}),
    "entropy": (_forward(1, False), "entropies", {}),
    "advantage": (_advantage, "advantages", {}),
    "new log-prob": (_forward(0, True), "new log-probs", {"graph_tokens": 0}),
    "surrogate": (_surrogate, "loss", {}),
    "loss": (_loss, "loss", {}),
    "gradient": (_gradient, "gradient norm", {}),
}
