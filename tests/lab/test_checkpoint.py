"""Checkpoints: what is saved comes back, what is damaged is noticed, and nothing is left half
written.
"""

import copy
import errno
import itertools
import os
import random
import shutil
import warnings

import pytest
import torch

from pslib.lab import checkpoint
from tests.support import faults


def tensors(step):
    return {
        "a": torch.arange(4.0) + step,
        "b": torch.tensor(step),
        "c": torch.ones(2, 2, dtype=torch.bfloat16),
    }


def names(folder):
    return sorted(os.listdir(folder))


# --- writing --------------------------------------------------------------------------------------
def test_write_makes_folders_and_takes_text_or_bytes(tmp_path):
    checkpoint.write(tmp_path / "new" / "deep" / "text", "Größe")
    checkpoint.write(tmp_path / "bytes", b"\x00\xff")
    assert (tmp_path / "new" / "deep" / "text").read_bytes() == "Größe".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"
    assert names(tmp_path) == ["bytes", "new"]


WRITING = [
    "open",
    "write",
    "flush",
    "fsync",
    "close",
    "replace",
    "open",
    "fsync",
    "close",
]  # the last three: the folder


def test_a_write_makes_these_calls(tmp_path):
    with faults.watched(faults.Calls()) as calls:
        checkpoint.write(tmp_path / "file", "new")
    assert calls.made == WRITING and (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("number", range(1, len(WRITING) + 1))
def test_a_write_that_fails_names_the_path_and_leaves_a_whole_file_and_nothing_else(
    number, code, tmp_path
):
    checkpoint.write(tmp_path / "file", "old")
    with (
        faults.watched(faults.Calls(number, code)),
        pytest.raises(
            OSError, match=f"{os.strerror(code)}; nothing earlier was lost.*/file'$"
        ) as error,
    ):
        checkpoint.write(tmp_path / "file", "new")
    assert error.value.errno == code
    replaced = number > WRITING.index("replace") + 1
    assert (tmp_path / "file").read_text() == ("new" if replaced else "old") and names(
        tmp_path
    ) == ["file"]


@pytest.mark.parametrize("number", range(1, 2 * len(WRITING) + 1))
def test_a_save_that_fails_leaves_the_earlier_checkpoint(number, tmp_path):
    checkpoint.save(tmp_path, 1, tensors(1))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with (
        faults.watched(faults.Calls(number, errno.ENOSPC)),
        pytest.raises(OSError, match="No space left"),
    ):
        checkpoint.save(tmp_path, 2, tensors(2))
    assert all(path.read_bytes() == data for path, data in before.items())
    with warnings.catch_warnings(
        action="ignore"
    ):  # a checkpoint without its JSON is said; here it does not matter
        step, loaded = checkpoint.load_newest(tmp_path)
    assert step == (1 if number <= len(WRITING) + WRITING.index("replace") + 1 else 2)
    assert torch.equal(loaded["a"], tensors(step)["a"])


# --- saving and loading ---------------------------------------------------------------------------
def test_tensors_come_back_as_they_were_saved(tmp_path):
    checkpoint.save(tmp_path, 7, tensors(7))
    step, loaded = checkpoint.load_newest(tmp_path)
    assert step == 7 and set(loaded) == {"a", "b", "c"}
    for name, tensor in tensors(7).items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)


def test_a_folder_without_checkpoints_gives_none(tmp_path):
    assert checkpoint.load_newest(tmp_path) is None
    assert checkpoint.load_newest(tmp_path / "missing") is None


def test_the_newest_step_is_loaded_by_number_and_not_by_time_of_writing(tmp_path):
    for step in (9, 10, 100):
        checkpoint.save(tmp_path, step, tensors(step), keep=3)
    for path in tmp_path.glob("step-000009.*"):
        os.utime(path, (2e9, 2e9))
    assert checkpoint.load_newest(tmp_path)[0] == 100


def test_a_save_keeps_itself_and_removes_later_ones_and_what_a_killed_save_left(tmp_path):
    for step in (8, 10):  # both found damaged, say, so that the run began again
        checkpoint.save(tmp_path, step, tensors(step))
    (tmp_path / ".step-000012.safetensors.77.tmp").write_bytes(b"half")
    checkpoint.save(tmp_path, 3, tensors(3))
    assert names(tmp_path) == ["step-000003.json", "step-000003.safetensors"]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_stay_and_no_temporary_files(tmp_path, keep):
    for step in (1, 2, 3, 10):
        checkpoint.save(tmp_path, step, tensors(step), keep=keep)
    kept = [f"step-{step:06d}" for step in (1, 2, 3, 10)][-keep:]
    assert names(tmp_path) == sorted(
        f"{stem}.{end}" for stem in kept for end in ("json", "safetensors")
    )


