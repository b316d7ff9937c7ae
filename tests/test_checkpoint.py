"""Checkpoints: what is saved comes back, what is damaged is noticed, and nothing is left half written."""

import copy
import os
import warnings

import pytest
import torch

from pslib import checkpoint


def tensors(step):
    return {"a": torch.arange(4.0) + step, "b": torch.tensor(step), "c": torch.ones(2, 2, dtype=torch.bfloat16)}


def names(folder):
    return sorted(os.listdir(folder))


# --- writing --------------------------------------------------------------------------------------------------------
def test_write_makes_folders_and_takes_text_or_bytes(tmp_path):
    checkpoint.write(tmp_path / "new" / "deep" / "text", "Größe")
    checkpoint.write(tmp_path / "bytes", b"\x00\xff")
    assert (tmp_path / "new" / "deep" / "text").read_bytes() == "Größe".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"
    assert names(tmp_path) == ["bytes", "new"]


def test_a_write_that_fails_leaves_the_old_content_and_no_temporary_file(tmp_path, monkeypatch):
    checkpoint.write(tmp_path / "file", "old")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old" and names(tmp_path) == ["file"]


# --- saving and loading ---------------------------------------------------------------------------------------------
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
    for step in (10, 9, 100):
        checkpoint.save(tmp_path, step, tensors(step), keep=5)
    checkpoint.save(tmp_path, 11, tensors(11), keep=5)
    assert checkpoint.load_newest(tmp_path)[0] == 100


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_stay_and_no_temporary_files(tmp_path, keep):
    for step in (1, 2, 3, 10):
        checkpoint.save(tmp_path, step, tensors(step), keep=keep)
    kept = [f"step-{step:06d}" for step in (1, 2, 3, 10)][-keep:]
    assert names(tmp_path) == sorted(f"{stem}.{end}" for stem in kept for end in ("json", "safetensors"))


def flip_a_bit(folder):
    data = bytearray((folder / "step-000002.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "step-000002.safetensors").write_bytes(data)


def cut_short(folder):
    data = (folder / "step-000002.safetensors").read_bytes()
    (folder / "step-000002.safetensors").write_bytes(data[:-3])


def lose_the_tensors(folder):
    (folder / "step-000002.safetensors").unlink()


def empty_the_json(folder):
    (folder / "step-000002.json").write_text("")


def forget_the_hash(folder):
    (folder / "step-000002.json").write_text('{"step": 2}')


def write_a_number(folder):
    (folder / "step-000002.json").write_text("2")


DAMAGES = [flip_a_bit, cut_short, lose_the_tensors, empty_the_json, forget_the_hash, write_a_number]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning_for_the_one_before_it(tmp_path, damage):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, tensors(step))
    damage(tmp_path)
    with pytest.warns(UserWarning, match="checkpoint step-000002 in .* is damaged"):
        step, loaded = checkpoint.load_newest(tmp_path)
    assert step == 1 and torch.equal(loaded["a"], tensors(1)["a"])


def test_no_good_checkpoint_at_all_gives_none_with_a_warning(tmp_path):
    checkpoint.save(tmp_path, 2, tensors(2))
    flip_a_bit(tmp_path)
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoint.load_newest(tmp_path) is None


def test_tensors_without_their_json_are_not_a_checkpoint(tmp_path):
    # the state after a stop between the two writes: the hash is written last
    checkpoint.save(tmp_path, 1, tensors(1))
    checkpoint.save(tmp_path, 2, tensors(2))
    (tmp_path / "step-000002.json").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.load_newest(tmp_path)[0] == 1


# --- a training state -----------------------------------------------------------------------------------------------
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
    checkpoint.restore(checkpoint.load_newest(tmp_path)[1], other, other_optimiser, {"g": other_generator})
    advance(other, other_optimiser, other_generator)
    for ours, theirs in zip(model.parameters(), other.parameters()):
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
