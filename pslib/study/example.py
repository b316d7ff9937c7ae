"""The four-rollout example: one question and four responses, small enough to work a step out by
hand, as tests/support/four_rollouts.py does.

Rows 0 and 1 were drawn in the normal mode, rows 2 and 3 in the high-entropy mode. The rows have 2,
3, 1 and 2 tokens: R = 4, T = 3. Beyond a row's length the tensors hold padding.
"""

import pandas as pd
import torch

from pslib.methods import Scored
from pslib.rollouts import Rollouts

QUESTION = {"id": "example", "question": "2+3", "answer": "5"}
# A token's id is its place.
VOCABULARY = ("<|pad|>", "<|end|>", "\\boxed{5}", "so", " \\boxed{6}", "2+3=5 \\boxed{5}")
END = 1


def _f64(rows):
    return torch.tensor(rows, dtype=torch.float64)


REWARDS = _f64([1, 0, 0, 1])
ROLLOUTS = Rollouts(
    question_ids=["example"] * 4,
    group_ids=torch.tensor([0, 0, 0, 0]),
    modes=["normal", "normal", "he", "he"],
    tokens=torch.tensor([[2, 1, 0], [3, 4, 1], [1, 0, 0], [5, 1, 0]]),
    lengths=torch.tensor([2, 3, 1, 2]),
    texts=["\\boxed{5}", "so \\boxed{6}", "", "2+3=5 \\boxed{5}"],
    rewards=REWARDS,
)
WORDS = [
    [VOCABULARY[token] for token in row[:length]]
    for row, length in zip(ROLLOUTS.tokens.tolist(), ROLLOUTS.lengths.tolist(), strict=True)
]

# Log-probs of the sampled tokens under each mode's prompt, before the update, in nats; 0 beyond a
# row's length.
LOGP = {
    "normal": _f64([[-2.0, -0.8, 0], [-0.3, -0.5, -0.6], [-0.2, 0, 0], [-0.3, -0.8, 0]]),
    "he": _f64([[-1.0, -0.2, 0], [-0.1, -0.9, -0.6], [-0.4, 0, 0], [-0.5, -0.4, 0]]),
}
SCORED = Scored(REWARDS, ROLLOUTS.group_ids, ROLLOUTS.mask, LOGP, entropy={})
ETA, KAPPA = 0.5, 2.0
# exp(new log-prob - old log-prob), as if some updates had been made since: on both sides of the
# clip; 1 beyond a length.
RATIOS = _f64([[1.5, 0.5, 1], [1.5, 0.5, 1.1], [0.9, 1, 1], [1.0, 1.25, 1]])


def table(columns=None):
    """The example token by token, with tensors (4, 3) as columns {name: tensor}, to four digits;
    without columns, the log-probs.
    """
    response, place = ROLLOUTS.mask.nonzero().T.tolist()
    rows = pd.DataFrame(index=pd.Index(response, name="response"))
    rows["drawn in"] = [ROLLOUTS.modes[r] for r in response]
    rows["reward"] = [int(REWARDS[r]) for r in response]
    rows["token"] = [WORDS[r][t] for r, t in zip(response, place, strict=True)]
    for name, values in (columns or {"log π": LOGP["normal"], "log π_HE": LOGP["he"]}).items():
        # + 0.0 makes 0.0 of -0.0, whose sign is rounding's
        rows[name] = (values[ROLLOUTS.mask].round(decimals=4) + 0.0).tolist()
    return rows
