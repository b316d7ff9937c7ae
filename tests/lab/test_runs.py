"""Profiles, run folders and their owners: what is wrong is said in one sentence, and nothing is
touched.
"""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from pslib.lab import checkpoint, runs
from pslib.nano import base


@pytest.mark.parametrize("name", ["smoke", "quick", "nano", "split", "paper"])
def test_every_shipped_profile_loads_and_names_only_methods_and_seeds_that_exist(name):
    profile = runs.load_profile(name)
    assert profile.methods[0] == "original" and "policy_split" in profile.methods
    for size in profile.sizes:
        seeds = profile.seeds_of(size)
        assert all(isinstance(seed, int) for seed in seeds) and len(set(seeds)) == len(seeds)


def test_quick_and_nano_hold_every_row_of_table_1_and_both_variants():
    from pslib import methods

    for name in ("quick", "nano"):
        assert set(runs.load_profile(name).methods) == set(methods.METHODS)


def test_no_profile_reports_a_seed_on_which_settings_were_chosen():
    chosen_on = set(pd.read_csv(runs.ROOT / "results" / "nano" / "tuning.csv").seed)
    for name in ("smoke", "quick", "nano"):
        assert chosen_on and not chosen_on & {seed for *_, seed in runs.load_profile(name).grid}


def _with(tmp_path, monkeypatch, old="", new=""):
    text = (runs.PROFILES / "smoke.yaml").read_text()
    assert old in text
    (tmp_path / "mine.yaml").write_text(text.replace(old, new) if old else new)
    monkeypatch.setattr(runs, "PROFILES", tmp_path)


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("model: nano", "modell: nano", "no setting 'modell'"),
        ("seeds: [1]", "seeds: [1]\nwording: What is it?", "wording must hold {sum}"),
        ("seeds: [1]\n", "", "lacks the setting 'seeds'"),
        ("seeds: [1]", "seeds: 1", "seeds must be a list; got 1"),
        ("steps: 3", "steps: three", "steps must be a valid integer; got 'three'"),
        ("3.0e-4", "3e-4", "learning_rate must be a valid number; got '3e-4'"),
        ("group_size: 4", "group_size: 5", "group_size must be even"),
        (
            "seeds: [1]",
            "seeds: [1]\nprobe: {methods: [grpo], stories: 2}\n"
            "probe_later: {methods: [original, grpo], stories: 3, prompts: 2}",
            "probe and probe_later both ask grpo for stories",
        ),
        ("world: rare", "world: flat", "no nano world is called 'flat'"),
        ('["0.2m"]', '["7b"]', "no nano size is called '7b'"),
        ("grpo, policy_split", "grpo, ppo", "no method is called 'ppo'"),
        ("high_entropy_short", "shouting", "no mode prompt is called 'shouting'"),
        ("base: {world: rare, steps: 20, batch_size: 16}\n", "", "lacks the setting 'base'"),
        (
            "seeds: [1]",
            "seeds: [1]\nenable_thinking: 1",
            "enable_thinking must be a valid boolean; got 1",
        ),
        (
            'model: nano\nsizes: ["0.2m"]',
            "model: some/model\nsizes: [a, b]",
            "a taught model is called like 135m.t1, kind and seed; got 'a'",
        ),
        (
            "device: cpu\nbase: {world: rare, steps: 20, batch_size: 16}",
            "model: some/model\nsizes: [a, b]",
            "its model must say where the size goes",
        ),
        (
            "seeds: [1]",
            "seeds: [1]\ndata: {train: {deepmath: x}}",
            "must name data sets for the suite 'like'",
        ),
        (
            "seeds: [1]",
            "seeds: [1]\nengine: sglang",
            "engine must be 'auto', 'generate' or 'vllm'; got 'sglang'",
        ),
        (
            "seeds: [1]",
            "seeds: [1]\nterms: {train: 2}",
            "section terms: train must be a list; got 2",
        ),
        ("", "a: [1", "not readable YAML"),
        ("", "just text", "must be a mapping"),
    ],
)
def test_a_bad_profile_is_refused_with_what_is_wrong_and_where(
    tmp_path, monkeypatch, old, new, said
):
    _with(tmp_path, monkeypatch, old, new)
    with pytest.raises(ValueError, match="mine|method|mode|nano") as error:
        runs.load_profile("mine")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_profiles_coefficients_are_checked_against_the_method(tmp_path, monkeypatch):
    _with(tmp_path, monkeypatch, "seeds: [1]", "seeds: [1]\ncoefficients: {grpo: {eta: 1.0}}")
    with pytest.raises(ValueError, match="GRPO has no coefficient 'eta'"):
        runs.load_profile("mine")


