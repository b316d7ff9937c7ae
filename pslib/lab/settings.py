"""What a training run sets beside its method."""

from dataclasses import dataclass

from pslib.lab import ranges


@dataclass(frozen=True)
class Training(ranges.Checked):
    """What a training run sets beside its method; a profile's `train` section."""

    steps: ranges.Count
    questions: ranges.Count  # to a step
    group_size: ranges.Count  # responses to a question, G
    pool: ranges.Count  # questions to draw from
    learning_rate: ranges.Positive
    max_new_tokens: ranges.Count
    # Steps over which the learning rate grows to its full value, in equal parts.
    warmup: ranges.CountOrNone = 0
    weight_decay: ranges.FromZero = 0.01
    grad_clip_norm: ranges.Positive = 1.0
    clip_eps: ranges.Between = 0.2
    temperature: ranges.Positive = 1.0
    save_every: ranges.Count = 10
    # Steps from one measurement of entropy and inter-mode KL to the next.
    measure_every: ranges.Count = 5
    micro_tokens: ranges.Count = 4096  # prompt and response tokens to a forward pass
    # Up to this many tokens a step, scoring and training share one forward pass.
    graph_tokens: ranges.CountOrNone = 65536
    bf16: bool = False  # products in bfloat16, on float32 weights and optimiser
    # Gradient checkpointing: activations inside a layer are made again for the gradient.
    recompute: bool = False
    # Runaway entropy: a step with a mode's entropy above max_entropy_bits (0: no bound) or a mode's
    # accuracy (where rewards are not 0 or 1: mean reward) below min_accuracy is beyond its bounds.
    # The column beyond_bounds counts such measured steps in a row; the run stops at stop_beyond of
    # them, and where that is 0 it only reports.
    max_entropy_bits: ranges.FromZero = 0.0
    min_accuracy: ranges.Any = 0.0
    stop_beyond: ranges.CountOrNone = 0
