"""Agreement with two peers on a hundred random batches each, to 1e-6 relative, in float64: TRL
1.16.0 and verl 0.9.1.

The peers' own code is called: TRL's trainer methods on a stand-in for the trainer that holds the
settings they read, verl's functions as they are. Where a peer defines a quantity differently, the
test says so and compares under the peer's definition.
"""

import sys
import time
import types
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from pslib import advantages, losses
from pslib.policy import logprobs_and_entropy
from tests.long.reliability import record
from tests.support import properties

BATCHES = 100
PEERS = Path(sys.prefix) / "peers"


def draw(seed):
    """A batch of groups of equal size, as TRL wants them: ids in order, ratios on both sides of the
    clip, ragged rows.
    """
    generator = properties.random_of(seed)

    def some(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    groups, size, width, vocabulary = some(1, 5), some(2, 9), some(1, 20), some(2, 30)
    rows = groups * size
    levels = some(2, 12)  # 2: right or wrong
    rewards = torch.randint(levels, (rows,), generator=generator).double() / (levels - 1) - 0.3 * (
        seed % 2
    )
    made = SimpleNamespace(
        size=size,
        ids=torch.arange(groups).repeat_interleave(size),
        width=width,
        rewards=rewards,
        mask=torch.arange(width) < torch.randint(1, width + 1, (rows, 1), generator=generator),
        logits=3 * normal(rows, width, vocabulary),
        adv=normal(rows, width) * some(1, 4),
        tokens=torch.randint(vocabulary, (rows, width), generator=generator),
        seed=seed,
    )
    made.logp, made.entropy = logprobs_and_entropy(made.logits, made.tokens)
    made.old = made.logp + 0.4 * normal(rows, width)
    made.dead = torch.stack(
        [made.rewards[made.ids == g].max() == made.rewards[made.ids == g].min() for g in made.ids]
    )
    return made


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-12)


def agree(claim, peer, check):
    """Try a comparison on the batches, record how many agreed, and raise the first that did not."""
    if peer is None:
        record(f"agreement with {claim}", 0, 0, 0)
        pytest.skip(f"the peer is not installed in {PEERS}, which make test-long does")
    begun, survived, failure = time.perf_counter(), 0, None
    for seed in range(BATCHES):
        try:
            check(draw(seed))
            survived += 1
        except Exception as error:
            failure = failure or error
    record(f"agreement with {claim}", BATCHES, survived, time.perf_counter() - begun)
    if failure:
        raise failure


def value_and_gradient(of, logp):
    """A scalar function of log-probs and its gradient, as one tensor."""
    logp = logp.detach().clone().requires_grad_()
    value = of(logp)
    return torch.cat([value.detach().reshape(1), torch.autograd.grad(value, logp)[0].flatten()])


def dead_groups_apart(ours, theirs, dead):
    """Ours is exactly 0 in a dead group; theirs is what rounding leaves of r - mean, divided by
    eps.
    """
    assert (ours[dead] == 0).all() and (theirs[dead].abs() < 1e-9).all()
    close(ours[~dead], theirs[~dead])


def surrogate(batch, logp):
    return losses.clipped_surrogate(logp, batch.old, batch.adv, 0.2, 0.28)


# --- TRL ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def trl():
    """TRL's trainer class and the two functions of its utils that are compared."""
    from trl.trainer import grpo_trainer, utils

    return SimpleNamespace(
        Trainer=grpo_trainer.GRPOTrainer,
        entropy=utils.entropy_from_logits,
        logp=utils.selective_log_softmax,
    )


