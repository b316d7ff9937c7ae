"""The chain's steps on a profile of seconds: done once, resumed after a kill, whole files, refusal of foreign results."""

import errno
import json
from dataclasses import replace

import pandas as pd
import pytest

from pslib import chain, checkpoint, runs, tables, tasks, train


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """The smoke profile with results of its own and a base model of two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PSLIB_RESULTS", str(tmp_path_factory.mktemp("results")))
        smoke = runs.load_profile("smoke")
        yield replace(smoke, base=replace(smoke.base, steps=2))


def test_the_base_model_is_made_once_and_the_same_each_time_it_is_read(profile, monkeypatch):
    first, _, losses = chain.make_base(profile, "0.2m")
    monkeypatch.setattr(chain.base, "train", lambda *a, **k: pytest.fail("trained again"))
    second, _, again = chain.make_base(profile, "0.2m")
    assert losses == again and len(losses) == 2
    assert all((a == b).all() for a, b in zip(first.state_dict().values(), second.state_dict().values()))


def test_results_made_with_other_settings_are_not_taken_for_these(profile):
    chain.make_base(profile, "0.2m")
    with pytest.raises(ValueError, match="was made with other settings"):
        chain.make_base(replace(profile, base=replace(profile.base, seed=9)), "0.2m")


def test_a_run_writes_its_record_and_is_not_repeated(profile, monkeypatch):
    metrics = chain.train_run(profile, "grpo", "0.2m", 1)
    folder = runs.run_folder(profile, "grpo", "0.2m", 1)
    assert metrics.step.tolist() == [1, 2, 3]
    assert {"params.yaml", "metrics.csv", "manifest.json", "rollouts.parquet", "model"} <= {p.name for p in folder.iterdir()}
    assert json.loads((folder / "manifest.json").read_text())["seed"] == 1
    assert not (folder / "checkpoints").exists()
    monkeypatch.setattr(train, "run", lambda *a: pytest.fail("trained again"))
    assert chain.train_run(profile, "grpo", "0.2m", 1).equals(metrics)


def test_a_run_killed_in_the_middle_goes_on_to_the_same_metrics(profile, monkeypatch):
    whole = chain.train_run(profile, "policy_split", "0.2m", 1)
    stop_after, step = 2, train.Run.step

    def dies(self, questions):
        if self.done == stop_after:
            raise KeyboardInterrupt
        return step(self, questions)

    elsewhere = runs.run_folder(profile, "policy_split", "0.2m", 1).with_name("killed")
    monkeypatch.setattr(train.Run, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        chain.train_run(profile, "policy_split", "0.2m", 1, folder=elsewhere)
    assert not (elsewhere / "manifest.json").exists() and len(pd.read_csv(elsewhere / "metrics.csv")) == 2
    monkeypatch.setattr(train.Run, "step", step)
    resumed = chain.train_run(profile, "policy_split", "0.2m", 1, folder=elsewhere)
    timeless = [c for c in whole if not c.startswith("seconds")]
    assert resumed[timeless].equals(whole[timeless])


def test_a_full_disk_leaves_the_earlier_file_as_it_was(tmp_path, monkeypatch):
    checkpoint.write(tmp_path / "metrics.csv", "earlier")
    monkeypatch.setattr(checkpoint.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(tmp_path / "metrics.csv", "later")
    assert (tmp_path / "metrics.csv").read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


def test_an_evaluation_has_a_row_for_each_suite_mode_question_and_sample(profile):
    chain.train_run(profile, "policy_split", "0.2m", 1)
    table = chain.evaluate_run(profile, "policy_split", "0.2m", 1)
    settings = profile.evaluate
    assert len(table) == len(tasks.TEST_SUITES) * 2 * settings.questions * settings.samples
    assert not table.duplicated(["suite", "mode", "question_id", "sample"]).any()
    assert table.question_id.str.contains("-test-").all()


def test_evaluating_a_run_that_was_not_trained_says_what_to_do(profile):
    with pytest.raises(FileNotFoundError, match="run 06_train with method=grpo, size=0.2m and seed=77 first"):
        chain.evaluate_run(profile, "grpo", "0.2m", 77)


def test_a_missing_run_is_a_blank_in_the_table(profile):
    wanted = replace(profile, methods=["original", "forking"])
    chain.evaluate_run(wanted, "original", "0.2m", 1)
    shown = tables.as_shown(chain.write_table1(wanted))
    assert shown.iloc[1]["average acc %"] == "" and shown.iloc[1]["seeds"] == 0
    assert shown.iloc[0]["average bits"] != ""
    assert (wanted.folder / "figures" / "table1.png").stat().st_size > 1000


def test_what_makes_the_base_model_fair_is_measured_for_every_suite_derivation_and_prompt(profile):
    measured = chain.measure_base(profile, "0.2m")
    assert measured.groupby("measure").size().to_dict() == {"default": 4, "named": 4, "prompt": 4, "suite": 4}
    assert measured[measured.measure == "prompt"].kl.notna().all()
    assert "most reliable derivation" in chain.base_verdict(measured)


def test_seeds_that_are_not_numbers_are_refused(profile):
    with pytest.raises(ValueError, match='like "1,2,3"; got \'1;2\''):
        chain.evaluate_runs(profile, "original", "0.2m", "1;2")
