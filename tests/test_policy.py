"""The policy: log-probs and entropies against torch's own, packing, and what a loaded model must
offer.
"""

import copy
import subprocess
import sys

import pytest
import torch
from torch.distributions import Categorical
from transformers import (
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from pslib import modes, policy
from tests.support.adapters import LowRank, Wrapped
from tests.support.steps import laid_out


def logits_and_tokens(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(*shape, dtype=dtype, generator=generator)
    return logits, torch.randint(shape[-1], shape[:-1], generator=generator)


# --- log-probs and entropy ------------------------------------------------------------------------
def test_log_prob_and_entropy_of_a_distribution_worked_by_hand():
    # p = 1/2, 1/4, 1/4: log p = -0.693147, -1.386294; H = 1.5 ln 2 = 1.039721
    logits = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log().repeat(2, 1)
    logp, entropy = policy.logprobs_and_entropy(logits + 7, torch.tensor([0, 2]))
    torch.testing.assert_close(
        logp, torch.tensor([-0.693147180560, -1.386294361120], dtype=torch.float64)
    )
    torch.testing.assert_close(entropy, torch.full((2,), 1.039720770840, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(2, 5, 11), (7, 11)])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_log_probs_and_entropy_are_those_of_torch(shape, temperature):
    logits, tokens = logits_and_tokens(*shape)
    logp, entropy = policy.logprobs_and_entropy(logits, tokens, temperature)
    expected = torch.log_softmax(logits / temperature, -1).gather(-1, tokens[..., None]).squeeze(-1)
    torch.testing.assert_close(logp, expected)
    torch.testing.assert_close(entropy, Categorical(logits=logits / temperature).entropy())
    assert logp.shape == entropy.shape == tokens.shape


def test_both_gradients_agree_with_finite_differences():
    logits, tokens = logits_and_tokens(2, 3, 5)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: policy.logprobs_and_entropy(z, tokens), logits)
    assert torch.autograd.gradcheck(lambda z: policy.logprobs_and_entropy(z, tokens, 0.7), logits)


def test_a_token_that_cannot_be_drawn_adds_nothing_to_the_entropy():
    logits = torch.tensor([[0.0, 0.0, -torch.inf]], requires_grad=True)
    logp, entropy = policy.logprobs_and_entropy(logits, torch.tensor([1]))
    assert logp.item() == entropy.item() * -1 == pytest.approx(-0.693147)


@pytest.mark.parametrize(
    "whole", [2**24, 0]
)  # all logits at once, or in chunks that are made twice
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_lean_form_and_its_gradients_are_those_of_the_plain_one(
    whole, temperature, monkeypatch
):
    monkeypatch.setattr(policy._HeadLogprobEntropy, "WHOLE", whole)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randn(n, 6, dtype=torch.float64, generator=generator).requires_grad_()
        for n in (70, 11)
    )
    tokens = torch.randint(11, (70,), generator=generator)
    ours = policy._HeadLogprobEntropy.apply(hidden, weight, tokens, temperature)
    plain = policy.logprobs_and_entropy(hidden @ weight.t(), tokens, temperature)
    torch.testing.assert_close(ours, plain)
    for mix in (
        (1.0, 0.0),
        (0.0, 1.0),
        (1.0, -0.3),
    ):  # one at a time too: the entropy's part is skipped where it is 0
        both = [
            torch.autograd.grad(
                mix[0] * logp.square().sum() + mix[1] * entropy.square().sum(),
                (hidden, weight),
                retain_graph=True,
            )
            for logp, entropy in (ours, plain)
        ]
        torch.testing.assert_close(*both)


def test_large_logits_stay_finite_and_dtype_is_kept():
    logits = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    logp, entropy = policy.logprobs_and_entropy(logits, torch.tensor([0]))
    (logp + entropy).sum().backward()
    assert (logp.item(), entropy.item()) == (0.0, 0.0) and torch.isfinite(logits.grad).all()
    assert logp.dtype == entropy.dtype == torch.float32


def test_logits_that_do_not_fit_the_tokens_are_named():
    with pytest.raises(ValueError, match=r"logits \(2, 3, 5\) do not fit tokens \(2, 4\)"):
        policy.logprobs_and_entropy(torch.zeros(2, 3, 5), torch.zeros(2, 4).long())