@pytest.fixture
def two(tmp_path):
    """A folder with the checkpoints of steps 1 and 2."""
    for step in (1, 2):
        checkpoint.save(tmp_path, step, tensors(step))
    return tmp_path


def noticed(folder):
    """Whether the damage to checkpoint 2 is said, and checkpoint 1 used."""
    with pytest.warns(
        UserWarning, match="checkpoint step-000002 in .* is damaged or incomplete; going back"
    ):
        step, loaded = checkpoint.load_newest(folder)
    return step == 1 and all(
        torch.equal(loaded[name], tensor) for name, tensor in tensors(1).items()
    )


def test_every_byte_of_a_checkpoints_json_is_covered_its_step_and_its_spaces_too(two):
    path = two / "step-000002.json"
    whole = path.read_bytes()
    assert b'"step": 2' in whole
    for at in range(len(whole)):
        for other in b"3 \t":
            if whole[at] != other:
                path.write_bytes(whole[:at] + bytes([other]) + whole[at + 1 :])
                assert noticed(two), path.read_bytes()


def test_a_byte_changed_cut_dropped_or_added_anywhere_or_a_lost_file_is_noticed(two):
    rng = random.Random(0)
    for name in itertools.islice(
        itertools.cycle(["step-000002.json", "step-000002.safetensors"]), 60
    ):
        whole = (two / name).read_bytes()
        done = faults.damage(two / name, rng)
        assert noticed(two), done
        (two / name).write_bytes(whole)
    assert checkpoint.load_newest(two)[0] == 2


def test_a_checkpoint_under_another_steps_name_is_noticed(two):
    for end in ("json", "safetensors"):
        shutil.copy(two / f"step-000001.{end}", two / f"step-000002.{end}")
    assert noticed(two)


def test_no_good_checkpoint_at_all_gives_none_with_a_warning(tmp_path):
    checkpoint.save(tmp_path, 2, tensors(2))
    faults.damage(tmp_path / "step-000002.safetensors", random.Random(0))
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoint.load_newest(tmp_path) is None


def test_tensors_without_their_json_are_not_a_checkpoint(two):
    # the state after a stop between the two writes: the hash is written last
    (two / "step-000002.json").unlink()
    assert noticed(two)


# --- a training state -----------------------------------------------------------------------------
def advance(model, optimiser, generator):
    """One step whose gradient depends on the generator."""
    noise = torch.randn(3, generator=generator)
    optimiser.zero_grad()
    sum((weight * noise[0]).sin().sum() for weight in model.parameters()).backward()
    optimiser.step()


def made(model):
    return model, torch.optim.AdamW(model.parameters(), lr=0.1), torch.Generator().manual_seed(0)


def test_a_restored_state_goes_on_exactly_as_the_saved_one(tmp_path, model):
    fresh = copy.deepcopy(model)
    model, optimiser, generator = made(model)
    for _ in range(2):
        advance(model, optimiser, generator)
    checkpoint.save(tmp_path, 2, checkpoint.state_of(model, optimiser, {"g": generator}))
    advance(model, optimiser, generator)

    other, other_optimiser, other_generator = made(fresh)
    checkpoint.restore(
        checkpoint.load_newest(tmp_path)[1], other, other_optimiser, {"g": other_generator}
    )
    advance(other, other_optimiser, other_generator)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(generator.get_state(), other_generator.get_state())


def test_a_state_is_a_copy_and_keeps_the_optimisers_settings(model):
    model, optimiser, generator = made(model)
    advance(model, optimiser, generator)
    state = checkpoint.state_of(model, optimiser, {"g": generator})
    before = {name: tensor.clone() for name, tensor in state.items()}
    advance(model, optimiser, generator)
    assert all(torch.equal(before[name], state[name]) for name in before)
    optimiser.param_groups[0]["lr"] = 0.7
    checkpoint.restore(state, model, optimiser, {"g": generator})
    assert optimiser.param_groups[0]["lr"] == 0.7
    assert torch.equal(optimiser.state_dict()["state"][0]["exp_avg"], before["optimiser.0.exp_avg"])


def test_tied_weights_can_be_saved_and_stay_tied(tmp_path, model):
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model, optimiser, generator = made(model)
    checkpoint.save(tmp_path, 0, checkpoint.state_of(model, optimiser, {"g": generator}))
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    tensors = checkpoint.load_newest(tmp_path)[1]
    checkpoint.restore(tensors, model, optimiser, {"g": generator})
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, tensors["model.lm_head.weight"])
