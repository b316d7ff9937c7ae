"""A pretrained model under five system prompts: what it is asked, that asking goes on where it
stopped, and the table by hand.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from pslib import policy, rewards, tasks
from pslib.evidence import pretrained, probe, stats
from pslib.lab import publish, runs
from tests.support import evidence


@pytest.fixture(scope="module")
def tour():
    return policy.load(runs.TOUR, device="cpu")


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """The profile smollm2 with a small model and little to ask: four pieces."""
    monkeypatch.setenv("PSLIB_RESULTS", str(tmp_path))
    monkeypatch.setattr(pretrained, "SEEDS", (1, 2))
    monkeypatch.setattr(pretrained, "MAX_NEW_TOKENS", 4)
    whole = pretrained.tasks_of

    def few(profile):
        asked = whole(profile)
        return {task: list(asked[task])[:2] for task in ("words", "stories")}

    monkeypatch.setattr(pretrained, "tasks_of", few)
    monkeypatch.setattr(probe, "ASKED", ("high_entropy",))
    return replace(runs.load_profile("smollm2"), model=str(runs.TOUR), device="cpu")


def test_a_word_problem_has_the_answer_that_its_work_comes_to():
    path = runs.PROFILES.parent / "tasks" / "word_problems.yaml"
    written = yaml.safe_load(path.read_text())["problems"]
    assert [eval(each["work"]) for each in written] == [each["answer"] for each in written]
    asked = tasks.word_problems()
    assert (
        len(asked) == pretrained.QUESTIONS == len(set(asked["question"])) == len(set(asked["id"]))
    )
    for row, each in zip(asked, written, strict=True):
        assert row["question"].startswith(each["problem"]) and "\\boxed{}" in row["question"]
        assert rewards.grade(f"So it is \\boxed{{{each['answer']}}}.", row["answer"]) == 1


@pytest.mark.parametrize("which", ["tour", "short"])
def test_the_unrelated_prompt_is_as_long_as_the_papers_in_tokens(which, tour, tokenizer):
    reader = {"tour": tour[1], "short": tokenizer}[which]
    texts = pretrained.prompts_of(reader)
    length = {name: len(reader(text)["input_ids"]) for name, text in texts.items() if text}
    assert length["unrelated"] == length["high_entropy"] != length["low_entropy"]
    assert texts["unrelated"].startswith("You are now in the town library.")
    assert texts["unrelated"].endswith(".")
    assert list(texts) == ["normal", *probe.ASKED, "unrelated"] and texts["normal"] is None


def test_all_prompts_have_the_same_questions_and_the_normal_mode_is_no_distance_from_itself(
    profile, tmp_path, monkeypatch
):
    found = pretrained.ask(profile)
    assert len(found) == 2 * 2 * 3 * 2 and not found.isna().any(axis=None)
    assert not found.duplicated(pretrained.KEYS).any() and (found.samples == 1).all()
    asked = found.groupby(["task", "seed", "prompt"]).question_id.agg(tuple)
    assert (asked.groupby("task").nunique() == 1).all()
    normal = found.prompt == "normal"
    assert (found.kl[normal] == 0).all() and (found.kl[~normal] != 0).any()
    assert (found.correct[found.task == "stories"] == 0).all()
    one, two = (found[found.seed == seed].bits.to_numpy() for seed in (1, 2))
    assert (one != two).any()  # seeds are other draws
    monkeypatch.setattr(runs, "ROOT", tmp_path / "checkout")
    publish.publish(profile)
    committed = runs.ROOT / "results" / "smollm2"
    for name in ("prompts.csv", "prompts.yaml"):
        assert (committed / name).read_bytes() == (profile.folder / name).read_bytes()


def test_asking_goes_on_where_it_stopped_and_ends_as_if_it_had_not(profile, tmp_path, monkeypatch):
    whole, ask, calls = pretrained.ask(profile), probe.ask, []
    path = profile.folder / "prompts.csv"
    kept = path.read_bytes()
    path.unlink()

    def stops(*given, **named):
        calls.append(named["seed"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return ask(*given, **named)

    monkeypatch.setattr(probe, "ask", stops)
    with pytest.raises(KeyboardInterrupt):
        pretrained.ask(profile)
    assert pd.read_csv(path).groupby(["task", "seed"]).ngroups == 2
    again = pretrained.ask(profile)
    assert len(calls) == 3 + 2 and path.read_bytes() == kept and len(again) == len(whole)
    pretrained.ask(profile)
    assert len(calls) == 3 + 2  # all is there
    monkeypatch.setattr(pretrained, "MAX_NEW_TOKENS", 5)
    with pytest.raises(ValueError, match=r"max_new_tokens \(4 then, 5 now\)"):
        pretrained.ask(profile)


def test_a_profile_whose_models_read_no_words_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PSLIB_RESULTS", str(tmp_path))
    with pytest.raises(ValueError, match="name a profile of a pretrained model, like smollm2"):
        pretrained.ask(runs.load_profile("smoke"))
    assert not list(tmp_path.iterdir())


def test_the_table_by_hand(tmp_path):
    evidence.write_prompts(tmp_path)
    table = pretrained.table(runs.load_profile("smollm2"), tmp_path).set_index(["task", "prompt"])
    normal, he = table.loc[("sums", "normal")], table.loc[("sums", "high_entropy")]
    assert (he.seeds, he.questions, he.replicates) == (2, 2, "questions")
    assert normal.entropy_bits == pytest.approx((10 * 1 + 40 * 2) / 50)
    assert he.entropy_bits == pytest.approx((10 * 1.5 + 40 * 3) / 50)
    assert he.entropy_change == pytest.approx(0.9) and normal.entropy_change == 0
    assert he.entropy_beyond == pytest.approx((10 * 0.3 + 40 * 0.6) / 50)
    assert he.kl == pytest.approx(0.05) and (normal.kl, normal.kl_ci) == (0, 0)
    assert he.accuracy == pytest.approx(100 / 6)
    # by question, 0.9 - 0.16 and 0.9 + 0.16, and t is 12.706 with one degree of freedom
    assert he.entropy_change_ci == pytest.approx(12.706 * 0.16, rel=1e-3)
    stories = table.loc[("stories", "high_entropy")]
    assert np.isnan(stories.accuracy) and stories.seeds == 1
    assert pretrained.table(runs.load_profile("smollm2"), tmp_path / "none").empty


def test_the_parts_of_a_ratio_have_its_mean_and_its_spread():
    rng = np.random.default_rng(0)
    counts = pd.Series(rng.integers(5, 60, 4000).astype(float))
    sums = counts * 2 + rng.normal(0, 3, 4000)
    parts = stats.parts_of_ratio(sums, counts)
    assert parts.mean() == pytest.approx(sums.sum() / counts.sum())
    ratios = []
    for _ in range(400):
        drawn = rng.integers(0, 4000, 4000)
        ratios.append(sums[drawn].sum() / counts[drawn].sum())
    half = stats.mean_interval(parts)[1]
    assert half == pytest.approx(1.96 * np.std(ratios), rel=0.15)
