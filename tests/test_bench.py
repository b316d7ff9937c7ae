"""What `make bench` should reach, and that every committed benchmark is judged by it."""

import math
import sys

import pandas as pd
import pytest

from pslib.lab import runs

sys.path.insert(0, str(runs.ROOT / "benchmarks"))
import bench
import bench_gpu

COMMITTED = [
    path
    for path in (runs.ROOT / "results" / "benchmarks").glob("*.csv")
    if "scaling" not in path.name
]


def judge(case, ratio, **times):
    """The goal of one row and whether it is met."""
    row = bench.judged(pd.DataFrame([{"case": case, "ratio": ratio, **times}])).iloc[0]
    return row.goal, row.met


@pytest.mark.parametrize(
    "case, bound",
    [
        ("GRPO step against TRL, 0.2M", 0.50),
        ("GRPO step against TRL, 1M", 0.70),
        ("GRPO step against TRL, 3M", 0.75),
        ("decoding against generate, 0.2M, batch 8", 0.40),
        ("decoding against generate, 1M, batch 64", 0.75),
    ],
)
def test_a_ratio_is_judged_by_what_the_machine_can_give(case, bound):
    assert judge(case, bound) == (f"<= {bound:g}", True) and judge(case, bound + 0.001) == (
        f"<= {bound:g}",
        False,
    )


def test_a_goal_can_be_a_least_value_and_a_case_can_have_none():
    case = "training throughput over the matrix-product peak, 1M"
    assert judge(case, 0.31) == (">= 0.3", True) and judge(case, 0.29) == (">= 0.3", False)
    goal, met = judge("exponent of step time in parameters", 0.8)
    assert pd.isna(goal) and pd.isna(met)


@pytest.mark.parametrize(
    "ratio, met", [(1.66, False), (1.67, True), (1.75, True), (1.83, True), (1.84, False)]
)
def test_policy_split_takes_what_twice_the_training_takes_within_five_percent(ratio, met):
    # sampling 1 s and training 3 s of GRPO make (1 + 6) / (1 + 3) = 1.75; 5% of it is 0.0875
    goal = "within 5% of 1.75"
    assert judge("Policy Split step against GRPO step, 0.2M", ratio, sample_s=1.0, train_s=3.0) == (
        goal,
        met,
    )


@pytest.mark.parametrize(
    "times",
    [{}, {"sample_s": math.nan, "train_s": math.nan}, {"sample_s": 1.0, "train_s": math.nan}],
)
def test_policy_split_is_not_judged_where_the_times_of_grpo_were_not_recorded(times):
    goal, met = judge("Policy Split step against GRPO step, 1M", 1.4, **times)
    assert pd.isna(goal) and pd.isna(met)


def test_the_times_of_grpo_are_those_of_its_steps_in_the_same_benchmark(monkeypatch):
    class Run:
        def __init__(self, size, method="grpo"):
            self.scale, self.calls = (1.0 if method == "grpo" else 100.0), 0

        def step(self, questions):
            self.calls += 1  # the first steps, the warm-up, do not count
            late = self.calls > bench.WARM_UP
            return {
                "seconds_sample": 0.1 * self.scale * late,
                "seconds_score": 0.05 * self.scale * late,
                "seconds_update": 0.25 * self.scale * late,
            }, None

    monkeypatch.setattr(bench, "run_of", Run)
    monkeypatch.setattr(bench, "questions", lambda: [])
    row = bench.split_against_grpo("0.2M")
    assert (row["sample_s"], row["train_s"]) == pytest.approx((0.1, 0.3))
    assert row["case"] == "Policy Split step against GRPO step, 0.2M"


def test_a_step_of_the_benchmark_runs():
    state = bench.run_of("0.2M", new=2)
    with bench.graded():
        metrics, drawn = state.step(bench.questions()[:1])
    assert metrics["grad_norm"] > 0 and drawn.lengths.tolist() == [2] * bench.GROUP


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_benchmark_is_judged_by_the_goals_that_hold_now(path):
    table = pd.read_csv(path)
    pd.testing.assert_frame_equal(
        table.astype(object).fillna(""), bench.judged(table).astype(object).fillna("")
    )
    split = table[table.case.str.startswith(bench.SPLIT)]
    assert len(split) and (split.goal.isna() == split.sample_s.isna()).all()
    assert len(table) > len(split) and set(bench.GOALS) - set(table.case) <= {
        bench.GRADING,
        bench.PRETRAINED,
    }


def test_the_picture_is_drawn_from_a_table_with_blank_goals():
    path = COMMITTED[0]
    points = pd.read_csv(path.with_name(f"{path.stem}-scaling.csv"))
    figure = bench.picture(pd.read_csv(path), points)
    drawn = figure.axes[0].collections[-1].get_offsets()
    assert len(figure.axes) == 4 and len(drawn) > 5
    bench.plt.close(figure)


def test_the_gpu_benchmark_measures_every_case_on_a_tiny_model():
    table = bench_gpu.measured(bench_gpu.TINY).set_index("case").value
    memory = table.index.str.contains("memory")
    assert table[memory].isna().all() and memory.sum() == 4  # a CPU's is not asked
    assert (table[~memory] > 0).all()
    ratio = table["policy_split step, s"] / table["grpo step, s"]
    assert table["policy_split step against GRPO"] == ratio
    assert table["policy_split step against TRL"] > 0
