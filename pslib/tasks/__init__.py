"""Questions with ids and answers: the nano suites, each a `datasets.Dataset` with columns id,
question, answer.

The four test suites stand in the roles of the paper's benchmarks. A question's split (train,
tuning, test) is a hash of its numbers, so that no sum is in two of them.
"""

import random
from functools import lru_cache
from pathlib import Path

import yaml
from datasets import Dataset

from pslib.nano import worlds

# suite -> (role in the paper, numbers to add, options offered)
SUITES = {
    "train": ("DeepMath-103K", (7,), (0,)),
    "like": ("MATH-500", (7,), (0,)),
    "long": ("AIME-24/25", (8,), (0,)),
    "choice": ("GPQA-Diamond", (7,), (4,)),
    "mixed": ("MMLU-Pro", (6, 7, 8), (3, 4, 5, 6)),
}
TEST_SUITES = ("like", "long", "choice", "mixed")


def load(suite, count, split="test", seed=0, terms=(), wording="", least=1):
    """The first `count` questions of a nano suite in a split, or all there are; the same for the
    same arguments, on any machine.

    terms: how many numbers to add, where the suite's own is not wanted; wording: how a sum is put
    to a model that reads words, where {sum} stands for, say, 3 + 5 + 2; least: the least number of
    its sums. -> Dataset with id (unique, names suite, split, seed and place), question, answer.
    ValueError for an unknown suite.
    """
    if suite not in SUITES:
        raise ValueError(f"no suite is called {suite!r}; there are {', '.join(SUITES)}")
    _, own, options = SUITES[suite]
    rng = random.Random(f"{suite}/{split}/{seed}")
    rows, seen = [], set()
    for _ in range(1000 * count):  # of few terms there are few sums
        if len(rows) == count:
            break
        given = rng.choice(terms or own), rng.choice(options), split, least
        question = worlds.draw_sum(rng, *given)
        if question.numbers not in seen:
            seen.add(question.numbers)
            text = wording.replace("{sum}", question.words) if wording else question.text
            rows.append(
                {
                    "id": f"{suite}-{split}-{seed}-{len(rows)}",
                    "question": text,
                    "answer": question.answer,
                }
            )
    return Dataset.from_list(rows)


def word_problems():
    """The word problems of word_problems.yaml -> Dataset with id, question and answer."""
    path = Path(__file__).with_name("word_problems.yaml")
    given, rows = yaml.safe_load(path.read_text(encoding="utf-8")), []
    for place, each in enumerate(given["problems"]):
        text = given["wording"].replace("{problem}", each["problem"])
        rows.append({"id": f"words-{place}", "question": text, "answer": str(each["answer"])})
    return Dataset.from_list(rows)


def batches(dataset, size, steps, seed):
    """The questions of each of `steps` training steps: passes over the dataset, each in its own
    random order.

    Yields lists of `size` rows. Determined by seed and place, so that a resumed run can skip to any
    step.
    """
    for step in range(steps):
        places = [divmod(place, len(dataset)) for place in range(step * size, (step + 1) * size)]
        yield [dataset[_order(len(dataset), seed, epoch)[k]] for epoch, k in places]


@lru_cache(maxsize=2)
def _order(count, seed, epoch):
    order = list(range(count))
    random.Random(f"order/{seed}/{epoch}").shuffle(order)
    return order
