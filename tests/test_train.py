"""Training: the terms of eq. 10, gradients against a plain re-implementation, refusals, and exact
resumption.
"""

import copy
import dataclasses
import itertools
import math
import signal
import threading
import warnings

import pytest
import torch

from pslib import advantages, methods, modes, policy, rewards, train
from pslib.lab import checkpoint, checks
from pslib.lab.settings import Training
from pslib.policy import Policy
from tests.support import faults
from tests.support.adapters import LowRank, Wrapped
from tests.support.steps import (
    POOL,
    SETTINGS,
    TRAINED,
    Stop,
    distributions,
    everything,
    gradients,
    laid_out,
    parity,
    rendered,
    spoil_a_step,
    through,
)

pytestmark = pytest.mark.usefixtures("graded_by_parity")


def weights(state):
    return {name: weight.detach().clone() for name, weight in state.model.named_parameters()}


def same(ours, theirs):
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def close(ours, theirs, tolerance):
    scale = max(gradient.abs().max().item() for gradient in theirs.values())
    assert scale > 0
    for name in theirs:
        worst = (ours[name] - theirs[name]).abs().max().item()
        assert worst <= tolerance * scale, (
            f"the gradient of {name} is off by {worst}, of {scale} at most"
        )


# --- rollout sharing, eq. 10 ----------------------------------------------------------------------
def test_every_response_is_trained_on_under_both_prompts_with_the_advantage_of_the_training_mode(
    model, tokenizer, he, start, monkeypatch
):
    seen, forward = {"rows": []}, Policy.forward

    def spy_forward(self, packed, temperature=1.0):
        seen["rows"] += laid_out(packed)
        return forward(self, packed, temperature)

    def spy_keep(logp, adv, entropy, mask, coefficients, generator):
        seen.update(logp=logp, adv=adv, mask=mask)
        return mask

    monkeypatch.setattr(Policy, "forward", spy_forward)
    method = dataclasses.replace(methods.get("policy_split", eta=1.0), keep=spy_keep)
    _, rollouts = start(model, method).step(POOL[:2])

    # R = 2 questions x 4; half of each group is drawn in each mode; R x 2 rows are trained
    responses = [
        tuple(row[:n])
        for row, n in zip(rollouts.tokens.tolist(), rollouts.lengths.tolist(), strict=True)
    ]
    assert len(responses) == 8 and rollouts.modes == ["normal"] * 4 + ["he"] * 4
    prompts = rendered(tokenizer, he)
    terms = [
        (tuple(prompts[trained][group]), response)
        for trained in ("normal", "he")
        for group, response in zip(rollouts.group_ids.tolist(), responses, strict=True)
    ]
    assert len(terms) == 16 and sorted(seen["rows"]) == sorted(terms)

    # Each half has its training mode's kind of advantage, over the whole group, whoever drew the
    # response.
    mask, relative = rollouts.mask, advantages.group_relative(rollouts.rewards, rollouts.group_ids)
    assert torch.equal(seen["mask"], mask.repeat(2, 1)) and (relative != 0).any()
    torch.testing.assert_close(seen["adv"][:8], relative[:, None].expand(mask.shape))
    signal = advantages.exploration_signal(seen["logp"][8:], seen["logp"][:8], 0.5)
    bonus = advantages.standardize_in_group(signal, mask, rollouts.group_ids)
    torch.testing.assert_close(seen["adv"][8:], advantages.high_entropy(relative, bonus, 1.0, 2.0))
    assert not torch.equal(seen["adv"][:8], seen["adv"][8:])


def test_grpo_trains_each_response_once_under_its_own_prompt(model, tokenizer, start, monkeypatch):
    rows, forward = [], Policy.forward

    def spy(self, packed, temperature=1.0):
        rows.extend(prompt for prompt, _ in laid_out(packed))
        return forward(self, packed, temperature)

    monkeypatch.setattr(Policy, "forward", spy)
    _, rollouts = start(model, "grpo").step(POOL[:2])
    plain = [tuple(modes.render(tokenizer, modes.NORMAL, q["question"])) for q in POOL[:2]]
    assert sorted(rows) == sorted(plain * 4) and rollouts.modes == ["normal"] * 8


# --- the loss, straight from the equations --------------------------------------------------------
def plain_loss(model, prompts_of, rollouts, method, temperature=1.0):
    """Eq. 7, 8 and 10 one response and one token at a time, with nothing of the library but the
    rendered prompts.
    """
    c = method.coefficients
    responses = [
        row[:n] for row, n in zip(rollouts.tokens.tolist(), rollouts.lengths.tolist(), strict=True)
    ]
    reward, group = rollouts.rewards.tolist(), rollouts.group_ids.tolist()

    def log_probs(mode, i):  # log pi_mode(o_t | q, o_<t), the prompt put before the response's ids
        every = distributions(model, prompts_of[mode][group[i]], responses[i], temperature)
        return [every[t, token] for t, token in enumerate(responses[i])]

    everyone = range(len(responses))
    logp = {mode: [log_probs(mode, i) for i in everyone] for mode in method.training}
    total, loss = sum(map(len, responses)) * len(method.training), 0.0
    for g in set(group):
        members = [i for i in everyone if group[i] == g]
        mean = sum(reward[i] for i in members) / len(members)
        std = math.sqrt(sum((reward[i] - mean) ** 2 for i in members) / (len(members) - 1))
        adv = {i: (reward[i] - mean) / (std + 1e-6) for i in members}  # eq. 2
        for mode in method.training:
            shaped = {i: [adv[i]] * len(responses[i]) for i in members}
            if mode == "he":
                b = {
                    i: [
                        -c["alpha"] * h.item() - (1 - c["alpha"]) * n.item()
                        for h, n in zip(logp["he"][i], logp["normal"][i], strict=True)
                    ]
                    for i in members
                }  # eq. 6
                pooled = [x for i in members for x in b[i]]
                mean_b = sum(pooled) / len(pooled)
                std_b = math.sqrt(sum((x - mean_b) ** 2 for x in pooled) / (len(pooled) - 1))
                for i in members:  # eq. 4 and 3
                    bound, bonus = (
                        abs(adv[i]) / c["kappa"],
                        [(x - mean_b) / (std_b + 1e-6) for x in b[i]],
                    )
                    shaped[i] = [adv[i] + c["eta"] * max(-bound, min(bound, x)) for x in bonus]
            for i in members:  # eq. 7 for the normal mode, eq. 8 for the high-entropy one
                for now, a in zip(logp[mode][i], shaped[i], strict=True):
                    ratio = torch.exp(now - now.detach())
                    loss = loss - torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a) / total
    return loss


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(
    "name, coefficients", [("grpo", {}), ("policy_split", {"eta": 1.5, "alpha": 0.3})]
)
def test_the_gradient_is_that_of_the_equations_written_out(
    name, coefficients, temperature, model64, tokenizer, he, start
):
    method = methods.get(name, **coefficients)
    metrics, rollouts, ours = gradients(start(model64, method, temperature=temperature))
    twin = copy.deepcopy(model64)
    loss = plain_loss(twin, rendered(tokenizer, he), rollouts, method, temperature)
    loss.backward()
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)
    close(ours, {key: weight.grad for key, weight in twin.named_parameters()}, 1e-5)
    norm = math.sqrt(sum((weight.grad**2).sum().item() for weight in twin.parameters()))
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_a_steps_entropies_and_kl_are_those_of_the_policy_at_the_sampling_temperature(
    model64, tokenizer, he, start
):
    state, prompts = start(model64, "policy_split", temperature=0.6), rendered(tokenizer, he)
    metrics, rollouts, _ = gradients(state)
    own, moved = {"normal": [], "he": []}, []
    for r, mode in enumerate(rollouts.modes):
        response, group = (
            rollouts.tokens[r, : rollouts.lengths[r]].tolist(),
            int(rollouts.group_ids[r]),
        )
        every = {
            name: distributions(model64, prompts[name][group], response, 0.6).detach()
            for name in own
        }
        own[mode].append(-(every[mode].exp() * every[mode]).sum(-1))
        if mode == "he":
            moved.append((every["he"] - every["normal"])[range(len(response)), response])
    for mode, entropies in own.items():
        assert metrics[f"entropy_bits_{mode}"] == pytest.approx(
            float(torch.cat(entropies).mean()) / math.log(2), rel=1e-6
        )
    assert metrics["kl_he_from_normal"] == pytest.approx(float(torch.cat(moved).mean()), rel=1e-6)


