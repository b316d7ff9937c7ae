"""The chain's steps on a profile of seconds: done once, resumed after a kill, whole files, refusal
of foreign results.
"""

import copy
import errno
import json
import random
import time
from dataclasses import replace

import pandas as pd
import pytest
import safetensors.torch
import torch
import yaml

from pslib import tasks, train
from pslib.evidence import artefacts, evaluate, tables
from pslib.lab import chain, records, runs
from pslib.nano import base
from tests.support import crashes, faults


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """The smoke profile with results of its own and a base model of two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PSLIB_RESULTS", str(tmp_path_factory.mktemp("results")))
        smoke = runs.load_profile("smoke")
        yield replace(smoke, base=replace(smoke.base, steps=2))


def test_the_base_model_is_made_once_and_the_same_each_time_it_is_read(profile, monkeypatch):
    first, _, losses = chain.make_base(profile, "0.2m")
    monkeypatch.setattr(base, "train", lambda *a, **k: pytest.fail("trained again"))
    second, _, again = chain.make_base(profile, "0.2m")
    assert losses == again and len(losses) == 2
    assert all(
        (a == b).all()
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_results_made_with_other_settings_are_not_taken_for_these(profile):
    chain.make_base(profile, "0.2m")
    with pytest.raises(ValueError, match="was made with other settings"):
        chain.make_base(replace(profile, base=replace(profile.base, seed=9)), "0.2m")


def test_a_run_writes_its_record_and_is_not_repeated(profile, monkeypatch):
    metrics = chain.train_run(profile, "grpo", "0.2m", 1)
    folder = runs.run_folder(profile, "grpo", "0.2m", 1)
    assert metrics.step.tolist() == [1, 2, 3]
    assert {"params.yaml", "metrics.csv", "manifest.json", "rollouts.parquet", "model"} <= {
        p.name for p in folder.iterdir()
    }
    assert json.loads((folder / "manifest.json").read_text())["seed"] == 1
    assert not (folder / "checkpoints").exists()
    monkeypatch.setattr(train, "run", lambda *a: pytest.fail("trained again"))
    assert chain.train_run(profile, "grpo", "0.2m", 1).equals(metrics)


def test_what_a_run_needs_is_checked_before_anything_is_written(profile, monkeypatch):
    model, tokenizer, _ = chain.make_base(profile, "0.2m")
    deaf = copy.deepcopy(tokenizer)
    deaf.chat_template = (
        "{% for m in messages if m['role'] == 'user' %}<|user|>{{ m['content'] }}<|end|>"
        "{% endfor %}<|assistant|>"
    )
    long = 10**6
    for words, changed, said in (
        (deaf, profile, "drops the system turn"),
        (
            tokenizer,
            replace(profile, train=replace(profile.train, max_new_tokens=long)),
            f"max_new_tokens={long} is more than",
        ),
        (
            tokenizer,
            replace(profile, evaluate=replace(profile.evaluate, max_new_tokens=long)),
            f"max_new_tokens={long} is more",
        ),
    ):
        monkeypatch.setattr(
            chain, "make_base", lambda profile, size, words=words: (model, words, [])
        )
        with pytest.raises(ValueError, match=said):
            chain.train_run(changed, "policy_split", "0.2m", 7)
    with pytest.raises(ValueError, match="question train-train-0-0 takes"):
        asked = profile.questions("train", 4, "train").map(
            lambda row: {"question": row["question"] * 1000}
        )
        monkeypatch.setattr(type(profile), "questions", lambda *given: asked)
        chain.train_run(profile, "grpo", "0.2m", 7)
    for method in ("policy_split", "grpo"):
        left = {path.name for path in runs.run_folder(profile, method, "0.2m", 7).iterdir()}
        assert left <= {".lock", ".owner", ".door"}


def test_rewards_that_are_not_0_or_1_are_kept_as_they_are_and_not_called_accuracy(
    profile, monkeypatch
):
    monkeypatch.setattr("pslib.rewards.grade", lambda text, answer: len(text) / 7)
    metrics = chain.train_run(profile, "policy_split", "0.2m", 8)
    kept = pd.read_parquet(runs.run_folder(profile, "policy_split", "0.2m", 8) / "rollouts.parquet")
    assert kept.reward.tolist() == pytest.approx([len(text) / 7 for text in kept.response])
    assert metrics.reward.iloc[-1] == pytest.approx(kept.reward.mean(), abs=1e-5)
    assert {"reward_normal", "reward_he"} <= set(metrics) and not [
        name for name in metrics if name.startswith("accuracy")
    ]


def test_the_model_of_a_run_with_bf16_is_the_one_that_was_trained_not_its_rounded_copy(
    profile, tmp_path, monkeypatch
):
    made, plain = [], train.Run

    def noted(*given, **named):
        made.append(plain(*given, **named))
        return made[0]

    monkeypatch.setattr(train, "Run", noted)
    profile = replace(profile, train=replace(profile.train, steps=1, bf16=True))
    chain.train_run(profile, "grpo", "0.2m", 1, folder=tmp_path)
    saved = safetensors.torch.load_file(tmp_path / "model" / "model.safetensors")
    trained = made[0].model.state_dict()
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "float32"
    assert all(torch.equal(weight, trained[name]) for name, weight in saved.items())
    assert any((weight != weight.bfloat16()).any() for weight in saved.values())


# --- killed, or unable to write (the long form of both is in tests/long) --------------------------
@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(profile, folder): a profile of half a second a run whose base model is made."""
    folder = tmp_path_factory.mktemp("small")
    with crashes.small_profile(folder, steps=4, save_every=2) as made:
        crashes.end(
            crashes.start(lambda: chain.make_base(made, crashes.SIZE), folder / "base.log"),
            folder / "base.log",
        )
        yield made, folder