def trainer(trl, batch, logp=None, **settings):
    """What TRL's methods read of `self`: its defaults, and log-probs and entropies that are handed
    in.
    """
    made = SimpleNamespace(
        accelerator=Accelerator(cpu=True),
        model=SimpleNamespace(training=True, is_gradient_checkpointing=False),
        args=SimpleNamespace(
            delta=None,
            steps_per_generation=1,
            gradient_accumulation_steps=1,
            per_device_train_batch_size=1,
            gradient_checkpointing_kwargs=None,
        ),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=0.0,
        loss_type="dapo",
        epsilon_low=0.2,
        epsilon_high=0.28,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        vllm_importance_sampling_correction=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=batch.width,
        use_adaptive_entropy=False,
        entropy_coef=0.0,
        _metrics={"train": defaultdict(list)},
        environment_factories=None,
        environments=None,
        tools=None,
        pad_to_multiple_of=None,
        mask_truncated_completions=False,
        num_iterations=1,
        num_generations=batch.size,
        multi_objective_aggregation="sum_then_normalize",
        scale_rewards="group",
        reward_weights=torch.ones(1, dtype=torch.float64),
        reward_func_names=["reward"],
        _pending_extra_logs={},
        _pending_metrics={},
        _tokenizer=SimpleNamespace(pad_token_id=0),
        _logs=defaultdict(list, rewards=defaultdict(list)),
    )
    vars(made).update(settings)
    made.get_high_entropy_mask = types.MethodType(trl.Trainer.get_high_entropy_mask, made)
    made._get_per_token_logps_and_entropies = lambda *args, **kwargs: (logp, batch.entropy, None)
    made._generate = lambda prompts: (
        [[1]] * len(prompts),
        [[1]] * len(prompts),
        None,
        [""] * len(prompts),
        None,
        {},
        None,
        None,
    )
    made._calculate_rewards = lambda *args: batch.rewards[:, None]
    return made


def trl_loss(trl, batch, **settings):
    """(value, gradient in the log-probs) of TRL's loss on a batch."""
    rows = len(batch.mask)
    inputs = {
        "prompt_ids": torch.ones(rows, 1),
        "prompt_mask": torch.ones(rows, 1),
        "completion_ids": batch.tokens,
        "completion_mask": batch.mask.long(),
        "advantages": batch.adv,
        "old_per_token_logps": batch.old,
        "num_items_in_batch": batch.mask.sum(),
    }
    return value_and_gradient(
        lambda logp: trl.Trainer._compute_loss(trainer(trl, batch, logp, **settings), None, inputs),
        batch.logp,
    )


def test_group_relative_is_trls(trl):
    # the same mean and ddof 1; TRL's eps is 1e-4, where ours is 1e-6
    def check(batch):
        made = trl.Trainer._generate_and_score_completions(
            trainer(trl, batch), [{"prompt": "?"} for _ in batch.rewards]
        )
        dead_groups_apart(
            advantages.group_relative(batch.rewards, batch.ids, eps=1e-4),
            made["advantages"],
            batch.dead,
        )

    agree("TRL: group-relative advantage", trl, check)


def test_clipped_loss_is_trls_in_every_aggregation(trl):
    # dapo divides by the valid tokens of the whole batch, which is ours; bnpo by those of the
    # micro-batch; dr_grpo by rows times the longest response allowed; luspo by rows; grpo takes the
    # mean of each row's own mean
    def check(batch):
        rows = len(batch.mask)
        totals = {"dapo": None, "bnpo": None, "dr_grpo": rows * batch.width, "luspo": rows}
        for kind, total in totals.items():
            close(
                value_and_gradient(
                    lambda logp: losses.token_mean(surrogate(batch, logp), batch.mask, total),
                    batch.logp,
                ),
                trl_loss(trl, batch, loss_type=kind),
            )
        close(
            value_and_gradient(
                lambda logp: (
                    sum(
                        losses.token_mean(row[None], mask[None])
                        for row, mask in zip(surrogate(batch, logp), batch.mask, strict=True)
                    )
                    / rows
                ),
                batch.logp,
            ),
            trl_loss(trl, batch, loss_type="grpo"),
        )

    agree("TRL: clipped loss and its gradient, five aggregations", trl, check)