def test_entropy_regularization_adds_the_gradient_of_the_mean_entropy(
    model64, tokenizer, he, start
):
    plain_metrics, rollouts, plain = gradients(start(model64, "grpo"))
    metrics, same_rollouts, ours = gradients(
        start(model64, methods.get("entropy_regularization", coef=0.5))
    )
    assert torch.equal(rollouts.tokens, same_rollouts.tokens)
    twin, total, prompts = copy.deepcopy(model64), 0.0, rendered(tokenizer, he)["normal"]
    for row, length, group in zip(
        rollouts.tokens.tolist(),
        rollouts.lengths.tolist(),
        rollouts.group_ids.tolist(),
        strict=True,
    ):
        every = distributions(twin, prompts[group], row[:length])
        total = total - (every.exp() * every).sum()
    mean = total / rollouts.lengths.sum()
    (-0.5 * mean).backward()
    assert metrics["loss"] - plain_metrics["loss"] == pytest.approx(-0.5 * mean.item(), rel=1e-4)
    close(ours, {key: plain[key] + weight.grad for key, weight in twin.named_parameters()}, 1e-5)


def test_forking_divides_by_the_kept_tokens_and_others_by_all(model64, start):
    # keep each response's first token alone, so that the two denominators are far apart
    def first_tokens(logp, adv, entropy, mask, coefficients, generator):
        keep = torch.zeros_like(mask)
        keep[:, 0] = True
        return keep

    made = [
        dataclasses.replace(methods.get("grpo"), keep=first_tokens, divide_by_kept=by)
        for by in (True, False)
    ]
    (_, rollouts, by_kept), (_, _, by_all) = (gradients(start(model64, method)) for method in made)
    ratio = rollouts.lengths.sum().item() / len(rollouts.lengths)
    assert ratio > 1.5
    close(by_kept, {name: gradient * ratio for name, gradient in by_all.items()}, 1e-6)


# --- micro-batches and shared graphs --------------------------------------------------------------
@pytest.mark.parametrize("name", ["policy_split", "entropy_regularization", "clip_cov"])
@pytest.mark.parametrize(
    "changes",
    [
        {"micro_tokens": 1},
        {"micro_tokens": 100},
        {"graph_tokens": 0},
        {"micro_tokens": 60, "graph_tokens": 0},
    ],
)
def test_the_gradient_depends_neither_on_the_micro_batches_nor_on_the_shared_graph(
    name, changes, model64, start
):
    whole, _, expected = gradients(start(model64, name))
    split, _, ours = gradients(start(model64, name, **changes))
    assert split["loss"] == pytest.approx(whole["loss"], abs=1e-12)
    close(ours, expected, 1e-11)


def test_a_shared_graph_needs_one_forward_pass_and_a_fresh_one_two(model, start, monkeypatch):
    calls, forward, turns = [], Policy.forward, itertools.cycle([0.0, 1.0])
    monkeypatch.setattr(
        rewards, "grade", lambda text, answer: next(turns)
    )  # no dead group, which would be apart

    def spy(self, *args, **kwargs):
        calls.append(torch.is_grad_enabled())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Policy, "forward", spy)
    start(model, "grpo").step(POOL[:2])
    assert calls == [True]
    calls.clear()
    start(model, "grpo", graph_tokens=0).step(POOL[:2])
    assert calls == [False, True]


# --- a step ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TRAINED)
def test_a_step_of_every_method_changes_the_weights_and_reports_itself(name, model, start):
    state = start(model, name)
    before = weights(state)
    metrics, rollouts = state.step(POOL[:2])
    assert not same(before, weights(state)) and state.done == 1
    sampling = methods.get(name).sampling
    expected = {
        "step",
        "loss",
        "grad_norm",
        "reward",
        "live_groups",
        "response_tokens",
        "unfinished",
        "beyond_bounds",
    }
    expected |= {"seconds_sample", "seconds_score", "seconds_update"}
    expected |= {f"{what}_{mode}" for mode in sampling for what in ("accuracy", "entropy_bits")}
    expected |= {"kl_he_from_normal"} if "he" in sampling else set()
    expected |= {f"bonus_share_{mode}" for mode in methods.get(name).training}
    assert set(metrics) == expected
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["step"] == 1 and metrics["reward"] == rollouts.rewards.mean().item()
    assert metrics["response_tokens"] == rollouts.lengths.float().mean().item()


