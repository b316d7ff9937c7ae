"""Benchmarks on a GPU with a random-weight model of Qwen3-1.7B's shape: `make bench-gpu`; `--tiny`
tries the script on a CPU.

Training tokens a second and its share of the bf16 matrix-product peak measured in the same run,
peak memory, rollout tokens a second of each engine against plain `generate`, and a Policy Split
step split into sampling, scoring and training.
"""

import platform
import re
import statistics
import sys
import time
from dataclasses import replace
from unittest.mock import patch

import pandas as pd
import torch
import transformers
from bench import batch_of, graded, no_check, questions, tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from pslib import methods, modes, policy, rollouts, train
from pslib.lab import checkpoint, engines, runs
from pslib.lab.settings import Training

TINY = "--tiny" in sys.argv
DEVICE = "cpu" if TINY else "cuda"
SHAPE = (
    dict(
        hidden_size=64,
        num_hidden_layers=2,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=512,
    )
    if TINY
    else dict(
        hidden_size=2048,
        num_hidden_layers=28,
        intermediate_size=6144,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151_936,
    )
)
NEW, GROUPS = (16, 2) if TINY else (512, 8)


def seconds(call, repeats=3):
    """Median seconds of a call after one to warm up, the device's queue emptied before and
    after.
    """
    wait = torch.cuda.synchronize if DEVICE == "cuda" else lambda: None
    times = []
    for _ in range(repeats + 1):
        wait()
        start = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main():
    if DEVICE == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "no GPU was found; run this where torch.cuda.is_available() is true, or try the script "
            "with --tiny"
        )
    chip = torch.cuda.get_device_name() if DEVICE == "cuda" else platform.machine()
    rows = [
        {
            "case": "chip",
            "note": f"{chip}; torch {torch.__version__}, transformers {transformers.__version__}",
        }
    ]
    with torch.device(DEVICE):
        model = Qwen3ForCausalLM(
            Qwen3Config(
                **SHAPE,
                tie_word_embeddings=True,
                max_position_embeddings=4096,
                eos_token_id=tokenizer().eos_token_id,
                pad_token_id=0,
                dtype="bfloat16",
            )
        )
    model = model.bfloat16()

    size = 1024 if TINY else 8192
    a = torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16)
    peak = 2 * size**3 / seconds(lambda: a @ a)
    scored, packed = policy.Policy(model), batch_of(128, NEW, groups=GROUPS).to(DEVICE)

    def training_pass():
        logp, _ = scored(packed)
        logp.sum().backward()

    model.gradient_checkpointing_enable()
    model.train()
    spent = seconds(training_pass)
    rate = len(packed.tokens) / spent
    share = 6 * model.num_parameters() * rate / peak
    rows += [
        {
            "case": "training, tokens/s",
            "value": rate,
            "note": "bf16, gradient checkpointing, each prompt token once",
        },
        {
            "case": "share of the bf16 matrix-product peak",
            "value": share,
            "goal": ">= 0.30",
            "note": f"6 FLOPs a parameter and token; peak {peak / 1e12:.0f} TFLOP/s",
        },
    ]
    if DEVICE == "cuda":
        rows.append({"case": "peak memory, GB", "value": torch.cuda.max_memory_allocated() / 2**30})
    model.gradient_checkpointing_disable()
    model.zero_grad(set_to_none=True)

    decoding, words = rollouts.Decoding(1.0, 0, 1.0, NEW), tokenizer()
    prompts = [modes.render(words, modes.NORMAL, q["question"]) for q in questions()[:GROUPS]]
    engine = engines.GenerateEngine(model.eval(), words)
    spent = seconds(lambda: engine.generate(prompts, 8, decoding, range(GROUPS)), 1)
    rows.append({"case": "rollouts by generate, tokens/s", "value": 8 * GROUPS * NEW / spent})

    settings = Training(
        steps=1,
        questions=GROUPS,
        group_size=8,
        pool=512,
        learning_rate=1e-6,
        max_new_tokens=NEW,
        micro_tokens=16384,
        graph_tokens=0,
    )
    with no_check():
        state = train.Run(
            model,
            words,
            methods.get("policy_split"),
            (modes.NORMAL, modes.he_mode("high_entropy")),
            replace(settings),
            seed=0,
        )
    parts = []
    with graded(), patch.object(rollouts, "engine_for", engines.GenerateEngine):
        for _ in range(3):
            metrics, _ = state.step(questions()[:GROUPS])
            parts.append(
                {name: metrics[f"seconds_{name}"] for name in ("sample", "score", "update")}
            )
    for name, values in pd.DataFrame(parts).iloc[1:].median().items():
        rows.append({"case": f"Policy Split step, {name}, s", "value": values})
    table = pd.DataFrame(rows)
    print(table.to_markdown(index=False))
    if not TINY:
        name = re.sub(r"[^a-z0-9]+", "-", chip.lower()).strip("-")
        checkpoint.write(
            runs.results_root() / "benchmarks" / f"{name}.csv", table.round(4).to_csv(index=False)
        )


if __name__ == "__main__":
    main()
