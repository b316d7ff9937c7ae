"""Benchmarks: local files with the columns of the real ones become questions; what is missing or
changed is named.
"""

from pathlib import Path

import datasets
import pytest

from pslib import modes, rewards, tasks
from pslib.lab import place
from pslib.tasks import benchmarks
from tests.support.small_paper import FILES, PLAYED_BY, put, put_all


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def data(tmp_path):
    return put_all(tmp_path)


@pytest.mark.parametrize("suite", PLAYED_BY)
def test_a_suite_has_the_columns_of_the_nano_worlds_and_the_papers_prompt_around_each_question(
    data, suite
):
    found = benchmarks.load(data, suite, 100)
    nano, more = tasks.load("like", 1).features, {"worked_out": datasets.Value("bool")}
    assert dict(found.features) == ({**nano, **more} if suite in ("train", "like") else nano)
    assert all(row["worked_out"] for row in found if "worked_out" in row)
    assert (
        len(found) == sum(len(FILES[name][1]) for name in PLAYED_BY[suite]) == len(set(found["id"]))
    )
    start = modes.prompts()["questions"][
        "choice" if suite in ("choice", "mixed") else "math"
    ].split("{")[0]
    assert all(
        row["question"].startswith(start) and "within \\boxed{}.\n\n" in row["question"]
        for row in found
    )
    assert all(rewards.grade(f"\\boxed{{{row['answer']}}}", row["answer"]) == 1.0 for row in found)


def test_a_folder_may_be_given_relative_to_the_projects_root_wherever_it_is_read(
    data, tmp_path, monkeypatch
):
    monkeypatch.setattr(place, "ROOT", tmp_path.parent)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # as a chain does, for its notebooks
    given = {"math500": str(Path(data["like"]["math500"]).relative_to(tmp_path.parent))}
    found = benchmarks.load({**data, "like": given}, "like", 100)
    assert found.to_list() == benchmarks.load(data, "like", 100).to_list()


def test_a_math_question_is_its_row(data):
    found = {row["id"]: row for row in benchmarks.load(data, "like", 100)}
    assert found["math500-0"]["answer"] == "x^2"
    assert found["math500-0"]["question"] == (
        "Solve the following math problem. Put your final answer within \\boxed{}.\n\n"
        "Let $f(x) = {x}^2$."
    )


def test_two_data_sets_can_play_one_suite(data):
    ids = benchmarks.load(data, "long", 100)["id"]
    assert (
        sum(i.startswith("aime24-") for i in ids) == 5
        and sum(i.startswith("aime25-") for i in ids) == 6
    )


def test_gpqas_right_answer_is_shuffled_by_seed_among_the_wrong_ones(data):
    def letters(seed):
        rows = {row["id"]: row for row in benchmarks.load(data, "choice", 100, seed=seed)}
        for name, row in rows.items():
            listed = dict(
                line.split(". ", 1)
                for line in row["question"].split("### Choices\n\n")[1].split("\n")
            )
            assert (
                listed[row["answer"]] == f"right {name.split('-')[1]}"
                and len(set(listed.values())) == len(listed) == 4
            )
        return [rows[name]["answer"] for name in sorted(rows)]

    assert letters(0) == letters(0) != letters(1) and set(letters(0)) == set("ABCD")


def test_mmlu_pros_choices_keep_their_order_and_letters_go_as_far_as_they_do(data):
    rows = {row["id"]: row for row in benchmarks.load(data, "mixed", 100)}
    assert rows["mmlu_pro-7"]["answer"] == "J" and rows["mmlu_pro-7"]["question"].endswith(
        "I. I of 7\nJ. J of 7"
    )
    assert rows["mmlu_pro-0"]["question"].endswith("### Choices\n\nA. A of 0\nB. B of 0\nC. C of 0")


def test_rows_are_drawn_by_seed_and_more_go_on_from_the_fewer(data):
    few, many = (
        benchmarks.load(data, "train", 5, "train")["id"],
        benchmarks.load(data, "train", 12, "train")["id"],
    )
    assert list(few) == list(many)[:5] == list(benchmarks.load(data, "train", 5, "train")["id"])
    assert list(few) != list(benchmarks.load(data, "train", 5, "train", seed=1)["id"]) and list(
        few
    ) != sorted(few)


def test_tuning_sees_training_rows_that_no_run_trains_on_and_no_test_question(data):
    training = set(benchmarks.load(data, "train", 100, "train")["id"])
    tuning = set(benchmarks.load(data, "train", 100, "tuning")["id"])
    assert len(training) == 40 and len(tuning) == 10 and not training & tuning
    assert set(benchmarks.load(data, "mixed", 100, "tuning")["id"]) == tuning


def test_what_was_read_is_written_down_and_tells_questions_apart(data, tmp_path):
    said = benchmarks.load(data, "long", 100).info.description
    assert said.startswith(
        f"aime24={tmp_path}/aime24@folder, aime25={tmp_path}/aime25@folder; 11 rows "
    )
    put(tmp_path, "aime25", [{**row, "answer": "7"} for row in FILES["aime25"][1]])
    assert benchmarks.load(data, "long", 100).info.description != said


