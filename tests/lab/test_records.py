"""Records: a step is done, or goes on, only where it was made from what it would be made from
now.
"""

import copy
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import yaml

from pslib import modes, rewards
from pslib.evidence import artefacts, tables
from pslib.lab import chain, cli, export, records, reproduce, runs
from pslib.nano import base
from tests.support.steps import parity

SIZE = "0.2m"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The smoke profile with GRPO and Policy Split trained and evaluated from a base model of two
    steps.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PSLIB_RESULTS", str(tmp_path_factory.mktemp("made")))
        patch.setattr(
            rewards, "grade", parity
        )  # where all answers are wrong, every method leaves the same weights
        smoke = runs.load_profile("smoke")
        profile = replace(
            smoke,
            base=replace(smoke.base, steps=2),
            train=replace(smoke.train, max_new_tokens=8),
            evaluate=replace(smoke.evaluate, max_new_tokens=8),
        )
        for method in profile.methods:
            if profile.method(method).training:
                chain.train_run(profile, method, SIZE, 1)
            chain.evaluate_run(profile, method, SIZE, 1)
        yield profile


@pytest.fixture
def profile(made, tmp_path, monkeypatch):
    """A copy of those results that a test may spoil."""
    shutil.copytree(runs.results_root(), tmp_path / "results")
    monkeypatch.setenv("PSLIB_RESULTS", str(tmp_path / "results"))
    return made


@pytest.fixture
def stopped(profile):
    """The folder of a run that was stopped after its second step."""
    folder = profile.folder / "stopped"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            chain,
            "Progress",
            lambda name: (
                lambda done, total, note="": (
                    (_ for _ in ()).throw(KeyboardInterrupt) if done == 3 else None
                )
            ),
        )
        chain.train_run(profile, "grpo", SIZE, 1, folder=folder)
    assert (folder / "checkpoints").exists() and not (folder / "manifest.json").exists()
    return folder