def test_entropy_and_log_probs_are_trls(trl):
    def check(batch):
        for temperature in (1.0, 0.6):
            logp, entropy = logprobs_and_entropy(batch.logits, batch.tokens, temperature)
            close(entropy, trl.entropy(batch.logits / temperature))
            close(logp, trl.logp(batch.logits, batch.tokens, temperature))
        # the entropy term is a mean over the micro-batch's valid tokens there, over the whole
        # batch's here
        ours = losses.token_mean(surrogate(batch, batch.logp) - 0.1 * batch.entropy, batch.mask)
        close(ours, trl_loss(trl, batch, _entropy_bonus_enabled=True, entropy_coef=0.1)[0])

    agree("TRL: entropy, log-probs, entropy regularization", trl, check)


def test_forking_mask_is_trls(trl):
    # TRL keeps what reaches an interpolated quantile (in float32) of the entropies, so floor(keep
    # (n - 1)) + 1 tokens where none are equal; ours are round(keep n), at least one. Either way
    # they are the highest: with as many, the same ones. TRL divides the loss by all valid tokens;
    # ours, as its authors do, by those kept.
    def check(batch):
        valid, total = batch.mask.sum(), batch.mask.sum().item()
        for keep in (0.2, 0.5):
            theirs = trainer(trl, batch).get_high_entropy_mask(batch.entropy, batch.mask, 1 - keep)
            ours = losses.forking_mask(batch.entropy, batch.mask, keep)
            assert (
                losses.forking_mask(batch.entropy, batch.mask, theirs.sum().item() / total)
                == theirs
            ).all()
            assert abs(int(ours.sum()) - int(theirs.sum())) <= 1
            assert not (ours & ~theirs).any() or not (theirs & ~ours).any()  # one holds the other
            per_kept = value_and_gradient(
                lambda logp: losses.token_mean(surrogate(batch, logp), theirs), batch.logp
            )
            close(per_kept * theirs.sum() / valid, trl_loss(trl, batch, top_entropy_quantile=keep))

    agree("TRL: top-entropy mask and its loss", trl, check)


# --- verl -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def verl():
    """verl's core_algos without its engine: ray, which its import asks for one name of, is stood in
    for.

    verl pins an older transformers, so make test-long puts it and the six small packages that its
    import needs in a folder of their own, which nothing else looks into.
    """
    if not (PEERS / "verl").exists():
        return None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ray", types.ModuleType("ray"))
        sys.modules["ray"].ObjectRef = object
        patch.setattr(sys, "path", [*sys.path, str(PEERS)])
        from verl.trainer.ppo import core_algos
        from verl.utils import torch_functional
        from verl.workers.config import ActorConfig, PolicyLossConfig
    return SimpleNamespace(
        algos=core_algos, torch=torch_functional, Config=ActorConfig, Loss=PolicyLossConfig
    )


def verl_loss(verl, batch, kind, mode="token-mean", **settings):
    """(value, gradient in the log-probs) of one of verl's policy losses on a batch."""
    config = verl.Config(
        strategy="fsdp",
        rollout_n=1,
        use_dynamic_bsz=True,
        clip_ratio_low=0.2,
        clip_ratio_high=0.28,
        **settings,
    )
    mask = batch.mask.double()
    return value_and_gradient(
        lambda logp: verl.algos.get_policy_loss_fn(kind)(
            batch.old, logp, batch.adv, mask, loss_agg_mode=mode, config=config
        )[0],
        batch.logp,
    )


def test_group_relative_is_verls(verl):
    # the same mean, ddof 1 and eps; a group of one keeps its reward as its advantage there, and has
    # none here
    def check(batch):
        scores = torch.zeros_like(batch.logp)
        scores[:, -1] = batch.rewards  # verl adds up the rewards of a row's tokens
        theirs = verl.algos.compute_grpo_outcome_advantage(
            scores, torch.ones_like(scores), batch.ids.numpy()
        )[0][:, 0]
        dead_groups_apart(advantages.group_relative(batch.rewards, batch.ids), theirs, batch.dead)
        alone = torch.arange(len(batch.ids))
        single = verl.algos.compute_grpo_outcome_advantage(
            scores, torch.ones_like(scores), alone.numpy()
        )[0][:, 0]
        close(single, batch.rewards / (1 + 1e-6))
        assert (advantages.group_relative(batch.rewards, alone) == 0).all()

    agree("verl: group-relative advantage", verl, check)