def test_a_copy_of_the_hubs_folder_is_read_by_its_configs(tmp_path):
    folder = put(tmp_path, "gpqa_diamond", file="gpqa_diamond.csv")
    put(
        tmp_path,
        "gpqa_diamond",
        [{**row, "Question": "main"} for row in FILES["gpqa_diamond"][1]],
        "gpqa_main.csv",
    )
    (tmp_path / "gpqa_diamond" / "README.md").write_text(
        "---\nconfigs:\n- config_name: gpqa_main\n  data_files: gpqa_main.csv\n- config_name: "
        "gpqa_diamond\n"
        "  data_files: gpqa_diamond.csv\n---\n"
    )
    rows = benchmarks.load({"choice": {"gpqa_diamond": folder}}, "choice", 100)
    assert len(rows) == 40 and not any("\nmain" in question for question in rows["question"])


def test_a_data_set_of_the_hub_is_read_from_the_cache_where_there_is_no_network_with_its_revision(
    tmp_path,
):
    # what `datasets` leaves behind when it has loaded a data set of the hub once
    put(tmp_path, "aime25")
    builder = datasets.load_dataset_builder(str(tmp_path / "aime25"))
    builder.download_and_prepare()
    kept = tmp_path / "cache" / "math-ai___aime25" / "default" / "0.0.0"
    kept.mkdir(parents=True)
    (tmp_path / "cache" / builder.cache_dir).rename(kept / ("5" * 40))
    for file in kept.rglob("*.arrow"):
        file.rename(file.with_name(file.name.replace(builder.dataset_name, "aime25")))
    found = benchmarks.load({"long": {"aime25": "math-ai/aime25"}}, "long", 100)
    assert len(found) == 6 and found.info.description.startswith(
        "aime25=math-ai/aime25@" + "5" * 40
    )


# --- what is wrong is named -----------------------------------------------------------------------
@pytest.mark.parametrize("name", FILES)
def test_a_missing_column_is_named_with_its_data_set(tmp_path, name):
    has = benchmarks.BENCHMARKS[name]
    for column in filter(None, (has.question, has.answer, has.options, *has.wrong)):
        rows = [
            {("renamed" if key == column else key): value for key, value in row.items()}
            for row in FILES[name][1]
        ]
        folder = put(tmp_path / column, name, rows)
        with pytest.raises(
            ValueError, match=f"data set {name} from .* has no column '{column}' .*it has .*renamed"
        ) as error:
            benchmarks.load({"like": {name: folder}}, "like", 9)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, column, value, said",
    [
        ("math500", "problem", "", "has '' in column 'problem' of row"),
        ("math500", "answer", None, "has None in column 'answer'"),
        ("aime25", "answer", ["5"], r"has \['5'\] in column 'answer'"),
        ("mmlu_pro", "options", "A or B", "has None in column 'options'"),
        ("mmlu_pro", "answer", "3", "has '3' in column 'answer' of row .* letter of none of its"),
        ("mmlu_pro", "answer", "AB", "has 'AB' in column 'answer'"),
        ("gpqa_diamond", "Incorrect Answer 2", "", "has None in column 'Incorrect Answer 2'"),
    ],
)
def test_a_changed_column_is_named_with_its_data_set_and_row(tmp_path, name, column, value, said):
    folder = put(tmp_path, name, [{**row, column: value} for row in FILES[name][1]])
    with pytest.raises(ValueError, match=f"data set {name} {said}") as error:
        benchmarks.load({"like": {name: folder}}, "like", 9)
    assert "\n" not in str(error.value)


def test_without_a_network_it_says_what_to_do(tmp_path):
    with pytest.raises(
        OSError,
        match="data set math500 could not be read from 'HuggingFaceH4/MATH-500'.*hf download "
        "--repo-type "
        "dataset HuggingFaceH4/MATH-500 --local-dir FOLDER.*HF_HOME.*HF_HUB_OFFLINE=1",
    ) as error:
        benchmarks.load({"like": {"math500": "HuggingFaceH4/MATH-500"}}, "like", 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "file, said", [("train.jsonl", "split test.*Unknown split"), ("notes.xyz", "could not be read")]
)
def test_a_folder_without_the_split_is_refused(tmp_path, file, said):
    folder = put(tmp_path, "math500", file=file)
    with pytest.raises(OSError, match=f"data set math500 .*{said}"):
        benchmarks.load({"like": {"math500": folder}}, "like", 3)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"long": {}}, "name data sets for the suite 'long'"),
        ({"mixed": {"mmlu": "x"}}, "is one of deepmath, .*got 'mmlu'"),
        ({"like": {"math500": 5}}, "with a hub id or a folder; got 'math500': 5"),
        ({"longer": {"aime24": "x"}}, "no suite 'longer'"),
        (
            {"train": {"math500": "a/b@1"}, "long": {"math500": "a/b@2"}},
            "math500: a/b is trained on and would be a test too, in the suite long",
        ),
    ],
)
def test_a_profiles_data_section_is_checked(data, change, said):
    benchmarks.check(data, "here")
    with pytest.raises(ValueError, match=f"here.*{said}"):
        benchmarks.check({**data, **change}, "here")
