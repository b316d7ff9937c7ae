"""What a training step of the paper's models takes, in memory and time, computed from shapes and a
few stated rates.

Nothing here is measured: it is arithmetic on the shapes of public configurations, with every
assumption printed.
"""

from dataclasses import dataclass

import pandas as pd

from pslib.lab import runs

GB = 1e9


@dataclass(frozen=True)
class Shape:
    """A Qwen3 model's shape."""

    hidden: int
    layers: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    @property
    def layer(self):
        """The parameters of one layer."""
        return (
            self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
            + 3 * self.hidden * self.feed_forward
            + 2 * self.hidden
            + 2 * self.head_dim
        )

    @property
    def parameters(self):
        """All parameters, a tied embedding counted once."""
        return (
            self.layers * self.layer
            + self.vocabulary * self.hidden * (1 if self.tied else 2)
            + self.hidden
        )

    @property
    def kv_token(self):
        """Numbers in the key-value cache for each token."""
        return 2 * self.layers * self.kv_heads * self.head_dim


# config.json of Qwen/Qwen3-1.7B, Qwen/Qwen3-4B and Qwen/Qwen3-8B on the Hugging Face hub
SHAPES = {
    "1.7B": Shape(2048, 28, 6144, 16, 8, 128, 151936, True),
    "4B": Shape(2560, 36, 9728, 32, 8, 128, 151936, True),
    "8B": Shape(4096, 36, 12288, 32, 8, 128, 151936, False),
}
# NVIDIA's data sheets, SXM form: memory in GB, dense bfloat16 FLOP/s, memory bandwidth in bytes/s
GPUS = {"h100": (80, 989e12, 3.35e12), "h200": (141, 989e12, 4.8e12)}


