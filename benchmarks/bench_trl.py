"""What two modes cost in TRL: a step of pslib.trl's trainer against a step of TRL's own GRPO.

`python benchmarks/bench_trl.py` prints a table. The steps are measured in turns, on one thread and
on as many responses, 64 of 64 tokens. Seconds are of processor time, which other programs on the
machine do not change much.
"""

import itertools
import statistics
import tempfile
import time

import pandas as pd
import torch
import trl
from bench import GROUP, NEW, PAIRS, WARM_UP, model, questions, tokenizer
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback

from pslib import modes
from pslib.trl import PolicySplitConfig, PolicySplitTrainer

SIZES = ("0.2M", "1M", "3M")
SETTINGS = {
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "per_device_train_batch_size": 8 * GROUP,
    "num_generations": GROUP,
    "max_completion_length": NEW,
    "max_steps": 1,
    "learning_rate": 1e-5,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
}
OURS = {"system_prompt": modes.he_mode("high_entropy_short").system}
KINDS = {
    "TRL's GRPO": (trl.GRPOTrainer, trl.GRPOConfig, {}),
    "grpo": (PolicySplitTrainer, PolicySplitConfig, {"method": "grpo", **OURS}),
    "policy_split": (PolicySplitTrainer, PolicySplitConfig, {"method": "policy_split", **OURS}),
}


class Stopwatch(TrainerCallback):
    """The seconds of every step."""

    def __init__(self):
        self.seconds = []

    def on_step_begin(self, *args, **kwargs):
        self.begun = time.process_time()

    def on_step_end(self, *args, **kwargs):
        self.seconds.append(time.process_time() - self.begun)


def alternate(completions, **columns):
    """Half of every group is right."""
    return [float(place % 2) for place in range(len(completions))]


def measured(size, folder):
    """Rows of one size: the seconds of a step of each kind, and its ratio to TRL's GRPO."""
    rows = [{"prompt": [{"role": "user", "content": q["question"]}]} for q in questions()]
    trainers, watches = {}, {}
    for name, (trainer, config, more) in KINDS.items():
        watches[name] = Stopwatch()
        made = trainer(
            model(size),
            alternate,
            config(folder, **SETTINGS, **more),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer(),
            callbacks=[watches[name]],
        )
        made.remove_callback(PrinterCallback)
        trainers[name] = made
    torch.set_num_threads(1)
    for _, name in itertools.product(range(WARM_UP + PAIRS), KINDS):
        trainers[name].train()
    plain, *_ = kept = [watches[name].seconds[WARM_UP:] for name in KINDS]
    for name, seconds in zip(KINDS, kept, strict=True):
        ratios = [mine / theirs for mine, theirs in zip(seconds, plain, strict=True)]
        yield {
            "size": size,
            "trainer": name,
            "seconds": statistics.median(seconds),
            "ratio": statistics.median(seconds) / statistics.median(plain),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }


def main():
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for size in SIZES for row in measured(size, folder)]
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3f"))


if __name__ == "__main__":
    main()
