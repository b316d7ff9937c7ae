"""What the method-study notebooks show: sources, checks of exercises, drawn rollouts, tables by
hand, and what is drawn.
"""

import base64
import inspect
import io
import json

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.collections import PathCollection

from pslib import advantages, losses, methods, modes, policy, train
from pslib.lab import measures, records, runs
from pslib.lab.settings import Training
from pslib.rollouts import Decoding
from pslib.study import example, lessons
from tests.support import four_rollouts as four

STOPS = [example.END]
A = torch.tensor(four.ADVANTAGES, dtype=torch.float64)
BONUS = torch.tensor(four.BONUS, dtype=torch.float64)
MASK = example.ROLLOUTS.mask


@pytest.fixture(autouse=True)
def figures_closed():
    yield
    plt.close("all")


# --- the carried model ----------------------------------------------------------------------------
def test_the_carried_model_is_the_one_that_its_manifest_names():
    manifest = json.loads((runs.TOUR.parent / "manifest.json").read_text())
    assert records.files_digest(runs.TOUR) == manifest["inputs"]["model"]
    assert sum(path.stat().st_size for path in runs.TOUR.parent.rglob("*")) < 2e6


def test_the_carried_record_is_that_of_its_run_in_understood():
    run = runs.load_profile("understood").results("committed") / "runs"
    run /= "policy_split_released-0.2m.b11-s11"
    for name in ("params.yaml", "manifest.json", "metrics.csv", "asked.csv"):
        assert (runs.TOUR.parent / name).read_bytes() == (run / name).read_bytes()


def test_the_carried_model_loads():
    model, tokenizer = policy.load(runs.TOUR)
    assert model.num_parameters() == 180_768
    assert (
        tokenizer.decode(modes.render(tokenizer, modes.NORMAL, "1+2"))
        == "<|user|>1+2<|end|><|assistant|>"
    )


# --- sources and exercises ------------------------------------------------------------------------
def test_source_is_that_of_the_file():
    shown = lessons.source(losses.token_mean, losses.forking_mask).data
    assert shown.startswith(
        "`pslib.losses`\n```python\n@checked\ndef token_mean"
    ) and shown.endswith("```")
    assert all(
        inspect.getsource(each) in shown for each in (losses.token_mean, losses.forking_mask)
    )


def test_source_of_the_variants_is_a_line_each():
    lines = lessons.source(*advantages.VARIANTS.values()).data.splitlines()[2:-1]
    assert [line.split('"')[1] for line in lines] == list(advantages.VARIANTS) and all(
        "lambda" in line for line in lines
    )


@pytest.mark.parametrize("answer", [4.95, torch.tensor(4.9530), [4.9535]])
def test_check_accepts_the_right_answer(answer, capsys):
    lessons.check(answer, torch.tensor(4.9532), tolerance=0.01)
    assert capsys.readouterr().out == "Right.\n"


@pytest.mark.parametrize(
    "answer, message", [(4.9, "not what the library computes"), ([1.0, 2.0], "1 value")]
)
def test_check_refuses_a_wrong_one(answer, message):
    with pytest.raises(AssertionError, match=message):
        lessons.check(answer, 4.9532, tolerance=0.01)


def test_check_leaves_an_open_exercise_open(capsys):
    lessons.check(..., 1.0)
    assert capsys.readouterr().out.startswith("Not answered yet")


# --- rollouts -------------------------------------------------------------------------------------
def test_draw_gives_what_a_step_draws_and_learns_from(model, tokenizer, he, questions, monkeypatch):
    monkeypatch.setattr("pslib.rewards.grade", lambda text, answer: float(sum(map(ord, text)) % 2))
    settings = Training(
        steps=1,
        questions=3,
        group_size=4,
        pool=3,
        learning_rate=1e-3,
        max_new_tokens=6,
        measure_every=1,
    )
    pair, method = (modes.NORMAL, he), methods.get("policy_split")
    prompts, drawn, scored = lessons.draw(
        model, tokenizer, pair, questions, 4, Decoding(1.0, 0, 1.0, 6), seed=5
    )
    metrics, stepped = train.Run(model, tokenizer, method, pair, settings, seed=5).step(questions)
    assert list(prompts) == ["normal", "he"] and drawn.tokens.tolist() == stepped.tokens.tolist()
    per_token = [
        losses.clipped_surrogate(
            scored.logp[mode], scored.logp[mode], advantage(scored, method.coefficients)
        )
        for mode, advantage in method.advantage.items()
    ]
    assert float(losses.token_mean(torch.cat(per_token), drawn.mask.repeat(2, 1))) == pytest.approx(
        metrics["loss"], abs=1e-5
    )
    own = [mode == "he" for mode in drawn.modes]
    bits = measures.BITS * scored.entropy["he"][own][drawn.mask[own]].mean()
    assert metrics["entropy_bits_he"] == pytest.approx(float(bits), abs=1e-5)