def test_clipped_loss_is_verls_in_every_aggregation(verl):
    # verl clips once more where A < 0, at a ratio of 3: out of the way here at 1e9, and shown to be
    # all that differs
    def check(batch):
        rows, out_of_the_way = len(batch.mask), {"clip_ratio_c": 1e9}
        totals = {
            "token-mean": None,
            "token-sum": 1,
            "seq-mean-token-sum": rows,
            "seq-mean-token-sum-norm": rows * batch.width,
        }
        for mode, total in totals.items():
            close(
                value_and_gradient(
                    lambda logp: losses.token_mean(surrogate(batch, logp), batch.mask, total),
                    batch.logp,
                ),
                verl_loss(verl, batch, "vanilla", mode, **out_of_the_way),
            )
        close(
            value_and_gradient(
                lambda logp: (
                    sum(
                        losses.token_mean(row[None], mask[None])
                        for row, mask in zip(surrogate(batch, logp), batch.mask, strict=True)
                    )
                    / rows
                ),
                batch.logp,
            ),
            verl_loss(verl, batch, "vanilla", "seq-mean-token-mean", **out_of_the_way),
        )

        def clipped_twice(logp):
            return losses.token_mean(
                torch.where(
                    batch.adv < 0,
                    torch.minimum(surrogate(batch, logp), -3 * batch.adv),
                    surrogate(batch, logp),
                ),
                batch.mask,
            )

        close(value_and_gradient(clipped_twice, batch.logp), verl_loss(verl, batch, "vanilla"))

    agree("verl: clipped loss and its gradient, five aggregations", verl, check)


def test_entropy_and_log_probs_are_verls(verl):
    def check(batch):
        close(batch.entropy, verl.torch.entropy_from_logits(batch.logits))
        close(batch.logp, verl.torch.logprobs_from_logits_naive(batch.logits, batch.tokens))
        close(
            losses.token_mean(batch.entropy, batch.mask),
            verl.algos.compute_entropy_loss(batch.logits, batch.mask.double()),
        )

    agree("verl: entropy, log-probs, mean entropy", verl, check)


def test_clip_cov_is_verls(verl):
    # Both draw among the candidates with torch.randperm, verl from the global generator: seeded
    # alike, they drop the same tokens. One clip below and above, since ours asks PPO's one eps
    # whether a token is stopped already.
    dropped = []

    def check(batch):
        for ratio, lower, upper in ((2e-4, 1.0, 5.0), (0.1, 0.0, 2.0), (1.0, 0.2, 100.0)):
            policy_loss = verl.Loss(
                loss_mode="clip_cov", clip_cov_ratio=ratio, clip_cov_lb=lower, clip_cov_ub=upper
            )
            keep = losses.clip_cov_mask(
                batch.logp,
                batch.old,
                batch.adv,
                batch.mask,
                ratio,
                lower,
                upper,
                properties.random_of(batch.seed),
            )

            dropped.append(int((batch.mask & ~keep).sum()))

            def ours(logp):
                per_token = losses.clipped_surrogate(logp, batch.old, batch.adv, 0.2, 0.2)
                return losses.token_mean(
                    per_token, keep, batch.mask.sum()
                )  # dropped tokens stay in the denominator

            torch.manual_seed(batch.seed)
            config = verl.Config(
                strategy="fsdp", rollout_n=1, use_dynamic_bsz=True, policy_loss=policy_loss
            )
            theirs = value_and_gradient(
                lambda logp: verl.algos.compute_policy_loss_clip_cov(
                    batch.old, logp, batch.adv, batch.mask.double(), config=config
                )[0],
                batch.logp,
            )
            close(value_and_gradient(ours, batch.logp), theirs)

    with torch.random.fork_rng():
        agree("verl: Clip-Cov, the tokens it drops and its loss", verl, check)
    assert (
        sum(count > 0 for count in dropped) > BATCHES and max(dropped) > 5
    )  # there was something to drop