def test_an_unknown_profile_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="no profile is called 'fast'; there are .*quick"):
        runs.load_profile("fast")


@pytest.fixture
def own_file(tmp_path):
    """The smoke profile in a file of one's own: own_file(name, old text, new text) -> its path."""

    def make(name="mine.yaml", old="", new=""):
        (tmp_path / name).write_text((runs.PROFILES / "smoke.yaml").read_text().replace(old, new))
        return tmp_path / name

    return make


@pytest.mark.parametrize("name", ["mine.yaml", "mine.yml"])
def test_a_profile_is_loaded_from_a_file_and_called_as_it(name, own_file, monkeypatch):
    monkeypatch.chdir(own_file(name, "seeds: [1]", "seeds: [4, 5]").parent)
    for given in (name, f"./{name}", str(own_file(name, "seeds: [1]", "seeds: [4, 5]"))):
        profile = runs.load_profile(given)
        assert (profile.name, profile.seeds, profile.folder) == (
            "mine",
            [4, 5],
            runs.results_root() / "local" / "mine",
        )
    assert runs.load_profile("smoke").name == "smoke"


@pytest.mark.parametrize(
    "name, old, new, said",
    [
        ("mine.yaml", "model: nano", "modell: nano", "profile mine has no setting 'modell'"),
        (
            "mine.yaml",
            "seeds: [1]",
            "seeds: [1]\nname: ../../other",
            "profile mine has the setting 'name', and is called as its file",
        ),
        (
            "smoke.yaml",
            "seeds: [1]",
            "seeds: [2]",
            "smoke.yaml would be called smoke, and another profile of this package is",
        ),
        ("my profile.yaml", "", "", "a profile is called as its file, .* got 'my profile.yaml'"),
        (".yaml.yaml", "", "", "a profile is called as its file, .* got '.yaml.yaml'"),
        ("it's{x}.yaml", "", "", "a profile is called as its file"),
    ],
)
def test_a_file_that_cannot_be_a_profile_is_refused(name, old, new, said, own_file):
    path = own_file(name, *((old, new) if old else ()))
    with pytest.raises(ValueError, match=said) as error:
        runs.load_profile(str(path))
    assert "\n" not in str(error.value)


def test_a_copy_of_a_shipped_profile_is_that_profile_and_a_file_that_is_not_there_is_named(
    own_file, tmp_path
):
    assert runs.load_profile(str(own_file("smoke.yaml"))) == runs.load_profile("smoke")
    with pytest.raises(ValueError, match="no profile in .*/gone.yaml: there is no such file"):
        runs.load_profile(str(tmp_path / "gone.yaml"))
    with pytest.raises(
        ValueError,
        match="no profile is called './mine'; there are .*, or give the path of a YAML file",
    ):
        runs.load_profile("./mine")


@pytest.mark.parametrize(
    "parts", [("../../etc", "0.2m", 1), ("grpo", "a/b", 1), ("grpo", "..", 1), ("grpo", "x y", 1)]
)
def test_a_run_id_cannot_lead_out_of_its_folder(parts):
    with pytest.raises(ValueError, match="a run id may hold"):
        runs.run_id(*parts)


