"""The methods on TRL's GRPOTrainer: for a large model, LoRA, vLLM, several GPUs or several nodes.

    config = PolicySplitConfig("my-run", num_generations=8, per_device_train_batch_size=16)
    PolicySplitTrainer("Qwen/Qwen3-1.7B", exact_answer, config, questions).train()

`questions` is a data set whose column `prompt` holds lists of messages. Its other columns reach the
reward functions. Every row of `methods.METHODS` trains, by the functions that `pslib.train` calls.
Several GPUs, FSDP2, LoRA, vLLM and checkpoints work as TRL documents them.

The default bonus is eq. 3, as the paper prints it: "Policy Split" then means what a reader of the
paper expects. The authors' code computes another bonus: the method "policy_split_released".

What TRL does differently from `pslib.train`:
- A dead group is not skipped: its advantages are exactly 0, which costs time alone.
- PPO's clip can bind. Where a set of responses serves several updates (`steps_per_generation` above
  `gradient_accumulation_steps`, or `num_iterations` above 1), old log-probs are those before the
  first update, each under the prompt that is trained.
- With vLLM, a response also has a weight for how far vLLM's log-probs are from the model's.
- A chat template that asks for the date gets today's.
- Gradients are summed in another order. Where one is about as small as AdamW's eps of 1e-8, its
  rounding decides the step: after ten steps at 3e-4 few weights differ by more than 1e-5.
- With two training modes a micro-batch holds twice `per_device_train_batch_size` rows.
- Weight decay spares norms, and the learning rate falls linearly, unless settings say otherwise.
- `train(resume_from_checkpoint=True)` is TRL's. A checkpoint holds no responses: where one set
  serves several updates, a run that was stopped between them goes on with new responses.
- `eval_dataset` is evaluated in the normal mode.
"""

import warnings
from dataclasses import dataclass, field

import torch
import trl
from torch.nn.utils.rnn import pad_sequence

from pslib import losses, methods, modes, rewards
from pslib.lab import checks, measures
from pslib.rollouts import Rollouts

# TRL's options that would change the loss of a method, and what each must be.
FIXED = {
    "loss_type": "dapo",  # the mean over all tokens of the batch
    "scale_rewards": "group",
    "multi_objective_aggregation": "sum_then_normalize",
    "importance_sampling_level": "token",
    "beta": 0.0,
    "top_entropy_quantile": 1.0,
    "entropy_coef": 0.0,
    "use_adaptive_entropy": False,
    "off_policy_mask_threshold": None,
}


def exact_answer(completions, answer, worked_out=None, thinking=None, **columns):
    """A reward function for TRL: is the boxed answer the one in the column `answer`? 1.0 or 0.0.

    Columns worked_out and thinking, where a data set has them, say what `rewards.grade` takes.
    """
    no = [False] * len(completions)
    rows = zip(completions, answer, worked_out or no, thinking or no, strict=True)
    return [rewards.grade(c[0]["content"], a, bool(w), bool(t)) for c, a, w, t in rows]


@dataclass
class PolicySplitConfig(trl.GRPOConfig):
    """TRL's settings, and the method that trains; ValueError for settings that do not fit it."""

    _VALID_DICT_FIELDS = [*trl.GRPOConfig._VALID_DICT_FIELDS, "coefficients"]  # noqa: RUF012

    method: str = field(default="policy_split", metadata={"help": "A name in methods.METHODS."})
    coefficients: dict | str | None = field(
        default=None, metadata={"help": "The method's coefficients to change, as {'eta': 0.1}."}
    )
    system_prompt: str = field(
        default_factory=lambda: modes.he_mode().system,
        metadata={"help": "What makes the high-entropy mode; by default the paper's prompt."},
    )

    def __post_init__(self):
        super().__post_init__()
        method, group = self.row_of_methods(), self.num_generations
        for name, needed in FIXED.items():
            if getattr(self, name) != needed:
                raise ValueError(f"{name} must be {needed!r}: another loss is not {method.label}'s")
        local = self.per_device_train_batch_size * self.steps_per_generation
        if local % group:
            raise ValueError(
                f"groups must lie whole in one process, which draws {local} responses; make "
                f"per_device_train_batch_size x steps_per_generation a multiple of {group}"
            )
        if group % len(method.sampling):
            raise ValueError(
                f"half of a group is drawn in each mode; make num_generations={group} even"
            )

    def row_of_methods(self):
        """The `methods.Method` that is trained, with its coefficients."""
        if self.method in methods.ABLATIONS:
            raise ValueError(f"{self.method} is an ablation, which only pslib.train trains")
        method = methods.get(self.method, **(self.coefficients or {}))
        if not method.training:
            raise ValueError(f"{method.label} is not trained; evaluate the base model instead")
        return method


