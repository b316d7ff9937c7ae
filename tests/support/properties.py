"""What must hold of the mathematics whatever the batch: each property is a check with the
strategies it is tried on.

tests/test_properties.py tries each a few times, tests/long/test_mathematics.py two hundred. All is
float64, and holds to rounding; the one exception, what `eps` does to the scale of rewards, is
stated as an equation of its own.
"""

import itertools
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pslib import advantages, losses, methods, policy
from pslib.lab.engines import DecoderEngine, GenerateEngine
from pslib.methods import Scored
from pslib.policy import logprobs_and_entropy
from pslib.rollouts import Decoding
from tests.support.steps import TRAINED, gradients

# Coefficients under which each method's own part acts on a batch of some twenty tokens. Clip-Cov
# drops every candidate: fewer are drawn at random by their place, which is all that the order of
# rows may change.
ACTING = {
    "forking": {"keep": 0.4},
    "clip_cov": {"ratio": 1.0, "lower": 0.05, "upper": 100.0},
    "entropy_regularization": {"coef": 0.3},
    "policy_split": {"eta": 1.3, "alpha": 0.3},
    "policy_split_released": {"eta": 0.7, "alpha": 0.3},
}
PROPERTIES = {}

seeds = st.integers(0, 10**9)
groups = st.lists(st.integers(1, 6), min_size=1, max_size=4)  # sizes
widths = st.integers(1, 6)
wide = st.floats(-1e3, 1e3, width=32)
names = st.sampled_from(TRAINED)


def holds(**strategies):
    """Enter a check among PROPERTIES with what it is tried on."""

    def enter(check):
        PROPERTIES[check.__name__] = check, strategies
        return check

    return enter


def prove(check, strategies, cases, counts):
    """Try a check on `cases` examples, counting in counts["tried"] and counts["survived"]; raises
    where it fails.
    """

    @settings(max_examples=cases)
    @given(**strategies)
    def trial(**drawn):
        counts["tried"] += 1
        check(**drawn)
        counts["survived"] += 1

    trial()


def acting(name):
    """A method whose own part a small batch notices."""
    return methods.get(name, **ACTING.get(name, {}))


def close(ours, theirs, tolerance=1e-9):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def random_of(seed):
    return torch.Generator().manual_seed(seed)


def batch(sizes, width, seed):
    """A step as the methods see it: rows of groups mixed up, some groups dead, lengths from 1 to
    `width`.
    """
    generator, rows = random_of(seed), sum(sizes)

    def uniform(*shape):
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    labels = torch.randperm(100, generator=generator)[: len(sizes)].repeat_interleave(
        torch.tensor(sizes)
    )
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    mixed = torch.randperm(rows, generator=generator)
    return Scored(
        torch.randint(3, (rows,), generator=generator).double() / 2,
        labels[mixed],
        torch.arange(width) < lengths[:, None],
        {mode: -3 * uniform(rows, width) for mode in ("normal", "he")},
        {mode: 2 * uniform(rows, width) for mode in ("normal", "he")},
    )


def changed(scored, rewards=lambda t: t, ids=lambda t: t, tokens=lambda t: t):
    """The same step with its rewards, group ids and (R, T) tensors passed through functions."""
    return Scored(
        rewards(scored.rewards),
        ids(scored.group_ids),
        tokens(scored.mask),
        {mode: tokens(t) for mode, t in scored.logp.items()},
        {mode: tokens(t) for mode, t in scored.entropy.items()},
    )


def advantage(method, scored):
    """(N, T): every training mode's advantage, one mode after the other."""
    return torch.cat([shaped(scored, method.coefficients) for shaped in method.advantage.values()])


def loss(method, scored, logp, entropy, old=None):
    """A method's whole loss on log-probs and entropies (N, T) that may need a gradient; `scored` is
    what it was before.
    """
    old = torch.cat([scored.logp[mode] for mode in method.training]) if old is None else old
    before = torch.cat([scored.entropy[mode] for mode in method.training])
    adv, mask = advantage(method, scored), scored.mask.repeat(len(method.training), 1)
    keep = method.keep(old, adv, before, mask, method.coefficients, random_of(0))
    coef = method.coefficients.get(method.entropy_coef, 0.0)
    return losses.token_mean(
        losses.clipped_surrogate(logp, old, adv) - coef * entropy,
        keep,
        int((keep if method.divide_by_kept else mask).sum()),
    )


