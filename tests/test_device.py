"""Where things are computed: the same tests on any device, and a GPU that is only there changes
nothing.

`make test-gpu` runs the tests that take a `device` on a GPU.
"""

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch

from pslib import methods, modes, policy, rewards, train
from pslib.evidence import evaluate, probe
from pslib.lab import chain, engines, measures, micro_batches, runs
from pslib.lab.settings import Training
from pslib.rollouts import Decoding
from tests.support import llama

SETTINGS = Training(
    steps=3,
    questions=2,
    group_size=4,
    pool=2,
    learning_rate=1e-3,
    max_new_tokens=6,
    measure_every=1,
    save_every=1,
)
ASKED = evaluate.Settings(2, 2, 1.0, 0, 1.0, 6)
TRAINED = [name for name, method in methods.METHODS.items() if method.training]


@pytest.fixture(params=["qwen3", "llama"])
def folder(request, model, tokenizer, tmp_path):
    """The folder of a tiny model of an architecture."""
    if request.param == "llama":
        return llama.save(tokenizer, tmp_path / "model", pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def loaded(folder, device):
    """That model, on the device."""
    return policy.load(folder, device=device)[0]


@pytest.fixture(autouse=True)
def graded_by_parity(monkeypatch):
    """An untrained model is never right: grade by the text alone, so that groups are alive."""
    monkeypatch.setattr(rewards, "grade", lambda text, answer: float(sum(map(ord, text)) % 2))


def run_of(model, tokenizer, he, method="policy_split", **changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    both = (modes.NORMAL, he)
    return train.Run(model, tokenizer, methods.get(method), both, settings, seed=0)


def generator():
    return torch.Generator().manual_seed(0)


def test_a_model_is_loaded_onto_the_device_and_scores_there(loaded, device, tokenizer):
    assert {weight.device.type for weight in loaded.parameters()} == {device}
    policy.check(loaded, tokenizer)
    packed = policy.pack([[3, 4]], torch.tensor([0]), torch.tensor([[5, 6]]), torch.tensor([2]))
    logp, entropy = policy.Policy(loaded)(packed)
    assert {logp.device.type, entropy.device.type} == {device}


@pytest.mark.parametrize("method", TRAINED)
def test_a_step_of_every_method_moves_the_weights_there(
    method, loaded, device, tokenizer, questions, he
):
    before = copy.deepcopy(loaded)
    metrics, drawn = run_of(loaded, tokenizer, he, method).step(questions[:2])
    assert metrics["grad_norm"] > 0 and drawn.tokens.device.type == "cpu"
    pairs = zip(before.parameters(), loaded.parameters(), strict=True)
    assert any(not torch.equal(old, new) for old, new in pairs)
    assert {weight.device.type for weight in loaded.parameters()} == {device}


def test_an_evaluation_is_repeated_there_and_its_scores_are_the_models_own(
    loaded, device, tokenizer, questions, he
):
    asked = loaded, tokenizer, he, questions, ASKED
    table, drawn, prompts = evaluate.evaluate(*asked, generator())
    assert table.equals(evaluate.evaluate(*asked, generator())[0])
    prompt, response = prompts[0], drawn.tokens[0, : drawn.lengths[0]]
    given = torch.tensor([prompt + response.tolist()], device=device)
    logits = loaded(input_ids=given).logits[0, len(prompt) - 1 : -1]
    _, entropy = policy.logprobs_and_entropy(logits, response.to(device))
    assert table.entropy_bits[0] == pytest.approx(
        float(entropy.detach().mean()) * measures.BITS, abs=1e-3
    )


def test_probes_ask_there(loaded, tokenizer, questions, he):
    asked = (modes.NORMAL, he), ASKED
    tries = probe.many_tries(loaded, tokenizer, *asked, {"like": questions}, 3, generator())
    assert len(tries) == 6
    table = probe.ask(loaded, tokenizer, {"he": he.system}, ASKED, questions)
    assert table[table.prompt == "he"].kl.abs().sum() > 0
    probe.bonus(loaded, tokenizer, (modes.NORMAL, he), ASKED, questions, 4, generator())


@pytest.mark.parametrize("changes", [{}, {"bf16": True}, {"recompute": True}], ids=str)
def test_a_run_is_resumed_there_to_the_bit(
    changes, loaded, device, folder, tokenizer, questions, he, tmp_path
):
    through = run_of(loaded, tokenizer, he, **changes)
    train.run(through, questions[:2])
    again, _ = policy.load(folder, device=device)
    train.run(run_of(again, tokenizer, he, steps=1, **changes), questions[:2], tmp_path / "kept")
    again, _ = policy.load(folder, device=device)
    resumed = run_of(again, tokenizer, he, **changes)
    train.run(resumed, questions[:2], tmp_path / "kept")
    for name, weight in through.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name])


