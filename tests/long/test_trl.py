"""TRL's trainer over many steps, in two processes, with LoRA, and stopped and taken up again."""

import json

import pytest
import torch
from safetensors.torch import load_file

from pslib import methods, modes, policy
from pslib.evidence import evaluate
from pslib.lab import runs
from tests.support.steps import TRAINED
from tests.support.torchrun import torchrun
from tests.support.trl_steps import HE, OurSteps, distance, split_up, trainer

STEPS = 10


def apart(ours, theirs):
    """The largest difference of any weight."""
    return max(float((weight - theirs[name]).abs().max()) for name, weight in ours.items())


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("name", TRAINED)
def test_the_gradient_of_the_carried_model_is_our_loops(name, tmp_path):
    model, tokenizer = policy.load(runs.TOUR)
    he = runs.load_profile("split").modes[1]
    # The methods' own coefficients: of 0.3 of entropy TRL's float32 is a hundred thousandth off.
    ours = OurSteps(model, tokenizer, name, he=he, method=methods.get(name), max_new_tokens=72)
    made = trainer(
        model,
        tokenizer,
        tmp_path,
        name,
        ours.draws,
        coefficients=None,
        system_prompt=he.system,
        max_completion_length=72,
    )
    made.train()
    assert distance(ours.gradients[0], made.gradients[0]) < 1e-5


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("eps", [1e-8, 1e-5])
def test_ten_steps_of_the_carried_model_part_by_what_adamw_makes_of_rounding(name, eps, tmp_path):
    """With AdamW's usual eps rounding decides where gradients are about as small; with more not."""
    model, tokenizer = policy.load(runs.TOUR)
    he, more = runs.load_profile("split").modes[1], {"max_new_tokens": 72, "eps": eps}
    method = methods.get(name)
    ours = OurSteps(model, tokenizer, name, STEPS, frozen=False, he=he, method=method, **more)
    made = trainer(
        model,
        tokenizer,
        tmp_path,
        name,
        ours.draws,
        coefficients=None,
        system_prompt=he.system,
        max_completion_length=72,
        max_steps=STEPS,
        max_grad_norm=1.0,
        adam_epsilon=eps,
    )
    made.train()
    after, theirs = weights(ours.model), weights(made.model)
    assert distance(weights(model), after) > 1e-3
    assert distance(after, theirs) < 1e-5
    gaps = torch.cat([(weight - theirs[n]).abs().flatten() for n, weight in after.items()])
    if eps == 1e-5:
        assert gaps.max() < 1e-5
    else:  # a learning rate a step at most, and in few weights
        assert gaps.max() < STEPS * 3e-4 and (gaps > 1e-5).float().mean() < 1e-3


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(
    "rows, accumulated, generated", [(4, 2, 2), (2, 4, 4), (4, 1, 2), (2, 1, 4)]
)
def test_accumulation_and_several_updates_leave_every_methods_gradient(
    name, rows, accumulated, generated, model, tokenizer, tmp_path
):
    split_up(name, rows, accumulated, generated, model, tokenizer, tmp_path)


@pytest.fixture(scope="module")
def world(_lively, tokenizer, tmp_path_factory):
    """A saved model, and what ten steps of our loop drew and learned, by method."""
    folder = tmp_path_factory.mktemp("world")
    _lively.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    loaded, _ = policy.load(folder / "model")
    ours = {name: OurSteps(loaded, tokenizer, name, STEPS, frozen=False) for name in TRAINED}
    (folder / "draws").write_text(json.dumps({name: steps.draws for name, steps in ours.items()}))
    return folder, weights(loaded), ours


@pytest.fixture(scope="module")
def trained(world):
    """The weights and logs of one and of two processes of TRL's trainer, fed the same draws."""
    folder, _, _ = world
    for processes in (1, 2):
        out = folder / str(processes)
        out.mkdir()
        program = ("-m", "tests.support.trl_steps")
        done = torchrun(
            processes, folder / "model", folder / "draws", out, *TRAINED, program=program
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", TRAINED)
def test_ten_steps_on_the_same_draws_give_the_same_weights(name, world, trained):
    _, before, ours = world
    after = load_file(trained / "1" / f"{name}-0.safetensors")
    assert apart(before, after) > 1e-3  # so 1e-4 says something
    assert apart(weights(ours[name].model), after) < 1e-4


@pytest.mark.parametrize("name", TRAINED)
def test_two_processes_give_the_weights_of_one(name, trained):
    one = load_file(trained / "1" / f"{name}-0.safetensors")
    two = [load_file(trained / "2" / f"{name}-{rank}.safetensors") for rank in (0, 1)]
    assert apart(one, two[0]) < 1e-4 and apart(two[0], two[1]) == 0
    logs = [json.loads((trained / str(n) / f"{name}-0.json").read_text()) for n in (1, 2)]
    for alone, shared in zip(*(log[:STEPS] for log in logs), strict=True):
        for key in ("loss", "grad_norm", "accuracy_normal", "entropy_bits_normal", "live_groups"):
            assert shared[key] == pytest.approx(alone[key], rel=1e-3, abs=1e-5), key


def test_an_adapter_trains_saves_and_is_loaded(model, tokenizer, tmp_path):
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    ours = OurSteps(model, tokenizer, "policy_split", steps=3)
    made = trainer(
        model,
        tokenizer,
        tmp_path,
        "policy_split",
        ours.draws,
        more={"peft_config": lora},
        max_steps=3,
        learning_rate=1e-2,
    )
    before = weights(made.model)
    made.train()
    moved = {n for n, w in weights(made.model).items() if not torch.equal(w, before[n])}
    assert moved and all("lora" in name for name in moved)
    made.save_model(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(model, tmp_path / "adapter")
    prompt = torch.tensor([modes.render(tokenizer, HE, "7+8")])
    with torch.no_grad():
        torch.testing.assert_close(loaded(prompt).logits, made.model(prompt).logits)


@pytest.mark.parametrize("name", ["clip_cov", "policy_split"])
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(name, model, tokenizer, tmp_path):
    def run(folder, steps, resume=None):
        made = trainer(
            model,
            tokenizer,
            tmp_path / folder,
            name,
            max_steps=steps,
            save_strategy="steps",
            save_steps=2,
            max_grad_norm=1.0,
        )
        made.train(resume_from_checkpoint=resume)
        return made

    whole = run("whole", 6)
    for steps in (2, 4, 6):  # stopped twice
        parts = run("parts", steps, resume=steps > 2)
    assert apart(weights(whole.model), weights(parts.model)) == 0
    assert [log["reward"] for log in whole.state.log_history[:6]] == [
        log["reward"] for log in parts.state.log_history if "reward" in log
    ]


def test_what_is_trained_is_loaded_by_pslib(model, tokenizer, tmp_path):
    made = trainer(model, tokenizer, tmp_path, "policy_split", max_steps=1)
    made.train()
    made.save_model(tmp_path / "saved")
    loaded, words = policy.load(tmp_path / "saved")
    assert apart(weights(made.model), weights(loaded)) == 0
    settings = evaluate.Settings(1, 2, 1.0, 0, 1.0, 6)
    asked = [{"id": "q", "question": "7+8", "answer": "15"}]
    table, _, _ = evaluate.evaluate(
        loaded, words, HE, asked, settings, torch.Generator().manual_seed(0)
    )
    assert len(table) == 2
