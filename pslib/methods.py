"""Methods: a row of the paper's table 1 is a row of METHODS, and the loop knows only its columns.

A method says which modes sample, which modes train and with which advantage, which tokens count,
and its coefficients. Rollout sharing (eq. 10) is the rule that every training mode learns from
every response, whichever mode drew it: Policy Split's four terms are two sampling modes times two
training modes. ABLATIONS holds what table 1 does not.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from pslib import advantages, losses
from pslib.lab import ranges


@dataclass(frozen=True)
class Scored:
    """What an advantage may look at: a step's responses as each training mode sees them.

    Rows that were not scored (dead groups, unless the method says `whole_batch` or the step is
    measured) hold 0.
    """

    rewards: torch.Tensor  # (R,)
    group_ids: torch.Tensor  # (R,)
    mask: torch.Tensor  # bool (R, T)
    logp: dict  # training mode -> (R, T) nats, before the update
    entropy: dict  # training mode -> (R, T) nats, before the update


@dataclass(frozen=True)
class Weighed:
    """What a method makes of a step, whose N rows are R responses under each training mode."""

    scored: Scored
    advantage: torch.Tensor  # (N, T)
    keep: torch.Tensor  # bool (N, T): the tokens that count in the loss
    total: torch.Tensor  # (): by how many tokens the loss is divided


def _relative(scored):
    return advantages.group_relative(scored.rewards, scored.group_ids)


def _grpo(scored, c):
    return _relative(scored)[:, None].expand(scored.mask.shape)


def _entropy_driven(scored, c):
    return advantages.entropy_driven(
        _relative(scored), scored.entropy["normal"], scored.mask, scored.group_ids, c["floor"]
    )[:, None].expand(scored.mask.shape)


def _entropy_advantage(scored, c):
    return advantages.entropy_advantage(
        _grpo(scored, c), scored.entropy["normal"], c["alpha"], c["kappa"]
    )


def _tilted(scored, c, eta, side=1):
    signal = advantages.exploration_signal(scored.logp["he"], scored.logp["normal"], c["alpha"])
    bonus = advantages.standardize_in_group(signal, scored.mask, scored.group_ids)
    return advantages.high_entropy(_relative(scored), side * bonus, eta, c["kappa"], c["variant"])


def _high_entropy(scored, c):
    return _tilted(scored, c, c["eta"])


def _normal_of_two(scored, c):
    """Eq. 2, plus eta_normal times a bonus of its own (below 0: less); the paper's is 0."""
    eta = c["eta_normal"]
    return _tilted(scored, c, abs(eta), -1 if eta < 0 else 1)


def _every_token(logp, adv, entropy, mask, c, generator):
    return mask


def _forking(logp, adv, entropy, mask, c, generator):
    return losses.forking_mask(entropy, mask, c["keep"])


def _clip_cov(logp, adv, entropy, mask, c, generator):
    return losses.clip_cov_mask(
        logp, logp, adv, mask, c["ratio"], c["lower"], c["upper"], generator
    )


_RANGES = {
    "eta": ranges.FROM_ZERO,
    "kappa": ranges.FROM_ONE,
    "alpha": ranges.SHARE,
    "eta_normal": ranges.ANY,
    "keep": ranges.POSITIVE_SHARE,
    "ratio": ranges.SHARE,
    "lower": ranges.ANY,
    "upper": ranges.ANY,
    "floor": ranges.POSITIVE,
    "coef": ranges.FROM_ZERO,
}