def content(folder):
    """Every file of a folder but its locks, with what it holds."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def refused(step, folder, *said):
    """Assert that a step is refused in one sentence that says so, and touches nothing of the
    folder.
    """
    before = content(folder)
    with pytest.raises(ValueError) as error:
        step()
    assert all(part in str(error.value) for part in said) and "\n" not in str(error.value)
    assert content(folder) == before


def _changed_model(monkeypatch, change):
    make = chain.make_base

    def changed(*given):
        model, tokenizer, losses = make(*given)
        model, tokenizer = copy.deepcopy(model), copy.deepcopy(tokenizer)
        change(model, tokenizer)
        return model, tokenizer, losses

    monkeypatch.setattr(chain, "make_base", changed)


def _one_weight(model, tokenizer):
    model.lm_head.weight.data[3, 3] += 1e-4


def _end_token(model, tokenizer):
    tokenizer.eos_token = "<|unk|>"


def _template(model, tokenizer):
    tokenizer.chat_template += " "


def _token(model, tokenizer):
    tokenizer.add_tokens("zebra")


def _position(model, tokenizer):
    model.config.rope_theta = 1.0


@pytest.mark.parametrize(
    "change, said",
    [
        (_one_weight, "the base model's weights"),
        (_end_token, "the tokens that end a response"),
        (_template, "the chat template"),
        (_token, "the tokenizer"),
        (_position, "the model's configuration"),
    ],
)
@pytest.mark.parametrize("done", [True, False])
def test_a_run_does_not_go_on_from_another_model_or_tokenizer(
    profile, stopped, monkeypatch, change, said, done
):
    folder = runs.run_folder(profile, "grpo", SIZE, 1) if done else stopped
    _changed_model(monkeypatch, change)
    refused(lambda: chain.train_run(profile, "grpo", SIZE, 1, folder=folder), folder, said)


@pytest.mark.parametrize("done", [True, False])
def test_a_run_does_not_go_on_with_other_questions_or_another_prompt_text(
    profile, stopped, monkeypatch, done
):
    folder = runs.run_folder(profile, "grpo", SIZE, 1) if done else stopped
    with monkeypatch.context() as patch:
        asked = runs.Profile.questions
        patch.setattr(
            runs.Profile,
            "questions",
            lambda self, suite, count, split="test": asked(self, suite, count - 1, split),
        )
        refused(
            lambda: chain.train_run(profile, "grpo", SIZE, 1, folder=folder),
            folder,
            "the questions",
        )
    monkeypatch.setattr(
        modes, "he_mode", lambda prompt: modes.Mode("he", "You are now in another mode.")
    )
    refused(
        lambda: chain.train_run(profile, "grpo", SIZE, 1, folder=folder),
        folder,
        "the prompt text of he",
    )


def test_a_stopped_run_goes_on_where_nothing_changed(profile, stopped):
    metrics = chain.train_run(profile, "grpo", SIZE, 1, folder=stopped)
    whole = pd.read_csv(runs.run_folder(profile, "grpo", SIZE, 1) / "metrics.csv")
    assert metrics.reward.equals(whole.reward) and metrics.grad_norm.equals(whole.grad_norm)


@pytest.mark.parametrize("keep", [0, 1])
def test_a_curve_that_was_lost_or_shortened_is_not_gone_on_with(profile, stopped, keep):
    path = stopped / "metrics.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: keep + 1]))
    with pytest.raises(ValueError, match="metrics.csv lacks some of the run's first 2 steps"):
        chain.train_run(profile, "grpo", SIZE, 1, folder=stopped)
    assert len(pd.read_csv(path)) == keep


def test_a_table_refuses_a_run_whose_curve_lacks_steps_and_reads_it_once(profile, monkeypatch):
    path = runs.run_folder(profile, "grpo", SIZE, 1) / "metrics.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    seen, missing = [], records.rows_missing

    def spy(read, steps):
        seen.append(read)
        return missing(read, steps)

    monkeypatch.setattr(records, "rows_missing", spy)
    with pytest.raises(ValueError, match="metrics.csv lacks some of the run's first 3 steps"):
        tables.table1(profile)
    assert seen.count(path) == 1


@pytest.mark.parametrize(
    "change, said",
    [
        (
            lambda p: replace(p, train=replace(p.train, learning_rate=0.9)),
            "train.learning_rate (0.0003 then, 0.9 now)",
        ),
        (
            lambda p: replace(p, evaluate=replace(p.evaluate, samples=3)),
            "evaluate.samples (2 then, 3 now)",
        ),
        (
            lambda p: replace(p, he_prompt="low_entropy"),
            "he_prompt ('high_entropy_short' then, 'low_entropy' now)",
        ),
        (
            lambda p: replace(p, coefficients={"policy_split": {"eta": 1.0}}),
            "coefficients.eta (0.03 then, 1.0 now)",
        ),
    ],
)
def test_tables_figures_and_the_chain_refuse_results_of_other_settings(profile, change, said):
    changed = change(profile)
    for reader in (tables.table1, chain.check, lambda p: artefacts.write(p, "dynamics")):
        refused(lambda: reader(changed), profile.folder, said)


def test_an_evaluation_of_other_settings_or_of_another_model_is_refused(profile, monkeypatch):
    folder = runs.run_folder(profile, "grpo", SIZE, 1)
    more = replace(profile, evaluate=replace(profile.evaluate, samples=3))
    refused(
        lambda: chain.evaluate_run(more, "grpo", SIZE, 1),
        folder,
        "evaluate.samples (2 then, 3 now)",
    )
    other = runs.run_folder(profile, "policy_split", SIZE, 1) / "model" / "model.safetensors"
    shutil.copyfile(other, folder / "model" / "model.safetensors")
    refused(
        lambda: chain.evaluate_run(profile, "grpo", SIZE, 1),
        folder,
        "is not the model that was made there",
    )
    refused(lambda: chain.check(profile), folder, "is not the model that was made there")


def test_an_evaluation_that_was_left_of_an_earlier_run_is_refused(profile):
    folder = runs.run_folder(profile, "grpo", SIZE, 1)
    for name in ("evaluation.csv", "evaluation.yaml"):
        shutil.copyfile(runs.run_folder(profile, "policy_split", SIZE, 1) / name, folder / name)
    refused(lambda: tables.table1(profile), folder, "evaluation.csv is of another model")


def test_runs_of_one_size_with_different_base_models_cannot_stand_in_one_table(profile):
    path = runs.run_folder(profile, "policy_split", SIZE, 1) / "params.yaml"
    record = yaml.safe_load(path.read_text())
    record["inputs"]["weights"] = "0" * 16
    path.write_text(yaml.safe_dump(record))
    refused(lambda: tables.table1(profile), profile.folder, "differ in their base model's weights")


def test_the_original_must_be_the_model_that_the_others_began_with(profile):
    path = runs.run_folder(profile, "original", SIZE, 1) / "evaluation.yaml"
    record = yaml.safe_load(path.read_text())
    record["inputs"]["weights"] = "0" * 16
    path.write_text(yaml.safe_dump(record))
    refused(lambda: tables.table1(profile), profile.folder, "differ in their base model's weights")


def test_a_variant_of_another_method_is_another_run(profile):
    def of(name):
        return replace(profile, variants={"mine": {"of": name}})

    folder = runs.run_folder(profile, "mine", SIZE, 1)
    chain.train_run(of("policy_split"), "mine", SIZE, 1)
    other = of("policy_split_unshared")
    refused(
        lambda: chain.train_run(other, "mine", SIZE, 1), folder, "the method that the variant is of"
    )
    refused(lambda: tables.table1(other), profile.folder, "the method that the variant is of")


def test_a_probe_of_other_settings_is_refused(profile):
    asking = replace(profile.probe, methods=["grpo"], prompts=4)
    own, folder = replace(profile, probe=asking), runs.run_folder(profile, "grpo", SIZE, 1)
    record = records.probe_settings(own, SIZE, asking) | {"inputs": {}}
    (folder / "probe.yaml").write_text(yaml.safe_dump(record))
    tables.table1(own)
    changed = replace(own, probe=replace(asking, prompts=5))
    refused(lambda: tables.table1(changed), profile.folder, "probe.prompts (4 then, 5 now)")


def test_a_base_model_whose_files_changed_is_refused(profile):
    folder = runs.base_folder(profile, SIZE)
    with open(folder / "model" / "tokenizer_config.json", "a") as file:
        file.write(" ")
    refused(lambda: chain.make_base(profile, SIZE), folder, "is not the model that was made there")


def test_a_base_model_of_a_world_that_was_changed_is_refused(profile, monkeypatch):
    world = base.worlds.WORLDS["rare"]
    monkeypatch.setitem(base.worlds.WORLDS, "rare", replace(world, story=0.5, neutral=0.1))
    refused(lambda: chain.make_base(profile, SIZE), runs.base_folder(profile, SIZE), "the world")


def test_export_refuses_a_run_that_was_trained_under_other_prompts(profile, tmp_path, monkeypatch):
    export.export(profile, "policy_split", SIZE, 1, tmp_path / "good")
    monkeypatch.setattr(
        modes, "he_mode", lambda prompt: modes.Mode("he", "You are now in another mode.")
    )
    refused(
        lambda: export.export(profile, "policy_split", SIZE, 1, tmp_path / "bad"),
        profile.folder,
        "trained under other prompts",
    )
    assert not (tmp_path / "bad").exists()


# --- results from before inputs were recorded -----------------------------------------------------
def _old(folder):
    record = yaml.safe_load((folder / "params.yaml").read_text())
    del record["inputs"], record["train"]["bf16"], record["engine"]
    (folder / "params.yaml").write_text(yaml.safe_dump(record))
    (folder / "evaluation.yaml").unlink(missing_ok=True)


def test_results_without_recorded_inputs_stay_readable_and_are_told_apart(profile):
    folder = runs.run_folder(profile, "grpo", SIZE, 1)
    assert records.inputs_recorded(folder)
    _old(folder)
    before = content(folder)
    assert not records.inputs_recorded(folder)
    assert len(tables.table1(profile)) == 4 and len(chain.train_run(profile, "grpo", SIZE, 1)) == 3
    assert len(chain.evaluate_run(profile, "grpo", SIZE, 1))
    assert content(folder) == before  # never filled in afterwards
    artefacts.write(profile, "table1_general")
    shown = (profile.folder / "tables" / "table1_general.md").read_text()
    assert shown.endswith("Inputs not recorded: 1 of 2 training runs.\n")


def test_a_stopped_run_without_recorded_inputs_does_not_go_on(profile, stopped):
    _old(stopped)
    refused(
        lambda: chain.train_run(profile, "grpo", SIZE, 1, folder=stopped),
        stopped,
        "before inputs were recorded",
    )


def test_a_setting_that_a_record_lacks_equals_its_default_and_one_that_is_no_more_is_named(
    profile,
):
    folder = runs.run_folder(profile, "grpo", SIZE, 1)
    _old(folder)
    assert len(tables.table1(profile)) == 4
    bf16 = replace(profile, train=replace(profile.train, bf16=True))
    refused(lambda: tables.table1(bf16), folder, "train.bf16 (False then, True now)")
    with open(folder / "params.yaml", "a") as file:
        file.write("momentum: 0.9\n")
    refused(lambda: tables.table1(profile), folder, "momentum (0.9 then, None now)")


def test_results_of_a_profile_of_ones_own_are_left_out_of_the_committed(tmp_path, monkeypatch):
    for name in ("mine", "quick", "local"):
        (tmp_path / "results" / name / "runs").mkdir(parents=True)
    monkeypatch.setattr(artefacts.runs, "ROOT", tmp_path)
    assert [profile.name for profile, _ in artefacts.committed()] == ["quick"]


@pytest.mark.parametrize(
    "name, folder", [(profile.name, folder) for profile, folder in artefacts.committed()]
)
def test_committed_results_belong_to_their_profiles(name, folder):
    records.check(runs.load_profile(name), folder)


# --- the chain ------------------------------------------------------------------------------------
def test_reproduce_names_what_is_missing_and_forgets_the_steps_whose_results_are_gone(
    profile, monkeypatch
):
    assert chain.missing(profile) == {}
    shutil.rmtree(runs.run_folder(profile, "grpo", SIZE, 1))
    more = replace(profile, seeds=[1, 2])
    assert chain.missing(profile) == {
        f"06_train-grpo-{SIZE}-s1": f"run grpo-{SIZE}-s1",
        f"07_evaluate-grpo-{SIZE}-s1": f"evaluation.csv of run grpo-{SIZE}-s1",
    }
    assert f"06_train-policy_split-{SIZE}-s2" in chain.missing(
        more
    ) and f"06_train-policy_split-{SIZE}-s1" not in chain.missing(more)


def test_reproduce_refuses_before_it_starts_anything(profile, monkeypatch, capsys):
    changed = replace(profile, train=replace(profile.train, learning_rate=0.9))
    monkeypatch.setattr(runs, "load_profile", lambda name: changed)
    monkeypatch.setattr(reproduce.subprocess, "Popen", lambda *a, **k: pytest.fail("started"))
    before = content(profile.folder)
    assert cli.main(["reproduce", "smoke"]) == 1
    assert "train.learning_rate (0.0003 then, 0.9 now)" in capsys.readouterr().err
    assert content(profile.folder) == before
