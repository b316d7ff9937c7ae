"""Benchmarks on a GPU with random weights of Qwen3-1.7B's shape, in float32 with products in
bfloat16: `make bench-gpu`, under four minutes; `--tiny` tries the script on a CPU.

Training tokens a second and their share of the bf16 matrix-product peak measured in the same run,
peak memory, and a step of Policy Split against a step of GRPO and against the same step in TRL.
"""

import platform
import re
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass

import pandas as pd
import torch
import transformers
from bench import GROUP, MODES, batch_of, graded, questions, tokenizer
from bench_trl import OURS, alternate
from datasets import Dataset
from transformers import PrinterCallback, Qwen3Config, Qwen3ForCausalLM, TrainerCallback

from pslib import methods, policy, train
from pslib.lab import checkpoint, runs
from pslib.lab.settings import Training
from pslib.trl import PolicySplitConfig, PolicySplitTrainer

STEPS = 3  # of which the first warms up


@dataclass(frozen=True)
class Size:
    """A model's shape, how large a step is, and where all is done."""

    device: str
    shape: tuple  # hidden, layers, feed-forward, heads, key-value heads, head dimension, vocabulary
    new: int  # tokens of a response
    groups: int  # questions to a step
    product: int  # rows and columns of the matrices that give the peak


LARGE = Size("cuda", (2048, 28, 6144, 16, 8, 128, 151_936), new=256, groups=8, product=8192)
TINY = Size("cpu", (64, 2, 128, 4, 2, 16, 1024), new=8, groups=2, product=256)


def model(size):
    hidden, layers, wide, heads, shared, dim, vocabulary = size.shape
    with torch.device(size.device):
        return Qwen3ForCausalLM(
            Qwen3Config(
                hidden_size=hidden,
                num_hidden_layers=layers,
                intermediate_size=wide,
                num_attention_heads=heads,
                num_key_value_heads=shared,
                head_dim=dim,
                vocab_size=vocabulary,
                tie_word_embeddings=True,
                max_position_embeddings=4096,
                eos_token_id=tokenizer().eos_token_id,
                pad_token_id=tokenizer().pad_token_id,
            )
        )


def seconds(call, size, repeats=STEPS):
    """Median seconds of a call after one to warm up, the device's queue emptied before and
    after.
    """
    wait = torch.cuda.synchronize if size.device == "cuda" else lambda: None
    times = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def peak_memory(size):
    """GB that tensors took at most since this was last asked; None on a CPU."""
    if size.device == "cpu":
        return None
    taken = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return taken


def training(size):
    """Tokens a second of scoring and gradient, and their share of the peak of a matrix product."""
    a = torch.randn(size.product, size.product, device=size.device, dtype=torch.bfloat16)
    peak = 2 * size.product**3 / seconds(lambda: a @ a, size)
    made = model(size).train()
    made.gradient_checkpointing_enable({"use_reentrant": False})
    scored, packed = policy.Policy(made), batch_of(128, size.new, groups=size.groups)

    def training_pass():
        with torch.autocast(size.device, torch.bfloat16):
            logp, _ = scored(packed)
        logp.sum().backward()

    rate = len(packed.tokens) / seconds(training_pass, size)
    share = 6 * made.num_parameters() * rate / peak
    how = "float32 weights, bf16 products, recomputed activations; each prompt token once"
    yield {"case": "training, tokens/s", "value": rate, "note": how}
    peak = f"6 FLOPs a parameter and token; peak {peak / 1e12:.1f} TFLOP/s"
    yield {"case": "share of the bf16 matrix-product peak", "value": share, "note": peak}
    yield {"case": "training, peak memory, GB", "value": peak_memory(size)}


def our_step(size, method):
    """Seconds of a step of our loop, in all and by its parts."""
    settings = Training(
        steps=1,
        questions=size.groups,
        group_size=GROUP,
        pool=512,
        learning_rate=1e-6,
        max_new_tokens=size.new,
        measure_every=10**9,
        micro_tokens=16384,
        graph_tokens=0,
        bf16=True,
        recompute=True,
    )
    state = train.Run(model(size), tokenizer(), methods.get(method), MODES, settings, seed=0)
    parts = []

    def step():
        metrics, _ = state.step(questions()[: size.groups])
        parts.append({name: metrics[f"seconds_{name}"] for name in ("sample", "score", "update")})

    with graded():
        spent = seconds(step, size)
    yield {"case": f"{method} step, s", "value": spent}
    for name, value in pd.DataFrame(parts[1:]).median().items():
        yield {"case": f"{method} step, {name}, s", "value": value}
    yield {"case": f"{method} step, peak memory, GB", "value": peak_memory(size)}


class Stopwatch(TrainerCallback):
    """The seconds of every step."""

    def __init__(self, size):
        self.wait = torch.cuda.synchronize if size.device == "cuda" else lambda: None
        self.seconds = []

    def on_step_begin(self, *args, **kwargs):
        self.wait()
        self.begun = time.perf_counter()

    def on_step_end(self, *args, **kwargs):
        self.wait()
        self.seconds.append(time.perf_counter() - self.begun)


def trl_step(size):
    """Seconds of the step of Policy Split in TRL's trainer, on as many responses."""
    rows = [{"prompt": [{"role": "user", "content": q["question"]}]} for q in questions()]
    watch = Stopwatch(size)
    with tempfile.TemporaryDirectory() as folder:
        config = PolicySplitConfig(
            folder,
            **OURS,
            use_cpu=size.device == "cpu",
            bf16=True,
            activation_checkpointing=True,
            per_device_train_batch_size=GROUP,
            gradient_accumulation_steps=size.groups,
            num_generations=GROUP,
            max_completion_length=size.new,
            max_steps=STEPS,
            learning_rate=1e-6,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = PolicySplitTrainer(
            model(size),
            alternate,
            config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer(),
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    yield {"case": "policy_split step in TRL, s", "value": statistics.median(watch.seconds[1:])}
    yield {"case": "policy_split step in TRL, peak memory, GB", "value": peak_memory(size)}


def measured(size):
    """Every row: case, value and note."""
    parts = [training(size), our_step(size, "grpo"), our_step(size, "policy_split"), trl_step(size)]
    table = pd.DataFrame([row for part in parts for row in part])
    spent = table.set_index("case").value
    ours = spent["policy_split step, s"]
    for name, peer in (("GRPO", "grpo step, s"), ("TRL", "policy_split step in TRL, s")):
        case = f"policy_split step against {name}"
        table.loc[len(table)] = {
            "case": case,
            "value": ours / spent[peer],
            "note": "ratio of times",
        }
    return table


def main():
    tiny = "--tiny" in sys.argv
    if not tiny and not torch.cuda.is_available():
        sys.exit("no GPU was found; run this where there is one, or try the script with --tiny")
    warnings.simplefilter("ignore", FutureWarning)  # TRL's and transformers', of options
    chip = platform.machine() if tiny else torch.cuda.get_device_name()
    print(f"{chip}; torch {torch.__version__}, transformers {transformers.__version__}")
    table = measured(TINY if tiny else LARGE)
    print(table.to_markdown(index=False))
    if not tiny:
        name = re.sub(r"[^a-z0-9]+", "-", chip.lower()).strip("-")
        path = runs.results_root() / "benchmarks" / f"{name}.csv"
        checkpoint.write(path, table.round(4).to_csv(index=False))


if __name__ == "__main__":
    main()