# --- packing --------------------------------------------------------------------------------------
PROMPTS = [[3, 4, 5, 6, 7], [8], [9, 10, 11]]
RESPONSES = torch.tensor([[20, 21, 0, 0], [22, 23, 24, 25], [26, 0, 0, 0]])
LENGTHS = torch.tensor([2, 4, 1])


OWNER = torch.tensor(
    [1, 0, 1]
)  # the first and the third response share a prompt, and the third prompt has none


def packed(responses=RESPONSES):
    return policy.pack(PROMPTS, OWNER, responses, LENGTHS)


def test_pack_lays_each_prompt_once_and_each_response_without_its_last_token():
    out = packed()
    assert out.tokens.tolist() == [3, 4, 5, 6, 7, 8, 20, 22, 23, 24]
    assert out.positions.tolist() == [
        0,
        1,
        2,
        3,
        4,
        0,
        1,
        5,
        6,
        7,
    ]  # a response goes on where its prompt ends
    assert out.target.tolist() == [20, 21, 22, 23, 24, 25, 26]
    assert out.tokens[out.predictor].tolist() == [8, 20, 7, 22, 23, 24, 8]
    assert laid_out(out) == [((8,), (20, 21)), ((3, 4, 5, 6, 7), (22, 23, 24, 25)), ((8,), (26,))]


def test_pack_takes_nothing_from_beyond_a_responses_length():
    garbage = RESPONSES.clone()
    garbage[garbage == 0] = 99
    for ours, theirs in zip(vars(packed(garbage)).values(), vars(packed()).values(), strict=True):
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs


# --- scoring --------------------------------------------------------------------------------------
def plain_scores(model, prompt, response):
    """One row on its own, without padding, packing or shared code: log-probs and entropies."""
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    every = torch.log_softmax(logits, -1)
    return every[range(len(response)), response], -(every.exp() * every).sum(-1)


def each_row(model):
    """The plain scores of each row of `packed()`."""
    return [
        plain_scores(model, PROMPTS[owner], RESPONSES[row, :length].tolist())
        for row, (owner, length) in enumerate(zip(OWNER.tolist(), LENGTHS.tolist(), strict=True))
    ]


def test_forward_scores_each_row_as_the_model_alone_would(model64):
    expected = each_row(model64)
    logp, entropy = policy.Policy(model64)(packed())
    assert logp.shape == entropy.shape == (3, 4) and logp.dtype == torch.float64
    for row, length in enumerate(LENGTHS.tolist()):
        for ours, theirs in zip((logp, entropy), expected[row], strict=True):
            torch.testing.assert_close(ours[row, :length], theirs, rtol=0, atol=1e-12)
            assert (ours[row, length:] == 0).all()


def test_responses_of_one_token_need_nothing_but_their_prompts(model64):
    ones = torch.ones(3, dtype=torch.long)
    logp, _ = policy.Policy(model64)(policy.pack(PROMPTS, OWNER, RESPONSES, ones))
    for row, owner in enumerate(OWNER.tolist()):
        torch.testing.assert_close(
            logp[row], plain_scores(model64, PROMPTS[owner], RESPONSES[row, :1].tolist())[0]
        )


def test_forward_divides_logits_by_the_temperature(model):
    cold = policy.Policy(model)(packed(), temperature=0.25)
    with torch.no_grad():
        # the last layer is linear: four times its input is a quarter of the temperature
        model.model.norm.weight.mul_(4)
    hot = policy.Policy(model)(packed())
    torch.testing.assert_close(cold, hot, rtol=1e-4, atol=1e-4)


def test_gradients_through_a_shared_prompt_are_those_of_rows_on_their_own(model64):
    twin = copy.deepcopy(model64)
    logp, entropy = policy.Policy(model64)(packed())
    (logp.sum() - 0.3 * entropy.sum()).backward()
    for expected_logp, expected_entropy in each_row(twin):
        (expected_logp.sum() - 0.3 * expected_entropy.sum()).backward()
    for ours, theirs in zip(model64.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-10)


def test_a_model_that_was_made_a_policy_still_generates_as_before(model):
    ids, seen = (
        torch.tensor([[0, 3, 4, 5], [6, 7, 8, 9]]),
        torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]),
    )
    before = model.generate(ids, attention_mask=seen, max_new_tokens=8, do_sample=False)
    policy.Policy(model)
    assert torch.equal(
        model.generate(ids, attention_mask=seen, max_new_tokens=8, do_sample=False), before
    )


