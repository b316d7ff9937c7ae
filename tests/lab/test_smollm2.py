"""SmolLM2 from a package: what is missing is said, and the profile's questions are put in words."""

import pytest

from pslib import modes
from pslib.lab import runs, smollm2


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="run `make smollm2`"):
        smollm2.convert(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_the_profile_asks_in_words_and_for_the_papers_stories():
    profile = runs.load_profile("smollm2")
    question = profile.questions("like", 1)[0]
    numbers = question["question"].removeprefix("What is ").split("?")[0].split(" + ")
    assert (
        len(numbers) == 2
        and str(sum(map(int, numbers))) == question["answer"]
        and "\\boxed{}" in question["question"]
    )
    assert profile.stories == modes.prompts()["stories"] and len(profile.stories) == 13
