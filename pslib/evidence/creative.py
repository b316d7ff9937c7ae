"""Creative writing (table 10): what judges think of stories.

A judge is a language model behind an OpenAI-compatible chat endpoint, named by PSLIB_JUDGE_URL (up
to and with `/v1`), PSLIB_JUDGE_MODELS (separated by commas) and PSLIB_JUDGE_KEY (may be missing). A
story can still sway a model that reads it: a judge's scores are an opinion.
"""

import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated

import httpx
import pandas as pd
from pydantic import ConfigDict, Field, ValidationError, create_model

from pslib.evidence.diversity import as_list
from pslib.lab import ranges

RUBRICS = {
    "creativity": "how inventive the ideas are, and what is made of them",
    "originality": "how far the story stays from stock plots, stock characters and stock phrases",
    "narrative_flow": "how well one event leads to the next, from the opening to the end",
    "emotional_impact": "how strongly a reader would feel what happens",
    "imagery": "how vivid and exact what is seen, heard and felt is",
}
LONGEST_VERDICT = 2000  # characters of a judge's answer; five numbers need a hundred


class JudgeError(RuntimeError):
    """A judge could not be reached, or did not answer what it was asked."""


@dataclass(frozen=True)
class JudgeSettings(ranges.Checked):
    """Which judges score stories, and how patiently they are asked."""

    url: str = ""  # up to and with /v1; empty: no judge
    models: tuple = ()
    key: str = field(default="", repr=False)
    attempts: ranges.Count = 3
    # seconds before the second attempt, twice as many before each further one
    wait: ranges.FromZero = 2.0
    seconds: ranges.Positive = 120.0  # for one answer

    def __post_init__(self):
        super().__post_init__()
        if bool(self.url) != bool(self.models):
            given, missing = ("PSLIB_JUDGE_URL", "PSLIB_JUDGE_MODELS")[:: 1 if self.url else -1]
            raise ValueError(
                f"a judge needs both: {given} is set and {missing} is not; set it, or unset {given}"
            )
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError(
                "PSLIB_JUDGE_URL must begin with http:// or https://, as http://localhost:8000/v1"
            )
        if not (self.key.isascii() and self.key.isprintable()):
            raise ValueError(
                "PSLIB_JUDGE_KEY holds a line break or a character outside ASCII; copy it again"
            )

    @classmethod
    def from_environment(cls):
        """The judges that the environment names, or none."""
        names = ("URL", "MODELS", "KEY")
        url, models, key = (os.environ.get(f"PSLIB_JUDGE_{name}", "").strip() for name in names)
        models = dict.fromkeys(model.strip() for model in models.split(",") if model.strip())
        return cls(url, tuple(models), key)


def judge(stories, settings=None):
    """Scores of stories by each judge: a row a judge and story (its position), RUBRICS from 0 to
    100.

    Where neither settings nor the environment names a judge, a row a story with NaN: a blank, never
    an invented score. JudgeError where a judge fails.
    """
    settings, stories = settings or JudgeSettings.from_environment(), as_list(stories)
    if not settings.url:
        blank = {"judge": "", **dict.fromkeys(RUBRICS, float("nan"))}
        rows = [{"story": k, **blank} for k in range(len(stories))]
    else:
        key = {"Authorization": f"Bearer {settings.key}"} if settings.key else {}
        with httpx.Client(timeout=settings.seconds, headers=key) as client:
            rows = [
                {"judge": model, "story": k, **_asked(client, model, story, settings)}
                for model, (k, story) in product(settings.models, enumerate(stories))
            ]
    return pd.DataFrame(rows, columns=["judge", "story", *RUBRICS])


def messages(story):
    """The chat messages that ask a judge about a story, between marks (a hash of the story itself)
    that no story can close; the wording is in judge.md.
    """
    mark = "story-" + hashlib.sha256(story.encode("utf-8", "replace")).hexdigest()[:16]
    rubrics = "\n".join(f"- {name}: {meaning}" for name, meaning in RUBRICS.items())
    wanted = json.dumps(dict.fromkeys(RUBRICS, 0))
    asked = Path(__file__).with_name("judge.md").read_text(encoding="utf-8").strip()
    return [
        {"role": "system", "content": asked.format(rubrics=rubrics, mark=mark, wanted=wanted)},
        {"role": "user", "content": f"<{mark}>\n{story}\n</{mark}>"},
    ]


class _Refused(Exception):
    """What asking again would not change."""


def _asked(client, model, story, settings):
    """The scores that one judge gives one story, asked again after a failure that may pass."""
    for attempt in range(1, settings.attempts + 1):
        try:
            return scores(_answer(client, model, story, settings))
        except (_Refused, httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            failure = error
        if attempt == settings.attempts or isinstance(failure, _Refused):
            break
        time.sleep(settings.wait * 2 ** (attempt - 1))
    raise JudgeError(
        f"the judge {model} at {settings.url.rpartition('@')[2]} failed, asked {attempt} time(s): "
        f"{failure}; check PSLIB_JUDGE_URL, PSLIB_JUDGE_MODELS and PSLIB_JUDGE_KEY, or unset them "
        "to leave the scores blank"
    )


def _answer(client, model, story, settings):
    """The text that the endpoint gives back. No temperature is asked for: some models accept their
    default only.
    """
    url = settings.url.rstrip("/") + "/chat/completions"
    reply = client.post(url, json={"model": model, "messages": messages(story)})
    text = reply.text.replace(settings.key or "\0", "(key)")  # some endpoints quote the key
    if reply.status_code != 200:
        passing = reply.status_code in (408, 409, 425, 429) or reply.status_code >= 500
        said = f"it answered status {reply.status_code}, {text[:200]!r}"
        raise (ValueError if passing else _Refused)(said)
    try:
        return json.loads(text)["choices"][0]["message"]["content"]
    except (ValueError, RecursionError, TypeError, LookupError):
        raise ValueError(f"its reply is not a chat completion: {text[:200]!r}") from None


_Score = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
# Strict, so that a truth value or a number in quotes is no number.
_STRICT = ConfigDict(extra="forbid", strict=True)
_Scores = create_model("_Scores", __config__=_STRICT, **dict.fromkeys(RUBRICS, _Score))


def scores(answer):
    """A judge's answer, 0 to 10 on every rubric, as {rubric: 0 to 100}; ValueError if it is not the
    JSON object that was asked for. One code fence around it is forgiven.
    """
    if not isinstance(answer, str) or len(answer) > LONGEST_VERDICT:
        raise ValueError(f"its answer is not a text of up to {LONGEST_VERDICT} characters")
    text = answer.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json")
    try:
        found = _Scores.model_validate_json(text)
    except ValidationError:
        raise ValueError(
            "its answer is not one JSON object with a number from 0 to 10 for each of "
            f"{', '.join(RUBRICS)}, and nothing else: {answer[:200]!r}"
        ) from None
    return {name: 10.0 * score for name, score in found}