def memory(shape, settings, prompt, gpus=1, sharded=False):
    """Bytes on each GPU, by what holds them, at the peak of a training step.

    settings: train.Settings; prompt: tokens of the longest prompt. `inside` is one layer's
    activations where the rest is recomputed, else all layers'; `head` the logits' parts and the
    head's gradient, where layers are recomputed only what it takes beyond `inside`, since it is
    gone before they are; `layout` the attention's mask.
    """
    p, v, h, m = shape.parameters, shape.vocabulary, shape.hidden, settings.micro_tokens
    parts, number, root = (
        (gpus if sharded else 1),
        (2 if settings.bf16 else 4),
        p - shape.layers * shape.layer,
    )
    longest = min(settings.max_new_tokens, m)
    # inputs of products and norms, queries, keys and values before and after norm, rotation and
    # gathering, the gate's product; what a layer saves for its gradient
    saved = 4 * h + 5 * (shape.heads + 2 * shape.kv_heads) * shape.head_dim + 4 * shape.feed_forward
    chunk = m if m * v <= 2**24 else max(1, m // 64)
    inside = 4 * m * saved * (1 if settings.recompute else shape.layers)
    head = 4 * (3 * chunk * v + v * h * (2 if settings.bf16 else 1))
    moving = (
        root + 2 * shape.layer if sharded else p
    )  # FSDP2 holds the root, the layer at hand and the next one whole
    return {
        "weights, float32": 4 * p / parts,
        "gradients, float32": 4 * p / parts,
        "AdamW, float32": 8 * p / parts,
        "weights and gradients in flight": number * 2 * moving
        if sharded
        else 2 * p * settings.bf16,
        "copy to sample from": number * p * (sharded or settings.bf16),
        "layers' inputs": 4 * m * h * shape.layers,
        "inside": inside,
        "head": max(0, head - inside) if settings.recompute else head,
        "layout": 3 * (m // longest) * longest * (longest + prompt),
    }


def seconds(shape, settings, prompt, tokens, gpus, modes, in_flight, gpu, mfu, bandwidth_share):
    """Seconds of a step's sampling, and of its scoring and update, were every group live.

    Sampling reads all weights and the cache of the `in_flight` responses once a token. Training is
    2 FLOP a parameter and token for each of score, forward, recompute, and 4 for backward, and
    attention over whole rows, its mask being explicit.
    """
    _, peak, bandwidth = GPUS[gpu]
    responses, number = settings.questions * settings.group_size / gpus, 2 if settings.bf16 else 4
    read = number * (
        shape.parameters + min(in_flight, responses) * shape.kv_token * (prompt + tokens / 2)
    )
    sampling = (
        responses
        * tokens
        / max(1, min(in_flight, responses))
        * read
        / (bandwidth * bandwidth_share)
    )
    row = 2 * shape.parameters * (
        tokens + prompt / settings.group_size
    ) + 4 * shape.layers * shape.heads * shape.head_dim * tokens * (tokens + prompt)
    passes = 4 + settings.recompute
    return sampling, responses * modes * row * passes / (peak * mfu)


def table(profile, gpu="h100", tokens=6000, prompt=512, mfu=0.3, bandwidth_share=0.5, modes=2):
    """A row for each size and 1, 8 and 16 GPUs, whole or sharded: gigabytes on each GPU, and
    minutes a step.

    What is left beside weights, optimiser and copy is the cache's while sampling; how many
    responses of full length fit in it is `at once`. ValueError for a GPU that is not known.
    """
    if gpu not in GPUS:
        raise ValueError(f"no data sheet of {gpu!r} is here; there are {', '.join(GPUS)}")
    rows, settings = [], profile.train
    for size, shape in SHAPES.items():
        for gpus, sharded in ((1, False), (8, False), (8, True), (16, False), (16, True)):
            held = memory(shape, settings, prompt, gpus, sharded)
            total, resident = (
                sum(held.values()),
                sum(list(held.values())[:3]) + held["copy to sample from"],
            )
            each = (2 if settings.bf16 else 4) * shape.kv_token * (prompt + settings.max_new_tokens)
            at_once = max(0, int((0.9 * GPUS[gpu][0] * GB - resident) / each))
            fits = total < 0.9 * GPUS[gpu][0] * GB and at_once > 0
            took = (float("nan"),) * 2
            if fits:
                took = seconds(
                    shape, settings, prompt, tokens, gpus, modes, at_once, gpu, mfu, bandwidth_share
                )
            rows.append(
                {
                    "size": size,
                    "parameters": shape.parameters,
                    "GPUs": gpus,
                    "sharded": sharded,
                    **{name: round(own / GB, 1) for name, own in held.items()},
                    "total GB": round(total / GB, 1),
                    "fits": fits,
                    "at once": at_once,
                    "sampling, min": round(took[0] / 60, 1),
                    "update, min": round(took[1] / 60, 1),
                    "run, days": round(sum(took) * settings.steps / 86400, 1),
                }
            )
    return pd.DataFrame(rows)


def report(profile, gpu, tokens, prompt, mfu, bandwidth_share):
    """The table as text, under every assumption it rests on."""
    s, (size, peak, bandwidth) = profile.train, GPUS.get(gpu, (0, 0, 0))
    lines = table(profile, gpu, tokens, prompt, mfu, bandwidth_share)
    benchmarks = pd.concat(
        map(pd.read_csv, sorted((runs.ROOT / "results" / "benchmarks").glob("*cores.csv")))
    )
    cpu = ", ".join(
        f"{ratio:.0%} at {case.rpartition(' ')[2]}"
        for case, ratio in zip(benchmarks.case, benchmarks.ratio, strict=True)
        if case.startswith("training throughput")
    )
    own, shown = (
        4 * SHAPES["8B"].parameters / GB,
        lines.assign(parameters=lines.parameters.map("{:,}".format)),
    )
    return f"""From the profile {profile.name}: {s.questions} questions of {s.group_size} responses
    a step, {s.steps} steps, up to {s.max_new_tokens} new tokens, {s.micro_tokens} tokens to a
    forward pass, bf16 {s.bf16}, recompute {s.recompute}.
From data sheets: {gpu}, {size} GB, {peak / 1e12:.0f} TFLOP/s in bfloat16,
    {bandwidth / 1e12:.2f} TB/s.
ASSUMED, not measured: {tokens} tokens a response, {prompt} a prompt; 90% of the memory used;
    training at {mfu:.0%} of the peak; sampling at {bandwidth_share:.0%} of the bandwidth, by an
    engine that keeps as many responses in flight as fit (generate of transformers waits for the
    longest instead); all groups live (dead ones cost sampling alone); Policy Split, which trains
    every response in 2 modes; gathering, reducing, grading and saving cost nothing.
No GPU has run this yet: nothing below is measured.
MEASURED, on a CPU and not used here (results/benchmarks): training at {cpu} parameters,
    of the processor's peak in float32.
A machine's own memory at 8B: {own:.0f} GB a process to load, {9 * own:.0f} GB in the main one
    to save weights and AdamW, which are there three times over.

{shown.T.to_markdown(headers=[""] * len(lines))}"""
