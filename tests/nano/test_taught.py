"""A pretrained model, taught: once, resumed to the bit, then trained and asked."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch
import yaml

from pslib import policy, rewards
from pslib.evidence import evaluate
from pslib.lab import chain, records, runs
from pslib.lab.settings import Training
from pslib.nano import base, strength, taught, worlds
from tests.support import llama

SIZE = "135m.t2"
# SmolLM2's chat template, which says a system turn of its own where none is given
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "<|system|>You are a helpful AI assistant named SmolLM<|end|>{% endif %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def start(tokenizer, tmp_path):
    """The folder of a tiny Llama with such a template."""
    llama.save(tokenizer, tmp_path / "start", positions=2048, tie_word_embeddings=True)
    (tmp_path / "start" / "chat_template.jinja").write_text(TEMPLATE)
    return tmp_path / "start"


@pytest.fixture
def profile(start, tmp_path, monkeypatch):
    """The profile smollm2_taught with that model, three steps of teaching and one of training."""
    monkeypatch.setenv("PSLIB_RESULTS", str(tmp_path / "results"))
    mine = runs.load_profile("smollm2_taught")
    return replace(
        mine,
        model=str(start),
        device="cpu",
        base=replace(mine.base, steps=3, batch_size=12),
        train=Training(1, 2, 4, 8, 1e-3, 6, bf16=mine.train.bf16),
        evaluate=evaluate.Settings(2, 1, 1.0, 0, 1.0, 6),
        probe=replace(mine.probe, asked=2, asked_samples=1),
    )


@pytest.mark.parametrize("slow", [True, False])
def test_teaching_multiplies_in_bfloat16_where_that_is_no_slower(profile, monkeypatch, slow):
    asked = []
    monkeypatch.setattr(policy, "slow_bf16", lambda device: slow)
    monkeypatch.setattr(
        base, "total_loss", lambda model, rows, wanted: _seen(asked, model, rows, wanted)
    )
    chain.make_base(profile, SIZE)
    assert set(asked) == {torch.float32 if slow else torch.bfloat16}


def _seen(asked, model, rows, wanted, real=base.total_loss):
    """The loss, and in `asked` the type in which matrices are multiplied."""
    asked.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
    return real(model, rows, wanted)


def weights(profile, size=SIZE):
    return records.of_weights(chain.make_base(profile, size)[0])


def test_a_model_is_taught_once_and_its_hash_is_kept(profile, start, monkeypatch):
    model, tokenizer, losses = chain.make_base(profile, SIZE)
    folder = runs.base_folder(profile, SIZE)
    made = json.loads((folder / "manifest.json").read_text())
    assert made["inputs"]["model"] == records.files_digest(folder / "model")
    assert len(losses) == 3
    before = policy.load(start)[0]
    changed = [
        not torch.equal(old, new)
        for old, new in zip(before.parameters(), model.parameters(), strict=True)
    ]
    assert all(changed) and {weight.dtype for weight in model.parameters()} == {torch.float32}
    other = weights(profile, "135m.t1")
    monkeypatch.setattr(taught, "teach", lambda *a, **k: pytest.fail("taught again"))
    assert weights(profile) == records.of_weights(model) != other
    # another start is another model
    tokenizer.save_pretrained(start)
    (start / "config.json").write_text((start / "config.json").read_text() + "\n")
    with pytest.raises(ValueError, match="other settings or inputs: the model that was taught"):
        chain.make_base(profile, SIZE)


def test_teaching_that_was_stopped_goes_on_to_the_same_model(profile, tmp_path, monkeypatch):
    whole = weights(replace(profile, name="whole"))
    monkeypatch.setattr(taught, "SAVE_EVERY", 2)
    teach, steps = taught.teach, []

    def stopping(*given, report, **named):
        def stop(step, *rest):
            steps.append(step)
            if steps == [1, 2]:
                raise KeyboardInterrupt
            report(step, *rest)

        return teach(*given, **named, report=stop)

    monkeypatch.setattr(taught, "teach", stopping)
    with pytest.raises(KeyboardInterrupt):
        chain.make_base(profile, SIZE)
    folder = runs.base_folder(profile, SIZE) / "checkpoints"
    assert [path.name for path in folder.glob("*.json")] == ["step-000002.json"]
    assert weights(profile) == whole and steps == [1, 2, 3] and not folder.exists()
    curves = [
        pd.read_csv(runs.base_folder(own, SIZE) / "losses.csv")
        for own in (profile, replace(profile, name="whole"))
    ]
    assert curves[0].equals(curves[1])


def test_a_batch_has_one_gradient_however_many_rows_are_held_at_once(start, monkeypatch):
    model, tokenizer = policy.load(start)
    pairs = base.encode(tokenizer, worlds.corpus(worlds.WORLDS["understood"], 12, 0))
    (batch,) = base.batches(pairs, 12, 0)
    found = []
    monkeypatch.setattr(torch, "autocast", lambda *given: torch.enable_grad())
    for rows in (12, 5):
        monkeypatch.setattr(taught, "ROWS", rows)
        total = taught._add_gradients(model.double(), *batch, 100.0)
        found.append((total, [weight.grad for weight in model.parameters()]))
        model.zero_grad()
    assert found[0][0] == pytest.approx(found[1][0])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_taught_stands_behind_the_models_own_system_turn(start):
    _, tokenizer = policy.load(start)
    examples = [(None, "1+2", "3"), ("Be free.", "1+2", "3")]
    said = [tokenizer.decode(prompt) for prompt, _ in base.encode(tokenizer, examples)]
    assert "You are a helpful AI assistant named SmolLM" in said[0] and "Be free." not in said[0]
    assert "Be free." in said[1] and "SmolLM" not in said[1]


def test_both_copies_are_taught_the_same_questions_and_prompts_and_run_alike():
    one, other = (runs.load_profile(name) for name in ("smollm2_taught", "smollm2_taught_control"))
    assert other == replace(one, name=other.name, base=other.base)
    assert other.base == replace(one.base, world="understood_control")
    assert [run[1:] for run in one.grid if run[0] == "grpo"] == [
        (f"135m.t{seed}", seed) for seed in (1, 2, 3)
    ]
    assert one.table_sizes == ["135m"] and one.replicates("grpo") == runs.BASE_MODELS


def test_a_taught_model_is_trained_asked_and_its_signed_response_measured(profile, monkeypatch):
    monkeypatch.setattr(rewards, "grade", lambda text, answer: float(sum(map(ord, text)) % 2))
    profile = replace(profile, sizes=[SIZE])
    for method in ("original", "policy_split_released"):
        if profile.method(method).training:
            metrics = chain.train_run(profile, method, SIZE, 2)
            assert metrics.grad_norm[0] > 0
        chain.evaluate_run(profile, method, SIZE, 2)
        asked = chain.probe_run(profile, method, SIZE, 2)["asked"]
        assert set(asked.prompt) == {
            "none",
            "high_entropy",
            "rewritten_high_entropy",
            "low_entropy",
        }
    chain.check(profile)
    measured = chain.measure_base(profile, SIZE)
    assert set(measured.measure) == {"suite", "default", "named", "prompt"}
    assert (runs.base_folder(profile, SIZE) / "measured.csv").exists()
    assert chain.missing(profile).keys() == {
        *(f"06_train-{method}-{SIZE}-s2" for method in ("grpo", "policy_split")),
        *(f"07_evaluate-{method}-{SIZE}-s2" for method in ("grpo", "policy_split")),
    }
    card = profile.origin.card(SIZE, {})
    assert card["base"].endswith("taught the nano world understood")
    monkeypatch.setattr(
        strength,
        "prompts_for",
        lambda *given: {"none": [None], "x=1": [worlds.EXPLORATORY_WORDS[0]]},
    )
    found = strength.of_base(profile, SIZE)
    assert found.prompt.tolist() == ["none", "x=1"] and found.x.tolist() == [0, 1]
    assert (found.strength == 1).all() and (found.base == 2).all() and found.kl[1] != 0
    monkeypatch.setattr(strength, "_asked", lambda *given: pytest.fail("asked again"))
    assert strength.of_base(profile, SIZE).equals(found)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sizes": ["135m"]}, "called like 135m.t1, kind and seed; got '135m'"),
        ({"base": {"world": "none", "steps": 1}}, "no nano world is called 'none'; there are rare"),
    ],
)
def test_a_profile_that_cannot_be_taught_is_refused(changes, said, tmp_path):
    given = yaml.safe_load((runs.PROFILES / "smollm2_taught.yaml").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(given | changes))
    with pytest.raises(ValueError, match=said):
        runs.load_profile(str(path))