@dataclass(frozen=True)
class Method:
    """One row of the table of methods."""

    label: str  # as in table 1
    # training mode -> (Scored, coefficients) -> (R, T)
    advantage: dict = field(default_factory=lambda: {"normal": _grpo})
    sampling: tuple = ("normal",)
    # (logp, adv, entropy, mask, coefficients, generator) -> bool (N, T)
    keep: Callable = _every_token
    divide_by_kept: bool = False  # the loss's denominator: kept tokens, or all valid ones
    # whether it looks at every token of the batch, also those that it does not learn from
    whole_batch: bool = False
    learns_from_dead: bool = False  # whether a group whose rewards are all equal has a gradient
    # rollout sharing; without it each mode learns from its own responses, which are its groups
    shares: bool = True
    # training modes that learn from shared responses under their prompt as one user turn
    rewrapped: tuple = ()
    loses_end: bool = False  # whether the end token of a shared response is not learned from
    entropy_coef: str = ""  # which coefficient weighs the differentiable entropy term, if any
    coefficients: dict = field(default_factory=dict)
    # coefficient -> the numbers that it may be
    ranges: dict = field(default_factory=lambda: _RANGES, compare=False)

    @property
    def training(self):
        """The modes that train; none for the original model."""
        return tuple(self.advantage)

    @property
    def needed(self):
        """The modes that draw or train."""
        return tuple(dict.fromkeys((*self.sampling, *self.training)))

    def weigh(self, rewards, group_ids, mask, learned, logp, entropy, generator):
        """The advantage of each training mode's kind, and the tokens of the loss -> Weighed.

        rewards, group_ids (R,); mask bool (R, T); learned, the tokens that each training mode
        learns from, bool (N, T); logp, entropy (N, T), in nats; row k R + r is response r under
        the k-th training mode. The generator draws the tokens of Clip-Cov.
        """
        training, c = self.training, self.coefficients
        by_mode = [
            dict(zip(training, values.chunk(len(training)), strict=True))
            for values in (logp, entropy)
        ]
        scored = Scored(rewards, group_ids, mask, *by_mode)
        adv = torch.cat([advantage(scored, c) for advantage in self.advantage.values()])
        keep = self.keep(logp, adv, entropy, learned, c, generator)
        return Weighed(scored, adv, keep, (keep if self.divide_by_kept else learned).sum())

    def with_coefficients(self, label="", **coefficients):
        """The same method with other coefficients, or another label.

        ValueError names a coefficient that it does not have, or one out of its range.
        """
        for name in coefficients:
            if name not in self.coefficients:
                known = ", ".join(self.coefficients) or "none"
                raise ValueError(f"{self.label} has no coefficient {name!r}; it has {known}")
        ranges.check(coefficients, self.ranges, self.label)
        changed = {**self.coefficients, **coefficients}
        if changed.get("lower", 0) > changed.get("upper", 0):
            raise ValueError(
                f"{self.label}: lower must be at most upper; got {changed['lower']!r} and "
                f"{changed['upper']!r}"
            )
        if changed.get("variant", "paper") not in [*advantages.VARIANTS]:
            raise ValueError(
                f"{self.label}: variant must be one of {', '.join(advantages.VARIANTS)}; got "
                f"{changed['variant']!r}"
            )
        return replace(self, label=label or self.label, coefficients=changed)

    def same_but(self, coefficient, other):
        """Whether two methods differ, but for their labels, in this one coefficient at most."""
        one, two = (
            replace(m, label="", coefficients={**m.coefficients, coefficient: None})
            for m in (self, other)
        )
        return one == two


_SPLIT = Method(
    "Policy Split",
    {"normal": _normal_of_two, "he": _high_entropy},
    sampling=("normal", "he"),
    coefficients={"eta": 0.03, "kappa": 2.0, "alpha": 0.5, "variant": "paper", "eta_normal": 0.0},
)

METHODS = {
    "original": Method("Original", advantage={}),
    "grpo": Method("GRPO"),
    "forking": Method(
        "GRPO w/ Forking Token Only",
        keep=_forking,
        divide_by_kept=True,
        whole_batch=True,
        coefficients={"keep": 0.2},
    ),
    "clip_cov": Method(
        "GRPO w/ Clip-Cov",
        keep=_clip_cov,
        whole_batch=True,
        coefficients={"ratio": 2e-4, "lower": 1.0, "upper": 5.0},
    ),
    "entropy_driven": Method(
        "GRPO w/ Ent Driven Adv", {"normal": _entropy_driven}, coefficients={"floor": 1e-3}
    ),
    "entropy_regularization": Method(
        "GRPO w/ Ent Regularization",
        entropy_coef="coef",
        learns_from_dead=True,
        coefficients={"coef": 3e-3},
    ),
    "entropy_advantage": Method(
        "GRPO w/ Ent Advantage",
        {"normal": _entropy_advantage},
        coefficients={"alpha": 0.4, "kappa": 2.0},
        ranges={**_RANGES, "alpha": ranges.FROM_ZERO},
    ),
    "policy_split": _SPLIT,
    "policy_split_released": _SPLIT.with_coefficients(
        "Policy Split (released code's bonus)", variant="released"
    ),
}
# Policy Split without one of its parts, or with one departure of the released code; other
# coefficients make the rest.
ABLATIONS = {
    "policy_split_unshared": replace(
        _SPLIT, label="Policy Split without sharing", shares=False, whole_batch=True
    ),
    "policy_split_rewrapped": replace(
        _SPLIT, label="Policy Split, prompt re-wrapped", rewrapped=("he",)
    ),
    "policy_split_lost_end": replace(_SPLIT, label="Policy Split, end token lost", loses_end=True),
    "policy_split_unclipped": replace(
        _SPLIT, label="Policy Split, bonus not clipped", learns_from_dead=True
    ).with_coefficients(variant="unclipped"),
    "policy_split_as_released": replace(
        _SPLIT, label="Policy Split as released", rewrapped=("he",), loses_end=True
    ).with_coefficients(variant="released"),
}


def known():
    """Every method by name: the rows of table 1 and the ablations."""
    return {**METHODS, **ABLATIONS}


def get(name, **coefficients):
    """A method by name, with some coefficients set; ValueError names the methods there are."""
    if name not in known():
        raise ValueError(f"no method is called {name!r}; there are {', '.join(known())}")
    return known()[name].with_coefficients(**coefficients)