def whole_loss(method, scored, step=0.3):
    """The loss after log-probs have moved by a fixed function of where they were, so that some
    ratios are clipped.
    """
    old = torch.cat([scored.logp[mode] for mode in method.training])
    return loss(
        method,
        scored,
        old + step * torch.sin(5 * old),
        torch.cat([scored.entropy[m] for m in method.training]),
    )


# --- rewards --------------------------------------------------------------------------------------
@holds(sizes=groups, seed=seeds, shift=wide)
def adding_to_all_rewards_of_a_group_changes_no_advantage(sizes, seed, shift):
    scored = batch(sizes, 1, seed)
    moved = scored.rewards + shift * scored.group_ids  # every group by another amount
    close(
        advantages.group_relative(moved, scored.group_ids),
        advantages.group_relative(scored.rewards, scored.group_ids),
        1e-8,
    )


@holds(sizes=groups, seed=seeds, scale=st.floats(1e-3, 1e3))
def multiplying_rewards_is_dividing_eps(sizes, seed, scale):
    # A(c r; eps) = A(r; eps / c): with eps = 0 the advantage would not see the scale at all. As eps
    # = 1e-6, it is off by the factor (s + eps) / (s + eps / c), s the group's standard deviation:
    # 2e-6 at most for 0-1 rewards.
    scored = batch(sizes, 1, seed)
    rewards, ids = scored.rewards, scored.group_ids
    ours, eps = advantages.group_relative(scale * rewards, ids), 1e-6
    close(ours, advantages.group_relative(rewards, ids, eps / scale))
    for label in ids.unique():
        of = rewards[ids == label]
        std = of.std() if len(of) > 1 else torch.tensor(1.0)
        close(
            ours[ids == label],
            advantages.group_relative(rewards, ids)[ids == label]
            * (std + eps)
            / (std + eps / scale),
        )


@holds(sizes=groups, seed=seeds)
def the_opposite_rewards_have_the_opposite_advantages(sizes, seed):
    scored = batch(sizes, 1, seed)
    close(
        advantages.group_relative(-scored.rewards, scored.group_ids),
        -advantages.group_relative(scored.rewards, scored.group_ids),
    )


@holds(
    sizes=st.lists(st.integers(1, 16), min_size=1, max_size=4),
    width=widths,
    seed=seeds,
    name=names,
    reward=st.one_of(wide, st.integers(1, 99).map(lambda percent: percent / 100)),
)
def equal_rewards_give_exactly_no_advantage(sizes, width, seed, name, reward):
    # float32, as rewards are when graded, where rounding is at its worst
    dead = changed(batch(sizes, width, seed), rewards=lambda r: torch.full_like(r, reward).float())
    assert (advantage(acting(name), dead) == 0).all()


# --- the order of groups, of rows, and padding ----------------------------------------------------
@holds(sizes=groups, width=widths, seed=seeds, name=names)
def the_order_of_rows_is_kept_by_advantages_and_not_seen_by_the_loss(sizes, width, seed, name):
    scored, method = batch(sizes, width, seed), acting(name)
    order = torch.randperm(len(scored.rewards), generator=random_of(seed + 1))
    mixed = changed(scored, *[lambda t: t[order]] * 3)
    both = torch.cat([order + k * len(order) for k in range(len(method.training))])
    close(advantage(method, mixed), advantage(method, scored)[both])
    close(whole_loss(method, mixed), whole_loss(method, scored))


@holds(sizes=groups, width=widths, seed=seeds, name=names)
def the_labels_and_the_order_of_groups_are_not_seen(sizes, width, seed, name):
    scored, method = batch(sizes, width, seed), acting(name)
    other = torch.randperm(100, generator=random_of(seed + 1))
    renamed = changed(scored, ids=lambda ids: other[ids])
    close(advantage(method, renamed), advantage(method, scored))
    close(whole_loss(method, renamed), whole_loss(method, scored))


