"""The search for a world's strength: its rule on tables made by hand, where it stops, and what a
measurement holds.
"""

from concurrent.futures import ThreadPoolExecutor

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from pslib.evidence import evaluate
from pslib.lab import runs
from pslib.nano import strength
from pslib.study import signed_response

SYNTHETIC = ["x=-1", "x=-0.5", "x=0", "x=0.5", "x=1"]
GOOD = {
    "none": 0.35,
    "high_entropy": 0.36,
    "rewritten_high_entropy": 0.37,
    "low_entropy": 0.30,
    "neutral": 0.35,
    **dict(zip(SYNTHETIC, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True)),
}


def table(value, entropies, accuracies=None, only=strength.SEEDS):
    """A search's table of one strength: base model -> entropies by prompt, and accuracies by
    prompt.
    """
    return pd.DataFrame(
        [
            {
                "strength": value,
                "base": seed,
                "prompt": prompt,
                "x": 0.0,
                "entropy_bits": bits,
                "kl": 0.01,
                "tokens": 30.0,
                "accuracy": (accuracies or {}).get(prompt, 0.75),
            }
            for seed in only
            for prompt, bits in entropies(seed).items()
        ]
    )


def passes(*args, **kwargs):
    return strength.conditions(table(2.0, *args, **kwargs)).passes[2.0]


def test_a_table_that_meets_all_conditions_passes():
    row = strength.conditions(table(2.0, lambda seed: GOOD)).loc[2.0]
    assert row["passes"] and row["base models"] == row["high-entropy above low-entropy"] == 8
    assert row["largest change of accuracy"] == 0.0 and row["KL under high-entropy"] == 0.01


@pytest.mark.parametrize("prompt", ["high_entropy", "rewritten_high_entropy"])
def test_the_signed_response_may_fail_on_one_base_model_and_not_on_two(prompt):
    def failing(*seeds):
        return lambda seed: (
            {**GOOD, prompt: 0.30} if seed in seeds else GOOD
        )  # a tie is not positive

    assert passes(failing(3))
    assert not passes(failing(3, 10))


def test_mean_entropy_must_grow_at_every_step_of_x():
    assert not passes(lambda seed: {**GOOD, "x=0.5": 0.3})
    # one base model may differ, as long as the mean grows
    assert passes(lambda seed: {**GOOD, "x=0.5": 0.29} if seed == 5 else GOOD)


@pytest.mark.parametrize(
    "prompt", ["high_entropy", "rewritten_high_entropy", "low_entropy", "neutral"]
)
def test_accuracy_under_each_prompt_must_be_within_ten_points(prompt):
    assert passes(lambda seed: GOOD, {prompt: 0.66})
    assert not passes(lambda seed: GOOD, {prompt: 0.64})
    assert not passes(lambda seed: GOOD, {prompt: 0.86})


def test_a_strength_passes_only_when_all_base_models_are_measured():
    assert not passes(lambda seed: GOOD, only=range(3, 10))


@pytest.fixture
def measured(monkeypatch):
    """The calls of `measure`, which is replaced: strength 1.5 and above passes."""
    calls = []

    def measure(value, seed):
        calls.append((value, seed))
        return table(
            value, lambda seed: GOOD if value >= 1.5 else {**GOOD, "x=1": 0.0}, only=[seed]
        )

    monkeypatch.setattr(strength, "measure", measure)
    return calls


def test_the_search_measures_the_control_and_stops_at_the_first_candidate_that_passes(
    measured, tmp_path
):
    with ThreadPoolExecutor(1) as pool:
        found = strength.search(pool, tmp_path)
        assert measured == [(value, seed) for value in (0.0, 1.0, 1.5) for seed in range(3, 11)]
        assert strength.conditions(found).passes.to_dict() == {0.0: False, 1.0: False, 1.5: True}
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "strength.csv"), found)
        # what was not finished is done, and nothing else
        measured.clear()
        found[(found.strength != 1.5) | (found.base < 9)].to_csv(
            tmp_path / "strength.csv", index=False
        )
        pd.testing.assert_frame_equal(strength.search(pool, tmp_path), found)
        assert measured == [(1.5, 9), (1.5, 10)]


