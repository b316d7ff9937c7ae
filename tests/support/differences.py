"""Gradients against finite differences, in float64."""

import dataclasses

import torch
from torch.autograd import gradcheck

from pslib import losses
from pslib.policy import logprobs_and_entropy
from tests.support import properties
from tests.support.steps import distributions, gradients


def check_losses(seed):
    """gradcheck of the surrogate, the token mean, and the log-probs and entropies, at a temperature
    of 1 and of 0.7.
    """
    generator = properties.random_of(seed)
    logp, old, adv = torch.randn(3, 3, 4, dtype=torch.float64, generator=generator)
    logits = 2 * torch.randn(3, 4, 5, dtype=torch.float64, generator=generator)
    tokens = torch.randint(5, (3, 4), generator=generator)
    mask = torch.arange(4) < torch.randint(1, 5, (3, 1), generator=generator)
    logp.requires_grad_(), logits.requires_grad_()
    assert gradcheck(lambda x: losses.clipped_surrogate(x, old, adv, 0.2, 0.3), logp)
    assert gradcheck(lambda x: losses.token_mean(x**2, mask), logp)
    for temperature in (1.0, 0.7):
        assert gradcheck(lambda z: logprobs_and_entropy(z, tokens, temperature), logits)
        for output in (
            0,
            1,
        ):  # alone too, since the entropy's part of the gradient is skipped where it is zero
            assert gradcheck(lambda z: logprobs_and_entropy(z, tokens, temperature)[output], logits)


def check_whole_loss(name, seed):
    """gradcheck of a method's loss in the logits, after an update that has brought some ratios
    beyond the clip.
    """
    method, generator = properties.acting(name), properties.random_of(seed)
    scored = properties.batch((3, 2), 3, seed)
    tokens = torch.randint(4, (5 * len(method.training), 3), generator=generator)
    before = 2 * torch.randn(*tokens.shape, 4, dtype=torch.float64, generator=generator)
    by_mode = [
        dict(zip(method.training, part.split(5), strict=True))
        for part in logprobs_and_entropy(before, tokens)
    ]
    scored = dataclasses.replace(scored, logp=by_mode[0], entropy=by_mode[1])
    logits = (
        before + 0.3 * torch.randn(before.shape, dtype=torch.float64, generator=generator)
    ).requires_grad_()
    assert gradcheck(
        lambda z: properties.loss(method, scored, *logprobs_and_entropy(z, tokens)), logits
    )


def error_of_a_step(name, state, prompts, each):
    """How far a step's gradient is from finite differences, relative to them, at worst over some
    directions.

    The loss is written out a row at a time, with advantages and kept tokens as the step had them.
    Directions: each weight tensor in turn, or one through all of them.
    """
    kept, method, h = {}, state.method, 1e-6

    def keep(logp, adv, entropy, mask, coefficients, generator):
        kept.update(
            old=logp, adv=adv, keep=method.keep(logp, adv, entropy, mask, coefficients, generator)
        )
        return kept["keep"]

    state.method = dataclasses.replace(method, keep=keep)
    _, rollouts, ours = gradients(state)
    total = (
        kept["keep"].sum()
        if method.divide_by_kept
        else rollouts.lengths.sum() * len(method.training)
    )
    coef, rows = method.coefficients.get(method.entropy_coef, 0.0), len(rollouts.lengths)

    @torch.no_grad()
    def loss():
        value = 0.0
        for k, mode in enumerate(method.training):
            for i, (row, n) in enumerate(
                zip(rollouts.tokens.tolist(), rollouts.lengths.tolist(), strict=True)
            ):
                every = distributions(state.model, prompts[mode][rollouts.group_ids[i]], row[:n])
                every = (every / state.settings.temperature).log_softmax(-1)
                old, adv, counted = (
                    kept[what][k * rows + i, :n] for what in ("old", "adv", "keep")
                )
                rho = (every[range(n), row[:n]] - old).exp()
                token = -torch.minimum(rho * adv, rho.clamp(0.8, 1.2) * adv) + coef * (
                    every.exp() * every
                ).sum(-1)
                value += token[counted].sum() / total
        return value

    def moved(by, direction):
        for name, weight in state.model.named_parameters():
            weight.data += by * direction.get(name, 0.0)
        return loss()

    generator, weights = properties.random_of(0), dict(state.model.named_parameters())
    direction = {
        name: torch.randn(w.shape, dtype=w.dtype, generator=generator)
        for name, w in weights.items()
    }
    # torch gives the embedding of the padding token no gradient as an input, should a response hold
    # one
    direction["model.embed_tokens.weight"][state.tokenizer.pad_token_id] = 0
    errors = []
    for along in [{name: d} for name, d in direction.items()] if each else [direction]:
        slope = (moved(h, along) - moved(-2 * h, along)) / (2 * h)
        moved(h, along)  # back
        errors.append(abs(sum((ours[name] * d).sum() for name, d in along.items()) / slope - 1))
    return float(max(errors))