@holds(sizes=groups, width=widths, seed=seeds, name=names)
def a_group_is_shaped_as_if_it_were_alone(sizes, width, seed, name):
    scored, method = batch(sizes, width, seed), acting(name)
    mine = scored.group_ids == scored.group_ids[0]
    alone = changed(scored, *[lambda t: t[mine]] * 3)
    close(advantage(method, alone), advantage(method, scored)[mine.repeat(len(method.training))])


@holds(sizes=groups, width=widths, more=st.integers(1, 5), seed=seeds, name=names, fill=wide)
def padding_on_the_right_is_not_seen(sizes, width, more, seed, name, fill):
    scored, method = batch(sizes, width, seed), acting(name)
    valid = torch.nn.functional.pad(scored.mask, (0, more))
    filled = changed(
        scored,
        tokens=lambda t: (
            valid
            if t.dtype == torch.bool
            else torch.where(valid, torch.nn.functional.pad(t, (0, more)), fill)
        ),
    )
    mask = scored.mask.repeat(len(method.training), 1)
    close(advantage(method, filled)[:, :width][mask], advantage(method, scored)[mask])
    close(whole_loss(method, filled, 1e-3), whole_loss(method, scored, 1e-3))


# --- the high-entropy advantage -------------------------------------------------------------------
bonuses = {
    "adv": st.floats(-5, 5, width=32),
    "bonus": st.floats(-1e3, 1e3, width=32),
    "eta": st.floats(0, 20),
    "kappa": st.floats(1, 10),
}


def _tilted(adv, bonus, eta, kappa, variant):
    made = advantages.high_entropy(
        torch.tensor([adv]).double(), torch.tensor([[bonus]]).double(), eta, kappa, variant
    )
    return made.item()


@holds(**bonuses)
def the_bonus_is_at_most_its_bound(adv, bonus, eta, kappa):
    # paper: eta |A| / kappa, so |A| / kappa at most while eta <= 1; released: 2 |A| / kappa,
    # whatever eta is
    slack = 1 + 1e-9
    assert (
        abs(_tilted(adv, bonus, eta, kappa, "paper") - adv)
        <= eta * abs(adv) / kappa * slack + 1e-15
    )
    assert (
        abs(_tilted(adv, bonus, min(eta, 1), kappa, "paper") - adv)
        <= abs(adv) / kappa * slack + 1e-15
    )
    assert (
        abs(_tilted(adv, bonus, eta, kappa, "released") - adv)
        <= 2 * abs(adv) / kappa * slack + 1e-15
    )


@holds(**bonuses, share=st.floats(0, 0.99))
def the_sign_of_the_advantage_never_flips(adv, bonus, eta, kappa, share):
    # paper: while eta <= kappa; released: while kappa >= 2. Beyond, a large enough bonus does flip
    # it.
    for made in (
        _tilted(adv, bonus, share * kappa, kappa, "paper"),
        _tilted(adv, bonus, eta, 1.01 + kappa, "released"),
    ):
        assert math.copysign(1, made) == math.copysign(1, adv) if adv else made == 0
    against = math.copysign(1e3, -adv)
    assert _tilted(adv, against, 1.01 * kappa, kappa, "paper") * adv < 0 or abs(adv) < 1e-9
    assert _tilted(adv, against, 20, min(kappa, 1.9), "released") * adv < 0 or abs(adv) < 1e-9


@holds(sizes=groups, width=widths, seed=seeds, alpha=st.floats(0, 1))
def the_exploration_signal_is_the_same_with_modes_and_weights_exchanged(sizes, width, seed, alpha):
    scored = batch(sizes, width, seed)
    he, normal = scored.logp["he"], scored.logp["normal"]
    signal = advantages.exploration_signal(he, normal, alpha)
    close(signal, advantages.exploration_signal(normal, he, 1 - alpha))
    assert (signal >= 0).all()
    low, high = torch.minimum(-he, -normal), torch.maximum(-he, -normal)
    assert ((low - 1e-12 <= signal) & (signal <= high + 1e-12)).all()


