"""Advantages: eq. 2 to 6, and those of the two baselines that shape them.

Pure functions of tensors. Equation numbers are those of Policy Split (arXiv 2604.11510v1).
"""

import torch
from beartype import beartype
from jaxtyping import Bool, Float, Int, jaxtyped
from torch import Tensor

checked = jaxtyped(typechecker=beartype)  # shapes, at every call


def _group_sums(values, group_ids):
    """Sums of values (N,) over groups, a sum a group, and each row's group position (N,)."""
    _, where = torch.unique(group_ids, return_inverse=True)
    sums = values.new_zeros(int(where.max()) + 1).index_add_(0, where, values)
    return sums, where


def _all_equal(low, high, where):
    """Whether a group holds one value alone, by its rows' extremes (N,): exact; a std is not."""
    groups = int(where.max()) + 1
    lowest = low.new_full((groups,), torch.inf).scatter_reduce_(0, where, low, "amin")
    highest = high.new_full((groups,), -torch.inf).scatter_reduce_(0, where, high, "amax")
    return highest <= lowest


@checked
def group_relative(
    rewards: Float[Tensor, " N"], group_ids: Int[Tensor, " N"], eps=1e-6
) -> Float[Tensor, " N"]:
    """GRPO's advantage: each reward's z-score within its question's group.

    A_i = (r_i - mean r) / (std r + eps), std with ddof 1 (eq. 2)

    A dead group, one whose rewards are all equal, and a group of one give exactly 0: rounding alone
    could leave 0.06, of rewards such as 0.7.
    """
    count, where = _group_sums(torch.ones_like(rewards), group_ids)
    mean = _group_sums(rewards, group_ids)[0] / count
    centred = rewards - mean[where]
    std = (_group_sums(centred**2, group_ids)[0] / (count - 1).clamp(min=1)).sqrt()
    return torch.where(
        _all_equal(rewards, rewards, where)[where], 0.0, centred / (std[where] + eps)
    )


@checked
def exploration_signal(
    logp_he: Float[Tensor, "N T"], logp_normal: Float[Tensor, "N T"], alpha=0.5
) -> Float[Tensor, "N T"]:
    """A token's worth to exploration: surprise to the high-entropy mode, distance from the normal.

    b_t = -alpha log pi_HE(o_t) - (1 - alpha) log pi(o_t) (eq. 6), the sampled-token form, up to
    scale, of beta1 H(pi_HE) + beta2 KL(pi_HE || pi) (eq. 5)

    All in nats; the signal is at least 0.
    """
    return -alpha * logp_he - (1 - alpha) * logp_normal


@checked
def standardize_in_group(
    signal: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    group_ids: Int[Tensor, " N"],
    eps=1e-6,
) -> Float[Tensor, "N T"]:
    """The signal's z-score over all tokens of all responses to a question.

    B = (b - mean b) / (std b + eps), pooled over the group's valid tokens, std with ddof 1 (eq. 4)

    B is 0 where masked, and in a group of equal signals.
    """
    signal = torch.where(mask, signal, 0.0)
    count, where = _group_sums(mask.sum(1).to(signal.dtype), group_ids)
    mean = _group_sums(signal.sum(1), group_ids)[0] / count.clamp(min=1)
    centred = torch.where(mask, signal - mean[where, None], 0.0)
    variance = _group_sums((centred**2).sum(1), group_ids)[0] / (count - 1).clamp(min=1)
    low = signal.masked_fill(~mask, torch.inf).amin(1)
    high = signal.masked_fill(~mask, -torch.inf).amax(1)
    scaled = centred / (variance.sqrt()[where, None] + eps)
    return torch.where(_all_equal(low, high, where)[where, None], 0.0, scaled)


# What is added to A, by variant; bound is |A|/kappa.
VARIANTS = {
    "paper": lambda bonus, eta, bound: eta * bonus.clamp(-bound, bound),
    "clip_order": lambda bonus, eta, bound: (eta * bonus).clamp(-bound, bound),
    "doubled": lambda bonus, eta, bound: 2 * eta * bonus.clamp(-bound, bound),
    "released": lambda bonus, eta, bound: 2 * (eta * bonus).clamp(-bound, bound),
    "unclipped": lambda bonus, eta, bound: eta * bonus,
}


@checked
def high_entropy(
    adv: Float[Tensor, " N"],
    bonus: Float[Tensor, "N T"],
    eta,
    kappa,
    variant="paper",
) -> Float[Tensor, "N T"]:
    """The high-entropy mode's advantage: A tilted towards exploration, within bounds.

    variant "paper":    A + eta clip(B, -|A|/kappa, |A|/kappa) (eq. 3)
    variant "released": A + 2 clip(eta B, -|A|/kappa, |A|/kappa), what the authors' code computes.
    There eta is inside the clip ("clip_order", if that were all). `advantages` and `returns` are
    one tensor, so the bonus is added twice ("doubled"). Its default kappa of 0 means "unclipped",
    A + eta B.

    adv is A, bonus is B; the result is detached. Unless unclipped, a dead group's A = 0 leaves no
    bonus, and the sign of A cannot flip while eta <= kappa ("paper"), 2 eta <= kappa ("doubled") or
    kappa >= 2 ("released"). ValueError for eta < 0, kappa < 1 or an unknown variant.
    """
    if eta < 0 or kappa < 1:
        raise ValueError(f"eq. 3 needs eta >= 0 and kappa >= 1; got eta={eta}, kappa={kappa}")
    adv, bonus = adv.detach()[:, None], bonus.detach()
    bound = adv.abs() / kappa
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}; got {variant!r}")
    return adv + VARIANTS[variant](bonus, eta, bound)


@checked
def entropy_advantage(
    adv: Float[Tensor, "N T"], entropy: Float[Tensor, "N T"], alpha=0.4, kappa=2.0
) -> Float[Tensor, "N T"]:
    """Every token's advantage raised by its entropy, up to a share (Cheng et al. 2025, 2506.14758).

    A + min(alpha H, |A| / kappa), H detached and over the full vocabulary

    entropy in nats. It shrinks |A| where A < 0.
    """
    return adv + torch.minimum(alpha * entropy.detach(), adv.abs() / kappa)


@checked
def entropy_driven(
    adv: Float[Tensor, " N"],
    entropy: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    group_ids: Int[Tensor, " N"],
    floor=1e-3,
) -> Float[Tensor, " N"]:
    """Confident responses weigh more: EDGE-GRPO (Zhang et al. 2025, arXiv 2507.21848).

    A_i / P'_i with P'_i = P_i / mean of P over the group, and P_i the mean entropy of the
    response's tokens, detached

    entropy in nats. `floor`, in nats, is added to every P_i, so that a response of no entropy does
    not get an infinite weight.
    """
    entropy = torch.where(mask, entropy.detach(), 0.0)
    mean = entropy.sum(1) / mask.sum(1).clamp(min=1) + floor
    total, where = _group_sums(mean, group_ids)
    count, _ = _group_sums(torch.ones_like(mean), group_ids)
    return adv / (mean / (total / count)[where])
