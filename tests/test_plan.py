"""The plan's arithmetic: against known totals, by hand, and against a real step's memory."""

import itertools
from dataclasses import replace

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from pslib import policy, train
from pslib.lab import plan, runs

SETTINGS = train.Settings(
    steps=1,
    questions=2,
    group_size=4,
    pool=2,
    learning_rate=1e-3,
    max_new_tokens=100,
    micro_tokens=1000,
)


@pytest.mark.parametrize(
    "size, total", [("1.7B", 1_720_574_976), ("4B", 4_022_468_096), ("8B", 8_190_735_360)]
)
def test_parameter_counts_are_those_of_the_published_models(size, total):
    shape = plan.SHAPES[size]
    with torch.device("meta"):
        assert (
            sum(weight.numel() for weight in Qwen3ForCausalLM(config_of(shape)).parameters())
            == total
        )
    assert shape.parameters == total


def config_of(shape):
    """A shape as transformers has it."""
    return Qwen3Config(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.feed_forward,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
    )


def test_memory_by_hand():
    shape = plan.Shape(
        hidden=8,
        layers=3,
        feed_forward=16,
        heads=2,
        kv_heads=1,
        head_dim=4,
        vocabulary=100,
        tied=True,
    )
    layer = (
        8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16 + 2 * 8 + 2 * 4
    )  # q, k and v, o, three of the feed-forward, norms
    assert (
        shape.layer == layer == 600
        and shape.parameters == 3 * 600 + 800 + 8 == 2608
        and shape.kv_token == 24
    )
    whole = plan.memory(shape, SETTINGS, prompt=50)
    assert [round(held) for held in whole.values()] == [
        4 * 2608,
        4 * 2608,
        8 * 2608,
        0,
        0,
        4 * 1000 * 8 * 3,
        4 * 1000 * (32 + 5 * 16 + 64) * 3,
        4 * (3 * 1000 * 100 + 800),
        3 * 10 * 100 * 150,
    ]
    lean = plan.memory(
        shape, replace(SETTINGS, bf16=True, recompute=True), prompt=50, gpus=4, sharded=True
    )
    assert [round(held) for held in lean.values()] == [
        2608,
        2608,
        2 * 2608,
        4 * (808 + 1200),
        2 * 2608,
        4 * 1000 * 8 * 3,
        4 * 1000 * 176,
        4 * (3 * 1000 * 100 + 2 * 800 - 1000 * 176),
        3 * 10 * 100 * 150,
    ]


def test_time_by_hand():
    shape = plan.Shape(
        hidden=8,
        layers=3,
        feed_forward=16,
        heads=2,
        kv_heads=1,
        head_dim=4,
        vocabulary=100,
        tied=True,
    )
    sampling, update = plan.seconds(
        shape,
        SETTINGS,
        40,
        100,
        gpus=2,
        modes=2,
        in_flight=2,
        gpu="h100",
        mfu=0.5,
        bandwidth_share=0.25,
    )
    assert sampling == pytest.approx(4 * 100 / 2 * 4 * (2608 + 2 * 24 * 90) / (3.35e12 * 0.25))
    assert update == pytest.approx(
        4 * 2 * (2 * 2608 * 110 + 4 * 3 * 8 * 100 * 140) * 4 / (989e12 * 0.5)
    )


def test_the_plan_has_a_row_for_each_size_and_number_of_gpus_and_says_what_is_assumed():
    paper = runs.load_profile("paper")
    table = plan.table(paper)
    assert (
        table.groupby("size").GPUs.apply(lambda found: sorted(set(found))).tolist()
        == [[1, 8, 16]] * 3
    )
    assert (
        not table[(table["size"] == "8B") & ~table.sharded].fits.any()
        and table[table.sharded].fits.all()
    )
    for size, file in paper.launch.items():  # what the profile starts is what fits
        sharded, gpus = "sharded" in str(file), {"8": 8, "2x8": 16}[str(file).split("-")[0]]
        assert table[
            (table["size"] == size) & (table.sharded == sharded) & (table.GPUs == gpus)
        ].fits.all()
    said = plan.report(paper, "h200", 6000, 512, 0.3, 0.5)
    assert (
        "ASSUMED, not measured: 6000 tokens a response" in said
        and "h200, 141 GB" in said
        and "1,720,574,976" in said
    )
    with pytest.raises(ValueError, match="no data sheet of 'a100' is here; there are h100, h200"):
        plan.table(paper, gpu="a100")


def peak_of(job):
    """The most bytes that torch held at once in a job, beyond what it held before."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        job()
    events = [
        event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    held = itertools.accumulate(
        event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())
    )
    return max(held)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_real_steps_activations_take_what_the_plan_says_within_a_factor_of_1_4(recompute):
    shape = plan.Shape(
        hidden=256,
        layers=6,
        feed_forward=768,
        heads=8,
        kv_heads=4,
        head_dim=32,
        vocabulary=2000,
        tied=True,
    )
    model = Qwen3ForCausalLM(config_of(shape)).train()
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    packed = policy.pack(
        [list(range(50))],
        torch.zeros(24, dtype=torch.long),
        torch.randint(2000, (24, 160)),
        torch.full((24,), 160),
    )
    measured = peak_of(lambda: policy.Policy(model)(packed)[0].mean().backward())
    settings = replace(
        SETTINGS, micro_tokens=24 * 160 + 50, max_new_tokens=160, recompute=recompute
    )
    held = plan.memory(shape, settings, prompt=50)
    predicted = sum(held[name] for name in ("layers' inputs", "inside", "head", "layout"))
    assert 1 / 1.4 < predicted / measured < 1.4, (predicted / 1e6, measured / 1e6)
