"""Every engine draws what `generate` of transformers draws, and all but vLLM, which reads a folder,
from the weights that the model has now.

Where vLLM is not installed its cases are skipped: `make test-vllm` runs this file in an environment
of its own.
"""

import copy
import itertools
from importlib.util import find_spec

import pytest
import torch

from pslib import modes, policy, tasks
from pslib.lab import answers, engines
from pslib.lab.engines import GenerateEngine
from pslib.nano import base
from pslib.rollouts import Decoding
from tests.support.drawing import TOGETHER, bent, fit

GREEDY, ONE = Decoding(0.0, 0, 1.0, 24), Decoding(1.0, 0, 1.0, 1)
absent = pytest.mark.skipif(
    not find_spec("vllm"),
    reason="vllm is not installed here; `make test-vllm` installs and tests it",
)


@pytest.fixture(scope="module")
def wide(tokenizer, tmp_path_factory):
    """A nano model with heads of 32, the smallest that vLLM knows, whose next token depends on all
    before it.
    """
    model = base.build_model("0.6m", tokenizer, 0).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight.mul_(6)
    folder = tmp_path_factory.mktemp("wide")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return policy.load(folder)[0]


@pytest.fixture(scope="module", params=["generate", pytest.param("vllm", marks=absent)])
def chosen(request, wide, tokenizer):
    """The model with an engine chosen, one for all tests: starting vLLM takes longer than they
    do.
    """
    engines.choose(wide, tokenizer, request.param)
    yield wide, engines.engine_for(wide, tokenizer)
    engines.choose(wide, tokenizer, "auto")


@pytest.fixture
def prompts(tokenizer):
    both, questions = (
        (modes.NORMAL, modes.Mode("he", "Think of something new.")),
        tasks.load("mixed", 3),
    )
    asked = [modes.render(tokenizer, mode, q["question"]) for mode in both for q in questions]
    return [
        *asked,
        (asked[0] * 12)[:300],
    ]  # the last fills blocks that vLLM would keep from one draw to the next


def responses(drawn):
    tokens, lengths = drawn
    return [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]


def moved(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * weight.std() * torch.randn(weight.shape, generator=generator))


def test_greedy_responses_are_those_of_generate_under_the_weights_of_the_moment(
    chosen, tokenizer, prompts
):
    model, engine = chosen
    seen, before = [], copy.deepcopy(model.state_dict())
    for update in range(1 if isinstance(engine, engines.VllmEngine) else 3):
        seeds = range(len(prompts))
        seen.append(responses(GenerateEngine(model, tokenizer).generate(prompts, 1, GREEDY, seeds)))
        assert responses(engine.generate(prompts, 1, GREEDY, seeds)) == seen[-1]
        moved(model, update)
    model.load_state_dict(before)
    assert len(set(map(tuple, seen[0]))) > 1
    assert all(old != new for old, new in itertools.pairwise(seen))


def test_first_tokens_are_drawn_with_the_models_probabilities(chosen, tokenizer, prompts):
    model, engine = chosen
    with torch.no_grad():
        logits = torch.stack(
            [model(input_ids=torch.tensor([prompt])).logits[0, -1] for prompt in prompts[:2]]
        )
    for temperature, seeds in ((1.0, [5, 5000]), (2.0, [6, 6000])):
        tokens, lengths = engine.generate(prompts[:2], 250, Decoding(temperature, 0, 1.0, 1), seeds)
        assert tokens.shape == (500, 1) and (lengths == 1).all()
        for drawn, p in zip(
            tokens[:, 0].split(250), torch.softmax(logits / temperature, -1), strict=True
        ):  # copies are neighbours
            found = drawn.bincount(minlength=len(p))
            assert ((found - 250 * p).abs() <= 5 * (250 * p * (1 - p)).sqrt() + 2).all()
    rare = (
        p.sort().values[:-50].sum()
    )  # what a top-k of an engine's own would leave out: transformers' default is 50
    assert (
        rare > 0.1
        and abs(found[p.argsort()[:-50]].sum() - 250 * rare) < 5 * (250 * rare * (1 - rare)).sqrt()
    )


def test_draws_fit_the_exact_softmax_under_a_hostile_generation_config(chosen, tokenizer, prompts):
    # the repetition penalty of common checkpoints, larger, and the rest that would bend these draws
    model, engine = chosen
    before = copy.deepcopy(model.generation_config)
    bent(model, *TOGETHER)
    try:
        for temperature in (1.0, 0.6):
            drawn = engine.generate(prompts[:1], 500, Decoding(temperature, 0, 1.0, 3), [3])
            assert fit(model, prompts[0], drawn, temperature) > 0.001
    finally:
        model.generation_config = before


def test_draws_leave_the_global_generator_and_the_attention_alone(chosen, prompts):
    model, engine = chosen
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    engine.generate(prompts[:1], 2, ONE, [1])
    assert torch.rand(1) == wanted and model.config._attn_implementation == "shared_prefixes"


def test_log_probs_are_the_trained_models_own_and_vllms_agree(chosen, prompts):
    model, engine = chosen
    if not isinstance(engine, engines.VllmEngine):
        pytest.skip("only vLLM has log-probs of its own to compare")
    tokens, lengths = engine.generate(prompts, 1, Decoding(1.0, 0, 1.0, 24), range(len(prompts)))
    ours, _ = answers.score(model, prompts, torch.arange(len(prompts)), tokens, lengths)
    again = engine.vllm.SamplingParams(
        temperature=1.0, top_k=0, max_tokens=1, prompt_logprobs=0, detokenize=False
    )
    whole = [
        {"prompt_token_ids": prompt + response}
        for prompt, response in zip(prompts, responses((tokens, lengths)), strict=True)
    ]
    for k, out in enumerate(engine.llm.generate(whole, again, use_tqdm=False)):
        theirs = [
            out.prompt_logprobs[len(prompts[k]) + t][int(tokens[k, t])].logprob
            for t in range(int(lengths[k]))
        ]
        assert ours[k, : lengths[k]].tolist() == pytest.approx(theirs, abs=1e-3)
