"""How hard the sums of pass@k are: which candidate the rule takes, and what worked steps count."""

from runpy import run_path

import pandas as pd
import pytest

from pslib import tasks
from pslib.lab import runs
from pslib.nano import worlds

CHOSEN = run_path(str(runs.ROOT / "results" / "understood" / "hardness.py"))["chosen"]


def found(*rows):
    """A search's table: (least, pass@256 by answer, by worked steps) of two base models each."""
    columns = ["least", "answer_256", "worked_256"]
    return pd.DataFrame([row for row in rows for _ in range(2)], columns=columns)


@pytest.mark.parametrize(
    "rows, least",
    [
        ([(4, 100, 97), (5, 97, 90), (6, 94, 61), (7, 80, 70)], 6),  # the first in both ranges
        ([(4, 100, 97), (5, 97, 90), (6, 96, 61), (7, 80, 30)], 5),  # by worked steps alone
        ([(4, 100, 97), (5, 99, 40)], None),
    ],
)
def test_the_rule_takes_the_easiest_sums_that_leave_something_to_find(rows, least):
    assert CHOSEN(found(*rows)) == least


def test_base_models_count_by_their_mean_and_none_is_dropped():
    table = found((4, 100, 97), (5, 80, 70))
    table.loc[1, ["answer_256", "worked_256"]] = [60, 20]  # one of two is far below the range
    assert CHOSEN(table) == 5
    table.loc[1, ["answer_256", "worked_256"]] = [80, 50]
    assert CHOSEN(table) == 4


@pytest.mark.parametrize(
    "response, right",
    [
        ("stepwise: 7+8=15, 15+6=21, 21+9=30. In all 30 \\boxed{30}", True),
        ("pairwise: 7+8=15 then 6+9=15, 15+15=30. \\boxed{30}", True),
        ("9+6=15, 15+8=23, 23+7=30 \\boxed{30}", True),  # another way of adding
        ("glance: In all 30 \\boxed{30}", False),  # no step
        ("stepwise: 7+8=16, 16+6=22, 21+9=30 \\boxed{30}", False),  # a wrong step
        ("stepwise: 7+8=15, 15+6=21 \\boxed{30}", False),  # a number is left out
        ("stepwise: 7+7=14, 14+6=20, 20+9=29 \\boxed{30}", False),  # a number that is not there
        ("halves: 7+8=15, 6+9=15, 15+15=30, 30+7=37 \\boxed{30}", False),  # one used twice
        ("stepwise: 7+8=15, +6=21, 21+9=30 \\boxed{30}", False),
        ("stepwise: 7+8=15, 15+6=21, 21+9= \\boxed{30}", False),
    ],
)
def test_worked_steps_count_only_where_all_are_right_and_lead_to_the_total(response, right):
    assert worlds.worked_right("7+8+6+9", response) is right
    assert worlds.worked_right("7+8+6+9: 30 or 31", response) is right


def test_a_text_that_is_no_sum_has_no_worked_steps():
    assert not worlds.worked_right("Write a story about a fox and a hat.", "1+1=2 \\boxed{2}")


def test_every_derivation_of_a_correct_response_is_worked_right_but_a_glance():
    question = tasks.load("long", 1, "tuning", least=6)[0]["question"]
    numbers = tuple(map(int, question.split("+")))
    assert len(numbers) == 8 and min(numbers) >= 6
    for derivation in worlds.DERIVATIONS:
        text = ", ".join(worlds.steps_of(numbers, derivation))
        assert worlds.worked_right(question, text) == (derivation != "glance")