def test_words_are_the_tokens_in_text(tokenizer):
    ids = tokenizer("stepwise: 7+8=15, then")["input_ids"]
    assert "".join(lessons.words(tokenizer, [ids])[0]) == "stepwise: 7+8=15, then"


def test_next_token_is_the_models_distribution(model, tokenizer, he):
    prompts = {mode.name: modes.render(tokenizer, mode, "1+2") for mode in (modes.NORMAL, he)}
    table = lessons.next_token(model, tokenizer, prompts)
    logits = model(torch.tensor([prompts["he"]])).logits[0, -1]
    assert len(table) == len(tokenizer) and table.sum().tolist() == pytest.approx([1, 1], abs=1e-5)
    assert table.mean(axis=1).is_monotonic_decreasing
    assert table["he"].idxmax() == repr(tokenizer.decode([int(logits.argmax())]))


# --- tables of the example, by hand ---------------------------------------------------------------
def test_terms_are_a_row_a_response_and_training_mode():
    table = lessons.terms(example.ROLLOUTS, methods.get("policy_split"), STOPS)
    assert table["tokens learned from"].tolist() == four.SHARED
    assert table["trained under"].tolist() == ["normal"] * 4 + ["he"] * 4
    assert table["drawn in"].tolist() == ["normal", "normal", "he", "he"] * 2
    assert table["response"].tolist() == [0, 1, 2, 3] * 2
    assert (
        lessons.terms(example.ROLLOUTS, methods.get("policy_split_unshared"), STOPS)[
            "group"
        ].tolist()
        == [0, 0, 1, 1] * 2
    )


def expected_bonuses():
    """The bonus table of the example at eta = 0.5 and kappa = 2, in units of a = 0.866, where B / a
    is B / 0.866...
    """
    # eta B / a: 1.299, -.14434 | -.57735, .14434, 0 | -.43301 | -.28867, 0; the clip is at 1/2 of
    # a, inside for "paper" at 1/4
    quarter, third, most = 0.125 / four.A, 0.25 / four.A, 0.375 / four.A
    return {
        # clipped are 2.25, -1, -.75, -.5: 1/4 each; the sum is a/4 - 3a/4 = -a/2
        "paper": (4 / 8, (4 * 0.25 + 2 * quarter) / 8, 0.25, -0.5 / 8),
        # clipped are 1.299 and -.577: 1/2 each, opposite; the sum is -.43301 - .28867
        "clip_order": (2 / 8, (2 * 0.5 + 2 * quarter + most + third) / 8, 0.5, -(most + third) / 8),
        "doubled": (4 / 8, (4 * 0.5 + 4 * quarter) / 8, 0.5, -1 / 8),
        "released": (
            2 / 8,
            (2 * 1.0 + 4 * quarter + 2 * most + 2 * third) / 8,
            1.0,
            -2 * (most + third) / 8,
        ),
        # |B| sums to 2.25 + .25 + 1 + .25 + .75 + .5 = 5, and B to 0
        "unclipped": (0.0, 2.5 / four.A / 8, 1.125 / four.A, 0.0),
    }


def test_bonus_table_of_the_four_rollouts():
    table = lessons.bonus_table(A, BONUS, MASK, four.ETA, four.KAPPA)
    assert list(table.columns) == ["clip binds", "mean size", "largest size", "net"]
    for variant, row in expected_bonuses().items():
        assert table.loc[variant].tolist() == pytest.approx(row, abs=1e-5), variant


def test_bonus_table_leaves_dead_groups_out():
    alone = lessons.bonus_table(A, BONUS, MASK, four.ETA, four.KAPPA)
    nine, valid = torch.full((2, 3), 9.0), torch.ones(2, 3, dtype=torch.bool)
    beside = torch.cat([A, torch.zeros(2)]), torch.cat([BONUS, nine]), torch.cat([MASK, valid])
    assert lessons.bonus_table(*beside, four.ETA, four.KAPPA).equals(alone)


# --- pictures -------------------------------------------------------------------------------------
def texts(axis):
    return [text.get_text() for text in axis.texts]


def test_a_heat_map_has_a_place_a_token_as_wide_as_its_text():
    rows = [["so", " $x^2$", "<|end|>"], ["a\n"]]
    axis, bar = lessons.heat_map(
        rows, torch.tensor([[0.0, 1.0, 2.0], [0.5, 9.0, 9.0]]), "bits", ["one", "two"]
    ).axes
    assert texts(axis) == ["so", " $x^2$", "<|end|>", "a\\n"]
    assert [(p.get_x(), p.get_y(), p.get_width()) for p in axis.patches] == [
        (0, 0, 2),
        (2, 0, 6),
        (8, 0, 7),
        (0, 1, 3),
    ]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["one", "two"]
    assert bar.get_title(loc="left") == "bits" and bar.get_xlim() == (0.0, 2.0)  # 9 is padding
    assert len({p.get_facecolor() for p in axis.patches}) == 4


