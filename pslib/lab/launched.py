"""A run of a profile on TRL's trainer, in the processes that accelerate launch or torchrun started.

It leaves what `chain.train_run` leaves, with the same columns, so evaluation, tables and figures
read both alike. Where TRL trains otherwise is said in `pslib.trl`. The parts of a step's time are
not known, so the columns seconds_* are blank.
"""

import math
import re
import time
from contextlib import nullcontext
from dataclasses import replace

import pandas as pd
from accelerate import PartialState
from datasets import Dataset
from transformers import TrainerCallback

from pslib import modes, policy, tasks
from pslib.lab import chain, checkpoint, measures, records, runs
from pslib.trl import PolicySplitConfig, PolicySplitTrainer, exact_answer

# What `pslib.trl` logs beside TRL, under our own names
OWN = re.compile(
    "live_groups|response_tokens|reward_(?:normal|he)|(?:accuracy|entropy_bits|kl_he|bonus_share)_"
)


class Metrics(TrainerCallback):
    """Writes metrics.csv, a row a step."""

    def __init__(self, folder, settings):
        self.curve, self.settings = chain.Curve(folder, settings.steps), settings

    def on_log(self, args, state, control, logs=None, **rest):
        """Add the step's row, as transformers calls it with what the trainer logged."""
        if not state.is_world_process_zero or "loss" not in logs:
            return
        row = {"step": state.global_step}
        row |= {name: logs[name] for name in ("loss", "grad_norm", "reward")}
        row["unfinished"] = logs["completions/clipped_ratio"]
        row |= {name: value for name, value in logs.items() if OWN.match(name)}
        row |= {f"seconds_{part}": math.nan for part in ("sample", "score", "update")}
        earlier = self.curve.before(state.global_step)
        before = earlier[-1]["beyond_bounds"] if earlier else 0
        row["beyond_bounds"] = measures.count_beyond(before, row, self.settings)
        self.curve.add(row)


def _check(settings, processes):
    """ValueError for what TRL's trainer cannot do in so many processes."""
    if settings.questions % processes:
        raise ValueError(
            f"{settings.questions} questions to a step cannot be shared out evenly among "
            f"{processes} processes; choose a multiple of their number"
        )
    if settings.stop_beyond:
        raise ValueError(
            "TRL's trainer does not know stop_beyond; leave it out of a profile for it"
        )


def _rows_at_once(settings, recipe, own):
    """Of a process's own responses to a step, how many go through the model at once: a divisor."""
    room = settings.micro_tokens // (settings.max_new_tokens * max(1, len(recipe.training)))
    fitting = [rows for rows in range(1, own + 1) if own % rows == 0 and rows <= room]
    return max(fitting, default=1)


def config(profile, method, size, seed, folder, processes):
    """The profile's settings as TRL's; ValueError where processes cannot share groups evenly."""
    settings, recipe, (_, he) = profile.train, profile.method(method), profile.modes
    _check(settings, processes)
    own = settings.questions * settings.group_size // processes
    rows = _rows_at_once(settings, recipe, own)
    thinking = profile.enable_thinking
    return PolicySplitConfig(
        str(folder / "checkpoints"),
        method=method,
        coefficients=dict(recipe.coefficients),
        system_prompt=he.system,
        chat_template_kwargs={} if thinking is None else {"enable_thinking": thinking},
        num_generations=settings.group_size,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=own // rows,
        steps_per_generation=own // rows,
        max_steps=settings.steps,
        max_completion_length=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=1.0,
        top_k=0,
        epsilon=settings.clip_eps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.grad_clip_norm,
        bf16=settings.bf16,
        gradient_checkpointing=settings.recompute,
        use_cpu=policy.device_of(profile.device).type == "cpu",
        use_vllm=profile.engine == "vllm",
        vllm_mode="colocate",
        shuffle_dataset=False,
        seed=seed,
        save_steps=settings.save_every,
        save_total_limit=2,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
    )


def asked(questions, profile, seed):
    """The questions of all steps, in our own loop's order, as TRL reads them."""
    settings = profile.train
    rows = []
    for batch in tasks.batches(questions, settings.questions, settings.steps, seed):
        for row in batch:
            prompt = [{"role": "user", "content": row["question"]}]
            rows.append({**row, "prompt": prompt})
    return Dataset.from_list(rows)


def train_run(profile, method, size, seed):
    """Train one run to its end in all processes of this world; the main one owns its folder.

    All must see one file system. A run that is done is left as it is; one that was stopped goes on
    from its last checkpoint.
    """
    world = PartialState(cpu=policy.device_of(profile.device).type == "cpu")
    main, begun = world.is_main_process, time.time()
    folder = runs.run_folder(profile, method, size, seed)
    args = config(profile, method, size, seed, folder, world.num_processes)
    with runs.owned(folder) if main else nullcontext():
        world.wait_for_everyone()  # none goes on before the folder is the main one's
        with world.main_process_first():  # which may have to fetch what the others then read
            # on the processor: the trainer takes each process's part to its own device
            there = replace(profile, device="cpu")
            prepared = chain.prepare(there, method, size, seed, folder)
        if not prepared:
            return
        prepared.model.set_attn_implementation("sdpa")
        prepared.model.config.use_cache = not profile.train.recompute
        questions = asked(prepared.questions, profile, seed)
        with_it = {"processing_class": modes.dated(prepared.tokenizer)}
        with_it["callbacks"] = [Metrics(folder, profile.train)]
        trainer = PolicySplitTrainer(prepared.model, exact_answer, args, questions, **with_it)
        if main:
            records.begin(folder / "params.yaml", prepared.settings)
        trainer.train(resume_from_checkpoint=_newest(folder / "checkpoints", world.num_processes))
        world.wait_for_everyone()
        temporary = folder / ".model.tmp"
        trainer.save_model(str(temporary))  # by all: each may hold a part of the weights
        world.wait_for_everyone()
        if main:
            (temporary / "training_args.bin").unlink(missing_ok=True)  # a pickle
            prepared.tokenizer.save_pretrained(temporary)
            _keep_responses(trainer, folder, profile.train)
            chain.put(temporary, folder / "model")
            chain.finish(profile, folder, seed, begun, prepared.inputs)
        world.wait_for_everyone()


def _newest(checkpoints, processes):
    """The newest checkpoint that was written to its end, or None: a kill may have cut one off.

    TRL's trainer writes its state last, and every process the state of its own generators.
    """
    whole = []
    for path in checkpoints.glob("checkpoint-*"):
        generators = len(list(path.glob("rng_state*")))
        if (path / "trainer_state.json").exists() and generators == processes:
            whole.append(str(path))
    return max(whole, key=lambda path: int(path.rpartition("-")[2]), default=None)


def _keep_responses(trainer, folder, settings):
    """Write the last step's responses to rollouts.parquet, as our own loop does."""
    asked, logged = list(trainer.train_dataset["id"])[-settings.questions :], trainer._logs
    count = settings.questions * settings.group_size
    kept = {
        "question_id": [name for name in asked for _ in range(settings.group_size)],
        "mode": trainer._sampling_modes(count),
        "response": list(logged["completion"])[-count:],
        "reward": list(logged["rewards"]["exact_answer"])[-count:],
    }
    if all(len(values) == count for values in kept.values()):
        checkpoint.write(folder / "rollouts.parquet", pd.DataFrame(kept).to_parquet())
