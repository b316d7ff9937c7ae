"""Worlds of one and of two processes: the same run. Here processes are forked; tests/long/test_torchrun.py starts them."""

import json
import multiprocessing
import os
import socket
import traceback

import pytest
import torch
import world
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import load_file


@pytest.fixture
def saved(model64, tokenizer, tmp_path):
    """The folder of the tiny model in float64."""
    model64.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def _one_of(size, rank, port, errors, args, sharded, all_done):
    AcceleratorState._reset_state(True)  # forked with whatever world the tests before were in
    PartialState._reset_state()
    os.environ["ACCELERATE_USE_FSDP"] = str(sharded).lower()
    if size > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size),
                          MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        world.main(*args)
    except Exception:  # noqa: BLE001 - for the parent to look at
        errors.put(traceback.format_exc())
    all_done.wait(50)  # one that left while another was still connecting would be all that the other could report


def in_a_world_of(size, *args, sharded=False):
    """Run world.main in so many forked processes, weights sharded or not -> the texts of what they raised."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    errors, all_done = fork.SimpleQueue(), fork.Barrier(size)
    processes = [fork.Process(target=_one_of, args=(size, rank, port, errors, args, sharded, all_done)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    ended = [process.exitcode for process in processes]
    for process in processes:  # one that waits for another would wait for half an hour
        process.kill()
    assert ended == [0] * size
    raised = []
    while not errors.empty():
        raised.append(errors.get())
    return raised


def assert_same_run(one, two, name, sharded=False, within=1e-10, last=None):
    """That two processes did one's run: world sizes, responses, metrics, gradients and weights, and that they shared the work.

    last: only so many of its last steps, where it went on from a checkpoint.
    """
    alone, *pair = (json.loads((folder / f"{name}-{rank}.json").read_text())
                    for folder, rank in ((one, 0), (two, 0), (two, 1)))
    assert alone["processes"] == 1 and [(seen["processes"], seen["sharded"]) for seen in pair] == [(2, sharded)] * 2
    alone = {key: value[-(last or 0):] if key in ("tokens", "metrics") else value for key, value in alone.items()}
    weights = [load_file(folder / f"{name}-{rank}.safetensors") for folder, rank in ((one, 0), (two, 0), (two, 1))]
    for seen, ours in zip(pair, weights[1:]):
        assert seen["tokens"] == alone["tokens"]
        assert len(seen["metrics"]) == len(alone["metrics"]) > 1
        for metrics, expected in zip(seen["metrics"], alone["metrics"]):
            assert metrics == pytest.approx(expected, rel=1e-6, abs=1e-12)
        for key, weight in weights[0].items():
            torch.testing.assert_close(ours[key], weight, rtol=1e-6, atol=1e-6)
    first = [load_file(folder / f"{name}-{rank}-gradients.safetensors") for folder, rank in ((one, 0), (two, 0), (two, 1))]
    for ours in first[1:] if last is None else []:
        for key, gradient in first[0].items():
            torch.testing.assert_close(ours[key], gradient, rtol=within, atol=within)
    if sharded:  # else one would wait for the other; what is then scored twice is for no row
        assert pair[0]["forwards"] == pair[1]["forwards"]
    for work in () if last else ("sampled",) if sharded else ("sampled", "scored"):
        shares = [seen[work] for seen in pair]
        assert sum(shares) == alone[work] and max(shares) <= 0.75 * alone[work], (work, shares)
    assert pair[0]["metrics"] == pair[1]["metrics"]
    steps = len(alone["metrics"])
    for seen, counts in ((pair[0], (1, steps)), (pair[1], (0, 0)), *([] if last else [(alone, (1, steps))])):
        assert (seen["saved"], seen["recorded"]) == counts  # one process writes


@pytest.mark.parametrize("name", ["grpo", "policy_split"])
def test_two_processes_do_the_run_of_one(name, saved, tmp_path):
    for size in (1, 2):
        (tmp_path / str(size)).mkdir()
        assert in_a_world_of(size, saved, tmp_path / str(size), 3, 4, name) == []
    assert_same_run(tmp_path / "1", tmp_path / "2", name)


def test_two_processes_that_shard_the_weights_do_the_run_of_one(saved, tmp_path):
    # parts so small that the processes have unlike numbers of them, and a second forward pass for the gradient
    for size in (1, 2):
        (tmp_path / str(size)).mkdir()
        assert in_a_world_of(size, saved, tmp_path / str(size), 3, 4, "policy_split", "micro_tokens=80", "graph_tokens=0",
                             sharded=size > 1) == []
    assert_same_run(tmp_path / "1", tmp_path / "2", "policy_split", sharded=True)


@pytest.mark.parametrize("questions", [1, 3])
def test_prompts_that_cannot_be_shared_out_evenly_are_refused(questions, saved, tmp_path):
    raised = in_a_world_of(2, saved, tmp_path, 1, questions, "grpo")
    assert len(raised) == 2
    for text in raised:
        assert text.strip().splitlines()[-1] == (f"ValueError: {questions} prompts cannot be shared out evenly among 2 "
                                                 "processes; choose a multiple of their number")


@pytest.mark.parametrize("sharded", [False, True])
def test_recomputed_activations_give_the_same_gradients(sharded, saved, tmp_path):
    for name, extra in (("1", []), ("2", ["recompute=true"])):
        (tmp_path / name).mkdir()
        assert in_a_world_of(1 + sharded, saved, tmp_path / name, 1, 4, "grpo", "micro_tokens=80", *extra,
                             sharded=sharded) == []
    plain, ours = (load_file(tmp_path / name / "grpo-0-gradients.safetensors") for name in "12")
    for key, gradient in plain.items():
        torch.testing.assert_close(ours[key], gradient, rtol=1e-10, atol=1e-10)
    one, two = (json.loads((tmp_path / name / "grpo-0.json").read_text()) for name in "12")
    assert two["layers"] > one["layers"] > 0  # those whose gradient is taken were gone through once more


def test_a_sharded_run_with_bf16_saves_the_whole_float32_weights(saved, tmp_path):
    precision = "dtype=float32", "bf16=true"
    assert in_a_world_of(2, saved, tmp_path, 1, 4, "grpo", *precision, sharded=True) == []
    trained = load_file(tmp_path / "grpo-trained.safetensors")
    sampled = load_file(tmp_path / "grpo-0.safetensors")
    assert trained.keys() == sampled.keys()
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    for key, weight in sampled.items():
        assert torch.equal(trained[key].to(weight.dtype), weight)
    assert any((weight != weight.bfloat16()).any() for weight in trained.values())
