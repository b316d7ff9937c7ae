"""Answers: questions put to a model in one or more modes, drawn, graded and scored.

Evaluations, probes, lessons and the explorer all draw here. Training does the same in `train`, a
micro-batch at a time and with gradients.
"""

from dataclasses import dataclass

import torch

from pslib.lab.engines import engine_for
from pslib.methods import Scored
from pslib.policy import Policy, pack
from pslib.rollouts import Rollouts, exact, must_finish, render_all, sample


@dataclass
class Answers:
    """R responses to Q questions, and what the model thinks of every token under some modes."""

    questions: list  # Q rows with id, question and what the reward reads
    prompts: dict  # mode name -> Q lists of ids
    rollouts: Rollouts
    logp: dict  # mode name -> (R, T) nats
    entropy: dict  # mode name -> (R, T) nats

    @property
    def scored(self):
        """The same as an advantage looks at it."""
        drawn = self.rollouts
        return Scored(drawn.rewards, drawn.group_ids, drawn.mask, self.logp, self.entropy)

    @property
    def own_entropy(self):
        """The entropy (R, T) of the mode that drew each response."""
        return torch.stack([self.entropy[mode][k] for k, mode in enumerate(self.rollouts.modes)])


def draw_and_score(
    model,
    tokenizer,
    modes,
    questions,
    group_size,
    decoding,
    generator,
    reward=exact,
    under=None,
    temperature=1.0,
):
    """Draw group_size responses to each question, in equal parts from each mode; -> Answers.

    They are graded by the reward and scored under the modes `under`: by default those that draw,
    none for (). ValueError for a question that leaves no room for its response. The log-probs and
    entropies are those of the policy at `temperature`.
    """
    rows, context = list(questions), model.config.max_position_embeddings
    scoring = modes if under is None else under
    prompts = {
        mode.name: render_all(tokenizer, mode, rows, decoding, context)
        for mode in {mode.name: mode for mode in (*modes, *scoring)}.values()
    }
    engine, asked = engine_for(model, tokenizer), {mode.name: prompts[mode.name] for mode in modes}
    how = group_size, decoding, generator, reward, must_finish(modes)
    drawn = sample(engine, tokenizer, rows, asked, *how)
    responses = (drawn.group_ids, drawn.tokens, drawn.lengths)
    logp, entropy = {}, {}
    for name in dict.fromkeys(mode.name for mode in scoring):
        logp[name], entropy[name] = score(model, prompts[name], *responses, temperature=temperature)
    return Answers(rows, prompts, drawn, logp, entropy)


@torch.no_grad()
def score(model, prompts, group_ids, tokens, lengths, rows=128, temperature=1.0):
    """Log-probs and entropies (N, T) in nats of responses under prompts, `rows` at a time and
    without gradients.

    prompts: Q lists of ids; group_ids (N,): which of them each response answers.
    """
    policy, width = Policy(model), tokens.shape[1]
    # what each token may see is a table of rows x width x width
    rows = max(1, min(rows, 2**30 // width**2))
    logp, entropy = torch.zeros(len(tokens), width), torch.zeros(len(tokens), width)
    for first in range(0, len(tokens), rows):
        part = slice(first, first + rows)
        packed = pack(prompts, group_ids[part], tokens[part], lengths[part])
        found = policy(packed, temperature)
        for full, piece in zip((logp, entropy), found, strict=True):
            full[part, : piece.shape[1]] = piece.cpu()
    return logp, entropy