def test_a_folder_in_use_by_another_process_is_refused_and_a_dead_owners_is_free(tmp_path):
    code = (
        "import sys, time; from pslib.lab import runs\n"
        "with runs.owned(sys.argv[1]):\n print('mine', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "mine\n"
        with (
            pytest.raises(BlockingIOError, match=f"in use by process {other.pid}"),
            runs.owned(tmp_path),
        ):
            pass
    finally:
        other.kill()
        other.wait()
    with runs.owned(tmp_path) as folder:
        assert folder == tmp_path


def test_who_is_refused_is_told_the_holder_even_before_it_has_written_its_name(
    tmp_path, monkeypatch
):
    # a loser that asks between the winner's lock and its name must not be told a dead owner's name
    (tmp_path / ".owner").write_text("process 1 on a dead machine")
    write, said = checkpoint.write, []

    def ask():
        try:
            with runs.owned(tmp_path):
                said.append("got it")
        except BlockingIOError as error:
            said.append(str(error))

    loser = threading.Thread(target=ask)

    def slow_write(path, text):
        loser.start()
        loser.join(0.3)
        assert not said  # it waits at the door
        write(path, text)

    monkeypatch.setattr(checkpoint, "write", slow_write)
    with runs.owned(tmp_path):
        loser.join(10)
    assert len(said) == 1 and f"is in use by process {os.getpid()} on " in said[0]


def test_a_folder_whose_owner_cannot_be_named_is_left_free(tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(checkpoint, "write", full)
        with runs.owned(tmp_path):
            pass
    with runs.owned(tmp_path):
        pass


def test_a_manifest_says_what_the_numbers_depend_on():
    made = runs.manifest(seed=3, seconds=1.26, inputs={"model": "abc"})
    assert made["seed"] == 3 and made["seconds"] == 1.3 and made["inputs"] == {"model": "abc"}
    assert (
        made["versions"]["torch"].startswith("2.13.0")
        and made["peak_memory_mb"] > 50
        and made["cores"] >= 1
    )
    assert made["instruction_set"] == torch.backends.cpu.get_cpu_capability()


def test_a_manifest_of_a_run_on_a_gpu_names_the_gpu_and_its_memory(monkeypatch):
    card = SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**30)
    made = runs.manifest(seed=1, seconds=1.0, inputs={})
    assert (made["gpu"], made["gpu_memory_mb"]) == ("NVIDIA H100 80GB HBM3", 81920)
    assert made["peak_gpu_memory_mb"] == 3072


def test_a_manifest_of_a_run_on_a_processor_names_no_gpu(monkeypatch):
    # also where a GPU is there that it did not use
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not [key for key in runs.manifest(seed=1, seconds=1.0, inputs={}) if "gpu" in key]


@pytest.mark.parametrize(
    "profile, size, seed, unit",
    [
        ("bases", "0.2m.b3", 1, ("0.2m", 3)),
        ("bases", "0.2m", 1, ("0.2m", 0)),  # a run each: base models count as seeds
        ("prompted", "0.6m.b3", 7, ("0.6m.b3", 7)),  # several seeds of each: each stands by itself
        ("nano", "0.2m", 4, ("0.2m", 4)),
        ("smoke", "0.2m", 1, ("0.2m", 1)),
        ("smollm2", "135m", 1, ("135m", 1)),
    ],
)
def test_what_counts_as_a_seed_in_tables(profile, size, seed, unit):
    profile = runs.load_profile(profile)
    assert profile.unit(size, seed) == unit and unit[0] in profile.table_sizes


@pytest.mark.parametrize(
    "profile, method, over",
    [
        ("nano", "grpo", "seeds of one base model"),
        ("nano", "eta_1", "seeds of one base model"),
        ("smollm2", "grpo", "seeds of one base model"),
        (
            "nano",
            "original",
            "sampling seeds of one base model",
        ),  # it is not trained: seeds differ in what was sampled alone
        ("bases", "grpo", "base models"),
        ("split", "original", "base models"),
        ("quick", "original", "base models"),
        ("prompted", "grpo", "seeds of one base model"),
    ],
)
def test_what_the_runs_behind_an_interval_are_is_said_in_words(profile, method, over):
    assert runs.load_profile(profile).replicates(method) == over


@pytest.mark.parametrize("name, meant", [("0.2m", ("0.2m", 0)), ("0.6m.b12", ("0.6m", 12))])
def test_a_size_may_name_one_of_several_base_models(name, meant):
    assert base.parse(name) == meant


@pytest.mark.parametrize("name", ["7b", "0.2m.bx", "0.2m.b-1", "0.2m.c1", ""])
def test_a_size_that_there_is_not_is_refused(name):
    with pytest.raises(ValueError, match="no nano size is called"):
        base.parse(name)