def test_a_killed_run_loses_at_most_a_save_interval_and_ends_the_same(small):
    profile, folder = small
    begun, rng, killed = time.monotonic(), random.Random(0), 0
    crashes.survive(
        profile, "policy_split", folder / "whole", None, random.Random(0), kills=0, longest=0
    )
    longest, expected = time.monotonic() - begun, crashes.outcome(folder / "whole")
    while killed < 3:
        at = folder / f"killed-{killed}"
        more, _, good = crashes.survive(
            profile, "policy_split", at, expected, rng, 3 - killed, longest
        )
        assert good
        killed += more


def test_a_run_killed_after_its_last_checkpoint_has_its_rollouts(small, monkeypatch):
    profile, folder = small
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(chain, "save_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        chain.train_run(profile, "grpo", crashes.SIZE, 1, folder=folder / "late")
    chain.train_run(profile, "grpo", crashes.SIZE, 1, folder=folder / "late")
    kept = pd.read_parquet(folder / "late" / "rollouts.parquet")
    assert len(kept) == profile.train.questions * profile.train.group_size and set(
        kept["mode"]
    ) == {"normal"}


def test_a_run_that_cannot_write_says_so_keeps_its_files_and_goes_on(small):
    profile, folder = small
    profile = replace(profile, train=replace(profile.train, steps=2, save_every=1))
    with crashes.base_kept(profile), faults.watched(faults.Calls()) as calls:
        chain.train_run(profile, "grpo", crashes.SIZE, 1, folder=folder / "written")
        expected = crashes.outcome(folder / "written")
        for number in range(
            1, len(calls.made), 13
        ):  # every 13th of the calls, all files among them
            at = folder / f"fails-{number}"
            crashes.fail_and_go_on(
                lambda: chain.train_run(profile, "grpo", crashes.SIZE, 1, folder=at),
                at,
                expected,
                number,
                errno.EIO,
            )
    assert len(calls.made) > 80


def test_an_evaluation_that_cannot_be_written_is_not_there_and_is_made_again(small):
    profile, folder = small

    def written(at):
        return (at / "evaluation.csv").read_text()

    at, whole = folder / "evaluated", folder / "evaluated-whole"
    chain.evaluate_run(profile, "original", crashes.SIZE, 1, folder=whole)
    crashes.fail_and_go_on(
        lambda: chain.evaluate_run(profile, "original", crashes.SIZE, 1, folder=at),
        at,
        written(whole),
        12,
        errno.ENOSPC,
        written,
    )


def test_a_model_that_cannot_be_saved_leaves_the_earlier_one(
    tmp_path, model, tokenizer, monkeypatch
):
    chain.save_model(tmp_path / "model", model, tokenizer)
    before = records.files_digest(tmp_path / "model")

    def full(*args, **kwargs):
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(
        OSError,
        match="could not save the model to .*/model: .*No space left.*nothing earlier was lost",
    ):
        chain.save_model(tmp_path / "model", model, tokenizer)
    assert records.files_digest(tmp_path / "model") == before and [
        p.name for p in tmp_path.iterdir()
    ] == ["model"]


def test_an_evaluation_has_a_row_for_each_suite_mode_question_and_sample(profile):
    chain.train_run(profile, "policy_split", "0.2m", 1)
    table = chain.evaluate_run(profile, "policy_split", "0.2m", 1)
    settings = profile.evaluate
    assert len(table) == len(tasks.TEST_SUITES) * 2 * settings.questions * settings.samples
    assert not table.duplicated(["suite", "mode", "question_id", "sample"]).any()
    assert table.question_id.str.contains("-test-").all()


def test_evaluating_a_run_that_was_not_trained_says_what_to_do(profile):
    with pytest.raises(
        FileNotFoundError, match="run 06_train with method=grpo, size=0.2m and seed=77 first"
    ):
        chain.evaluate_run(profile, "grpo", "0.2m", 77)


def test_a_missing_run_is_a_blank_in_the_table(profile):
    wanted = replace(profile, methods=["original", "forking"])
    chain.evaluate_run(wanted, "original", "0.2m", 1)
    shown = tables.shown(artefacts.write(wanted, "table1_general")["table1_general"])
    assert shown.iloc[1]["average acc %"] == "" and shown.iloc[1]["seeds"] == 0
    assert shown.iloc[0]["average bits"] != ""
    assert (wanted.folder / "figures" / "table1.png").stat().st_size > 1000


def test_what_makes_the_base_model_fair_is_measured_for_every_suite_derivation_and_prompt(profile):
    measured = chain.measure_base(profile, "0.2m")
    assert measured.groupby("measure").size().to_dict() == {
        "default": 4,
        "named": 4,
        "prompt": 4,
        "suite": 4,
    }
    assert measured[measured.measure == "prompt"].kl.notna().all()


def test_a_later_probe_leaves_an_earlier_one_as_it_is_and_says_when_it_was_asked(profile):
    first = evaluate.Probe(["original"], best_of_n=1, samples=2)
    early = replace(profile, probe=first)
    chain.probe_run(early, "original", "0.2m", 1)
    folder = runs.run_folder(profile, "original", "0.2m", 1)
    # a record from before probes had these settings, whose defaults it is taken to mean
    record = yaml.safe_load((folder / "probe.yaml").read_text())
    for name in ("pass_at_k", "tries", "least"):
        del record["probe"][name]
    (folder / "probe.yaml").write_text(yaml.safe_dump(record))
    kept = {path: path.read_bytes() for path in folder.glob("*.*")}
    late = replace(early, probe_later=evaluate.Probe(["original"], pass_at_k=2, tries=3, least=7))
    assert "pass_at_k.csv of run original-0.2m-s1" in chain.missing(late).values()
    found = chain.probe_run(late, "original", "0.2m", 1)
    assert set(found) == {"best_of_n", "pass_at_k"}
    assert found["pass_at_k"].groupby("mode").samples.sum().to_dict() == {"he": 6, "normal": 6}
    assert (found["pass_at_k"].worked <= found["pass_at_k"].correct).all()
    assert all(path.read_bytes() == content for path, content in kept.items())
    about = json.loads((folder / "probe_later.json").read_text())
    model = records.load(folder / "probe_later.yaml")["inputs"]["model"]
    assert about["inputs"] == {"model": model} and "commit" in about
    other = replace(late, probe_later=replace(late.probe_later, least=8))
    with pytest.raises(ValueError, match=r"least \(7 then, 8 now\)"):
        chain.probe_run(other, "original", "0.2m", 1)


def test_seeds_that_are_not_numbers_are_refused(profile):
    with pytest.raises(ValueError, match="like \"1,2,3\"; got '1;2'"):
        chain.evaluate_runs(profile, "original", "0.2m", "1;2")


def test_another_base_model_of_a_size_is_the_one_of_another_seed(monkeypatch):
    monkeypatch.setitem(base.SIZES, "tiny", (16, 1, 32, 2, 1, 8))
    one, two, first = (
        base.train(name, "rare", steps=2, batch_size=4, seed=seed)[0].state_dict()
        for name, seed in (("tiny.b2", 0), ("tiny", 2), ("tiny", 0))
    )
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], first[key]) for key in one)
