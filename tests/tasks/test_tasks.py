"""Tasks: suites that are the same everywhere, splits that never meet, and batches that a resumed
run can skip to.
"""

from collections import Counter
from itertools import islice

import pytest

from pslib import tasks
from pslib.nano import worlds


def numbers_of(row):
    return tuple(int(n) for n in row["question"].split(":")[0].split("+"))


@pytest.mark.parametrize("suite", tasks.SUITES)
def test_a_suite_has_its_terms_and_options_and_right_answers(suite):
    _, terms, options = tasks.SUITES[suite]
    rows = list(tasks.load(suite, 60))
    assert {len(numbers_of(row)) for row in rows} == set(terms)
    assert {row["question"].count(" or ") + (":" in row["question"]) for row in rows} == set(
        options
    )
    for row in rows:
        assert row["answer"] == str(sum(numbers_of(row)))
        if ":" in row["question"]:
            assert row["answer"] in row["question"].split(": ")[1].split(" or ")


def test_a_dataset_has_ids_that_say_where_its_questions_come_from():
    dataset = tasks.load("like", 3, split="tuning", seed=5)
    assert dataset.column_names == ["id", "question", "answer"]
    assert list(dataset["id"]) == ["like-tuning-5-0", "like-tuning-5-1", "like-tuning-5-2"]


def test_loading_is_repeatable_and_more_questions_go_on_from_the_fewer():
    few, many = list(tasks.load("mixed", 5)), list(tasks.load("mixed", 12))
    assert few == many[:5] == list(tasks.load("mixed", 5))
    assert next(iter(tasks.load("mixed", 5, seed=1)))["question"] != few[0]["question"]


def test_no_sum_is_in_two_splits_or_twice_in_one():
    seen = {}
    for split in ("train", "tuning", "test"):
        rows = [row for suite in tasks.SUITES for row in tasks.load(suite, 40, split)]
        assert {worlds.split_of(numbers_of(row)) for row in rows} == {split}
        seen[split] = {numbers_of(row) for row in rows}
    assert (
        not seen["train"] & seen["test"]
        and not seen["tuning"] & seen["test"]
        and not seen["train"] & seen["tuning"]
    )
    once = [numbers_of(row) for row in tasks.load("like", 200)]
    assert len(set(once)) == 200


def test_a_sum_that_is_drawn_again_is_passed_over(monkeypatch):
    drawn = iter(
        [
            worlds.Sum((1, 2)),
            worlds.Sum((1, 2)),
            worlds.Sum((2, 1)),
            worlds.Sum((1, 2)),
            worlds.Sum((3, 4)),
        ]
    )
    monkeypatch.setattr(worlds, "draw_sum", lambda *args: next(drawn))
    assert list(tasks.load("like", 3)["question"]) == ["1+2", "2+1", "3+4"]


def test_an_unknown_suite_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="'math'.*train, like, long, choice, mixed"):
        tasks.load("math", 3)


# --- batches --------------------------------------------------------------------------------------
POOL = [{"id": str(k), "question": f"{k}+1", "answer": str(k + 1)} for k in range(10)]


def ids(batches):
    return [[row["id"] for row in batch] for batch in batches]


def test_each_pass_sees_every_question_once_in_its_own_order():
    drawn = ids(tasks.batches(POOL, 5, 6, seed=0))
    assert [len(batch) for batch in drawn] == [5] * 6
    passes = [drawn[k] + drawn[k + 1] for k in (0, 2, 4)]
    assert all(sorted(one, key=int) == [str(k) for k in range(10)] for one in passes)
    assert passes[0] != passes[1] != passes[2] != passes[0]


def test_a_batch_may_reach_over_the_end_of_a_pass():
    drawn = ids(tasks.batches(POOL, 4, 5, seed=0))
    assert Counter(i for batch in drawn for i in batch) == Counter({str(k): 2 for k in range(10)})


def test_batches_are_determined_by_their_seed_and_place():
    drawn = ids(tasks.batches(POOL, 4, 8, seed=3))
    assert ids(tasks.batches(POOL, 4, 8, seed=3)) == drawn != ids(tasks.batches(POOL, 4, 8, seed=4))
    # a longer run begins as the shorter one does
    assert ids(islice(tasks.batches(POOL, 4, 100, seed=3), 8)) == drawn


def test_batches_of_a_loaded_dataset_are_rows():
    batch = next(tasks.batches(tasks.load("like", 4), 2, 1, seed=0))
    assert [set(row) for row in batch] == [{"id", "question", "answer"}] * 2


def test_a_sum_may_be_put_in_words_and_have_as_many_terms_as_wanted():
    asked = tasks.load("like", 5, terms=[2, 3], wording="What is {sum}? Say \\boxed{}.")
    for row in asked:
        numbers = [
            int(n)
            for n in row["question"]
            .removeprefix("What is ")
            .removesuffix("? Say \\boxed{}.")
            .split(" + ")
        ]
        assert len(numbers) in (2, 3) and str(sum(numbers)) == row["answer"]
    options = tasks.load("choice", 1, terms=[2], wording="{sum}")[0]["question"]
    assert options.count(",") == 3 and options.endswith(")")


def test_where_there_are_fewer_sums_than_wanted_all_are_given():
    assert 10 < len(tasks.load("like", 50, terms=[2])) < 40


def test_a_sum_in_words_is_not_taken_for_one_of_the_nano_worlds_derivations():
    assert (
        worlds.derivation_of("What is 3 + 5? Put it in \\boxed{}", "3 + 5 = 8, \\boxed{8}")
        == "other"
    )
