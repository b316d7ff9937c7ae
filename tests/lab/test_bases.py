"""Profiles over several base models: each made once, shared, with a neutral prompt of its own."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
import yaml

from pslib import modes
from pslib.lab import chain, publish, runs
from pslib.nano import base, worlds


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("PSLIB_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    given = yaml.safe_load((runs.PROFILES / "understood_neutral.yaml").read_text())
    smoke = runs.load_profile("smoke")
    return replace(
        runs.build(runs.Profile, {"name": "mine", **given}, "mine"),
        sizes=["0.2m.b5", "0.2m.b6"],
        train=smoke.train,
        base=replace(smoke.base, world="understood", steps=2, shared=True),
    )


def test_a_shared_base_model_is_made_once_for_all_profiles_or_read_from_the_checkout(
    profile, monkeypatch
):
    made = chain.make_base(profile, "0.2m.b5")[0].state_dict()
    here = runs.results_root() / "local" / "base" / "understood" / "0.2m.b5"
    assert runs.base_folder(replace(profile, name="other"), "0.2m.b5") == here
    publish.publish_base(here, runs.ROOT / "results" / "base" / "understood" / "0.2m.b5")
    monkeypatch.setattr(base, "train", lambda *a, **k: pytest.fail("trained again"))
    for path in sorted(here.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    again = chain.make_base(replace(profile, name="other"), "0.2m.b5")[0].state_dict()
    assert all(torch.equal(made[key], again[key]) for key in made) and not (here / "model").exists()


def test_quick_is_the_beginning_of_understood():
    quick, whole = runs.load_profile("quick"), runs.load_profile("understood")
    assert quick.sizes == whole.sizes[:3] and quick.train.steps < whole.train.steps
    same = ("base", "methods", "seeds", "he_prompt", "coefficients")
    for name in same:
        assert getattr(quick, name) == getattr(whole, name)
    assert replace(quick.train, steps=whole.train.steps) == whole.train


@pytest.mark.parametrize("size", runs.load_profile("quick").sizes)
@pytest.mark.parametrize("method", runs.load_profile("quick").methods[1:])  # all that train
def test_a_committed_run_of_quick_is_the_beginning_of_that_of_understood(method, size):
    quick, whole = runs.load_profile("quick"), runs.load_profile("understood")
    (seed,) = quick.seeds_of(size)
    tables = []
    for profile in (quick, whole):
        run = profile.results("committed") / "runs" / runs.run_id(method, size, seed)
        found = pd.read_csv(run / "metrics.csv").head(quick.train.steps)
        assert len(found) == quick.train.steps
        tables.append(found.loc[:, ~found.columns.str.startswith("seconds")])
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_base_model_and_seed_vary_together_and_each_base_model_has_its_own_neutral_prompt(profile):
    assert profile.grid[:2] == [
        ("policy_split_released", "0.2m.b5", 5),
        ("policy_split_released", "0.2m.b6", 6),
    ]
    assert profile.unit("0.2m.b6", 6) == ("0.2m", 6) and profile.table_sizes == ["0.2m"]
    tokenizer = chain.make_base(profile, "0.2m.b5")[1]
    texts = [profile.modes_of(size, tokenizer)[1].system for size in profile.sizes]
    assert texts[0] != texts[1] and [worlds.lean(text) for text in texts] == [0, 0]
    wanted = len(tokenizer(modes.he_mode("high_entropy").system)["input_ids"])
    assert len(tokenizer(texts[0])["input_ids"]) == wanted
