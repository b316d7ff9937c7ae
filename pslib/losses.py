"""Losses and token masks, as pure functions of tensors.

The training loop minimises token_mean(clipped_surrogate(...)), with entropy regularization less
coef H. Equation numbers are those of Policy Split.
"""

import torch
from beartype import beartype
from jaxtyping import Bool, Float, jaxtyped
from torch import Tensor

checked = jaxtyped(typechecker=beartype)  # shapes, at every call


def _ratio(logp, old_logp):
    """exp(logp - old_logp); the largest number, without a gradient, where that is infinite.

    logp, old_logp (N, T) -> (N, T); NaN stays NaN.
    """
    log_ratio = logp - old_logp.detach()
    overflows = log_ratio.detach().exp().isinf()
    # The gradient of exp at infinity is infinity times 0, which is NaN, so exp must not see it.
    ratio = torch.where(overflows, 0.0, log_ratio).exp()
    return torch.where(overflows, torch.finfo(ratio.dtype).max, ratio)


@checked
def clipped_surrogate(
    logp: Float[Tensor, "N T"],
    old_logp: Float[Tensor, "N T"],
    adv: Float[Tensor, "N T"],
    eps_low=0.2,
    eps_high=0.2,
) -> Float[Tensor, "N T"]:
    """PPO's pessimistic surrogate, per token, to be minimised.

    -min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A), rho = exp(logp - old_logp) (eq. 7, 8)

    Both log-probs must be taken under the prompt of the mode that is trained. Where rho or rho A
    overflows, as at padding, the loss is finite and has no gradient: a mask applied later would not
    stop NaN gradients.
    """
    ratio = _ratio(logp, old_logp)
    per_token = -torch.minimum(ratio * adv, ratio.clamp(1 - eps_low, 1 + eps_high) * adv)
    return per_token.clamp(max=torch.finfo(per_token.dtype).max)


@checked
def token_mean(
    per_token: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], total=None
) -> Float[Tensor, ""]:
    """The sum over unmasked tokens divided by `total`, the whole batch's number of valid tokens.

    (1 / total) sum_{i,t} mask_it x_it

    With `total` given, the parts of a split batch add up to the
    loss of the whole, whatever the split; without, the mask's own count is used.
    """
    total = mask.sum().clamp(min=1) if total is None else total
    return torch.where(mask, per_token, 0.0).sum() / total


@checked
def forking_mask(
    entropy: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], keep=0.2
) -> Bool[Tensor, "N T"]:
    """The forking tokens: the `keep` share of valid tokens with the highest entropy in the batch.

    {(i, t): H_it >= the (1 - keep) quantile of H} (Wang et al. 2025, arXiv 2506.01939, eq. 6)

    True = train on it. Exactly round(keep * valid)
    tokens, at least one, the earlier ones first among equals. The loss is divided by the number of
    kept tokens.
    """
    chosen = torch.zeros_like(mask)
    valid = mask.flatten().nonzero().squeeze(1)
    if len(valid):
        count = max(1, round(keep * len(valid)))
        order = entropy.detach().flatten()[valid].argsort(descending=True, stable=True)
        chosen.view(-1)[valid[order[:count]]] = True
    return chosen


@checked
def clip_cov_mask(
    logp: Float[Tensor, "N T"],
    old_logp: Float[Tensor, "N T"],
    adv: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    ratio=2e-4,
    lower=1.0,
    upper=5.0,
    generator=None,
    eps=0.2,
) -> Bool[Tensor, "N T"]:
    """Leave out a few tokens whose log-prob and advantage rise together (Cui et al., 2505.22617).

    cov_it = (A_it - mean A)(logp_it - mean logp), means over the valid tokens. Candidates have
    lower < cov < upper and are not clipped by PPO already; max(1, floor(ratio * valid)) of them, or
    all if fewer, are drawn at random.

    True = keep. Dropped tokens stay in the loss's denominator.
    """
    keep = mask.clone()
    if not mask.any():
        return keep
    logp, old_logp = logp.detach(), old_logp.detach()
    cov = (adv - adv[mask].mean()) * (logp - logp[mask].mean())
    rho = torch.exp(torch.where(mask, logp - old_logp, 0.0))
    clipped = ((rho > 1 + eps) & (adv > 0)) | ((rho < 1 - eps) & (adv < 0))
    candidates = (mask & ~clipped & (cov > lower) & (cov < upper)).flatten().nonzero().squeeze(1)
    count = min(len(candidates), max(1, int(ratio * int(mask.sum()))))
    order = torch.randperm(len(candidates), generator=generator)
    keep.view(-1)[candidates[order[:count]]] = False
    return keep
