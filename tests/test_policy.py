"""The policy: log-probs and entropies against torch's own, packing, and what a loaded model must offer."""

import copy

import pytest
import torch
from torch.distributions import Categorical
from transformers import GraniteConfig, GraniteForCausalLM

from pslib import policy


def logits_and_tokens(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(*shape, dtype=dtype, generator=generator)
    return logits, torch.randint(shape[-1], shape[:-1], generator=generator)


# --- log-probs and entropy ------------------------------------------------------------------------------------------
def test_log_prob_and_entropy_of_a_distribution_worked_by_hand():
    # p = 1/2, 1/4, 1/4: log p = -0.693147, -1.386294; H = 1.5 ln 2 = 1.039721
    logits = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log().repeat(2, 1)
    logp, entropy = policy.logprobs_and_entropy(logits + 7, torch.tensor([0, 2]))
    torch.testing.assert_close(logp, torch.tensor([-0.693147180560, -1.386294361120], dtype=torch.float64))
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


def test_large_logits_stay_finite_and_dtype_is_kept():
    logits = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    logp, entropy = policy.logprobs_and_entropy(logits, torch.tensor([0]))
    (logp + entropy).sum().backward()
    assert (logp.item(), entropy.item()) == (0.0, 0.0) and torch.isfinite(logits.grad).all()
    assert logp.dtype == entropy.dtype == torch.float32


def test_logits_that_do_not_fit_the_tokens_are_named():
    with pytest.raises(ValueError, match=r"logits \(2, 3, 5\) do not fit tokens \(2, 4\)"):
        policy.logprobs_and_entropy(torch.zeros(2, 3, 5), torch.zeros(2, 4).long())


# --- packing --------------------------------------------------------------------------------------------------------
PROMPTS = [[3, 4, 5, 6, 7], [8], [9, 10, 11]]
RESPONSES = torch.tensor([[20, 21, 0, 0], [22, 23, 24, 25], [26, 0, 0, 0]])
LENGTHS = torch.tensor([2, 4, 1])


def test_pack_lays_prompt_and_response_side_by_side_and_keeps_every_id():
    tokens, starts = policy.pack(PROMPTS, RESPONSES, LENGTHS)
    assert starts.tolist() == [5, 1, 3]
    assert tokens.tolist() == [[3, 4, 5, 6, 7, 20, 21], [8, 22, 23, 24, 25, 0, 0], [9, 10, 11, 26, 0, 0, 0]]
    assert tokens.dtype == torch.long


def test_pack_takes_nothing_from_beyond_a_responses_length():
    garbage = RESPONSES.clone()
    garbage[garbage == 0] = 99
    assert torch.equal(policy.pack(PROMPTS, garbage, LENGTHS)[0], policy.pack(PROMPTS, RESPONSES, LENGTHS)[0])


# --- scoring --------------------------------------------------------------------------------------------------------
def plain_scores(model, prompt, response):
    """One row on its own, without padding, packing or shared code: log-probs and entropies."""
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    every = torch.log_softmax(logits, -1)
    return every[range(len(response)), response], -(every.exp() * every).sum(-1)


def test_forward_scores_each_row_as_the_model_alone_would(model64):
    logp, entropy = policy.Policy(model64)(*_packed())
    assert logp.shape == entropy.shape == (3, 4)
    for row, (prompt, length) in enumerate(zip(PROMPTS, LENGTHS.tolist())):
        expected = plain_scores(model64, prompt, RESPONSES[row, :length].tolist())
        for ours, theirs in zip((logp, entropy), expected):
            torch.testing.assert_close(ours[row, :length].double(), theirs, rtol=1e-5, atol=1e-5)
            assert (ours[row, length:] == 0).all()


def _packed():
    tokens, starts = policy.pack(PROMPTS, RESPONSES, LENGTHS)
    return tokens, starts, LENGTHS


def test_forward_does_not_look_at_padding(model):
    tokens, starts, lengths = _packed()
    before = policy.Policy(model)(tokens, starts, lengths)
    for row, end in enumerate((starts + lengths).tolist()):
        tokens[row, end:] = 150
    after = policy.Policy(model)(tokens, starts, lengths)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])


def test_forward_divides_logits_by_the_temperature(model):
    cold = policy.Policy(model)(*_packed(), temperature=0.25)
    with torch.no_grad():
        # the last layer is linear: four times its input is a quarter of the temperature
        model.model.norm.weight.mul_(4)
    hot = policy.Policy(model)(*_packed())
    torch.testing.assert_close(cold, hot, rtol=1e-4, atol=1e-4)


def test_forwards_gradients_are_those_of_plain_log_softmax(model64):
    twin = copy.deepcopy(model64)
    logp, entropy = policy.Policy(model64)(*_packed())
    (logp.sum() - 0.3 * entropy.sum()).backward()
    for row, (prompt, length) in enumerate(zip(PROMPTS, LENGTHS.tolist())):
        expected_logp, expected_entropy = plain_scores(twin, prompt, RESPONSES[row, :length].tolist())
        (expected_logp.sum() - 0.3 * expected_entropy.sum()).backward()
    for ours, theirs in zip(model64.parameters(), twin.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


def test_a_float64_model_is_scored_in_float64_and_half_precision_in_float32(model64, model):
    assert policy.Policy(model64)(*_packed())[0].dtype == torch.float64
    assert policy.Policy(model.bfloat16())(*_packed())[0].dtype == torch.float32


# --- loading --------------------------------------------------------------------------------------------------------
def test_a_saved_model_is_loaded_as_it_was(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, words = policy.load(tmp_path)
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values()))
    text = "<|user|>7+8+6<|end|>"
    assert words(text)["input_ids"] == tokenizer(text)["input_ids"] and words.chat_template == tokenizer.chat_template


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
    config = GraniteConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                           num_attention_heads=2, num_key_value_heads=2, logits_scaling=8.0)
    model = GraniteForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.normal_(std=10)  # so that the scaling is more than the check's tolerance
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="changes its logits after the output embedding"):
        policy.load(tmp_path)


@pytest.mark.parametrize("configured, expected", [
    (None, [1]), (1, [1]), (7, [1, 7]), ([9, 7], [1, 7, 9]), ([9, 1], [1, 9])])
def test_stop_ids_are_the_models_and_the_tokenizers(model, tokenizer, configured, expected):
    assert tokenizer.eos_token_id == 1
    model.generation_config.eos_token_id = configured
    assert policy.stop_ids(model, tokenizer) == expected
