"""A pretrained model that is taught a nano world: its worked sums, its stories and what its system
prompts mean.

It is a base model like those of `base`, which are made from nothing: reinforcement learning starts
from it.
"""

from itertools import islice

import torch
from torch.nn.utils import clip_grad_norm_

from pslib import policy
from pslib.lab import checkpoint
from pslib.nano import base, worlds

RATE, WARMUP = 2e-4, 0.1  # AdamW's, at its highest, and the share of the steps that it grows over
ROWS = 4  # of a batch, in memory at once
SAVE_EVERY = 10


def parse(name):
    """A taught model's kind and seed: "135m.t2" is ("135m", 2); ValueError for another name."""
    kind, _, seed = name.rpartition(".t")
    if not kind or not seed.isdecimal():
        raise ValueError(f"a taught model is called like 135m.t1, kind and seed; got {name!r}")
    return kind, int(seed)


def teach(model, tokenizer, world, steps, batch_size, seed, folder, report):
    """Teach a model `steps * batch_size` examples of the corpus of a world in worlds.WORLDS.

    -> losses in nats a token, one a step. Products are in bfloat16 unless the device is slow at
    them, weights and optimiser in float32. A checkpoint is saved in `folder` every SAVE_EVERY
    steps, and the newest one there is gone on from. `report(step, steps, loss)` is called after
    each step.
    """
    pairs = base.encode(tokenizer, worlds.corpus(worlds.WORLDS[world], steps * batch_size, seed))
    usual, losses = base.usual_tokens(pairs, batch_size), []
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, fused=True)
    found = checkpoint.load_newest(folder)
    if found:
        losses = found[1]["losses"].tolist()
        checkpoint.restore(found[1], model, optimiser, {})
    model.train()
    for tokens, labels in islice(base.batches(pairs, batch_size, seed), len(losses), None):
        done = len(losses)
        grown, left = (done + 1) / (WARMUP * steps), (steps - done) / ((1 - WARMUP) * steps)
        optimiser.param_groups[0]["lr"] = RATE * min(1.0, grown, left)
        total = _add_gradients(model, tokens, labels, usual)
        clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(total / int((labels >= 0).sum()))
        if len(losses) % SAVE_EVERY == 0 and len(losses) < steps:
            kept = checkpoint.state_of(model, optimiser, {})
            checkpoint.save(folder, len(losses), {**kept, "losses": torch.tensor(losses)})
        report(len(losses), steps, losses[-1])
    model.eval()
    return losses


def _add_gradients(model, tokens, labels, usual):
    """Add a batch's gradient, ROWS rows at a time -> its loss, summed over response tokens."""
    total, device = 0.0, model.device
    bf16 = not policy.slow_bf16(device)
    for rows, wanted in zip(tokens.split(ROWS), labels.split(ROWS), strict=True):
        with torch.autocast(device.type, torch.bfloat16, bf16):
            loss = base.total_loss(model, rows.to(device), wanted.to(device))
        (loss / usual).backward()
        total += loss.item()
    return total
