"""Micro-batches: a step's rows, cut into forward passes of a bounded number of tokens.

Row k R + r is response r under the k-th training mode, R being the responses of the step. A batch
is a `train.Batch`, of which prompts and rollouts are read.
"""

import math
from dataclasses import dataclass

import torch

from pslib import rollouts
from pslib.modes import Mode, one_turn
from pslib.policy import pack


@dataclass(frozen=True)
class Piece:
    """Rows of one question under one prompt, which is read once for all of them."""

    mode: str  # whose prompt
    question: int
    rows: list  # of (k, r)


@dataclass(frozen=True)
class Part:
    """A micro-batch: its pieces, and which of the step's rows they are, in order."""

    rows: list
    pieces: list


def render(tokenizer, method, modes, questions, decoding, context):
    """Each question's prompt under every mode that a method needs -> {mode name: lists of ids}.

    modes: {name: Mode}. ValueError for a prompt that leaves no room for a response in the context.
    """
    needed = {name: modes[name] for name in (*method.sampling, *method.training)}
    rewrapped = [one_turn(modes[name]) for name in method.rewrapped]
    needed |= {mode.name: mode for mode in rewrapped}
    return {
        name: rollouts.render_all(tokenizer, mode, questions, decoding, context)
        for name, mode in needed.items()
    }


def _groups(drawn, method, wanted):
    """The wanted rows, bool (N,), by their prompt: {(mode, question): [(k, r), ...]}."""
    groups, number, questions = {}, len(drawn.tokens), drawn.group_ids.tolist()
    for k, mode in enumerate(method.training):
        for r in wanted[k * number : (k + 1) * number].nonzero().squeeze(1).tolist():
            foreign = mode in method.rewrapped and drawn.modes[r] != mode
            prompt = one_turn(Mode(mode)).name if foreign else mode
            groups.setdefault((prompt, questions[r]), []).append((k, r))
    return groups


def cut(batch, method, wanted, micro_tokens):
    """The wanted rows, bool (N,), as micro-batches -> (list of Part, tokens of all).

    A group stays together, so that its prompt is read once, unless it alone is more than
    micro_tokens. Groups go in the order of their longest responses, so that attention pads little.
    """
    ends, prompts, pieces = batch.rollouts.lengths.tolist(), batch.prompts, []
    for (mode, question), rows in _groups(batch.rollouts, method, wanted).items():
        size = room = len(prompts[mode][question])
        pieces.append(Piece(mode, question, []))
        for row in rows:
            if pieces[-1].rows and size + ends[row[1]] > micro_tokens:
                pieces.append(Piece(mode, question, []))
                size = room
            size += ends[row[1]]
            pieces[-1].rows.append(row)
    pieces.sort(key=lambda piece: -max(ends[r] for _, r in piece.rows))
    parts, size, total = [], math.inf, 0
    for piece in pieces:
        tokens = len(prompts[piece.mode][piece.question]) + sum(ends[r] for _, r in piece.rows)
        if size + tokens > micro_tokens:
            parts.append(Part([], []))
            size = 0
        size, total = size + tokens, total + tokens
        parts[-1].rows.extend(k * len(ends) + r for k, r in piece.rows)
        parts[-1].pieces.append(piece)
    return parts, total


def packed(part, batch, device):
    """A micro-batch as the policy reads it, laid out on the device."""
    rows = torch.tensor([r for piece in part.pieces for _, r in piece.rows])
    responses, lengths = batch.rollouts.tokens[rows], batch.rollouts.lengths[rows]
    owner = [place for place, piece in enumerate(part.pieces) for _ in piece.rows]
    prompts = [batch.prompts[piece.mode][piece.question] for piece in part.pieces]
    with device:  # what `pack` makes is made there
        return pack(prompts, torch.tensor(owner), responses.to(device), lengths.to(device))


def gather(parts, outputs, shape, dtype):
    """Log-probs and entropies, (rows, T) of each micro-batch -> both as (N, T), the shape.

    Detached and on the CPU; 0 in rows that no micro-batch holds.
    """
    logp, entropy = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
    for part, output in zip(parts, outputs, strict=True):
        for every, values in zip((logp, entropy), output, strict=True):
            every[part.rows, : values.shape[1]] = values.detach().cpu()
    return logp, entropy