def test_a_heat_map_is_drawn_at_the_places_that_it_was_given(recwarn):
    figure = lessons.heat_map([["so", "on"]], torch.tensor([[0.0, 1.0]]), "bits", ["one"])
    axis, _ = figure.axes
    placed = axis.get_position().bounds
    figure.savefig(io.BytesIO())
    assert axis.get_position().bounds == placed and not recwarn.list


def test_a_heat_map_goes_on_in_the_next_line_and_saturates_at_its_limit():
    rows = [["a" * 6, "b" * 6], ["c"]]
    axis, bar = lessons.heat_map(
        rows,
        torch.tensor([[-5.0, 3.0], [0.0, 0.0]]),
        "nats",
        ["", ""],
        diverging=True,
        limit=1.0,
        width=10,
    ).axes
    assert [(p.get_x(), p.get_y()) for p in axis.patches] == [(0, 0), (0, 1), (0, 2)]
    assert bar.get_xlim() == (-1.0, 1.0)
    low, high, none = (p.get_facecolor() for p in axis.patches)
    assert (
        low == plt.get_cmap("PuOr_r")(0.0)
        and high == plt.get_cmap("PuOr_r")(1.0)
        and min(none[:3]) > 0.95
    )


def test_clip_curves_go_through_the_four_rollouts():
    marks = {1: [2.249994375014, -0.249999375002], -1: [-0.999997500006]}
    figure = lessons.clip_curves(four.A, 0.6, 0.4, four.ETA, four.KAPPA, marks=marks)
    right, wrong = (axis for axis in figure.axes if axis.get_title())
    dots = [line.get_ydata().tolist() for line in right.lines if line.get_marker() == "o"]
    assert dots == [pytest.approx(four.PAPER[0][:2]), pytest.approx(four.RELEASED[0][:2])]
    dots = [line for line in wrong.lines if line.get_marker() == "o"]
    assert [line.get_ydata()[0] for line in dots] == pytest.approx(
        [four.PAPER[1][0], four.RELEASED[1][0]]
    )
    assert dots[0].get_xdata().tolist() == pytest.approx(
        [0.2], abs=1e-5
    )  # b = 0.6 + 0.4 B, in nats


def test_sliders_draw_anew_and_a_page_shows_the_picture_at_their_start(monkeypatch):
    drawn, panels, shown = [], [], []
    made = lessons.interactive

    def draw(eta, kappa):
        drawn.append((eta, kappa))
        return plt.subplots()[0]

    def interactive(*given, **sliders):
        panels.append(made(*given, **sliders))
        return panels[0]

    monkeypatch.setattr(lessons, "interactive", interactive)
    monkeypatch.setattr(lessons, "display", lambda data, raw: shown.append(data))
    lessons.sliders(draw, 2.0, 4.0)
    (data,) = shown
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert "application/vnd.jupyter.widget-view+json" in data and set(drawn) == {(2.0, 4.0)}
    eta, kappa, _ = panels[0].children
    eta.value, kappa.value = 0.5, 1.0
    assert drawn[-2:] == [(0.5, 4.0), (0.5, 1.0)]


def test_surrogate_curves_are_flat_where_the_clip_binds():
    (axis,) = lessons.surrogate_curves(marks={1: [0.5, 1.5], -1: [0.5, 1.5]}).axes
    dots = [line.get_ydata().tolist() for line in axis.lines if line.get_marker() == "o"]
    assert dots == [pytest.approx([-0.5, -1.2]), pytest.approx([0.8, 1.5])]


def test_moved_shows_each_responses_change_under_each_mode():
    zero = torch.zeros(4, 3)
    after = {
        "normal": torch.tensor([[1.0, 1, 0], [-1, 0, 0], [0, 0, 0], [0, 0, 3]]),
        "he": zero + 1,
    }
    (axis,) = lessons.moved(
        {"normal": zero, "he": zero}, after, example.ROLLOUTS, ["a", "b", "c", "d"]
    ).axes
    normal, _, he, _ = (
        marks.get_offsets() for marks in axis.collections if isinstance(marks, PathCollection)
    )
    assert normal[:, 0].tolist() == [2.0, -1.0, 0.0, 3.0] and he[:, 0].tolist() == [3.0] * 4


def test_the_likeliest_next_tokens_are_marked(model, tokenizer, he):
    prompts = {mode.name: modes.render(tokenizer, mode, "1+2") for mode in (modes.NORMAL, he)}
    table = lessons.next_token(model, tokenizer, prompts)
    (axis,) = lessons.next_token_marks(table, count=3).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == table.index[:3].tolist()
    assert axis.collections[1].get_offsets()[:, 0].tolist() == table["normal"].head(3).tolist()
