"""Every numeric setting has a range: what lies outside is one sentence before anything runs."""

from math import inf, nan
from typing import get_type_hints

import pytest
import yaml

from pslib import methods, rollouts
from pslib.evidence import creative, evaluate
from pslib.lab import cli, notebook, ranges, reproduce, runs
from pslib.lab.settings import Training

TRAIN = {
    "steps": 3,
    "questions": 4,
    "group_size": 4,
    "pool": 64,
    "learning_rate": 3e-4,
    "max_new_tokens": 24,
}
EVALUATE = {
    "questions": 4,
    "samples": 2,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "max_new_tokens": 24,
}
DECODING = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 6}


@pytest.mark.parametrize(
    "cls, given, name, value",
    [
        (Training, TRAIN, name, value)
        for name, values in {
            "steps": [0],
            "questions": [0],
            "group_size": [0],
            "pool": [0, -1],
            "max_new_tokens": [0],
            "save_every": [0],
            "measure_every": [0],
            "micro_tokens": [0],
            "graph_tokens": [-1],
            "learning_rate": [0.0, -1e-3, nan, inf],
            "warmup": [-1],
            "weight_decay": [-0.1, nan],
            "grad_clip_norm": [-1.0, 0.0, nan, inf],
            "clip_eps": [-0.2, 0.0, 1.0, nan],
            "temperature": [-1.0, 0.0, nan, inf],
            "max_entropy_bits": [-1.0, nan],
            "min_accuracy": [nan],
            "stop_beyond": [-1],
        }.items()
        for value in values
    ]
    + [
        (evaluate.Settings, EVALUATE, name, value)
        for name, values in {
            "questions": [0],
            "samples": [0],
            "temperature": [-1.0, nan, inf],
            "top_k": [-1],
            "top_p": [0.0, 1.1, nan],
            "max_new_tokens": [0],
        }.items()
        for value in values
    ]
    + [
        (evaluate.Probe, {}, name, -1)
        for name in ("best_of_n", "prompts", "stories", "asked", "pass_at_k")
    ]
    + [(evaluate.Probe, {}, name, 0) for name in ("samples", "asked_samples", "tries", "least")]
    + [(evaluate.Probe, {}, "least", 10)]
    + [
        (runs.BaseSettings, {"world": "rare", "steps": 5}, name, value)
        for name, value in (("steps", 0), ("batch_size", 0), ("seed", -1), ("seed", 2**63))
    ]
    + [
        (rollouts.Decoding, DECODING, name, value)
        for name, values in {
            "temperature": [-1.0, nan, inf],
            "top_k": [-1],
            "top_p": [0.0, 1.1, nan],
            "max_new_tokens": [0],
        }.items()
        for value in values
    ]
    + [
        (creative.JudgeSettings, {}, name, value)
        for name, values in {"attempts": [0], "wait": [-1.0, nan], "seconds": [0.0, inf]}.items()
        for value in values
    ],
)
def test_a_setting_outside_its_range_is_named_with_the_range(cls, given, name, value):
    cls(**given)
    with pytest.raises(
        ValueError, match=rf"{name} must be a (finite|whole) number.*; got {value!r}"
    ):
        cls(**{**given, name: value})


CLASSES = {
    Training: TRAIN,
    evaluate.Settings: EVALUATE,
    evaluate.Probe: {},
    runs.BaseSettings: {"world": "rare", "steps": 5},
    rollouts.Decoding: DECODING,
    creative.JudgeSettings: {},
}


def numbers(cls):
    """The numeric settings of a class: {name: int or float}."""
    return {name: kind for name, kind in get_type_hints(cls).items() if kind in (int, float)}


@pytest.mark.parametrize("cls", CLASSES)
def test_no_numeric_setting_is_without_a_range(cls):
    assert {name: kind is int for name, kind in numbers(cls).items()} == {
        name: allowed.whole for name, allowed in ranges.of_fields(cls).items()
    }


@pytest.mark.parametrize("cls", CLASSES)
def test_what_is_no_number_or_no_whole_one_is_refused_where_a_setting_is_made(cls):
    for name, kind in numbers(cls).items():
        for value in [True, None, "3"] + ([2.5] if kind is int else []):
            said = (
                f"{name} must be a {'whole' if kind is int else 'finite'} number.*; got {value!r}"
            )
            with pytest.raises(ValueError, match=said):
                cls(**{**CLASSES[cls], name: value})