def test_a_search_with_other_settings_is_refused(measured, tmp_path, monkeypatch):
    with ThreadPoolExecutor(1) as pool:
        strength.search(pool, tmp_path)
        monkeypatch.setattr(strength, "STEPS", 10)
        with pytest.raises(ValueError, match="holds a search with other settings; move it away"):
            strength.search(pool, tmp_path)


def test_a_base_model_is_measured_under_every_prompt(monkeypatch):
    made = []
    monkeypatch.setattr(strength, "STEPS", 2)
    monkeypatch.setattr(strength, "BATCH_SIZE", 8)
    monkeypatch.setattr(strength, "SETTINGS", evaluate.Settings(4, 1, 1.0, 0, 1.0, 6))
    train = strength.base.train
    monkeypatch.setattr(strength.base, "train", lambda *args: made.append(args) or train(*args))
    found = strength.measure(1.5, 4).set_index("prompt")
    ((name, world, *_),) = made
    assert (name, world.strength) == ("0.2m.b4", 1.5)
    assert (
        list(found.index) == list(GOOD) and set(found.strength) == {1.5} and set(found.base) == {4}
    )
    assert found.loc[SYNTHETIC].x.tolist() == [-1, -0.5, 0, 0.5, 1]
    assert (
        found.x["high_entropy"] > 0 > found.x["low_entropy"]
        and found.x["neutral"] == found.x["none"] == 0
    )
    assert found.kl["none"] == 0 and found.entropy_bits.between(0, 9).all()
    assert found.kl.drop("none").abs().max() > 0


def test_the_search_uses_neither_the_pilot_s_base_models_nor_those_of_the_results():
    assert not set(strength.SEEDS) & {*range(3), *range(11, 19)} and len(strength.SEEDS) == 8


# --- what is shown of it --------------------------------------------------------------------------
def test_means_by_prompt_are_those_of_the_search():
    found = pd.concat(
        [
            table(0.0, lambda seed: dict.fromkeys(GOOD, 0.4)),
            table(
                2.0,
                lambda seed: {**GOOD, "high_entropy": 0.33 if seed == 3 else 0.37},
                {"neutral": 0.7},
            ),
        ],
        ignore_index=True,
    )
    shown = signed_response.by_prompt(found).set_index(["strength", "prompt"])
    assert shown.index.get_level_values("prompt").tolist()[:5] == [
        "none",
        "high_entropy",
        "rewritten_high_entropy",
        "neutral",
        "low_entropy",
    ]
    assert shown["more than normal"].loc[2.0].tolist() == pytest.approx([0, 0.015, 0.02, 0, -0.05])
    assert shown.raised.loc[2.0].tolist() == [0, 7, 8, 0, 0] and shown.raised.loc[0.0].sum() == 0
    assert shown.accuracy[2.0, "neutral"] == 70 and shown.kl[0.0, "none"] == 0.01
    assert shown.entropy[0.0, "low_entropy"] == 0.4


def test_taught_models_are_read_with_their_control_s(tmp_path):
    profile = runs.load_profile("smollm2_taught")
    none = signed_response.taught(profile, tmp_path / "smollm2_taught")
    assert signed_response.by_prompt(none).empty  # where they were not taught, as on most machines
    for name, value in (("smollm2_taught", 1.0), ("smollm2_taught_control", 0.0)):
        for seed in (1, 2):
            folder = tmp_path / name / "base" / f"135m.t{seed}"
            folder.mkdir(parents=True)
            own = table(value, lambda seed: GOOD)
            own[own.base == 3].assign(base=seed).to_csv(folder / "response.csv", index=False)
    found = signed_response.taught(profile, tmp_path / "smollm2_taught")
    assert found.groupby("strength").base.unique().map(list).to_dict() == {0: [1, 2], 1: [1, 2]}
    assert signed_response.by_prompt(found).raised.max() == 2


def test_the_figure_has_a_dot_and_a_line_for_each_base_model():
    found = pd.concat([table(value, lambda seed: GOOD) for value in (0.0, 1.0)], ignore_index=True)
    drawing = signed_response.figure(found)
    left, right = drawing.axes
    dots = [
        len(marks.get_offsets()) for marks in left.collections if isinstance(marks, PathCollection)
    ]
    assert dots == [8] * 8 and len(right.lines) == 2 * 9
    assert right.lines[-1].get_ydata() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert [text.get_text() for text in left.get_xticklabels()] == list(
        signed_response.LABELS.values()
    )
    plt.close(drawing)