def test_metrics_by_mode_are_of_the_responses_that_the_mode_drew_itself(
    model64, tokenizer, he, start
):
    metrics, rollouts = start(model64, "policy_split").step(POOL[:2])
    prompts, log_ratios = (
        rendered(tokenizer, he),
        [],
    )  # `start` trains a copy, so model64 is as it was before the step
    for mode, rows in (("normal", range(4)), ("he", range(4, 8))):  # who drew which rows
        bits = []
        for i in rows:
            response, group = (
                rollouts.tokens[i, : rollouts.lengths[i]].tolist(),
                int(rollouts.group_ids[i]),
            )
            under = {
                name: distributions(model64, prompts[name][group], response)
                for name in ("normal", "he")
            }
            bits += (-(under[mode].exp() * under[mode]).sum(-1) / math.log(2)).tolist()
            if mode == "he":
                log_ratios += [
                    (under["he"] - under["normal"])[t, token].item()
                    for t, token in enumerate(response)
                ]
        assert metrics[f"entropy_bits_{mode}"] == pytest.approx(sum(bits) / len(bits), rel=1e-4)
        assert metrics[f"accuracy_{mode}"] == rollouts.rewards[list(rows)].mean().item()
    assert metrics["kl_he_from_normal"] == pytest.approx(
        sum(log_ratios) / len(log_ratios), rel=1e-3
    )


