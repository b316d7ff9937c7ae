"""The same steps by pslib.train and by TRL's trainer: our loop draws, and both learn from that.

Called by tests, or by torchrun: -m tests.support.trl_steps <model> <draws> <folder to write to>
<method>...
"""

import copy
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import TrainerCallback

from pslib import modes, policy, rewards, train
from pslib.lab.settings import Training
from pslib.trl import PolicySplitConfig, PolicySplitTrainer
from tests.support.properties import acting
from tests.support.steps import POOL, parity

HE = modes.Mode("he", "Think of something new.")
QUESTIONS, GROUP, WIDTH = 2, 4, 6  # to a step, responses to each, tokens of a response
ROWS = QUESTIONS * GROUP


def by_parity(completions, **columns):
    """`parity` as a reward function for TRL."""
    return [parity(turns[0]["content"]) for turns in completions]


def in_trl_order(method, rows):
    """R rows that our loop has by mode and question, as TRL has them: by question and mode."""
    shape = (len(method.sampling), QUESTIONS, GROUP // len(method.sampling))
    return rows.unflatten(0, shape).transpose(0, 1).flatten(0, 2)


class OurSteps:
    """Some steps of our loop: what each drew, and its gradient. Where `frozen`, no weight moves.

    eps: what AdamW adds to the size that it divides a gradient by.
    """

    def __init__(
        self,
        model,
        tokenizer,
        name,
        steps=1,
        frozen=True,
        he=HE,
        method=None,
        eps=1e-8,
        **changes,
    ):
        settings = Training(
            steps=steps,
            questions=QUESTIONS,
            group_size=GROUP,
            pool=len(POOL),
            learning_rate=3e-4,
            max_new_tokens=WIDTH,
            weight_decay=0.0,
            measure_every=1,
        )
        self.method, self.model = method or acting(name), copy.deepcopy(model)
        self.draws, self.gradients, self.metrics, self.kept = [], [], [], []
        state = train.Run(
            self.model,
            tokenizer,
            replace(self.method, keep=self.keep),
            (modes.NORMAL, he),
            replace(settings, **changes),
            seed=0,
        )
        state.optimiser.param_groups[0]["eps"] = eps
        clip, update = train.clip_grad_norm_, state.optimiser.step

        def clipping(parameters, norm):
            self.gradients.append({n: w.grad.clone() for n, w in self.model.named_parameters()})
            return clip(parameters, norm)

        state.optimiser.step = (lambda: None) if frozen else update
        grade, rewards.grade = rewards.grade, lambda text, answer: parity(text)
        train.clip_grad_norm_ = clipping
        try:
            for step in range(steps):
                state.generators["tokens"].manual_seed(step)  # as TRL's trainer seeds it
                first = step * QUESTIONS % len(POOL)
                metrics, drawn = state.step(POOL[first : first + QUESTIONS])
                self.metrics.append(metrics)
                order = in_trl_order(self.method, torch.arange(len(drawn.tokens))).tolist()
                self.draws.append([drawn.tokens[i, : drawn.lengths[i]].tolist() for i in order])
                self.rewards = in_trl_order(self.method, drawn.rewards)
        finally:
            rewards.grade, train.clip_grad_norm_ = grade, clip

    def keep(self, *given):
        keep = self.method.keep(*given)
        self.kept.append((*given[:4], keep))
        return keep


class Gradients(TrainerCallback):
    """The gradient of every update (clipped already, where max_grad_norm is not 0)."""

    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **rest):
        self.seen.append(
            {
                n.removeprefix("module."): w.grad.clone()
                for n, w in model.named_parameters()
                if w.grad is not None
            }
        )


def config(folder, name, **changes):
    """TRL's settings for our steps: no clipping of gradients, no weight decay, nothing saved."""
    given = {
        "method": name,
        "coefficients": dict(acting(name).coefficients),
        "system_prompt": HE.system,
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "num_generations": GROUP,
        "per_device_train_batch_size": ROWS,
        "max_completion_length": WIDTH,
        "max_steps": 1,
        "learning_rate": 3e-4,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0,
        "seed": 0,
        "shuffle_dataset": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
    }
    return PolicySplitConfig(str(folder), **{**given, **changes})


def trainer(
    model,
    tokenizer,
    folder,
    name,
    draws=None,
    reward=by_parity,
    more=None,
    **changes,
):
    """TRL's trainer of a copy of the model; given `draws`, a list a step, it does not sample."""
    data = Dataset.from_list(
        [{"prompt": [{"role": "user", "content": q["question"]}]} for q in POOL]
    )
    made = PolicySplitTrainer(
        copy.deepcopy(model),
        reward,
        config(folder, name, **changes),
        data,
        processing_class=tokenizer,
        callbacks=[Gradients()],
        **(more or {}),
    )
    made.remove_callback(
        next(c for c in made.callback_handler.callbacks if type(c).__name__ == "PrinterCallback")
    )
    made.gradients = next(
        c for c in made.callback_handler.callbacks if isinstance(c, Gradients)
    ).seen
    if draws is not None:
        left = iter(draws)

        def given(prompt_ids, *rest, **named):
            mine = made.accelerator.process_index * len(prompt_ids)
            return next(left)[mine : mine + len(prompt_ids)], None

        made._generate_single_turn = given
    return made


def distance(ours, theirs):
    """How far one set of tensors is from the other, relative to its norm."""
    apart = sum(((ours[n] - theirs[n]) ** 2).sum() for n in ours)
    return float((apart / sum((t**2).sum() for t in ours.values())).sqrt())


def split_up(name, rows, accumulated, generated, model, tokenizer, folder):
    """Check the gradient of a batch that is split into micro-batches, and into several updates."""
    ours = OurSteps(model, tokenizer, name)
    updates = generated // accumulated  # which share the responses, and at a rate of 0 the weights
    made = trainer(
        model,
        tokenizer,
        folder,
        name,
        ours.draws,
        per_device_train_batch_size=rows,
        learning_rate=0.0,
        gradient_accumulation_steps=accumulated,
        steps_per_generation=generated,
        max_steps=updates,
    )
    made.train()
    assert len(made.gradients) == updates
    mean = {n: sum(part[n] for part in made.gradients) / updates for n in ours.gradients[0]}
    assert distance(ours.gradients[0], mean) < 1e-5
    assert all(log["clip_ratio/region_mean"] == 0 for log in made.state.log_history[:-1])


def main(model, draws, out, *names):
    """Train a model by each method on the draws; every process writes its weights and its log."""
    torch.set_num_threads(1)
    loaded, tokenizer = policy.load(model)
    for name, given in json.loads(Path(draws).read_text()).items():
        if name not in names:
            continue
        processes = int(os.environ.get("WORLD_SIZE", 1))
        made = trainer(
            loaded,
            tokenizer,
            f"{out}/{name}",
            name,
            given,
            max_steps=len(given),
            max_grad_norm=1.0,
            per_device_train_batch_size=ROWS // processes,
        )
        made.train()
        assert made.accelerator.num_processes == processes
        rank, unwrapped = made.accelerator.process_index, made.accelerator.unwrap_model(made.model)
        save_file(
            {n: w.detach().clone() for n, w in unwrapped.named_parameters()},
            f"{out}/{name}-{rank}.safetensors",
        )
        Path(f"{out}/{name}-{rank}.json").write_text(json.dumps(made.state.log_history))


if __name__ == "__main__":
    main(*sys.argv[1:])