@holds(sizes=groups, width=widths, seed=seeds, scale=st.floats(0.1, 10), shift=st.floats(-10, 10))
def a_standardized_signal_has_mean_0_and_deviation_1_whatever_its_scale(
    sizes, width, seed, scale, shift
):
    scored, eps = batch(sizes, width, seed), 1e-12
    signal, mask, ids = scored.logp["he"], scored.mask, scored.group_ids
    made = advantages.standardize_in_group(signal, mask, ids, eps)
    close(advantages.standardize_in_group(scale * signal + shift, mask, ids, eps), made, 1e-6)
    for label in ids.unique():
        tokens = made[(ids == label)[:, None] & mask]
        if len(tokens) > 1:
            close(tokens.mean(), torch.zeros((), dtype=torch.float64))
            close(tokens.std(), torch.ones((), dtype=torch.float64), 1e-6)


# --- the baselines' advantages --------------------------------------------------------------------
@holds(sizes=groups, width=widths, seed=seeds)
def entropy_driven_weights_are_positive_and_average_to_one_where_inverted(sizes, width, seed):
    scored = batch(sizes, width, seed)
    weight = advantages.entropy_driven(
        torch.ones_like(scored.rewards), scored.entropy["normal"], scored.mask, scored.group_ids
    )
    assert (weight > 0).all()
    for label in scored.group_ids.unique():  # 1 / weight = P / mean P
        close((1 / weight[scored.group_ids == label]).mean(), torch.ones((), dtype=torch.float64))


@holds(sizes=groups, width=widths, seed=seeds, alpha=st.floats(0, 2), kappa=st.floats(1, 5))
def the_entropy_advantage_raises_by_at_most_its_share(sizes, width, seed, alpha, kappa):
    scored = batch(sizes, width, seed)
    adv = advantages.group_relative(scored.rewards, scored.group_ids)[:, None].expand(
        scored.mask.shape
    )
    raised = advantages.entropy_advantage(adv, scored.entropy["normal"], alpha, kappa) - adv
    assert ((raised >= 0) & (raised <= adv.abs() / kappa + 1e-15)).all()
    assert (raised <= alpha * scored.entropy["normal"] + 1e-15).all()


# --- log-probs and entropy ------------------------------------------------------------------------
@holds(
    vocabulary=st.integers(1, 40),
    seed=seeds,
    spread=st.floats(0, 50),
    temperature=st.floats(0.1, 10),
    shift=wide,
)
def entropy_is_between_0_and_log_v_and_probabilities_add_up(
    vocabulary, seed, spread, temperature, shift
):
    logits = spread * torch.randn(vocabulary, dtype=torch.float64, generator=random_of(seed))
    every = torch.arange(vocabulary)
    logp, entropy = logprobs_and_entropy(logits.expand(vocabulary, -1), every, temperature)
    assert (logp <= 0).all() and -1e-12 <= entropy[0] <= math.log(vocabulary) + 1e-12
    close(logp.exp().sum(), torch.ones((), dtype=torch.float64))
    close(entropy[0], -(logp.exp() * logp).sum())
    close(
        logprobs_and_entropy((logits + shift).expand(vocabulary, -1), every, temperature)[0],
        logp,
        1e-8,
    )
    hotter = logprobs_and_entropy(logits[None], every[:1], 1.5 * temperature)[1]
    assert hotter[0] >= entropy[0] - 1e-9
    close(
        logprobs_and_entropy(0 * logits[None], every[:1], temperature)[1][0],
        torch.tensor(vocabulary).double().log(),
    )


