"""What a training run sets beside its method."""

from dataclasses import dataclass

from pslib.lab import ranges

COUNTS = (
    "steps",
    "questions",
    "group_size",
    "pool",
    "max_new_tokens",
    "save_every",
    "measure_every",
    "micro_tokens",
)


@dataclass(frozen=True)
class Training:
    """What a training run sets beside its method; a profile's `train` section."""

    steps: int
    questions: int  # to a step
    group_size: int  # responses to a question, G
    pool: int  # questions to draw from
    learning_rate: float
    max_new_tokens: int
    warmup: int = 0  # steps over which the learning rate grows to its full value, in equal parts
    weight_decay: float = 0.01
    grad_clip_norm: float = 1.0
    clip_eps: float = 0.2
    temperature: float = 1.0
    save_every: int = 10
    measure_every: int = 5  # steps from one measurement of entropy and inter-mode KL to the next
    micro_tokens: int = 4096  # prompt and response tokens to a forward pass
    # Up to this many tokens a step, scoring and training share one forward pass.
    graph_tokens: int = 65536
    bf16: bool = False  # products in bfloat16, on float32 weights and optimiser
    # Gradient checkpointing: activations inside a layer are made again for the gradient.
    recompute: bool = False
    # Runaway entropy: a step with a mode's entropy above max_entropy_bits (0: no bound) or a mode's
    # accuracy (where rewards are not 0 or 1: mean reward) below min_accuracy is beyond its bounds.
    # The column beyond_bounds counts such measured steps in a row; the run stops at stop_beyond of
    # them, and where that is 0 it only reports.
    max_entropy_bits: float = 0.0
    min_accuracy: float = 0.0
    stop_beyond: int = 0

    def __post_init__(self):
        ranges.check(
            vars(self),
            {
                **dict.fromkeys(COUNTS, ranges.COUNT),
                "learning_rate": ranges.POSITIVE,
                "warmup": ranges.COUNT_OR_NONE,
                "weight_decay": ranges.FROM_ZERO,
                "grad_clip_norm": ranges.POSITIVE,
                "clip_eps": ranges.BETWEEN,
                "temperature": ranges.POSITIVE,
                "graph_tokens": ranges.COUNT_OR_NONE,
                "max_entropy_bits": ranges.FROM_ZERO,
                "min_accuracy": ranges.ANY,
                "stop_beyond": ranges.COUNT_OR_NONE,
            },
            "training",
        )