@pytest.mark.parametrize(
    "method, given",
    [
        ("policy_split", {"eta": -0.1}),
        ("policy_split", {"eta": nan}),
        ("policy_split", {"kappa": 0.5}),
        ("policy_split", {"alpha": 1.1}),
        ("policy_split", {"eta_normal": inf}),
        ("forking", {"keep": 0.0}),
        ("forking", {"keep": 1.5}),
        ("clip_cov", {"ratio": -0.1}),
        ("entropy_driven", {"floor": -1.0}),
        ("entropy_driven", {"floor": 0.0}),
        ("policy_split", {"eta": True}),
        ("entropy_regularization", {"coef": -1e-3}),
        ("entropy_advantage", {"alpha": -0.4}),
    ],
)
def test_a_coefficient_outside_its_range_is_named(method, given):
    ((name, value),) = given.items()
    with pytest.raises(ValueError, match=rf"{name} must be a finite number.*; got {value!r}"):
        methods.get(method, **given)


def test_every_coefficient_has_a_range_and_its_default_lies_in_it():
    for method in methods.known().values():
        numbers = {
            name: value for name, value in method.coefficients.items() if not isinstance(value, str)
        }
        assert all(value in method.ranges[name] for name, value in numbers.items())


def test_bounds_that_cross_and_forms_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match="lower must be at most upper; got 6.0 and 5.0"):
        methods.get("clip_cov", lower=6.0)
    with pytest.raises(ValueError, match="variant must be one of paper, .*; got 'published'"):
        methods.get("policy_split", variant="published")


@pytest.mark.parametrize(
    "section, change, said",
    [
        (
            "train",
            {"grad_clip_norm": -1.0},
            "grad_clip_norm must be a finite number above 0; got -1.0",
        ),
        (
            "seeds",
            [-1],
            "profile mine: seed must be a whole number at least 0 and below 9.22337e[+]18; got -1",
        ),
        ("seeds", [True], "seeds must be whole numbers.*; got True"),
        (
            "resources",
            {"train": {"threads": 0}},
            "profile mine, resources of train: threads must be a whole number at least 1; got 0",
        ),
        ("resources", {"train": {"gpu": -1}}, "gpu must be a whole number at least 0; got -1"),
        (
            "resources",
            {"train": 8},
            "profile mine, section resources: train must be a mapping; got 8",
        ),
    ],
)
def test_a_profile_with_a_number_outside_its_range_is_refused(
    section, change, said, tmp_path, monkeypatch
):
    given = yaml.safe_load((runs.PROFILES / "smoke.yaml").read_text())
    given[section] = {**given[section], **change} if section == "train" else change
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(given))
    monkeypatch.setattr(runs, "PROFILES", tmp_path)
    with pytest.raises(ValueError, match=said):
        runs.load_profile("mine")


# --- the command line -----------------------------------------------------------------------------
@pytest.mark.parametrize("cores", ["0", "-2"])
def test_no_core_is_not_enough(cores, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PSLIB_RESULTS", str(tmp_path))
    assert cli.main(["reproduce", "smoke", "--cores", cores]) == 1
    assert (
        f"--cores must be at least 1, since every run needs one; got {cores}"
        in capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


def test_a_parameter_may_begin_with_a_dash(monkeypatch):
    seen = []
    monkeypatch.setattr(
        notebook, "execute", lambda name, out, given: seen.append((name, out, given))
    )
    assert (
        cli.main(
            [
                "notebook",
                "03_advantages",
                "-p",
                "eta",
                "-1e-3",
                "--out",
                "x.ipynb",
                "-p",
                "seed",
                "-2",
            ]
        )
        == 0
    )
    assert seen == [("03_advantages", "x.ipynb", {"eta": "-1e-3", "seed": "-2"})]


def test_a_relative_results_folder_is_the_same_for_every_process(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PSLIB_RESULTS", "mine")
    monkeypatch.setattr(reproduce, "compare", lambda profile: None)
    assert runs.results_root() == tmp_path / "mine"
    assert cli.main(["compare", "smoke"]) == 0
    monkeypatch.chdir("/")  # as a notebook's process is elsewhere
    assert runs.results_root() == tmp_path / "mine"