# --- masks and means ------------------------------------------------------------------------------
@holds(sizes=groups, width=widths, seed=seeds, keep=st.floats(0, 1), levels=st.integers(1, 50))
def forking_keeps_the_right_number_and_none_below_one_left_out(sizes, width, seed, keep, levels):
    scored = batch(sizes, width, seed)
    entropy, mask = (levels * scored.entropy["normal"]).round(), scored.mask  # with ties
    chosen = losses.forking_mask(entropy, mask, keep)
    assert chosen.sum() == max(1, round(keep * int(mask.sum()))) and not (chosen & ~mask).any()
    left = entropy[mask & ~chosen]
    assert len(left) == 0 or entropy[chosen].min() >= left.max()


@holds(
    sizes=groups,
    width=widths,
    seed=seeds,
    ratio=st.floats(1e-4, 1),
    lower=st.floats(-1, 1),
    band=st.floats(0, 4),
    step=st.floats(0, 1),
)
def clip_cov_drops_the_right_number_and_candidates_alone(
    sizes, width, seed, ratio, lower, band, step
):
    scored = batch(sizes, width, seed)
    logp, mask = scored.logp["normal"], scored.mask
    old, adv = logp + step * torch.sin(7 * logp), scored.entropy["he"] - 1
    keep = losses.clip_cov_mask(logp, old, adv, mask, ratio, lower, lower + band, random_of(seed))
    cov = (adv - adv[mask].mean()) * (logp - logp[mask].mean())
    rho = (logp - old).exp()
    clipped = torch.where(adv > 0, rho > 1.2, rho < 0.8)
    candidates = mask & (lower < cov) & (cov < lower + band) & ~clipped
    assert not (keep & ~mask).any() and not (mask & ~keep & ~candidates).any()
    assert (mask & ~keep).sum() == min(int(candidates.sum()), max(1, int(ratio * int(mask.sum()))))


@holds(
    sizes=groups,
    width=widths,
    seed=seeds,
    cuts=st.lists(st.floats(0, 1), max_size=4),
    a=wide,
    b=wide,
)
def the_token_mean_is_linear_and_the_sum_of_its_parts(sizes, width, seed, cuts, a, b):
    scored = batch(sizes, width, seed)
    x, y, mask, total = (
        scored.logp["normal"],
        scored.entropy["normal"],
        scored.mask,
        int(scored.mask.sum()),
    )
    whole = losses.token_mean(x, mask)
    edges = [0, *sorted(round(cut * len(x)) for cut in cuts), len(x)]
    close(
        sum(losses.token_mean(x[i:j], mask[i:j], total) for i, j in itertools.pairwise(edges)),
        whole,
    )
    close(losses.token_mean(a * x + b * y, mask), a * whole + b * losses.token_mean(y, mask), 1e-8)
    close(losses.token_mean(x, mask, 3 * total), whole / 3)


@holds(
    sizes=groups,
    width=widths,
    seed=seeds,
    step=st.floats(0, 2),
    low=st.floats(0, 0.9),
    high=st.floats(0, 2),
)
def the_surrogate_is_pessimistic_and_plain_inside_its_clip(sizes, width, seed, step, low, high):
    scored = batch(sizes, width, seed)
    old, adv = scored.logp["normal"], scored.entropy["he"] - 1
    logp = (old + step * torch.sin(5 * old)).requires_grad_()
    made, plain = losses.clipped_surrogate(logp, old, adv, low, high), -(logp - old).exp() * adv
    made.sum().backward()
    rho = (logp - old).exp().detach()
    inside, stopped = (
        (1 - low < rho) & (rho < 1 + high),
        torch.where(adv > 0, rho > 1 + high, rho < 1 - low),
    )
    assert (made >= plain - 1e-12).all()
    close(made[inside], plain[inside])
    close(logp.grad[inside], -(rho * adv)[inside])
    assert (logp.grad[stopped] == 0).all()


# Up to far beyond what exp can hold in float32 (88.7) and in float64 (709.8).
extreme = [-1e30, -math.inf, 88.72, 88.73, 709.7, 709.8, 1e30, math.inf]
log_ratios = st.one_of(st.floats(-2, 2), st.floats(-1e3, 1e3), st.sampled_from(extreme))


