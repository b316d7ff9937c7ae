"""Benchmarks: the paper's data sets through `datasets`, with the columns that `tasks` gives the
nano world's questions.

A profile's `data` section says which data sets play which suite, and where each one is: a hub id,
`id@revision`, or a folder with the same files. Columns, configs and splits are those of the hub's;
the paper's prompts are put around each question.
"""

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

import datasets

from pslib import modes
from pslib.lab import place
from pslib.tasks import SUITES


@dataclass(frozen=True)
class Benchmark:
    """Where a data set has what.

    Multiple choice has either a column of options, or one for each wrong answer.
    """

    split: str
    question: str
    answer: str  # with options, its letter
    options: str = ""
    wrong: tuple = ()
    config: str | None = None
    # Whether what comes to a number is as right as the number: see rewards.grade
    worked_out: bool = False


_WRONG = tuple(f"Incorrect Answer {k}" for k in (1, 2, 3))
BENCHMARKS = {
    "deepmath": Benchmark("train", "question", "final_answer", worked_out=True),
    "math500": Benchmark("test", "problem", "answer", worked_out=True),
    "aime24": Benchmark("train", "problem", "answer"),
    "aime25": Benchmark("test", "problem", "answer"),
    "gpqa_diamond": Benchmark(
        "train", "Question", "Correct Answer", wrong=_WRONG, config="gpqa_diamond"
    ),
    "mmlu_pro": Benchmark("test", "question", "answer", options="options"),
}


def check(data, where):
    """ValueError in one sentence unless `data` names for every suite the data sets that play it,
    each with its place.
    """
    for suite in SUITES:
        if not isinstance(data.get(suite), dict) or not data[suite]:
            raise ValueError(
                f"{where} must name data sets for the suite {suite!r}, like {{math500: "
                "HuggingFaceH4/MATH-500}"
            )
        for name, source in data[suite].items():
            if name not in BENCHMARKS or not isinstance(source, str):
                raise ValueError(
                    f"{where}, suite {suite}: a data set is one of {', '.join(BENCHMARKS)} with a "
                    "hub id or a "
                    f"folder; got {name!r}: {source!r}"
                )
    if unknown := sorted(set(data) - set(SUITES)):
        raise ValueError(f"{where} has no suite {unknown[0]!r}; there are {', '.join(SUITES)}")
    sources = {
        suite: {f"{name}: {source.partition('@')[0]}" for name, source in own.items()}
        for suite, own in data.items()
    }
    for suite in SUITES:
        if suite != "train" and (both := sources["train"] & sources[suite]):
            raise ValueError(
                f"{where}: {min(both)} is trained on and would be a test too, in the suite "
                f"{suite}; put the test's questions in a folder of their own"
            )


def load(data, suite, count, split="test", seed=0):
    """Up to `count` questions of a suite, drawn by seed -> Dataset with id (data set and row),
    question, answer, and worked_out where a data set of the suite asks for worked-out answers.

    Splits train and tuning share out the data sets of the suite `train`, four rows of five and the
    fifth, so tuning sees no test question. info.description says what was read:
    name=source@revision, and a hash of the questions. ValueError names a data set and what is wrong
    with it; OSError where it cannot be read.
    """
    pool, read = [], []
    for name, source in data[suite if split == "test" else "train"].items():
        table, revision = _read(name, source)
        pool += [(name, table, row) for row in range(len(table))]
        read.append(f"{name}={source.partition('@')[0]}@{revision}")
    rng = random.Random(f"{'/'.join(data[suite])}/{seed}" if split == "test" else f"train/{seed}")
    rng.shuffle(pool)
    fifth = len(pool) // 5
    pool = {"train": pool[fifth:], "tuning": pool[:fifth]}.get(split, pool)
    rows = [_row(name, table[row], row, seed) for name, table, row in pool[:count]]
    if any(BENCHMARKS[name].worked_out for name, _, _ in pool):
        rows = [
            {**row, "worked_out": BENCHMARKS[name].worked_out}
            for (name, _, _), row in zip(pool, rows, strict=False)
        ]
    digest = hashlib.sha256(repr(rows).encode()).hexdigest()[:16]
    said = f"{', '.join(read)}; {len(rows)} rows {digest}"
    return datasets.Dataset.from_list(rows, info=datasets.DatasetInfo(description=said))


def _read(name, source):
    """The needed columns of a data set, as (Dataset, revision)."""
    has, path, revision = BENCHMARKS[name], place.whole_source(source), ""
    if not Path(path).is_dir():
        path, _, revision = source.partition("@")
    try:
        bare = Path(path).is_dir() and has.config not in datasets.get_dataset_config_names(
            path
        )  # without the hub's README
        builder = datasets.load_dataset_builder(
            path, None if bare else has.config, revision=revision or None
        )
        builder.download_and_prepare()
        table = builder.as_dataset(split=has.split)
    except Exception as error:  # the libraries raise kinds of their own
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise OSError(
            f"the data set {name} could not be read from {source!r} (split {has.split}): {reason}; "
            "where no network "
            f"is, get it where one is (hf download --repo-type dataset {path} --local-dir FOLDER) "
            "and name the folder "
            "in the profile's data section, or load it there once, bring its HF_HOME here and set "
            "HF_HUB_OFFLINE=1; a "
            "gated one wants its terms accepted on its page, and hf auth login"
        ) from error
    needed = [has.question, has.answer, *filter(None, [has.options]), *has.wrong]
    for column in needed:
        if column not in table.column_names:
            raise ValueError(
                f"the data set {name} from {source!r} has no column {column!r} (any more); it has "
                f"{', '.join(table.column_names)}; name an older revision as {path}@revision"
            )
    return table.select_columns(needed), "folder" if Path(path).is_dir() else builder.hash


def _row(name, row, place, seed):
    has, prompts = BENCHMARKS[name], modes.prompts()["questions"]

    def text(column, value):
        if not isinstance(value, (str, int, float)) or not str(value).strip():
            raise ValueError(
                f"the data set {name} has {value!r} in column {column!r} of row {place}, where a "
                "text belongs; has "
                "the column changed? Name an older revision as id@revision"
            )
        return str(value).strip()

    question, answer = text(has.question, row[has.question]), text(has.answer, row[has.answer])
    if not (has.wrong or has.options):
        return {
            "id": f"{name}-{place}",
            "question": prompts["math"].format(query=question),
            "answer": answer,
        }
    if has.wrong:
        order = random.Random(f"{name}/{place}/{seed}").sample(range(4), 4)
        choices = [answer, *(text(column, row[column]) for column in has.wrong)]
        choices, answer = [choices[k] for k in order], ascii_uppercase[order.index(0)]
    else:
        given = row[has.options]
        choices = [
            text(has.options, choice) for choice in (given if isinstance(given, list) else [None])
        ]
    if answer not in list(ascii_uppercase[: len(choices)]):
        raise ValueError(
            f"the data set {name} has {answer!r} in column {has.answer!r} of row {place}, which is "
            "the letter of "
            f"none of its {len(choices)} choices; has the column changed?"
        )
    listed = "\n".join(
        f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)
    )
    return {
        "id": f"{name}-{place}",
        "question": prompts["choice"].format(question=question, choices=listed),
        "answer": answer,
    }
