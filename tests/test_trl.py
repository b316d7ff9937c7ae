"""The methods on TRL's trainer, held against our loop on the same rollouts; what it refuses."""

import copy
import inspect
from types import SimpleNamespace

import pytest
import torch
import trl

import pslib.trl
from pslib import advantages, losses, methods, modes, rewards
from pslib.trl import PolicySplitConfig, PolicySplitTrainer
from tests.support.steps import POOL, TRAINED
from tests.support.trl_steps import (
    GROUP,
    HE,
    ROWS,
    OurSteps,
    by_parity,
    config,
    distance,
    in_trl_order,
    split_up,
    trainer,
)


def batch_of(made, questions=POOL[:2]):
    """The scored batch of some questions, of which TRL's sampler gives G copies each."""
    made.model.train()
    inputs = [
        {"prompt": [{"role": "user", "content": q["question"]}]}
        for q in questions
        for _ in range(GROUP)
    ]
    return made._generate_and_score_completions(inputs)


def contents(ids, mask):
    return [tuple(row[seen.bool()].tolist()) for row, seen in zip(ids, mask, strict=True)]


# --- the same step --------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TRAINED)
def test_the_gradient_on_the_same_rollouts_is_our_loops(name, model, tokenizer, tmp_path):
    ours = OurSteps(model, tokenizer, name)
    made = trainer(model, tokenizer, tmp_path, name, ours.draws)
    made.train()
    assert distance(ours.gradients[0], made.gradients[0]) < 1e-5
    # and it logs what our loop measures, under the same names, in the step that it is about
    measured = {
        key: value
        for key, value in ours.metrics[0].items()
        if key.startswith(
            ("accuracy", "bonus", "entropy", "kl", "live_groups", "response", "reward", "loss")
        )
    }
    assert len(measured) == (11 if len(ours.method.sampling) == 2 else 7)
    logged = made.state.log_history[0]
    assert {key: logged[key] for key in measured} == pytest.approx(measured, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", TRAINED)
def test_advantages_masks_and_denominators_are_our_loops(name, model, model64, tokenizer, tmp_path):
    ours = OurSteps(model64, tokenizer, name)
    made, parts = trainer(model, tokenizer, tmp_path, name), len(ours.method.training)
    made._rewards = ours.rewards[:, None]

    def reordered(rows):
        return torch.cat([in_trl_order(ours.method, part) for part in rows.chunk(parts)])

    logp, adv, entropy, mask, keep = map(reordered, ours.kept[0])
    assert logp.dtype == torch.float64
    their_adv, their_keep, total = made._weigh(logp, entropy, mask.long())
    torch.testing.assert_close(their_adv, adv, rtol=0, atol=1e-9)
    assert torch.equal(their_keep, keep)
    assert total == (keep if ours.method.divide_by_kept else mask).sum()
    assert bool(keep[mask].all()) == (name not in ("forking", "clip_cov"))


def test_at_another_temperature_the_gradient_is_our_loops(model, tokenizer, tmp_path):
    ours = OurSteps(model, tokenizer, "policy_split", temperature=0.7)
    made = trainer(model, tokenizer, tmp_path, "policy_split", ours.draws, temperature=0.7)
    made.train()
    assert distance(ours.gradients[0], made.gradients[0]) < 1e-5


def test_clip_cov_draws_by_the_step_whatever_was_drawn_before(model, tokenizer, tmp_path):
    ours, c = OurSteps(model, tokenizer, "clip_cov"), {"ratio": 2e-4, "lower": 0.0, "upper": 100.0}
    logp, adv, entropy, mask, _ = ours.kept[0]  # one mode draws, so the order of rows is TRL's
    made, kept = trainer(model, tokenizer, tmp_path, "clip_cov", coefficients=c), set()
    made._rewards = ours.rewards[:, None]
    for step in (0, 1, 2, 3, 0):
        made.state.global_step = step
        _, keep, _ = made._weigh(logp, entropy, mask.long())
        draw = torch.Generator().manual_seed(step)
        assert torch.equal(keep, losses.clip_cov_mask(logp, logp, adv, mask, **c, generator=draw))
        assert (mask & ~keep).sum() == 1
        kept.add(tuple(keep.flatten().tolist()))
    assert len(kept) > 1


def test_every_response_is_a_row_under_both_prompts_and_half_of_a_group_is_drawn_in_each(
    model, tokenizer, tmp_path
):
    made, asked = trainer(model, tokenizer, tmp_path, "policy_split"), []
    drawn = [[7 + k, 8] for k in range(ROWS)]

    def turn(prompt_ids, *rest, **named):
        asked.extend(map(tuple, prompt_ids))
        return drawn, None

    made._generate_single_turn = turn
    batch = batch_of(made)
    prompts = {
        mode.name: [tuple(modes.render(tokenizer, mode, q["question"])) for q in POOL[:2]]
        for mode in (modes.NORMAL, HE)
    }
    assert asked == [
        prompts[name][q] for q in range(2) for name in ("normal", "normal", "he", "he")
    ]
    rows = list(
        zip(
            contents(batch["prompt_ids"], batch["prompt_mask"]),
            contents(batch["completion_ids"], batch["completion_mask"]),
            strict=True,
        )
    )
    assert rows == [
        (prompts[name][k // GROUP], tuple(drawn[k]))
        for name in ("normal", "he")
        for k in range(ROWS)
    ]
    assert batch["num_items_in_batch"] == 2 * 2 * ROWS and batch["advantages"].shape == (
        2 * ROWS,
        2,
    )


# method, rows at once, accumulated batches to an update, batches to a generation
SPLITS = [
    ("policy_split", 4, 2, 2),
    ("policy_split", 4, 1, 2),
    ("forking", 2, 4, 4),
    ("entropy_regularization", 2, 2, 4),
]


@pytest.mark.parametrize("name, rows, accumulated, generated", SPLITS)
def test_accumulation_and_several_updates_leave_the_gradient(
    name, rows, accumulated, generated, model, tokenizer, tmp_path
):
    split_up(name, rows, accumulated, generated, model, tokenizer, tmp_path)


def test_old_log_probs_are_those_under_the_prompt_that_is_trained(model, tokenizer, tmp_path):
    ours = OurSteps(model, tokenizer, "policy_split")
    logp = torch.cat([in_trl_order(ours.method, part) for part in ours.kept[0][0].chunk(2)])
    made = trainer(
        model,
        tokenizer,
        tmp_path,
        "policy_split",
        ours.draws,
        per_device_train_batch_size=4,
        steps_per_generation=2,
        gradient_accumulation_steps=1,
    )
    batch = batch_of(made)
    mask = batch["completion_mask"].bool()
    torch.testing.assert_close(
        batch["old_per_token_logps"][mask], logp[:, : mask.shape[1]][mask], rtol=0, atol=1e-4
    )


def test_tokens_that_a_tool_wrote_are_not_learned_from(model, tokenizer, tmp_path, monkeypatch):
    ours = OurSteps(model, tokenizer, "policy_split")
    made = trainer(model, tokenizer, tmp_path, "policy_split", ours.draws)
    drawn = trl.GRPOTrainer._generate_and_score_completions

    def with_a_tool(self, inputs):
        out = drawn(self, inputs)
        out["tool_mask"] = torch.ones_like(out["completion_mask"])
        out["tool_mask"][:, 0] = 0
        return out

    monkeypatch.setattr(trl.GRPOTrainer, "_generate_and_score_completions", with_a_tool)
    batch = batch_of(made)
    learned = batch["completion_mask"].clone()
    learned[:, 0] = 0
    assert torch.equal(batch["tool_mask"], learned) and batch["num_items_in_batch"] == learned.sum()


def test_a_dead_group_has_no_gradient(model, tokenizer, tmp_path):
    ours = OurSteps(model, tokenizer, "policy_split")
    made = trainer(
        model,
        tokenizer,
        tmp_path,
        "policy_split",
        ours.draws,
        reward=lambda completions, **columns: [0.7] * len(completions),
    )
    made.train()
    assert all((gradient == 0).all() for gradient in made.gradients[0].values())


def test_a_response_that_nothing_graded_has_no_advantage_and_does_not_count(
    model, tokenizer, tmp_path
):
    made = trainer(model, tokenizer, tmp_path, "grpo")
    made._rewards = torch.tensor([[1.0], [0.0], [1.0], [torch.nan]] * 2)
    given, group_ids = made._graded()
    adv = advantages.group_relative(given, group_ids)
    assert adv[3] == adv[7] == 0
    torch.testing.assert_close(
        adv[:3], advantages.group_relative(given[:3], torch.zeros(3, dtype=torch.long))
    )


def test_a_response_that_nothing_graded_is_left_out_of_the_means(model, tokenizer, tmp_path):
    graded = [None, 1.0, 1.0, 0.0, 0.0, 1.0, None, None]  # of each group, half in each mode

    def reward(completions, **columns):
        return graded

    made = trainer(model, tokenizer, tmp_path, "policy_split", reward=reward)
    made.train()
    (logged,) = [row for row in made.state.log_history if "live_groups" in row]
    assert logged["live_groups"] == 1.0
    assert logged["accuracy_normal"] == pytest.approx(2 / 3)  # 1, of (0, 1) and (None, 1)
    assert logged["accuracy_he"] == pytest.approx(1 / 2)  # of (1, 0) and none


def test_rewards_are_weighed_as_trl_weighs_them(model, tokenizer, tmp_path):
    made = trainer(
        model, tokenizer, tmp_path, "grpo", reward=[by_parity, by_parity], reward_weights=[2.0, 0.5]
    )
    made._rewards = torch.tensor([[1.0, 3.0], [1.0, torch.nan]] * 4)
    assert made._graded()[0].tolist() == [3.5, 2.0] * 4


def test_weights_in_which_small_updates_are_lost_are_told_of(model, tokenizer, tmp_path):
    with pytest.warns(UserWarning, match="are torch.bfloat16, in which most updates are lost"):
        trainer(copy.deepcopy(model).bfloat16(), tokenizer, tmp_path, "grpo")


# --- sampling -------------------------------------------------------------------------------------
def test_a_vllm_server_is_asked_each_modes_prompt(model, tokenizer, tmp_path):
    # The server reads every num_generations-th prompt: of G it would never see the second mode's.
    made = trainer(model, tokenizer, tmp_path, "policy_split")

    class Server:
        def generate(self, prompts, images, num_generations, profiler):
            out = [prompt for prompt in prompts[::num_generations] for _ in range(num_generations)]
            return prompts, out, [[[0.0] for _ in prompt] for prompt in out], None

    made.use_vllm, made.vllm_generation, made._last_loaded_step = (
        True,
        Server(),
        made.state.global_step,
    )
    prompts = [[1]] * 2 + [[2]] * 2 + [[3]] * 2 + [[4]] * 2
    made.model.train()
    assert made._generate_single_turn(prompts, None, {}, GROUP)[0] == prompts
    assert (
        made._generate_single_turn(prompts, None, {}, num_generations=1)[0] == prompts
    )  # a tool call
    made.model.eval()
    alike = [[1]] * 4 + [[2]] * 4
    assert made._generate_single_turn(alike, None, {}, 4)[0] == alike


def test_the_trainer_samples_trains_and_evaluates_by_itself(model, tokenizer, tmp_path):
    before, held_out = copy.deepcopy(model.state_dict()), []

    def reward(prompts, completions, **columns):
        held_out.append([turns[0]["role"] for turns in prompts])
        return by_parity(completions)

    made = trainer(
        model,
        tokenizer,
        tmp_path,
        "policy_split",
        reward=reward,
        max_steps=2,
        per_device_eval_batch_size=4,
    )
    made.eval_dataset = made.train_dataset.select(range(2))
    made.train()
    assert any(not torch.equal(before[n], w) for n, w in made.model.state_dict().items())
    assert held_out[0] == ["user"] * 8  # one group, one question: whoever draws, the same is judged
    del held_out[:]
    found = made.evaluate()
    assert {role for roles in held_out for role in roles} == {"user"} and 0 <= found[
        "eval_reward"
    ] <= 1


def test_exact_answer_grades_as_rewards_does():
    completions = [[{"role": "assistant", "content": f"so \\boxed{{{k}}}"}] for k in (3, 4)]
    assert pslib.trl.exact_answer(completions, ["3", "3"], prompts=None) == [1.0, 0.0]
    assert [rewards.grade(c[0]["content"], "3") for c in completions] == [1.0, 0.0]
    asked = {"worked_out": [True, False], "thinking": [False, False]}
    completions = [[{"content": "\\boxed{1+2}"}]] * 2
    assert pslib.trl.exact_answer(completions, ["3", "3"], **asked) == [1.0, 0.0]
    completions = [[{"content": "\\boxed{3}"}], [{"content": "</think>\\boxed{3}"}]]
    assert pslib.trl.exact_answer(completions, ["3", "3"], thinking=[True, True]) == [0.0, 1.0]


@pytest.mark.parametrize("thinking, wanted", [(True, [0.0, 1.0]), (False, [1.0, 1.0])])
def test_where_thinking_is_on_exact_answer_asks_for_its_end(
    thinking, wanted, model, tokenizer, tmp_path
):
    made = trainer(
        model,
        tokenizer,
        tmp_path,
        "grpo",
        reward=pslib.trl.exact_answer,
        chat_template_kwargs={"enable_thinking": thinking},
    )
    texts = ["\\boxed{3}", "</think>\\boxed{3}"]
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    rows = [{"prompt": [{"role": "user", "content": "1+2"}], "answer": "3"}] * 2
    given = made._calculate_rewards(rows, [row["prompt"] for row in rows], completions, [[1], [1]])
    assert given.flatten().tolist() == wanted


def test_the_card_of_a_model_names_the_method(model, tokenizer, tmp_path):
    made = trainer(model, tokenizer, tmp_path, "clip_cov")
    made.create_model_card()
    assert "trained with GRPO w/ Clip-Cov." in (tmp_path / "README.md").read_text()


# --- settings -------------------------------------------------------------------------------------
def test_the_default_is_policy_split_as_the_paper_prints_it(tmp_path):
    made = PolicySplitConfig(str(tmp_path), use_cpu=True, bf16=False, per_device_train_batch_size=8)
    assert (
        made.row_of_methods() == methods.get("policy_split")
        and made.system_prompt == modes.he_mode().system
    )
    assert made.row_of_methods().coefficients["variant"] == "paper"
    changed = config(
        tmp_path, "policy_split", coefficients='{"eta": 0.5}'
    )  # as a command line gives it
    assert changed.row_of_methods().coefficients["eta"] == 0.5


REFUSED = [
    (
        {"method": "policy_split_unshared", "coefficients": None},
        "is an ablation, which only pslib.train trains",
    ),
    (
        {"method": "original", "coefficients": None},
        "Original is not trained; evaluate the base model",
    ),
    ({"method": "grop", "coefficients": None}, "no method is called 'grop'"),
    ({"coefficients": {"beta": 1.0}}, "Policy Split has no coefficient 'beta'"),
    (
        {"per_device_train_batch_size": 3, "num_generations": 3},
        "half of a group is drawn in each mode",
    ),
    *[
        ({option: value}, f"{option} must be")
        for option, value in {
            "loss_type": "grpo",
            "scale_rewards": "none",
            "multi_objective_aggregation": "normalize_then_sum",
            "importance_sampling_level": "sequence",
            "beta": 0.1,
            "top_entropy_quantile": 0.2,
            "entropy_coef": 0.1,
            "use_adaptive_entropy": True,
            "off_policy_mask_threshold": 0.5,
        }.items()
    ],
]


@pytest.mark.parametrize("changes, message", REFUSED)
def test_settings_that_do_not_fit_the_method_are_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message) as refused:
        config(tmp_path, "policy_split", **changes)
    assert "\n" not in str(refused.value)


def test_every_option_that_is_fixed_is_one_of_trls_with_that_default():
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(trl.GRPOConfig).parameters.items()
    }
    assert {name: defaults[name] for name in pslib.trl.FIXED} == pslib.trl.FIXED


def test_groups_must_lie_whole_in_one_process(tmp_path, monkeypatch):
    # two processes of 6 responses hold three groups of 4, one of them in parts
    monkeypatch.setattr(trl.GRPOConfig, "world_size", property(lambda self: 2))
    with pytest.raises(
        ValueError, match="groups must lie whole in one process, which draws 6 responses"
    ):
        config(tmp_path, "grpo", per_device_train_batch_size=6)


def test_a_config_of_trl_alone_or_prompts_of_another_making_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="args must be a PolicySplitConfig"):
        PolicySplitTrainer(
            model, by_parity, trl.GRPOConfig(str(tmp_path), use_cpu=True, bf16=False)
        )
    with pytest.raises(ValueError, match="write their own prompts"):
        PolicySplitTrainer(model, by_parity, config(tmp_path, "grpo"), rollout_func=print)


def test_modes_that_have_one_prompt_are_refused(model, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="the modes normal and he have the same prompt"):
        trainer(model, tokenizer, tmp_path, "policy_split", system_prompt="")
    deaf = copy.deepcopy(tokenizer)
    deaf.chat_template = "<|user|>{{ messages[-1].content }}"
    with pytest.raises(ValueError, match="drops the system turn"):
        trainer(model, deaf, tmp_path, "policy_split")
    trainer(model, deaf, tmp_path, "grpo")


def test_prompts_that_are_no_messages_are_refused(model, tokenizer, tmp_path):
    made = trainer(model, tokenizer, tmp_path, "policy_split")
    for example in (
        {"prompt": "7+8"},
        {"prompt": [{"role": "user", "content": "7+8"}], "image": SimpleNamespace()},
    ):
        with pytest.raises(ValueError, match="must hold lists of messages, without images"):
            made._check_prompt(example)
