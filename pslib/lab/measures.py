"""What a training step reports of its batch; the same for `train` and `trl`."""

import math

import torch

from pslib import advantages
from pslib.rollouts import unfinished

BITS = 1 / math.log(2)


def measure(rollouts, scored, measured, own_reward):
    """Accuracy by sampling mode, and the entropy of a mode's own responses in bits a token.

    Accuracy is left out where rewards are not 0 or 1; a mode's mean reward is given there, and
    wherever the reward is not ours.
    """
    out = {}
    groups = scored.rewards.new_zeros(int(scored.group_ids.max()) + 1)
    least, most = (
        groups.scatter_reduce(0, scored.group_ids, scored.rewards, which, include_self=False)
        for which in ("amin", "amax")
    )
    out["reward"] = float(scored.rewards.mean())
    out["live_groups"] = float((least < most).float().mean())
    out["response_tokens"] = float(rollouts.lengths.float().mean())
    for mode in dict.fromkeys(rollouts.modes):
        own = torch.tensor([drawn_in == mode for drawn_in in rollouts.modes])
        tokens = scored.mask & own[:, None]
        mean = float(scored.rewards[own].mean())
        if rollouts.right_or_wrong:
            out[f"accuracy_{mode}"] = mean
        if own_reward or not rollouts.right_or_wrong:
            out[f"reward_{mode}"] = mean
        out[f"entropy_bits_{mode}"] = (
            float(scored.entropy[mode][tokens].mean()) * BITS if measured else math.nan
        )
        if mode == "he":
            kl = (scored.logp["he"] - scored.logp["normal"])[tokens].mean()
            out["kl_he_from_normal"] = float(kl) if measured else math.nan
    return out


def bonus_shares(scored, adv, by_mode):
    """How large a training mode's bonus is: the mean of |A~ - A| / |A| over live groups' tokens.

    A is eq. 2's advantage and A~ what the mode trains with; 0 where no group is live.
    """
    plain = advantages.group_relative(scored.rewards, scored.group_ids)[:, None]
    tokens = scored.mask & (plain != 0)
    return {
        f"bonus_share_{name}": float(((adv[rows] - plain).abs() / plain.abs())[tokens].mean())
        if tokens.any()
        else 0.0
        for name, rows in by_mode.items()
    }


def of_step(batch, method, stops, own_reward):
    """The metrics of a step of `train.Run`, from its `train.Batch`; stops: the stop tokens' ids."""
    number = len(batch.rollouts.tokens)
    rows = {name: slice(k * number, (k + 1) * number) for k, name in enumerate(method.training)}
    return {
        **measure(batch.rollouts, batch.scored, batch.measured, own_reward),
        **bonus_shares(batch.scored, batch.advantage, rows),
        "unfinished": float(unfinished(batch.rollouts, stops).float().mean()),
    }


def is_beyond(measured, sampling, settings):
    """Whether a measured step's entropy or accuracy is beyond the settings' bounds, in any mode."""
    entropies = [measured[f"entropy_bits_{mode}"] for mode in sampling]
    means = [measured.get(f"reward_{mode}", measured.get(f"accuracy_{mode}")) for mode in sampling]
    too_high = 0 < settings.max_entropy_bits < max(entropies)
    return too_high or min(means) < settings.min_accuracy


def runaway_message(state):
    """Why a run was stopped, and what to do."""
    bounds = state.settings
    return (
        f"{state.method.label} was stopped after step {state.done}: for {state.beyond} steps "
        f"entropy was above max_entropy_bits={bounds.max_entropy_bits} or accuracy below "
        f"min_accuracy={bounds.min_accuracy}; lower the learning rate or the method's coefficients"
    )
