"""What a training step reports of its batch; the same for `train` and `trl`."""

import math
import time

import torch

from pslib import advantages

BITS = 1 / math.log(2)


class Clock:
    """The seconds of a step's parts on a device, each called when it is over."""

    def __init__(self, device):
        self.device, self.seconds = device, {}
        self.since = self._now()

    def _now(self):
        if self.device.type == "cuda":  # where a call returns before its work is done
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def __call__(self, part):
        now = self._now()
        self.seconds[f"seconds_{part}"], self.since = now - self.since, now


def of_step(rollouts, weighed, measured, own_reward, graded=None):
    """Accuracy by sampling mode, the entropy of a mode's own responses in bits a token, and so on.

    weighed: a methods.Weighed; measured: whether all rows were scored, where entropy and inter-mode
    KL are else blank (NaN). Accuracy is left out where rewards are not 0 or 1; a mode's mean reward
    is given there, and wherever the reward is not ours (own_reward). graded: bool (R,), which
    responses have a reward at all; by default all.
    """
    out, scored = {}, weighed.scored
    graded = torch.ones(len(rollouts.modes), dtype=torch.bool) if graded is None else graded
    rewards = scored.rewards[graded]
    ids, places = scored.group_ids[graded].unique(return_inverse=True)
    least, most = (
        rewards.new_zeros(len(ids)).scatter_reduce(0, places, rewards, which, include_self=False)
        for which in ("amin", "amax")
    )
    out["reward"] = float(rewards.mean())
    out["live_groups"] = float((least < most).float().mean())
    out["response_tokens"] = float(rollouts.lengths.float().mean())
    for mode in dict.fromkeys(rollouts.modes):
        own = torch.tensor([drawn_in == mode for drawn_in in rollouts.modes])
        tokens = scored.mask & own[:, None]
        mean = float(scored.rewards[own & graded].mean())
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
    return out | bonus_shares(scored, weighed.advantage)


def bonus_shares(scored, adv):
    """How large a training mode's bonus is: the mean of |A~ - A| / |A| over live groups' tokens.

    A is eq. 2's advantage and A~, adv (N, T), what the mode trains with; 0 where no group is live.
    """
    plain = advantages.group_relative(scored.rewards, scored.group_ids)[:, None]
    tokens, shares = scored.mask & (plain != 0), {}
    for mode, own in zip(scored.logp, adv.chunk(len(scored.logp)), strict=True):
        changed = ((own - plain).abs() / plain.abs())[tokens]
        shares[f"bonus_share_{mode}"] = float(changed.mean()) if tokens.any() else 0.0
    return shares


def count_beyond(before, metrics, settings):
    """How many measured steps in a row had an entropy or an accuracy beyond the settings' bounds.

    before: how many had until this step. A step that was not measured leaves the count as it is.
    """
    start = "entropy_bits_"
    entropies = {k.removeprefix(start): v for k, v in metrics.items() if k.startswith(start)}
    if any(map(math.isnan, entropies.values())):
        return before
    means = [metrics.get(f"reward_{mode}", metrics.get(f"accuracy_{mode}")) for mode in entropies]
    too_high = 0 < settings.max_entropy_bits < max(entropies.values())
    return before + 1 if too_high or min(means) < settings.min_accuracy else 0


def is_runaway(state):
    """Whether a `train.Run` was beyond its bounds for `stop_beyond` steps in a row."""
    return 0 < state.settings.stop_beyond <= state.beyond


def refuse_runaway(state):
    """RuntimeError where entropy or accuracy of a `train.Run` ran away: why, and what to do."""
    if not is_runaway(state):
        return
    bounds = state.settings
    raise RuntimeError(
        f"{state.method.label} was stopped after step {state.done}: for {state.beyond} steps "
        f"entropy was above max_entropy_bits={bounds.max_entropy_bits} or accuracy below "
        f"min_accuracy={bounds.min_accuracy}; lower the learning rate or the method's coefficients"
    )