@pytest.mark.parametrize(
    "family", [(LlamaConfig, LlamaForCausalLM), (Qwen2Config, Qwen2ForCausalLM)]
)
def test_other_families_are_scored_too(family):
    torch.manual_seed(0)
    model = family[1](
        family[0](
            vocab_size=40,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    ).eval()
    expected = each_row(model)
    logp, entropy = policy.Policy(model)(packed())
    for row, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(
            (logp[row, :length], entropy[row, :length]), expected[row], rtol=1e-4, atol=1e-5
        )


def test_a_wrapped_model_is_scored_with_its_adapters(model64):
    before = policy.Policy(copy.deepcopy(model64))(packed())[0]
    wrapped = Wrapped(model64)
    expected = each_row(wrapped)  # the wrapper's own logits
    logp, entropy = policy.Policy(wrapped)(packed())
    for row, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(
            (logp[row, :length], entropy[row, :length]), expected[row], rtol=0, atol=1e-12
        )
    assert (logp - before).abs().max() > 0.1
    logp.sum().backward()
    assert all((weight.grad is not None) == weight.requires_grad for weight in wrapped.parameters())


def test_what_adds_to_the_output_embedding_is_refused(model):
    model.lm_head = LowRank(model.lm_head)
    with pytest.raises(
        ValueError,
        match="output embedding is a tests.+LowRank and not a torch.nn.Linear .* leave adapters",
    ):
        policy.Policy(model)
    model.lm_head = torch.nn.Linear(16, 200, bias=True)
    with pytest.raises(ValueError, match="without a bias"):
        policy.Policy(model)


def test_sliding_windows_are_refused():
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            sliding_window=4,
        )
    )
    with pytest.raises(
        ValueError, match="do not know sliding windows; use a model with full attention"
    ):
        policy.Policy(model)(packed())


def test_a_float64_model_is_scored_in_float64_and_half_precision_in_float32(model64, model):
    assert policy.Policy(model64)(packed())[0].dtype == torch.float64
    assert policy.Policy(model.bfloat16())(packed())[0].dtype == torch.float32


# --- loading --------------------------------------------------------------------------------------
def test_importing_leaves_the_librarys_progress_bars_on():
    program = "import pslib.policy as p; assert p.logging.is_progress_bar_enabled()"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_saved_model_is_loaded_as_it_was(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, words = policy.load(tmp_path)
    assert not loaded.training
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    text = "<|user|>7+8+6<|end|>"
    assert (
        words(text)["input_ids"] == tokenizer(text)["input_ids"]
        and words.chat_template == tokenizer.chat_template
    )


def test_a_tokenizer_without_a_pad_token_gets_its_end_token(model, tokenizer, tmp_path):
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    model.save_pretrained(tmp_path)
    bare.save_pretrained(tmp_path)
    assert policy.load(tmp_path)[1].pad_token_id == tokenizer.eos_token_id


def test_a_folder_without_a_model_and_an_unknown_id_are_named(tmp_path):
    with pytest.raises(ValueError, match=f"from the folder '{tmp_path}'"):
        policy.load(tmp_path)
    with pytest.raises(ValueError, match="folder or hub id .*'no-such-owner/no-such-model'"):
        policy.load("no-such-owner/no-such-model")


def test_pickled_weights_are_refused(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        policy.load(tmp_path)


def test_a_tokenizer_without_a_chat_template_is_refused(model, tokenizer, tmp_path):
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    model.save_pretrained(tmp_path)
    bare.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no chat template"):
        policy.load(tmp_path)


def test_a_model_that_scales_its_logits_is_refused(tokenizer, tmp_path):
    config = GraniteConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        logits_scaling=8.0,
    )
    model = GraniteForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.normal_(
            std=10
        )  # so that the scaling is more than the check's tolerance
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="changes its logits after the output embedding"):
        policy.load(tmp_path)


# --- whether a model and a tokenizer can be used --------------------------------------------------
def test_a_model_and_its_tokenizer_are_left_as_they_were_by_the_check(model, tokenizer):
    model.train()
    before, state = (
        {key: weight.clone() for key, weight in model.state_dict().items()},
        torch.get_rng_state(),
    )
    policy.check(model, tokenizer)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert all(
        torch.equal(before[key], weight) and weight.grad is None
        for key, weight in model.state_dict().items()
    )
    policy.check(Wrapped(model), tokenizer)
    policy.check(model.bfloat16(), tokenizer)


