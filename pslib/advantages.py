"""Advantages: group-relative (eq. 2), the high-entropy mode's (eq. 3 to 6), and the two baselines'
that shape them.

Pure functions of tensors. Equation numbers are those of Policy Split (arXiv 2604.11510v1).
"""

import torch


def _same_shape(**tensors):
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"these must have one shape; got {shapes}")


def _group_sums(values, group_ids):
    """Sums of values (N,) over groups, as (number of groups,), and each row's group position
    (N,).
    """
    _, where = torch.unique(group_ids, return_inverse=True)
    sums = values.new_zeros(int(where.max()) + 1).index_add_(0, where, values)
    return sums, where


def _all_equal(low, high, where):
    """Whether each group holds one value alone, from every row's lowest and highest (N,): exact,
    where a std is not.
    """
    groups = int(where.max()) + 1
    lowest = low.new_full((groups,), torch.inf).scatter_reduce_(0, where, low, "amin")
    highest = high.new_full((groups,), -torch.inf).scatter_reduce_(0, where, high, "amax")
    return highest <= lowest


def group_relative(rewards, group_ids, eps=1e-6):
    """GRPO's advantage: each reward's z-score within its question's group.

    A_i = (r_i - mean r) / (std r + eps), std with ddof 1 (eq. 2)

    rewards (N,) float, group_ids (N,) int -> (N,). A dead group, one whose rewards are all equal,
    and a group of one give exactly 0: rounding alone could leave 0.06, of rewards such as 0.7.
    """
    _same_shape(rewards=rewards, group_ids=group_ids)
    count, where = _group_sums(torch.ones_like(rewards), group_ids)
    mean = _group_sums(rewards, group_ids)[0] / count
    centred = rewards - mean[where]
    std = (_group_sums(centred**2, group_ids)[0] / (count - 1).clamp(min=1)).sqrt()
    return torch.where(
        _all_equal(rewards, rewards, where)[where], 0.0, centred / (std[where] + eps)
    )


def exploration_signal(logp_he, logp_normal, alpha=0.5):
    """How much a token is worth to exploration: surprising to the high-entropy mode, and far from
    the normal one.

    b_t = -alpha log pi_HE(o_t) - (1 - alpha) log pi(o_t) (eq. 6), the sampled-token form, up to
    scale, of beta1 H(pi_HE) + beta2 KL(pi_HE || pi) (eq. 5)

    logp_he, logp_normal (N, T) in nats -> (N, T) in nats, at least 0.
    """
    _same_shape(logp_he=logp_he, logp_normal=logp_normal)
    return -alpha * logp_he - (1 - alpha) * logp_normal


def standardize_in_group(signal, mask, group_ids, eps=1e-6):
    """The signal's z-score over all tokens of all responses to a question.

    B = (b - mean b) / (std b + eps), pooled over the group's valid tokens, std with ddof 1 (eq. 4)

    signal (N, T), mask bool (N, T), group_ids (N,) -> (N, T); 0 where masked, and in a group of
    equal signals.
    """
    _same_shape(signal=signal, mask=mask)
    signal = torch.where(mask, signal, 0.0)
    count, where = _group_sums(mask.sum(1).to(signal.dtype), group_ids)
    mean = _group_sums(signal.sum(1), group_ids)[0] / count.clamp(min=1)
    centred = torch.where(mask, signal - mean[where, None], 0.0)
    variance = _group_sums((centred**2).sum(1), group_ids)[0] / (count - 1).clamp(min=1)
    low, high = (
        signal.masked_fill(~mask, torch.inf).amin(1),
        signal.masked_fill(~mask, -torch.inf).amax(1),
    )
    return torch.where(
        _all_equal(low, high, where)[where, None],
        0.0,
        centred / (variance.sqrt()[where, None] + eps),
    )


# What is added to A, by variant; bound is |A|/kappa.
VARIANTS = {
    "paper": lambda bonus, eta, bound: eta * bonus.clamp(-bound, bound),
    "clip_order": lambda bonus, eta, bound: (eta * bonus).clamp(-bound, bound),
    "doubled": lambda bonus, eta, bound: 2 * eta * bonus.clamp(-bound, bound),
    "released": lambda bonus, eta, bound: 2 * (eta * bonus).clamp(-bound, bound),
    "unclipped": lambda bonus, eta, bound: eta * bonus,
}


def high_entropy(adv, bonus, eta, kappa, variant="paper"):
    """The high-entropy mode's advantage: the reward's, tilted towards exploration, within bounds
    that keep its side.

    variant "paper":    A + eta clip(B, -|A|/kappa, |A|/kappa) (eq. 3)
    variant "released": A + 2 clip(eta B, -|A|/kappa, |A|/kappa), what the authors' code computes.
    There eta is inside the clip ("clip_order", if that were all). `advantages` and `returns` are
    one tensor, so the bonus is added twice ("doubled"). Its default kappa of 0 means "unclipped",
    A + eta B.

    adv A (N,), bonus B (N, T) -> (N, T), detached. Unless unclipped, a dead group's A = 0 leaves no
    bonus, and the sign of A cannot flip while eta <= kappa ("paper"), 2 eta <= kappa ("doubled") or
    kappa >= 2 ("released").
    """
    if adv.ndim != 1 or bonus.ndim != 2 or len(adv) != len(bonus):
        raise ValueError(
            f"adv must be (N,) and bonus (N, T); got {tuple(adv.shape)} and {tuple(bonus.shape)}"
        )
    if eta < 0 or kappa < 1:
        raise ValueError(f"eq. 3 needs eta >= 0 and kappa >= 1; got eta={eta}, kappa={kappa}")
    adv, bonus = adv.detach()[:, None], bonus.detach()
    bound = adv.abs() / kappa
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}; got {variant!r}")
    return adv + VARIANTS[variant](bonus, eta, bound)


def entropy_advantage(adv, entropy, alpha=0.4, kappa=2.0):
    """Cheng et al. 2025 (arXiv 2506.14758): every token's advantage raised by its entropy, up to a
    share of it.

    A + min(alpha H, |A| / kappa), H detached and over the full vocabulary

    adv (N, T), entropy (N, T) in nats -> (N, T). It shrinks |A| where A < 0.
    """
    _same_shape(adv=adv, entropy=entropy)
    return adv + torch.minimum(alpha * entropy.detach(), adv.abs() / kappa)


def entropy_driven(adv, entropy, mask, group_ids, floor=1e-3):
    """EDGE-GRPO (Zhang et al. 2025, arXiv 2507.21848), sequence level: confident responses weigh
    more.

    A_i / P'_i with P'_i = P_i / mean of P over the group, and P_i the mean entropy of the
    response's tokens, detached

    adv (N,), entropy (N, T) in nats, mask bool (N, T), group_ids (N,) -> (N,). `floor`, in nats, is
    added to every P_i, so that a response of no entropy does not get an infinite weight.
    """
    _same_shape(entropy=entropy, mask=mask)
    _same_shape(adv=adv, group_ids=group_ids)
    entropy = torch.where(mask, entropy.detach(), 0.0)
    mean = entropy.sum(1) / mask.sum(1).clamp(min=1) + floor
    total, where = _group_sums(mean, group_ids)
    count, _ = _group_sums(torch.ones_like(mean), group_ids)
    return adv / (mean / (total / count)[where])
