"""A size that a profile launches: TRL's trainer in two processes leaves what the rest of the chain
reads.
"""

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file

from pslib import rewards
from pslib.evidence import analyses, artefacts
from pslib.lab import chain, launched, runs
from tests.support.small_paper import left, paper_profile
from tests.support.steps import parity
from tests.support.torchrun import torchrun
from tests.support.trl_steps import distance


@pytest.fixture(scope="module")
def mine(tmp_path_factory, _lively, tokenizer):
    with paper_profile(tmp_path_factory.mktemp("launched"), _lively, tokenizer) as path:
        yield path


def train(profile, method, processes=2):
    program = ("-m", "pslib", "train", profile, method, "tiny", 1)
    return torchrun(
        processes, program=program, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES=""
    )


def test_two_processes_leave_a_run_that_is_evaluated_and_shown_like_any_other(mine):
    profile = runs.load_profile(str(mine))
    for method in profile.methods[1:]:
        done = train(mine, method)
        assert done.returncode == 0, done.stderr[-3000:]
    folder = runs.run_folder(profile, "policy_split", "tiny", 1)
    metrics = pd.read_csv(folder / "metrics.csv")
    assert metrics.step.tolist() == [1, 2]
    modes = [
        f"{name}_{mode}"
        for name in ("accuracy", "entropy_bits", "bonus_share")
        for mode in ("normal", "he")
    ]
    for name in (
        "loss",
        "grad_norm",
        "reward",
        "live_groups",
        "response_tokens",
        "unfinished",
        "beyond_bounds",
        "kl_he_from_normal",
        *modes,
    ):
        assert metrics[name].notna().all(), name
    assert (metrics.filter(like="entropy_bits") > 0).all(
        axis=None
    ) and metrics.response_tokens.between(1, 12).all()
    kept = pd.read_parquet(folder / "rollouts.parquet")
    assert (
        kept["mode"].value_counts().to_dict() == {"normal": 8, "he": 8}
        and kept.question_id.nunique() == 4
    )
    inputs = json.loads((folder / "manifest.json").read_text())["inputs"]
    assert inputs["base"].endswith("Qwen3-tiny") and inputs["data"].startswith("deepmath=")
    assert set(yaml.safe_load((folder / "params.yaml").read_text())["inputs"]) >= {
        "questions",
        "weights",
        "prompts",
    }
    assert not list(folder.rglob("*.bin")) and not (folder / "checkpoints").exists()
    for method in profile.methods:
        chain.evaluate_run(profile, method, "tiny", 1)
    chain.check(profile)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "load_profile", lambda name: profile)
        table = artefacts.write(profile, "table1_general")["table1_general"]
    assert table.label.tolist() == ["Original", "GRPO", "Policy Split", "Policy Split + HE prompt"]
    assert table[analyses.SUITES].notna().all().all()
    spent = analyses.cost(profile)
    assert len(spent) == 2 and spent.filter(like="seconds").isna().all(
        axis=None
    )  # not known: blank, and no 0
    before = (folder / "metrics.csv").stat().st_mtime_ns
    done = train(mine, "policy_split")
    assert done.returncode == 0 and (folder / "metrics.csv").stat().st_mtime_ns == before


class Kill(Exception):
    """What a test raises in place of a kill."""


def test_a_run_that_is_killed_goes_on_from_its_last_whole_checkpoint_to_the_same_weights(
    mine, monkeypatch
):
    # An untrained model is never right, and dead groups would hide what differs.
    monkeypatch.setattr(rewards, "grade", lambda text, *asked: parity(text))
    given = runs.load_profile(str(mine))
    settings = replace(given.train, steps=4, save_every=2, learning_rate=1e-3, min_accuracy=2.0)
    whole, killed = (replace(given, name=name, train=settings) for name in ("whole", "killed"))
    launched.train_run(whole, "policy_split", "tiny", 1)
    weights, metrics = left(runs.run_folder(whole, "policy_split", "tiny", 1))
    assert metrics.beyond_bounds.tolist() == [1, 2, 3, 4]
    before = load_file(mine.with_name("Qwen3-tiny") / "model.safetensors")
    assert distance(weights, {name: before[name] for name in weights}) > 1e-3

    folder, log = runs.run_folder(killed, "policy_split", "tiny", 1), launched.Metrics.on_log

    def kill(self, args, state, *rest, **named):
        log(self, args, state, *rest, **named)
        if state.global_step == 3:
            raise Kill

    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(launched.Metrics, "on_log", kill)
        launched.train_run(killed, "policy_split", "tiny", 1)
    saved = folder / "checkpoints" / "checkpoint-2"
    cut_off = saved.with_name("checkpoint-3")  # by a kill while it was written
    shutil.copytree(saved, cut_off, ignore=shutil.ignore_patterns("trainer_state*", "optimizer*"))
    launched.train_run(killed, "policy_split", "tiny", 1)
    again, its_metrics = left(folder)
    assert distance(weights, again) < 1e-6
    pd.testing.assert_frame_equal(its_metrics, metrics)


def test_every_column_of_a_question_reaches_the_reward(mine):
    profile = runs.load_profile(str(mine))
    rows = [
        {"id": "a", "question": "2^10", "answer": "1024", "worked_out": True, "level": 3},
        {"id": "b", "question": "7+8", "answer": "15", "worked_out": False, "level": 1},
    ]
    found = {row["id"]: dict(row) for row in launched.asked(rows, profile, 1)}
    for row in rows:
        assert found[row["id"]] == {
            **row,
            "prompt": [{"role": "user", "content": row["question"]}],
        }


def test_a_template_that_asks_for_the_date_is_told_the_one_that_evaluation_tells(mine, monkeypatch):
    given, words = runs.load_profile(str(mine)), []
    prepare = launched.chain.prepare

    def with_date(*asked):
        prepared = prepare(*asked)
        prepared.tokenizer.chat_template += "{# #}{% if false %}{{ strftime_now('%Y') }}{% endif %}"
        return prepared

    class Told(Exception):
        pass

    def trainer(*given, processing_class, **named):
        words.append(processing_class.chat_template)
        raise Told

    monkeypatch.setattr(launched.chain, "prepare", with_date)
    monkeypatch.setattr(launched, "PolicySplitTrainer", trainer)
    with pytest.raises(Told):
        launched.train_run(replace(given, name="dated"), "policy_split", "tiny", 1)
    assert "'2024'" in words[0] and "strftime_now" not in words[0]


def test_the_settings_of_the_paper_are_trls(tmp_path):
    paper = runs.load_profile("paper")
    args = launched.config(
        replace(paper, train=replace(paper.train, bf16=False)),
        "policy_split",
        "1.7B",
        1,
        tmp_path,
        8,
    )
    own = args.per_device_train_batch_size * args.gradient_accumulation_steps
    assert (
        own * 8 == 256 * 8 and args.steps_per_generation == args.gradient_accumulation_steps
    )  # one update a batch
    assert (args.learning_rate, args.weight_decay, args.max_grad_norm, args.epsilon) == (
        3e-6,
        0.01,
        1.0,
        0.2,
    )
    assert (args.temperature, args.top_p, args.top_k, args.max_completion_length) == (
        1.0,
        1.0,
        0,
        12288,
    )
    assert args.system_prompt == paper.modes[1].system and args.chat_template_kwargs == {
        "enable_thinking": True
    }
    with pytest.raises(
        ValueError, match="256 questions to a step cannot be shared out evenly among 3 processes"
    ):
        launched.config(paper, "grpo", "1.7B", 1, tmp_path, 3)