class PolicySplitTrainer(trl.GRPOTrainer):
    """GRPOTrainer with the sampling, advantages and token masks of a row of the table of methods.

    In a group, the high-entropy mode's half of the prompts get their system turn before TRL draws
    the responses. Reward functions get the prompts as the data set has them, since a group answers
    one question. Then each response becomes a row under every training mode's prompt.
    """

    def __init__(self, model, reward_funcs=None, args=None, train_dataset=None, **named):
        if not isinstance(args, PolicySplitConfig):
            raise ValueError("args must be a PolicySplitConfig, which says which method trains")
        if named.get("rollout_func") or named.get("environment_factory"):
            raise ValueError(
                "rollout_func and environment_factory write their own prompts; leave them out"
            )
        self.method = args.row_of_methods()
        known = {"normal": modes.NORMAL, "he": modes.Mode("he", args.system_prompt)}
        self.modes = {name: known[name] for name in self.method.training}
        super().__init__(model, reward_funcs, args, train_dataset, **named)
        self._name, self._paper = self.method.label, {}  # for the model card
        self._check_prompt(next(iter(self.train_dataset)))
        # Both keep float32 copies themselves; TRL itself has the adapters of packed weights so.
        kept = self.is_deepspeed_enabled or self.is_fsdp_enabled
        packed = [getattr(self.model, f"is_loaded_in_{bits}bit", False) for bits in (4, 8)]
        if checks.half(self.model) and not (kept or any(packed)):
            said = f"the weights are {checks.half(self.model)}, in which most updates are lost; "
            warnings.warn(said + "load them in float32, and leave bf16 on", stacklevel=2)

    def _check_prompt(self, example):
        """ValueError unless a prompt is a list of messages, to which each mode can add its turn."""
        if not isinstance(example["prompt"], list) or "images" in example or "image" in example:
            raise ValueError("the column prompt must hold lists of messages, without images")
        modes.rendered(self._tokenizer, self.modes.values())

    def _render(self, name, prompts):
        return self._tokenize_prompts([modes.turns(self.modes[name], p) for p in prompts])[0]

    def _sampling_modes(self, rows):
        """The mode that draws each row of whole groups: equal parts of a group, mode by mode."""
        size, names = self.num_generations, self.method.sampling
        return [names[row % size * len(names) // size] for row in range(rows)]

    def _generate_single_turn(self, prompt_ids, images, fields, num_generations, **named):
        # A vLLM server draws num_generations responses to a prompt; a mode has part of a group's.
        if self.model.training and num_generations == self.num_generations:
            num_generations //= len(self.method.sampling)
        return super()._generate_single_turn(prompt_ids, images, fields, num_generations, **named)

    def _calculate_rewards(self, inputs, prompts, *given):
        if (self.args.chat_template_kwargs or {}).get("enable_thinking"):
            inputs = [{"thinking": True, **row} for row in inputs]  # a column, for `exact_answer`
        if self.model.training:
            prompts = self._prompts
        # (R, functions), of all processes
        self._rewards = super()._calculate_rewards(inputs, prompts, *given)
        return self._rewards

    def _generate_and_score_completions(self, inputs):
        """Draw, grade, share, score: this process's rows, with advantages and a token mask."""
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        self._prompts = prompts = [example["prompt"] for example in inputs]
        asked = [
            {**example, "prompt": modes.turns(self.modes[name], example["prompt"])}
            for example, name in zip(inputs, self._sampling_modes(len(inputs)), strict=True)
        ]
        batch = self._share(super()._generate_and_score_completions(asked), prompts)
        mask = batch["completion_mask"] * batch.get("tool_mask", 1)
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        width, at_once = mask.shape[1], self.args.per_device_train_batch_size
        with torch.no_grad():
            logp, entropy, _ = self._get_per_token_logps_and_entropies(
                self.model, ids, seen, width, at_once, compute_entropy=True
            )
        adv, keep, total = (t.to(mask.device) for t in self._weigh(logp, entropy, mask))
        # TRL multiplies the loss by the tool mask; the model still attends to what it leaves out.
        batch.update(advantages=adv, tool_mask=keep.to(mask.dtype), num_items_in_batch=total)
        if "old_per_token_logps" in batch:
            batch["old_per_token_logps"] = logp
        return batch

    def _share(self, drawn, prompts):
        """B responses as N rows (eq. 10): row k B + r is response r under training mode k."""
        names, pad = self.method.training, self._tokenizer.pad_token_id
        batch = {k: torch.cat([v] * len(names)) if v.ndim else v for k, v in drawn.items()}
        ids = [torch.tensor(row) for name in names for row in self._render(name, prompts)]
        seen = [torch.ones_like(row) for row in ids]
        for key, rows, fill in (("prompt_ids", ids, pad), ("prompt_mask", seen, 0)):
            batch[key] = pad_sequence(rows, True, fill, "left").to(drawn[key].device)
        return batch

    def _weigh(self, logp, entropy, mask):
        """Advantages (N, T) and kept tokens, bool (N, T), of this process; the loss's denominator.

        All (N, T), in nats; gathered first, so that the number of processes changes nothing.
        """
        width, parts = mask.shape[1], len(self.method.training)
        logp, entropy, mask = map(self._gather, (logp, entropy, mask))
        mask, (rewards, groups) = mask.bool(), self._graded()
        # Seeded by the step, the draw is the same in every process and after a resume.
        generator = torch.Generator().manual_seed(self.args.seed + self.state.global_step)
        own_mask = mask.chunk(parts)[0]
        weighed = self.method.weigh(rewards, groups, own_mask, mask, logp, entropy, generator)
        self._log_modes(weighed)
        every, own = (parts, self.accelerator.num_processes, -1), self.accelerator.process_index
        both = weighed.advantage, weighed.keep
        adv, keep = (t.unflatten(0, every)[:, own, :, :width].flatten(0, 1) for t in both)
        return adv, keep, weighed.total

    def _gather(self, values):
        """(N, T) of this process -> the same of all, mode by mode, on the CPU, padded with 0."""
        whole = self.accelerator.gather(self.accelerator.pad_across_processes(values, dim=1)).cpu()
        every = (self.accelerator.num_processes, len(self.method.training), -1)
        return whole.unflatten(0, every).transpose(0, 1).flatten(0, 2)

    def _graded(self):
        """Rewards (R,) and group ids (R,) of all processes, on the CPU.

        A response that no reward function graded is a group of its own, so its advantage is 0.
        """
        given = self._rewards.cpu()
        row = torch.arange(len(given))
        groups = torch.where(self._is_graded(), row // self.num_generations, len(given) + row)
        return (given * self.reward_weights.cpu()).nansum(1), groups

    def _is_graded(self):
        """Bool (R,): the responses to which a reward function gave a number."""
        return ~self._rewards.cpu().isnan().all(1)

    def _log_modes(self, weighed):
        """Log accuracy, entropy and bonus of each mode, and the inter-mode KL, as train does."""
        scored = weighed.scored
        names, lengths = self._sampling_modes(len(scored.mask)), scored.mask.sum(1)
        drawn = Rollouts([], scored.group_ids, names, scored.mask, lengths, [], scored.rewards)
        own_reward, graded = self.reward_funcs != [exact_answer], self._is_graded()
        logged = measures.of_step(drawn, weighed, True, own_reward, graded)
        for name, value in logged.items():
            if name != "reward":  # TRL logs it. (_log_metric would log a value one step late.)
                self._metrics["train"][name].append(value)

    def _get_per_token_logps_and_entropies(self, *given, **named):
        scores = super()._get_per_token_logps_and_entropies(*given, **named)
        self._entropy = scores[1]
        return scores

    def _compute_loss(self, model, inputs):
        """TRL's clipped loss less our entropy term: TRL's own is a mean over a micro-batch."""
        loss = super()._compute_loss(model, inputs)
        entropy, self._entropy = self._entropy, None
        coef = self.method.coefficients.get(self.method.entropy_coef, 0.0)
        if coef and self.model.training:
            # TRL's denominator: gradients are averaged over processes, summed over micro-batches.
            parts = self.current_gradient_accumulation_steps / self.args.steps_per_generation
            total = inputs["num_items_in_batch"] / self.accelerator.num_processes * parts
            loss = loss - coef * losses.token_mean(entropy, inputs["tool_mask"].bool(), total)
        return loss