@holds(
    entries=st.lists(st.tuples(log_ratios, st.floats(-100, 100)), min_size=1, max_size=12),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    low=st.floats(0, 0.9),
    high=st.floats(0, 2),
)
def the_surrogate_is_finite_and_as_written_where_that_is_finite(entries, dtype, low, high):
    log_ratio, adv = (torch.tensor([values], dtype=dtype) for values in zip(*entries, strict=True))
    ours, plain = log_ratio.clone().requires_grad_(), log_ratio.clone().requires_grad_()
    made = losses.clipped_surrogate(ours, torch.zeros_like(adv), adv, low, high)
    ratio = plain.exp()
    expected = -torch.minimum(ratio * adv, ratio.clamp(1 - low, 1 + high) * adv)
    made.sum().backward()
    expected.sum().backward()
    assert made.isfinite().all() and ours.grad.isfinite().all()
    for here, written in ((made.detach(), expected.detach()), (ours.grad, plain.grad)):
        assert torch.equal(here[written.isfinite()], written[written.isfinite()])


# --- properties that need a model ---------------------------------------------------------------
ids = st.lists(st.integers(6, 150), min_size=1, max_size=8)


def scoring_does_not_see_padding_or_neighbours(model64):
    """A row's log-probs and entropies are the plain ones of its own prompt and tokens, whatever
    stands beside and after it, and whether or not it shares its prompt.
    """

    def check(prompts, rows, more, fill):
        rows = [(prompts[place % len(prompts)], response) for place, response in rows]
        owner = torch.tensor([prompts.index(prompt) for prompt, _ in rows])
        lengths = torch.tensor([len(response) for _, response in rows])
        padded = torch.full((len(rows), int(lengths.max()) + more), fill)
        for row, (_, response) in enumerate(rows):
            padded[row, : len(response)] = torch.tensor(response)
        with torch.no_grad():
            together = policy.Policy(model64)(policy.pack(prompts, owner, padded, lengths))
            for row, (prompt, response) in enumerate(rows):
                logits = model64(input_ids=torch.tensor([prompt + response])).logits[
                    :, len(prompt) - 1 : -1
                ]
                alone = policy.logprobs_and_entropy(logits, torch.tensor([response]))
                for ours, theirs in zip(together, alone, strict=True):
                    close(ours[row, : len(response)], theirs[0], 1e-10)
                    assert (ours[row, len(response) :] == 0).all()

    return check, {
        "prompts": st.lists(ids, min_size=1, max_size=3),
        "more": st.integers(0, 4),
        "rows": st.lists(st.tuples(st.integers(0, 2), ids), min_size=1, max_size=4),
        "fill": st.integers(0, 199),
    }


def responses_do_not_depend_on_the_prompts_beside_them(model64, tokenizer):
    """Prompts of unlike length, which one engine pads on the left and the other takes apart: as
    each would alone.
    """

    def check(prompts, engine):
        engine = engine(model64, tokenizer)
        said = [
            [row[:n] for row, n in zip(tokens.tolist(), lengths.tolist(), strict=True)]
            for tokens, lengths in (
                engine.generate(given, 1, Decoding(0, 0, 1.0, 4), range(len(given)))
                for given in (prompts, *([prompt] for prompt in prompts))
            )
        ]
        assert said[0] == [alone[0] for alone in said[1:]]

    return check, {
        "prompts": st.lists(ids, min_size=2, max_size=4),
        "engine": st.sampled_from([DecoderEngine, GenerateEngine]),
    }


def the_gradient_does_not_depend_on_micro_batches(model64, start):
    """Any size of micro-batch, with the graph of the scores shared or made anew."""
    whole = {name: gradients(start(model64, acting(name))) for name in TRAINED}

    def check(name, micro, shared):
        metrics, _, ours = gradients(
            start(model64, acting(name), micro_tokens=micro, graph_tokens=65536 * shared)
        )
        expected, _, theirs = whole[name]
        assert abs(metrics["loss"] - expected["loss"]) < 1e-12
        for key in theirs:
            close(ours[key], theirs[key], 1e-11)

    return check, {
        "name": names,
        "micro": st.integers(1, 700),
        "shared": st.integers(0, 1),
    }