def test_a_tokenizer_with_more_tokens_than_the_model_embeds_is_refused(model, tokenizer):
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens(["<|new|>"])
    with pytest.raises(ValueError, match="has the token id 200, and the model embeds 200 ids only"):
        policy.check(model, larger)


def test_a_tokenizer_that_can_end_or_pad_nothing_is_refused(model, tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    with pytest.raises(ValueError, match="no padding token; set tokenizer.pad_token"):
        policy.check(model, bare)
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    model.generation_config.eos_token_id = None
    with pytest.raises(ValueError, match="names a token that ends a response"):
        policy.check(model, endless)


class Prefixed(Wrapped):
    """As PEFT's prompt tuning: the model reads more than it is given."""

    def forward(self, input_ids, attention_mask=None):
        """The logits of two more places."""
        return self.base_model(
            input_ids=torch.cat((input_ids[:, :1], input_ids[:, :1], input_ids), 1)
        )


class Blind(Wrapped):
    """Another model's forward pass in front of the one that is scored."""

    def forward(self, input_ids, attention_mask=None):
        """The logits with every token in another's place."""
        return self.base_model(input_ids=(input_ids + 1) % 200)


@pytest.mark.parametrize("kind", [Prefixed, Blind])
def test_a_wrapper_that_computes_what_scoring_does_not_see_is_refused(kind, model, tokenizer):
    with pytest.raises(
        ValueError, match="adds to its prompts .* which this project's scoring does not do"
    ):
        policy.check(kind(model), tokenizer)


@pytest.mark.parametrize(
    "configured, expected",
    [(None, [1]), (1, [1]), (7, [1, 7]), ([9, 7], [1, 7, 9]), ([9, 1], [1, 9])],
)
def test_stop_ids_are_the_models_and_the_tokenizers(model, tokenizer, configured, expected):
    assert tokenizer.eos_token_id == 1
    model.generation_config.eos_token_id = configured
    assert policy.stop_ids(model, tokenizer) == expected


def test_bfloat16_products_come_near_the_gradients_of_float32(
    model, tokenizer, questions, monkeypatch
):
    # logits in parts, so that the head's gradient is made in parts too
    monkeypatch.setattr(policy._HeadLogprobEntropy, "WHOLE", 0)
    prompts = [modes.render(tokenizer, modes.NORMAL, q["question"]) for q in questions]
    responses = torch.randint(100, 190, (6, 70), generator=torch.Generator().manual_seed(0))
    packed, found = policy.pack(prompts, torch.arange(6) % 3, responses, torch.full((6,), 70)), {}
    for bf16 in (False, True):
        ours = policy.Policy(copy.deepcopy(model))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logp, entropy = ours(packed)
        assert logp.dtype == entropy.dtype == torch.float32
        (logp.mean() + 0.1 * entropy.mean()).backward()
        assert {p.grad.dtype for p in ours.parameters()} == {torch.float32}
        found[bf16] = logp.detach(), {name: p.grad.flatten() for name, p in ours.named_parameters()}
    assert 0 < (found[True][0] - found[False][0]).abs().mean() < 0.1
    for name, gradient in found[False][1].items():
        assert torch.cosine_similarity(found[True][1][name], gradient, 0) > 0.98, name


@pytest.mark.parametrize("fast", ["cpu", "none"])
def test_keys_that_are_repeated_for_their_queries_give_the_same_numbers(fast, model64, monkeypatch):
    # As on a GPU, whose fast kernels know no grouped heads where there is a mask.
    monkeypatch.setattr(policy, "GROUPED_WITH_MASK", (fast,))
    seen, attention = [], policy.scaled_dot_product_attention

    def spy(query, key, value, **more):
        seen.append((query.shape[1] == key.shape[1], more["enable_gqa"]))
        return attention(query, key, value, **more)

    monkeypatch.setattr(policy, "scaled_dot_product_attention", spy)
    expected = each_row(model64)
    logp, _ = policy.Policy(model64)(packed())
    assert set(seen) == {(fast == "none", fast == "cpu")}
    for row, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(logp[row, :length], expected[row][0], rtol=0, atol=1e-12)
