"""What is sampled is the policy that is trained: no default of a checkpoint or of a number format
comes between.
"""

import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig

from pslib import modes, policy, rollouts
from pslib.lab import engines
from pslib.nano import decode

DRAWS = 2000
# What checkpoints set, each of which changes what `generate` draws
HOSTILE = {
    "repetition_penalty": 1.3,
    "encoder_repetition_penalty": 1.3,
    "min_p": 0.2,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.02,
    "eta_cutoff": 0.02,
    "top_h": 0.4,
    "no_repeat_ngram_size": 1,
    "min_new_tokens": 3,
    "exponential_decay_length_penalty": (0, 5.0),
    "forced_eos_token_id": 5,
    "renormalize_logits": True,
    "num_beams": 2,
    "top_k": 3,
    "top_p": 0.5,
    "temperature": 0.3,
}


def hostile(model, prompt, **more):
    """Give a model a generation config that favours and forbids tokens in every way that
    checkpoints have.
    """
    likely = model(input_ids=torch.tensor([prompt])).logits[0, -1].topk(4).indices.tolist()
    model.generation_config = GenerationConfig(
        **{
            "eos_token_id": model.config.eos_token_id,
            **HOSTILE,
            "suppress_tokens": [likely[0]],
            "begin_suppress_tokens": [likely[1]],
            "bad_words_ids": [[likely[2]]],
            "sequence_bias": [[[likely[3]], -4.0]],
            **more,
        }
    )


def p_of(tokens, logits):
    """The chi-square p of first tokens drawn from softmax(logits), rare tokens taken together."""
    expected = logits.double().softmax(-1) * len(tokens)
    counts = torch.bincount(tokens, minlength=len(logits)).double()
    rare = expected < 8
    parts = [
        t[~rare].tolist() + ([float(t[rare].sum())] if rare.any() else [])
        for t in (counts, expected)
    ]
    return chisquare(*parts, sum_check=False).pvalue


@pytest.mark.parametrize(
    "engine", [engines.GenerateEngine, engines.DecoderEngine, engines.CachedEngine]
)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_an_engine_draws_from_the_policy_whatever_the_checkpoint_says(
    engine, temperature, model, tokenizer
):
    model.lm_head.weight.data *= 15  # so that some tokens are much likelier than others
    prompt = modes.render(tokenizer, modes.NORMAL, "7+8+6")
    logits = model(input_ids=torch.tensor([prompt])).logits[0, -1].detach()
    hostile(model, prompt)
    before = model.generation_config
    decoding = rollouts.Decoding(temperature, 0, 1.0, 1)
    tokens, _ = engine(model, tokenizer).generate([prompt], DRAWS, decoding, [3])
    assert p_of(tokens[:, 0], logits / temperature) > 1e-3
    assert model.generation_config is before  # and is left to whoever uses the model next


def test_an_engine_ends_at_every_end_token_of_checkpoint_and_tokenizer(model, tokenizer):
    prompt = modes.render(tokenizer, modes.NORMAL, "7+8+6")
    first, second = model(input_ids=torch.tensor([prompt])).logits[0, -1].topk(2).indices.tolist()
    for ends, own in (([first], second), ([second], first)):
        model.generation_config = GenerationConfig(eos_token_id=ends)
        tokenizer_ends = tokenizer.eos_token
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(own)
        try:
            tokens, lengths = engines.GenerateEngine(model, tokenizer).generate(
                [prompt], 200, rollouts.Decoding(1.0, 0, 1.0, 6), [0]
            )
        finally:
            tokenizer.eos_token = tokenizer_ends
        ended = (tokens == first) | (tokens == second)
        assert all(
            ended[row].nonzero()[0] + 1 == length
            for row, length in enumerate(lengths.tolist())
            if ended[row].any()
        )
        for row, length in enumerate(lengths.tolist()):  # nothing was drawn beyond an end
            assert not ended[row, :length][:-1].any()
        assert (lengths < 6).any()


def test_draws_from_bfloat16_logits_are_not_biased():
    # With 20,000 equal probabilities a cumulative sum in bfloat16 stands still: most tokens could
    # never be drawn.
    logits = torch.zeros(1, 2000, dtype=torch.bfloat16).repeat(20000, 1)
    draws = torch.rand(20000, generator=torch.Generator().manual_seed(0))
    tokens = decode.sample_from(logits, 1.0, 0, 1.0, draws)
    halves = torch.tensor([(tokens < 1000).sum(), (tokens >= 1000).sum()])
    assert chisquare(halves).pvalue > 1e-3 and len(tokens.unique()) > 1900


def test_scores_are_of_the_policy_at_its_temperature(model64, tokenizer):
    prompt = modes.render(tokenizer, modes.NORMAL, "7+8+6")
    response = torch.tensor([[7, 9, 11]])
    packed = policy.pack([prompt], torch.tensor([0]), response, torch.tensor([3]))
    logp, entropy = policy.Policy(model64)(packed, 0.6)
    logits = model64(input_ids=torch.tensor([prompt + response[0].tolist()])).logits[
        0, len(prompt) - 1 : -1
    ]
    plain = policy.logprobs_and_entropy(logits, response[0], 0.6)
    assert torch.allclose(logp[0], plain[0]) and torch.allclose(entropy[0], plain[1])