def test_live_groups_counts_the_questions_whose_responses_differ_in_reward(
    model, start, monkeypatch
):
    answers = iter(
        [1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    )  # the first question is live, the second is not
    monkeypatch.setattr(rewards, "grade", lambda text, answer: next(answers))
    metrics, _ = start(model, "grpo").step(POOL[:2])
    assert metrics["live_groups"] == 0.5 and metrics["reward"] == 0.875


@pytest.mark.parametrize("name", ["grpo", "policy_split"])
def test_a_step_of_dead_groups_alone_moves_no_weight_and_is_no_error(
    name, model, start, monkeypatch
):
    monkeypatch.setattr(rewards, "grade", lambda text, answer: 1.0)
    state = start(model, name)
    before = weights(state)
    metrics, _ = state.step(POOL[:2])
    assert same(before, weights(state)) and state.done == 1
    assert metrics["grad_norm"] == metrics["live_groups"] == 0


# --- weights that are not to be trained -----------------------------------------------------------
def frozen(model):
    """The model with its embedding and its first layer frozen."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(not name.startswith(("model.embed_tokens", "model.layers.0")))
    return model


@pytest.mark.parametrize("name", ["grpo", "policy_split"])
@pytest.mark.parametrize("dead", [False, True])
def test_frozen_weights_stay_as_they_are_and_the_others_move(name, dead, model, start, monkeypatch):
    if dead:
        monkeypatch.setattr(rewards, "grade", lambda text, answer: 1.0)
    state = start(frozen(model), name, weight_decay=0.5, learning_rate=0.01)
    before, learning = (
        weights(state),
        {key for key, weight in state.model.named_parameters() if weight.requires_grad},
    )
    for _ in range(2):
        state.step(POOL[:2])
    moved = {key for key, weight in weights(state).items() if not torch.equal(weight, before[key])}
    assert moved == learning and 0 < len(learning) < len(before)


def test_a_run_with_frozen_weights_is_resumed_to_the_bit(model, start, tmp_path):
    whole, first, second = (
        start(frozen(copy.deepcopy(model)), "policy_split", weight_decay=0.1) for _ in range(3)
    )
    train.run(whole, POOL)
    with pytest.raises(Stop):
        train.run(first, POOL, tmp_path, stop_after(3, []))
    train.run(second, POOL, tmp_path)
    assert everything(second) == everything(whole)


def test_of_a_wrapped_model_the_adapters_alone_are_trained_by_the_gradient_of_the_equations(
    model64, tokenizer, he, start
):
    wrapped, method = Wrapped(model64), methods.get("policy_split", eta=1.5)
    state = start(wrapped, method, weight_decay=0.1)
    before, kept = weights(state), {}
    step = state.optimiser.step

    def keep_gradients():
        kept.update(
            {
                name: w.grad.clone()
                for name, w in state.model.named_parameters()
                if w.grad is not None
            }
        )
        step()

    state.optimiser.step = keep_gradients
    _, rollouts = state.step(POOL[:2])
    twin = copy.deepcopy(wrapped)
    plain_loss(twin, rendered(tokenizer, he), rollouts, method).backward()
    expected = {name: w.grad for name, w in twin.named_parameters() if w.grad is not None}
    assert expected and kept.keys() == expected.keys()
    close(kept, expected, 1e-5)
    moved = {name for name, w in weights(state).items() if not torch.equal(w, before[name])}
    assert moved == set(expected) and all(name.endswith(("down", "up")) for name in moved)


def test_dropout_is_off_since_responses_are_drawn_without(model64, tokenizer, start):
    plain, noisy = model64, copy.deepcopy(model64)
    for layer in noisy.model.layers:
        layer.mlp.act_fn = torch.nn.Sequential(layer.mlp.act_fn, torch.nn.Dropout(0.5))
    (_, _, expected), (_, _, ours) = (gradients(start(given, "grpo")) for given in (plain, noisy))
    close(ours, expected, 1e-9)


# --- another reward -------------------------------------------------------------------------------
def length(text, row):
    """A reward of no particular scale, for a question with a level."""
    return len(text) / 10 + row["level"]


LEVELS = [{"id": row["id"], "question": row["question"], "level": k} for k, row in enumerate(POOL)]


def with_reward(model, tokenizer, he, reward, method="policy_split", **changes):
    return train.Run(
        copy.deepcopy(model),
        tokenizer,
        methods.get(method),
        (modes.NORMAL, he),
        dataclasses.replace(SETTINGS, **changes),
        0,
        reward=reward,
    )


def test_another_reward_trains_and_is_reported_as_a_reward(model, tokenizer, he):
    state = with_reward(model, tokenizer, he, length)
    before = weights(state)
    metrics, rollouts = state.step(LEVELS[:2])
    assert rollouts.rewards.tolist() == pytest.approx(
        [
            length(text, LEVELS[g])
            for text, g in zip(rollouts.texts, rollouts.group_ids.tolist(), strict=True)
        ]
    )
    assert not [name for name in metrics if name.startswith("accuracy")]
    for mode, rows in (("normal", slice(4)), ("he", slice(4, 8))):
        assert metrics[f"reward_{mode}"] == pytest.approx(rollouts.rewards[rows].mean().item())
    assert metrics["reward"] == pytest.approx(rollouts.rewards.mean().item())
    assert (
        metrics["live_groups"] == 1.0
        and metrics["grad_norm"] > 0
        and not same(before, weights(state))
    )


def test_a_group_of_equal_rewards_is_dead_whatever_they_are(model, tokenizer, he):
    metrics, _ = with_reward(model, tokenizer, he, lambda text, row: 0.7).step(LEVELS[:2])
    assert metrics["live_groups"] == metrics["grad_norm"] == 0


def test_another_reward_of_0_and_1_is_an_accuracy_too(model, tokenizer, he):
    metrics, _ = with_reward(model, tokenizer, he, lambda text, row: parity(text), "grpo").step(
        LEVELS[:2]
    )
    assert metrics["accuracy_normal"] == metrics["reward_normal"] == metrics["reward"]


def test_the_least_accuracy_is_the_least_mean_reward_where_there_is_no_accuracy(
    model, tokenizer, he
):
    for least, beyond in ((100.0, 1), (-1.0, 0)):
        metrics, _ = with_reward(model, tokenizer, he, length, min_accuracy=least).step(LEVELS[:2])
        assert metrics["beyond_bounds"] == beyond


@pytest.mark.parametrize(
    "bad, kind, said",
    [
        ("1", ValueError, "the reward of a response to the question q1 must be a number; got '1'"),
        (
            None,
            ValueError,
            "the reward of a response to the question q1 must be a number; got None",
        ),
        (
            math.nan,
            FloatingPointError,
            "rewards not finite at step 1 of Policy Split.* the questions q1$",
        ),
        (KeyError("gold"), KeyError, "gold"),
    ],
)
def test_a_bad_reward_names_its_question_and_changes_nothing(bad, kind, said, model, tokenizer, he):
    def reward(text, row):
        if isinstance(bad, Exception):
            raise bad
        return bad if row["id"] == "q1" else 0.5

    state = with_reward(model, tokenizer, he, reward)
    before = everything(state)
    with pytest.raises(kind, match=said):
        state.step(LEVELS[:2])
    assert everything(state) == before


# --- what is checked before anything is computed --------------------------------------------------
@pytest.fixture
def check(model, tokenizer, he):
    """train.check of the tiny model by Policy Split, but for what is given."""

    def make(
        words=tokenizer, method="policy_split", both=(modes.NORMAL, he), questions=(), **changes
    ):
        checks.check_training(
            model,
            words,
            methods.get(method),
            both,
            dataclasses.replace(SETTINGS, **changes),
            questions,
        )

    return make


def test_what_can_be_trained_passes(check):
    for name in TRAINED:
        check(method=name, questions=POOL)


def test_a_run_is_refused_where_modes_cannot_be_told_apart(check, start, model, tokenizer, he):
    deaf = copy.deepcopy(tokenizer)
    deaf.chat_template = (
        "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}"
    )
    with pytest.raises(ValueError, match="drops the system turn"):
        check(deaf)
    with pytest.raises(ValueError, match="drops the system turn"):
        train.Run(model, deaf, methods.get("policy_split"), (modes.NORMAL, he), SETTINGS, 0)
    check(deaf, method="grpo")  # of one mode, which has no system turn
    with pytest.raises(ValueError, match="Policy Split needs the modes normal, he; got normal$"):
        check(both=(modes.NORMAL,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_which_small_updates_are_lost_are_refused(dtype, model, tokenizer, he, start):
    with pytest.raises(ValueError, match="load the model in float32 and set bf16"):
        start(model.to(dtype), "grpo")
    for weight in model.parameters():  # what does not learn may be of any type
        weight.requires_grad_(False)
    model.get_output_embeddings().weight.data = model.get_output_embeddings().weight.data.float()
    model.get_output_embeddings().weight.requires_grad_(True)
    checks.require_learnable(model)


QUESTIONABLE = {
    "question q9 takes": {"id": "q9", "question": "1+" * 600 + "1"},
    "question 3 of the data set has no text in its column question": {"id": "a", "question": None},
    "question 3 of the data set has no column id": {"question": "1+1"},
}


@pytest.mark.parametrize("said", QUESTIONABLE)
def test_a_question_that_cannot_be_asked_is_refused_before_the_first_step(said, model, start):
    state = start(model, "policy_split")
    before = everything(state)
    with pytest.raises(ValueError, match=said):
        train.run(state, [*POOL[:2], QUESTIONABLE[said], *POOL[3:]])
    assert state.done == 0 and everything(state) == before


def test_a_reward_that_is_not_finite_names_questions_whose_ids_are_numbers(model, tokenizer, he):
    state = with_reward(model, tokenizer, he, lambda text, row: math.nan)
    numbered = [row | {"id": 40 + k} for k, row in enumerate(LEVELS)]
    with pytest.raises((ValueError, FloatingPointError), match="40"):
        state.step(numbered[:2])


def test_a_run_is_refused_where_a_question_is_too_long_or_no_weight_can_learn(check, model):
    with pytest.raises(ValueError, match="question q9 takes"):
        check(questions=[*POOL, {"id": "q9", "question": "1+" * 600 + "1"}])
    with pytest.raises(
        ValueError, match="max_new_tokens=510 is more than the model's context of 512"
    ):
        check(max_new_tokens=510)
    with pytest.raises(ValueError, match="group_size 3 cannot be split evenly"):
        check(group_size=3)
    model.lm_head = LowRank(model.lm_head)
    with pytest.raises(ValueError, match="output embedding is a tests.+LowRank"):
        check()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no weight of the model requires a gradient"):
        check()


# --- ablations: a part taken out, or a departure of the released code -----------------------------
def spied(method, model, start, monkeypatch, questions=POOL[:2]):
    """A step of a method: (rollouts, rows that were scored, {log-probs, advantages, mask} as `keep`
    saw them).
    """
    seen, rows, forward = {}, [], Policy.forward

    def spy_forward(self, packed, temperature=1.0):
        rows.extend(laid_out(packed))
        return forward(self, packed, temperature)

    def spy_keep(logp, adv, entropy, mask, coefficients, generator):
        seen.update(logp=logp, adv=adv, mask=mask)
        return mask

    monkeypatch.setattr(Policy, "forward", spy_forward)
    _, rollouts = start(model, dataclasses.replace(methods.get(method), keep=spy_keep)).step(
        questions
    )
    return rollouts, rows, seen


def test_without_sharing_a_mode_learns_from_its_own_responses_in_groups_of_its_own(
    model, start, monkeypatch
):
    rollouts, _, seen = spied("policy_split_unshared", model, start, monkeypatch)
    assert (
        rollouts.modes == ["normal"] * 4 + ["he"] * 4
    )  # two questions, two responses each in each mode
    own = torch.tensor(
        [True] * 4 + [False] * 8 + [True] * 4
    )  # rows are the responses under normal, then under HE
    assert torch.equal(seen["mask"], rollouts.mask.repeat(2, 1) & own[:, None])
    for first in range(0, 8, 2):  # each pair that one mode drew to one question
        a = advantages.group_relative(rollouts.rewards[first : first + 2], torch.zeros(2).long())
        torch.testing.assert_close(seen["adv"][first : first + 2, 0], a)
    assert not torch.equal(
        advantages.group_relative(rollouts.rewards, rollouts.group_ids), seen["adv"][:8, 0]
    )


def test_without_sharing_the_gradient_is_that_of_each_modes_own_responses(
    model64, tokenizer, he, start, monkeypatch
):
    answers = itertools.cycle([1.0, 0.0])  # in each pair one is right
    monkeypatch.setattr(rewards, "grade", lambda text, answer: next(answers))
    _, rollouts, ours = gradients(start(model64, "policy_split_unshared"))
    twin, prompts = copy.deepcopy(model64), rendered(tokenizer, he)
    loss, total = 0.0, int(rollouts.lengths.sum())
    logp = {}
    for r, _mode in enumerate(rollouts.modes):
        response, group = (
            rollouts.tokens[r, : rollouts.lengths[r]].tolist(),
            int(rollouts.group_ids[r]),
        )
        for name in ("normal", "he"):
            every = distributions(twin, prompts[name][group], response)
            logp[name, r] = torch.stack([every[t, token] for t, token in enumerate(response)])
    for pair in range(4):
        rows = [2 * pair, 2 * pair + 1]
        a = [
            0.5**0.5,
            -(0.5**0.5),
        ]  # deviations of half from the mean, over a standard deviation of 0.5 ** 0.5
        if rollouts.modes[rows[0]] == "he":
            b = [-(logp["he", r].detach() + logp["normal", r].detach()) / 2 for r in rows]
            mean, std = torch.cat(b).mean(), torch.cat(b).std()
            a = [
                a[k] + 0.03 * ((b[k] - mean) / std).clamp(-abs(a[k]) / 2, abs(a[k]) / 2)
                for k in (0, 1)
            ]
        for k, r in enumerate(rows):
            loss = loss - (a[k] * logp[rollouts.modes[r], r]).sum() / total
    loss.backward()
    close(ours, {key: weight.grad for key, weight in twin.named_parameters()}, 1e-5)


def test_a_lost_end_is_learned_from_by_the_mode_that_drew_it_alone(model, start, monkeypatch):
    monkeypatch.setattr(
        train, "stop_ids", lambda model, tokenizer: list(range(0, 200, 2))
    )  # every even token ends
    rollouts, _, seen = spied("policy_split_lost_end", model, start, monkeypatch)
    last = rollouts.tokens.gather(1, rollouts.lengths[:, None] - 1).squeeze(1)
    ended = last % 2 == 0
    assert ended.any() and not ended.all()
    for k, trained in enumerate(("normal", "he")):
        for r, drawn in enumerate(rollouts.modes):
            expected = int(rollouts.lengths[r]) - int(ended[r] and drawn != trained)
            assert seen["mask"][8 * k + r].tolist() == [
                t < expected for t in range(rollouts.mask.shape[1])
            ]


def test_a_rewrapped_prompt_is_one_user_turn_for_shared_responses_and_the_usual_for_its_own(
    model, tokenizer, he, start, monkeypatch
):
    rollouts, rows, _ = spied("policy_split_rewrapped", model, start, monkeypatch)
    responses = [
        tuple(row[:n])
        for row, n in zip(rollouts.tokens.tolist(), rollouts.lengths.tolist(), strict=True)
    ]
    prompts = rendered(tokenizer, he)
    wrapped = [
        modes.render(tokenizer, dataclasses.replace(he, one_turn=True), q["question"])
        for q in POOL[:2]
    ]
    assert tokenizer.decode(wrapped[0]).startswith("<|user|>system\n" + he.system)
    expected = [
        (tuple(prompts["normal"][g]), o)
        for g, o in zip(rollouts.group_ids.tolist(), responses, strict=True)
    ]
    expected += [
        (tuple(wrapped[g] if drawn == "normal" else prompts["he"][g]), o)
        for g, o, drawn in zip(rollouts.group_ids.tolist(), responses, rollouts.modes, strict=True)
    ]
    assert sorted(rows) == sorted(expected)


def test_an_unclipped_bonus_moves_weights_even_where_every_group_is_dead(model, start, monkeypatch):
    monkeypatch.setattr(rewards, "grade", lambda text, answer: 1.0)
    metrics, _ = start(model, "policy_split_unclipped").step(POOL[:2])
    assert metrics["live_groups"] == 0 and metrics["grad_norm"] > 0


# --- dead groups: counted in the denominator, and without a gradient unless entropy is in the loss
@pytest.fixture
def first_group_dead(monkeypatch):
    """Every response to q0 is right; those to q1 are right by the parity of their texts."""
    answered = [{**POOL[0], "answer": "dead"}, POOL[1]]
    monkeypatch.setattr(
        rewards, "grade", lambda text, answer: 1.0 if answer == "dead" else parity(text)
    )
    return answered


@pytest.mark.parametrize("name", ["grpo", "policy_split"])
def test_a_dead_group_beside_a_live_one_leaves_the_gradient_of_the_equations(
    name, first_group_dead, model64, tokenizer, he, start
):
    metrics, rollouts, ours = gradients(start(model64, name), first_group_dead)
    assert metrics["live_groups"] == 0.5
    twin = copy.deepcopy(model64)
    loss = plain_loss(twin, rendered(tokenizer, he), rollouts, methods.get(name))
    loss.backward()
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)
    close(ours, {key: weight.grad for key, weight in twin.named_parameters()}, 1e-5)


@pytest.mark.parametrize("name", ["grpo", "policy_split", "forking"])
def test_leaving_dead_groups_out_changes_no_weight(
    name, first_group_dead, model64, start, monkeypatch
):
    left_out, whole = start(model64, name, measure_every=100), start(model64, name)
    whole._live = lambda rollouts, group_ids: torch.ones(
        len(group_ids) * len(whole.method.training), dtype=torch.bool
    )
    for _ in range(10):
        ours, _ = left_out.step(first_group_dead)
        theirs, _ = whole.step(first_group_dead)
        assert ours["live_groups"] == theirs["live_groups"] <= 0.5
    for key, weight in weights(left_out).items():
        torch.testing.assert_close(weight, weights(whole)[key], rtol=0, atol=1e-12)


def test_entropies_are_measured_over_the_whole_batch_every_few_steps_and_blank_between(
    first_group_dead, model, start
):
    often, seldom = (
        start(model, "policy_split", measure_every=1),
        start(model, "policy_split", measure_every=3),
    )
    for step in range(1, 6):
        (every, _), (some, _) = often.step(first_group_dead), seldom.step(first_group_dead)
        for name, value in every.items():
            if name.startswith(("entropy", "kl")) and step not in (1, 4):
                assert math.isnan(some[name]) and math.isfinite(value)
            elif not name.startswith("seconds"):
                assert some[name] == pytest.approx(value, abs=1e-6)


def test_a_dead_group_is_scored_like_any_other(first_group_dead, model64, tokenizer, he, start):
    seen = {}

    def spy_keep(logp, adv, entropy, mask, coefficients, generator):
        seen.update(logp=logp, entropy=entropy)
        return mask

    _, rollouts = start(model64, dataclasses.replace(methods.get("grpo"), keep=spy_keep)).step(
        first_group_dead
    )
    prompts = rendered(tokenizer, he)["normal"]
    for i, (row, length, group) in enumerate(
        zip(
            rollouts.tokens.tolist(),
            rollouts.lengths.tolist(),
            rollouts.group_ids.tolist(),
            strict=True,
        )
    ):
        every = distributions(model64, prompts[group], row[:length])
        expected = torch.stack([every[t, token] for t, token in enumerate(row[:length])])
        entropy = -(every.exp() * every).sum(-1)
        torch.testing.assert_close(
            seen["logp"][i, :length].double(), expected, rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            seen["entropy"][i, :length].double(), entropy, rtol=1e-4, atol=1e-4
        )


def test_the_entropy_term_also_moves_a_dead_group(model, start, monkeypatch):
    monkeypatch.setattr(rewards, "grade", lambda text, answer: 0.0)
    metrics, _, _ours = gradients(start(model, "entropy_regularization"))
    assert metrics["live_groups"] == 0 and metrics["grad_norm"] > 0
    assert metrics["loss"] == pytest.approx(
        -0.003 * metrics["entropy_bits_normal"] * math.log(2), rel=1e-4
    )


def test_a_first_step_of_dead_groups_still_decays_the_weights(model, start, monkeypatch):
    # AdamW on zero gradients shrinks a weight by learning rate x decay; on gradients of None it
    # would skip it
    monkeypatch.setattr(rewards, "grade", lambda text, answer: 1.0)
    state = start(model, "grpo", learning_rate=0.01, weight_decay=0.5)
    before = weights(state)
    state.step(POOL[:2])
    for name, weight in weights(state).items():
        torch.testing.assert_close(weight, before[name] * (1 - 0.01 * 0.5))


def test_a_step_of_dead_groups_after_a_live_one_still_goes_on_with_its_momentum(
    model, start, monkeypatch
):
    state = start(model, "grpo")
    state.step(POOL[:2])
    before = weights(state)
    monkeypatch.setattr(rewards, "grade", lambda text, answer: 1.0)
    metrics, _ = state.step(POOL[:2])
    assert metrics["grad_norm"] == 0 and not same(before, weights(state))


def test_the_gradients_norm_is_clipped(model, start, monkeypatch):
    metrics, _, free = gradients(start(model, "grpo"))
    clipped_metrics, _, clipped = gradients(
        start(model, "grpo", grad_clip_norm=metrics["grad_norm"] / 4)
    )
    assert clipped_metrics["grad_norm"] == pytest.approx(metrics["grad_norm"])  # reported as it was
    close(clipped, {name: gradient / 4 for name, gradient in free.items()}, 1e-5)


# --- numbers that are not finite ------------------------------------------------------------------


@pytest.mark.parametrize("graph_tokens", [0, 65536])
def test_a_weight_that_is_not_finite_stops_the_step_and_changes_nothing(model, start, graph_tokens):
    state = start(model, "policy_split", graph_tokens=graph_tokens)
    with torch.no_grad():
        state.model.model.norm.weight[3] = float("nan")
    before = everything(state)
    with pytest.raises(
        FloatingPointError, match="log-probs not finite at step 1 of Policy Split; .* q0, q1"
    ):
        state.step(POOL[:2])
    assert everything(state) == before


@pytest.mark.parametrize("where", faults.NOT_FINITE)
def test_a_number_that_is_not_finite_changes_nothing_and_the_next_step_can_be_taken(
    where, model, start
):
    for name, bad in (
        ("grpo", math.nan),
        ("entropy_regularization", math.inf),
        ("policy_split", -math.inf),
    ):
        said = spoil_a_step(start(model, name, **faults.NOT_FINITE[where][2]), where, bad)
        assert methods.get(name).label in said and said.endswith(("q0", "q1")) and "\n" not in said


def test_the_message_names_only_the_questions_that_have_such_a_number(model, start, monkeypatch):
    answers = iter([0.0, 1.0, 0.0, 1.0, 1.0, math.nan, 0.0, 1.0])
    monkeypatch.setattr(rewards, "grade", lambda text, answer: next(answers))
    with pytest.raises(
        FloatingPointError, match="^rewards not finite at step 1 of GRPO.* the questions q1$"
    ):
        start(model, "grpo").step(POOL[:2])


# --- entropy or accuracy that run away ------------------------------------------------------------
# the tiny model's entropy is above 0.001 bits in every step, its accuracy (by parity) below 1 in
# every step or so
@pytest.mark.parametrize("bound", [{"max_entropy_bits": 0.001}, {"min_accuracy": 1.01}])
@pytest.mark.parametrize("name", ["grpo", "policy_split"])
def test_steps_beyond_a_bound_are_counted_in_the_metrics_and_stop_nothing(
    name, bound, model, start
):
    seen, state = [], start(model, name, **bound)
    train.run(state, POOL, record=lambda metrics, rollouts: seen.append(metrics["beyond_bounds"]))
    assert seen == [1, 2, 3, 4, 5] and state.done == 5


def test_within_the_bounds_nothing_is_counted(model, start):
    seen, state = (
        [],
        start(model, "policy_split", max_entropy_bits=20.0, min_accuracy=0.0, stop_beyond=1),
    )
    train.run(state, POOL, record=lambda metrics, rollouts: seen.append(metrics["beyond_bounds"]))
    assert seen == [0] * 5


def test_one_step_within_the_bounds_begins_the_count_anew(model, start, monkeypatch):
    grades = itertools.chain.from_iterable([grade] * 8 for grade in (0.0, 0.0, 1.0, 0.0, 1.0))
    monkeypatch.setattr(rewards, "grade", lambda text, answer: next(grades))
    seen = []
    train.run(
        start(model, "grpo", min_accuracy=0.5, stop_beyond=3),
        POOL,
        record=lambda metrics, rollouts: seen.append(metrics["beyond_bounds"]),
    )
    assert seen == [1, 2, 0, 1, 0]


def test_steps_that_are_not_measured_leave_the_count_as_it_is(model, start):
    seen, state = [], start(model, "policy_split", max_entropy_bits=0.001, measure_every=2)
    train.run(state, POOL, record=lambda metrics, rollouts: seen.append(metrics["beyond_bounds"]))
    assert seen == [1, 1, 2, 2, 3]


def test_a_run_stops_where_asked_saved_and_stays_stopped(model, start, tmp_path):
    seen, changes = [], {"max_entropy_bits": 0.001, "stop_beyond": 3, "save_every": 100}
    for stop in (
        2,
        None,
        None,
    ):  # stopped by hand after two steps, so that the count has to be resumed; and run again
        with pytest.raises((Stop, RuntimeError)) as error:
            train.run(
                start(model, "policy_split", **changes | ({"save_every": 1} if stop else {})),
                POOL,
                tmp_path,
                stop_after(stop, seen),
            )
    assert seen == [1, 2, 2, 3] and checkpoint.load_newest(tmp_path)[0] == 3
    assert (
        "Policy Split was stopped after step 3: for 3 steps entropy was above "
        "max_entropy_bits=0.001" in str(error.value)
    )


def test_the_original_model_is_not_trained(model, start):
    with pytest.raises(ValueError, match="Original is not trained"):
        start(model, "original")


def test_a_group_that_cannot_be_halved_or_a_question_too_long_is_refused(model, start):
    with pytest.raises(ValueError, match="group_size 3"):
        start(model, "policy_split", group_size=3).step(POOL[:2])
    with pytest.raises(ValueError, match="question q0 takes"):
        start(model, "grpo", max_new_tokens=500).step(POOL[:1])


# --- a run, stopped and resumed -------------------------------------------------------------------


def stop_after(step, seen):
    def record(metrics, rollouts):
        seen.append(metrics["step"])
        if metrics["step"] == step:
            raise Stop

    return record


@pytest.mark.parametrize("name", TRAINED)
def test_a_run_stopped_three_times_ends_bit_for_bit_as_one_that_is_not(
    name, model, start, tmp_path
):
    whole = start(model, name, save_every=2)
    expected = through([whole], None, ())
    states = [start(model, name, save_every=2) for _ in range(4)]
    assert through(states, tmp_path, (2, 3, 5)) == expected and len(expected) == 5
    assert everything(states[-1]) == everything(whole) and not same(
        weights(whole), dict(model.named_parameters())
    )
    assert not list(tmp_path.glob(".*.tmp")) and len(list(tmp_path.iterdir())) == 4


# --- asked to stop --------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_request_ends_the_run_after_its_step_saved_and_it_goes_on_to_the_same_weights(
    number, model, start, tmp_path
):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    whole, first, second = (start(model, "policy_split", save_every=100) for _ in range(3))
    train.run(whole, POOL)
    with pytest.raises(
        KeyboardInterrupt, match="^stopped after step 2 of 5; run the same again to continue$"
    ):
        train.run(
            first,
            POOL,
            tmp_path,
            lambda metrics, _: metrics["step"] == 2 and signal.raise_signal(number),
        )
    assert checkpoint.load_newest(tmp_path)[0] == 2
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    train.run(second, POOL, tmp_path)
    assert everything(second) == everything(whole)


def test_a_second_stop_request_acts_at_once(model, start, tmp_path):
    def impatient(metrics, rollouts):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second was not heard")

    outside = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job ignores Ctrl-C
    try:
        with pytest.raises(KeyboardInterrupt):
            train.run(start(model, "grpo"), POOL, tmp_path, impatient)
    finally:
        signal.signal(signal.SIGINT, outside)
    assert checkpoint.load_newest(tmp_path) is None


def test_a_run_outside_the_main_thread_needs_no_signals(model, start):
    state = start(model, "grpo", steps=1)
    thread = threading.Thread(target=train.run, args=(state, POOL))
    thread.start()
    thread.join()
    assert state.done == 1


OTHERS = {
    "method": {"method": "grpo"},
    "coefficients": {"method": methods.get("policy_split", eta=0.5)},
    "learning_rate": {"learning_rate": 0.5},
    "seed": {"seed": 1},
    "model": {},
    "temperature": {"temperature": 0.5},
    "dataset": {},
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_checkpoints_of_another_run_are_refused_and_left(name, model, start, tmp_path):
    def made(method="policy_split", **changes):
        return start(model, method, **({"steps": 2} | changes))

    train.run(made(), POOL, tmp_path)
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other, questions = made(**OTHERS[name]), POOL
    if name == "model":
        other.model.config.name_or_path = "another"
    if name == "dataset":
        questions = [*POOL[:-1], POOL[-1] | {"question": "1+1"}]
    with pytest.raises(ValueError, match=f"of another run, with other .*{name}.*; give each run a"):
        train.run(other, questions, tmp_path)
    assert other.done == 0 and kept == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_what_decides_no_step_may_change_before_a_run_goes_on(model, start, tmp_path):
    class Lazy:  # as torch has data sets: no end but its length
        def __len__(self):
            return len(POOL)

        def __getitem__(self, k):
            return {**POOL[k % len(POOL)], "reads": object()}

    changes = {"micro_tokens": 64, "measure_every": 1, "stop_beyond": 9, "min_accuracy": -1.0}
    train.run(start(model, "grpo", steps=2), Lazy(), tmp_path)
    state = start(model, "grpo", steps=3, **changes)
    state.modes["he"] = dataclasses.replace(state.modes["he"], system="Which GRPO never uses.")
    train.run(state, Lazy(), tmp_path)
    assert state.done == 3


def test_new_adapters_and_a_trained_model_at_hand_are_no_other_run(model, start, tmp_path):
    first = start(Wrapped(copy.deepcopy(model)), "grpo", steps=2)
    train.run(first, POOL, tmp_path)
    again = start(first.model, "grpo", steps=3)
    for name, weight in again.model.named_parameters():
        if name.endswith("down"):
            weight.data.normal_()  # as adapters begin in each process
    train.run(again, POOL, tmp_path)
    assert again.done == 3


def test_checkpoints_that_do_not_say_whose_they_are_are_refused(model, start, tmp_path):
    state = start(model, "grpo", steps=2)
    tensors = checkpoint.state_of(state.model, state.optimiser, state.generators)
    checkpoint.save(tmp_path, 1, tensors | {"beyond": torch.tensor(0)})
    with pytest.raises(ValueError, match="do not say which run they are of; end that run with"):
        train.run(state, POOL, tmp_path)


def test_a_finished_run_goes_on_where_it_is_given_more_steps(model, start, tmp_path):
    whole, first, more = (start(model, "grpo", steps=steps) for steps in (4, 2, 4))
    train.run(whole, POOL)
    train.run(first, POOL, tmp_path)
    train.run(more, POOL, tmp_path)
    assert everything(more) == everything(whole)


def test_a_finished_run_is_not_trained_again(model, start, tmp_path):
    first = start(model, "grpo", steps=2)
    train.run(first, POOL, tmp_path)
    again, seen = start(model, "grpo", steps=2), []
    train.run(again, POOL, tmp_path, lambda metrics, rollouts: seen.append(metrics))
    assert seen == [] and again.done == 2 and same(weights(first), weights(again))


def test_checkpoints_are_written_every_so_many_steps_and_at_the_end(
    model, start, tmp_path, monkeypatch
):
    saved = []
    monkeypatch.setattr(train.checkpoint, "save", lambda folder, step, tensors: saved.append(step))
    train.run(start(model, "grpo", save_every=2), POOL, tmp_path)
    assert saved == [2, 4, 5]


def test_seeds_draw_different_responses_and_the_same_seed_the_same(model, start):
    drawn = [
        start(model, "grpo", seed=seed).step(POOL[:2])[1].tokens.tolist() for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


# --- bfloat16 -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "supported", "slow"),
    [("cpu", False, True), ("cpu", True, False), ("cuda", False, False)],
)
def test_products_in_bfloat16_are_slow_on_a_processor_without_instructions_for_them(
    monkeypatch, kind, supported, slow
):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported, raising=False
    )
    assert policy.slow_bf16(torch.device(kind)) is slow


@pytest.mark.parametrize(
    ("bf16", "slow", "said"), [(True, True, 1), (True, False, 0), (False, True, 0)]
)
def test_bf16_on_such_a_processor_is_said_to_cost_time(model, start, monkeypatch, bf16, slow, said):
    monkeypatch.setattr(policy, "slow_bf16", lambda device: slow)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start(model, "grpo", bf16=bf16)
    assert len([w for w in caught if "set bf16 to false" in str(w.message)]) == said


# --- what is saved --------------------------------------------------------------------------------
def test_with_bf16_float32_weights_are_saved_and_their_copy_is_sampled_from(model, start):
    state = start(model, "grpo", bf16=True)
    state.step(POOL[:2])
    saved = dict(state.model.named_parameters())
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
    assert same(weights(state), saved)
    rounded = {name: weight.bfloat16() for name, weight in saved.items()}
    assert same(rounded, dict(state.sampler().named_parameters()))
    assert not same(saved, {name: weight.float() for name, weight in rounded.items()})


def test_with_bf16_the_copy_that_is_sampled_from_has_the_frequencies_of_the_positions(model, start):
    # rounded to 8 bits they turn by radians too far in a response of thousands of tokens
    state = start(model, "grpo", bf16=True)
    assert same(dict(state.sampler().named_buffers()), dict(model.named_buffers()))
    assert {buffer.dtype for buffer in state.sampler().buffers()} == {torch.float32}


def test_with_bf16_packed_weights_stay_as_they_are(model, start):
    packed = torch.nn.Parameter(torch.arange(200, dtype=torch.uint8), requires_grad=False)
    model.register_parameter("packed", packed)
    assert torch.equal(start(model, "grpo", bf16=True).sampler().packed, packed)


def test_recomputed_activations_give_the_same_gradients_from_a_second_pass_through_each_layer(
    model64, start
):
    seen = {}
    for recompute in (False, True):
        state, passes = start(model64, "grpo", recompute=recompute, micro_tokens=80), []
        for module in state.model.base_model.layers:
            module.self_attn.register_forward_pre_hook(
                lambda *given, passes=passes: passes.append(1)
            )
        seen[recompute] = (*gradients(state)[1:], len(passes))
    (_, plain, fewer), (_, ours, more) = seen[False], seen[True]
    close(ours, plain, 1e-10)
    assert more > fewer > 0


def test_the_learning_rate_grows_over_the_warmup(model, tokenizer, he, questions):
    settings = Training(
        steps=4, questions=3, group_size=2, pool=3, learning_rate=0.3, max_new_tokens=4, warmup=3
    )
    state, rates = (
        train.Run(model, tokenizer, methods.get("grpo"), (modes.NORMAL, he), settings, 0),
        [],
    )
    for _ in range(4):
        state.step(questions)
        rates.append(state.optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.3])