# --- what only a GPU shows, with a stand-in for one -----------------------------------------------
def test_a_step_is_timed_when_the_device_is_done_with_it(
    loaded, tokenizer, questions, he, monkeypatch
):
    waited, state = [], run_of(loaded, tokenizer, he)
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    state.step(questions[:2])
    assert not waited  # a CPU is done when a call returns
    gpu = SimpleNamespace(type="cuda")
    clock = measures.Clock(gpu)
    clock("update")
    assert waited == [gpu, gpu] and clock.seconds["seconds_update"] > 0
    given, clock = [], measures.Clock
    monkeypatch.setattr(measures, "Clock", lambda device: given.append(device) or clock(device))
    state.step(questions[:2])
    assert given == [loaded.device]


def test_a_micro_batch_is_laid_out_on_the_device(monkeypatch):
    def pack(prompts, owner, responses, lengths):
        assert (prompts, responses.shape) == ([[3, 4]], (2, 3))
        return {part.device.type for part in (owner, responses, lengths, torch.arange(2))}

    monkeypatch.setattr(micro_batches, "pack", pack)
    drawn = SimpleNamespace(tokens=torch.ones(4, 3, dtype=torch.long), lengths=torch.ones(4))
    batch = SimpleNamespace(prompts={"normal": [[3, 4]]}, rollouts=drawn)
    part = micro_batches.Part([0, 2], [micro_batches.Piece("normal", 0, [(0, 0), (0, 2)])])
    assert micro_batches.packed(part, batch, torch.device("meta")) == {"meta"}


# --- what a setting means -------------------------------------------------------------------------
@pytest.fixture
def visible_gpu(monkeypatch):
    """A GPU that torch says is there, and that nothing may touch."""

    def refuse(*args, **kwargs):
        raise AssertionError("the GPU was touched")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in ("get_rng_state", "set_rng_state", "_lazy_init", "current_device"):
        monkeypatch.setattr(torch.cuda, name, refuse)


def test_auto_is_a_gpu_where_there_is_one(monkeypatch):
    for there, found in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert policy.device_of("auto").type == found
        assert policy.device_of("cpu").type == "cpu"


def test_a_device_that_is_not_there_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="^device is cuda, and torch finds no GPU here; set it to"):
        policy.device_of("cuda")
    with pytest.raises(ValueError, match="^device must be one of cpu, cuda, auto; got 'gpu'"):
        policy.device_of("gpu")


def test_profiles_of_nano_models_say_cpu_and_others_auto():
    for path in runs.PROFILES.glob("*.yaml"):
        profile = runs.load_profile(path.stem)
        assert profile.device == ("cpu" if profile.model == "nano" else "auto"), profile.name


def test_under_cpu_a_visible_gpu_is_not_touched(visible_gpu, tmp_path, monkeypatch):
    monkeypatch.setenv("PSLIB_RESULTS", str(tmp_path))
    profile = runs.load_profile("smoke")
    few = dataclasses.replace(profile.train, steps=1)
    asked = evaluate.Probe(methods=["policy_split"], best_of_n=1, samples=2, prompts=1, asked=1)
    profile = dataclasses.replace(profile, train=few, probe=asked)
    chain.train_run(profile, "policy_split", "0.2m", 1)
    model, tokenizer = chain.trained_model(profile, "policy_split", "0.2m", 1)
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}
    assert isinstance(engines.engine_for(model, tokenizer), engines.DecoderEngine)
    chain.evaluate_run(profile, "policy_split", "0.2m", 1)
    chain.probe_run(profile, "policy_split", "0.2m", 1)
    engine = engines.GenerateEngine(model, tokenizer)
    engine.generate([[3, 4]], 1, Decoding(1.0, 0, 1.0, 3), [0])
