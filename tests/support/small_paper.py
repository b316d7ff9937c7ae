"""The paper's profile on a tiny model: a chat template like Qwen3's, and data sets as the hub has
them.
"""

import copy
import json
from contextlib import contextmanager
from string import ascii_uppercase

import datasets
import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file

from pslib.lab import runs

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['role'] == 'assistant' and '</think>' in message['content'] %}"
    "{{ message['content'].split('</think>')[-1] }}{% else %}{{ message['content'] }}{% endif "
    "%}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is defined and "
    "enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LETTERS = ascii_uppercase[:10]


# data set -> (file, rows): all columns that the hub's have are here, those that are read and a few
# that are not
FILES = {
    "deepmath": (
        "train.parquet",
        [
            {
                "question": f"What is ${k}/7$?",
                "final_answer": f"\\dfrac{{{k}}}{{7}}",
                "difficulty": 5.0,
                "topic": "Algebra",
                "r1_solution_1": "...",
            }
            for k in range(50)
        ],
    ),
    "math500": (
        "test.jsonl",
        [
            {
                "problem": f"Let $f(x) = {{x}}^{k}$.",
                "solution": "...",
                "answer": f"x^{k}",
                "subject": "Algebra",
                "level": 3,
                "unique_id": f"test/algebra/{k}.json",
            }
            for k in range(2, 9)
        ],
    ),
    "aime24": (
        "train.parquet",
        [
            {
                "id": 60 + k,
                "problem": f"Find {k}.",
                "solution": "...",
                "answer": f"0{k}",
                "url": "...",
                "year": "2024",
            }
            for k in range(10, 15)
        ],
    ),
    "aime25": (
        "test.jsonl",
        [{"problem": f"Find {k} again.", "answer": str(k), "id": str(k)} for k in range(6)],
    ),
    "gpqa_diamond": (
        "train.csv",
        [
            {
                "Question": f"Which is {k}?\n",
                "Correct Answer": f"right {k}\n",
                "Incorrect Answer 1": f"no {k}",
                "Incorrect Answer 2": "none",
                "Incorrect Answer 3": "both",
                "Explanation": "...",
            }
            for k in range(40)
        ],
    ),
    "mmlu_pro": (
        "test.parquet",
        [
            {
                "question_id": k,
                "question": f"Which is {k}?",
                "options": [f"{c} of {k}" for c in LETTERS[: 3 + k]],
                "answer": LETTERS[2 + k],
                "answer_index": 2 + k,
                "cot_content": "",
                "category": "law",
                "src": "x",
            }
            for k in range(8)
        ],
    ),
}


PLAYED_BY = {
    "train": ["deepmath"],
    "like": ["math500"],
    "long": ["aime24", "aime25"],
    "choice": ["gpqa_diamond"],
    "mixed": ["mmlu_pro"],
}


def put(root, name, rows=None, file=None):
    """A folder that holds a data set as the hub has it."""
    given = FILES[name]
    table, path = pd.DataFrame(rows or given[1]), root / name / (file or given[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        path.write_text("\n".join(json.dumps(row) for row in table.to_dict("records")))
    return str(path.parent)


def put_all(root):
    """The `data` section of a profile whose data sets are all local."""
    return {suite: {name: put(root, name) for name in names} for suite, names in PLAYED_BY.items()}


@contextmanager
def paper_profile(root, model, tokenizer):
    """The paper profile scaled down, as a file that several processes can read."""
    knows, model = copy.deepcopy(tokenizer), copy.deepcopy(model)
    knows.chat_template = TEMPLATE
    model.config.max_position_embeddings = 1024
    model.generation_config.eos_token_id = [1, *range(20, 40)]
    model.save_pretrained(root / "Qwen3-tiny")
    knows.save_pretrained(root / "Qwen3-tiny")
    given = yaml.safe_load((runs.PROFILES / "paper.yaml").read_text())
    for name in ("probe", "resources"):
        del given[name]
    given["train"] |= {
        "steps": 2,
        "questions": 4,
        "group_size": 4,
        "pool": 8,
        "max_new_tokens": 12,
        "bf16": False,
    }
    given["evaluate"] |= {"questions": 3, "samples": 2, "max_new_tokens": 12}
    given |= {
        "model": str(root / "Qwen3-{size}"),
        "sizes": ["tiny"],
        "methods": ["original", "grpo", "policy_split"],
        "he_prompt": "high_entropy_short",
        "data": put_all(root / "data"),
        "launch": {"tiny": 8},
    }
    (root / "mine.yaml").write_text(yaml.safe_dump(given))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PSLIB_RESULTS", str(root / "results"))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
        datasets.disable_progress_bars()
        yield root / "mine.yaml"


def left(folder):
    """A finished run's weights, and its metrics but for the seconds."""
    metrics = pd.read_csv(folder / "metrics.csv")
    return load_file(folder / "model" / "model.safetensors"), metrics.filter(regex="^(?!seconds)")
