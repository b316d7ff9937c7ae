"""Decoding: the same tokens as `transformers.generate`, draws from the stated distribution, and
exact lengths.
"""

import math

import pytest
import torch
from scipy.stats import chisquare
from transformers import LlamaConfig, LlamaForCausalLM

from pslib.nano import decode

NO_STOP = torch.tensor([-1])
LOGITS = torch.tensor(
    [0.4, 0.05, 0.3, 0.1, 0.15]
).log()  # not in order, so that ranks and places differ


def prompts(count, width, vocabulary=200, seed=0):
    return torch.randint(
        6, vocabulary, (count, width), generator=torch.Generator().manual_seed(seed)
    ).tolist()


def uniform(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def greedy(model, ids, new, stops=NO_STOP):
    return decode.Decoder(model).generate(ids, 1, stops, new, 0, 0, 1.0, torch.zeros(len(ids), new))


def by_transformers(model, ids, new):
    ids = torch.tensor(ids)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False
    )
    return out[:, ids.shape[1] :].tolist()


def shares(temperature=1.0, top_k=0, top_p=1.0, rows=20000):
    """How often each token is drawn from LOGITS."""
    drawn = decode.sample_from(LOGITS.repeat(rows, 1), temperature, top_k, top_p, uniform(0, rows))
    assert drawn.shape == (rows,) and drawn.dtype == torch.long
    return drawn.bincount(minlength=5)


# --- drawing one token ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, [0.4, 0.05, 0.3, 0.1, 0.15]),
        # p^2, rescaled: .16, .0025, .09, .01, .0225 over .285
        (
            {"temperature": 0.5},
            [0.16 / 0.285, 0.0025 / 0.285, 0.09 / 0.285, 0.01 / 0.285, 0.0225 / 0.285],
        ),
        ({"top_k": 2}, [4 / 7, 0, 3 / 7, 0, 0]),
        ({"top_k": 99}, [0.4, 0.05, 0.3, 0.1, 0.15]),
        ({"top_p": 0.6}, [4 / 7, 0, 3 / 7, 0, 0]),  # .4 < .6 <= .4 + .3
        ({"top_p": 0.8}, [0.4 / 0.85, 0, 0.3 / 0.85, 0, 0.15 / 0.85]),
        ({"top_p": 0.3}, [1, 0, 0, 0, 0]),  # the likeliest token stays, however small top_p is
        ({"top_p": 0.0}, [1, 0, 0, 0, 0]),
        # top_k first: 4/7, 3/7 of what is left, and the first alone is less than .6
        ({"top_k": 3, "top_p": 0.6}, [4 / 7, 0, 3 / 7, 0, 0]),
    ],
)
def test_tokens_are_drawn_with_the_stated_probabilities(settings, expected):
    counts, expected = shares(**settings), torch.tensor(expected, dtype=torch.float64)
    assert (counts[expected == 0] == 0).all()
    inside = expected > 0
    if inside.sum() > 1:
        assert chisquare(counts[inside].double(), 20000 * expected[inside]).pvalue > 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.7, 1.0), (1.0, 0.9)])
def test_logits_in_half_precision_are_drawn_from_without_bias(dtype, temperature, top_p):
    # summed up in bfloat16, probabilities below a 256th of the sum so far are lost
    logits = (0.7 * torch.randn(400, generator=torch.Generator().manual_seed(0))).to(dtype)
    drawn = decode.sample_from(logits.repeat(20000, 1), temperature, 0, top_p, uniform(1, 20000))
    exact = torch.softmax(logits.double() / temperature, -1)
    ranked, order = exact.sort(descending=True)
    exact[order[ranked.cumsum(0) - ranked > top_p]] = 0.0
    found = drawn.bincount(minlength=400)
    assert (found[exact == 0] == 0).all()
    inside = exact > 0
    expected = 20000 * exact[inside] / exact.sum()
    assert expected.min() > 0.5 and chisquare(found[inside].double(), expected).pvalue > 0.01


def test_temperature_zero_takes_the_likeliest_token_and_needs_no_draws():
    assert decode.sample_from(torch.stack([LOGITS, -LOGITS]), 0, 0, 1.0, None).tolist() == [0, 1]


def test_each_row_is_drawn_from_its_own_logits():
    sure = torch.full((3, 4), -math.inf)
    sure[0, 2], sure[1, 0], sure[2, 3] = 0.0, 0.0, 0.0
    for seed in range(20):
        assert decode.sample_from(sure, 1.0, 0, 1.0, uniform(seed, 3)).tolist() == [2, 0, 3]


def test_a_draw_is_a_place_in_the_cumulative_distribution():
    # LOGITS add up to .4, .45, .75, .85, 1
    draws = torch.tensor([0.0, 0.399, 0.401, 0.451, 0.749, 0.751, 0.999])
    assert decode.sample_from(LOGITS.repeat(7, 1), 1.0, 0, 1.0, draws).tolist() == [
        0,
        0,
        1,
        2,
        2,
        3,
        4,
    ]


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others():
    first, again, other = (
        decode.sample_from(LOGITS.repeat(50, 1), 1.0, 0, 1.0, uniform(seed, 50))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


# --- decoding -------------------------------------------------------------------------------------
@pytest.mark.parametrize("width", [1, 2, 9])
def test_greedy_tokens_are_those_of_transformers(model64, width):
    ids = prompts(4, width)
    model64.generation_config.eos_token_id = None  # run on to the end, whatever comes
    tokens, lengths = greedy(model64, ids, 20)
    assert tokens.tolist() == by_transformers(model64, ids, 20) and lengths.tolist() == [20] * 4
    # the comparison would show little if the model said one thing for ever
    assert all(len(set(row)) > 4 for row in tokens.tolist())


def test_prompts_of_unlike_lengths_are_decoded_as_each_would_be_alone(model64):
    mixed = prompts(1, 3) + prompts(1, 9, seed=1) + prompts(1, 1, seed=2) + prompts(1, 6, seed=3)
    together, _lengths = greedy(model64, mixed, 20)
    assert together.tolist() == [greedy(model64, [alone], 20)[0][0].tolist() for alone in mixed]
    # and so where rows end and leave
    stops = torch.tensor([int(together[0, 4]), int(together[3, 9])])
    stopped, ends = greedy(model64, mixed, 20, stops)
    for row, alone in enumerate(mixed):
        tokens, length = greedy(model64, [alone], 20, stops)
        assert stopped[row, : ends[row]].tolist() == tokens[0].tolist() and ends[row] == length[0]


def test_what_a_row_draws_does_not_depend_on_which_rows_have_ended(model64):
    def draw(stops):
        return decode.Decoder(model64).generate(
            prompts(4, 6), 4, stops, 12, 1.0, 0, 1.0, uniform(0, 16, 12)
        )

    free, _ = draw(NO_STOP)
    stopped, ends = draw(free[:, 2].unique()[:6])
    assert 4 <= (ends < 12).sum() < 16
    for whole, row, end in zip(free.tolist(), stopped.tolist(), ends.tolist(), strict=True):
        assert row[:end] == whole[:end]


def test_a_decoder_made_before_an_update_is_not_used_after_it(model64):
    # weights are packed when the decoder is made, so a fresh one must see what the update changed
    ids = prompts(2, 5)
    before, _ = greedy(model64, ids, 12)
    with torch.no_grad():
        model64.model.layers[0].self_attn.v_proj.weight.neg_()
        model64.model.layers[1].mlp.gate_proj.weight.neg_()
    after, _ = greedy(model64, ids, 12)
    model64.generation_config.eos_token_id = None
    assert after.tolist() == by_transformers(model64, ids, 12) != before.tolist()


def test_a_response_ends_with_its_stop_token_and_is_zero_beyond_it(model64):
    # The greedy continuations are known, so any token of them can be made the stop token.
    free, _ = greedy(model64, prompts(6, 9), 20)
    stops = torch.tensor([int(free[0, 3]), int(free[4, 11])])
    tokens, lengths = greedy(model64, prompts(6, 9), 20, stops)
    ended = 0
    for row, length, unstopped in zip(
        tokens.tolist(), lengths.tolist(), free.tolist(), strict=True
    ):
        at = next((t for t, token in enumerate(unstopped) if token in stops), None)
        assert length == (20 if at is None else at + 1)  # the stop token is counted
        assert row[:length] == unstopped[:length]
        assert set(row[length:]) <= {0}
        ended += at is not None
    assert (
        2 <= ended < 6
    )  # some end, some do not: rows that go on are not disturbed by those that leave
    assert tokens.shape == (6, int(lengths.max()))


def test_tokens_are_no_wider_than_the_longest_response(model64):
    free, _ = greedy(model64, prompts(1, 9), 20)
    tokens, lengths = greedy(model64, prompts(1, 9), 20, free[0, 2:3])
    first = free[0].tolist().index(int(free[0, 2])) + 1
    assert tokens.shape == (1, first) and lengths.tolist() == [first]


def test_copies_of_a_prompt_are_neighbours(model64):
    once, _ = greedy(model64, prompts(3, 6), 8)
    thrice, lengths = decode.Decoder(model64).generate(
        prompts(3, 6), 3, NO_STOP, 8, 0, 0, 1.0, uniform(0, 9, 8)
    )
    assert thrice.tolist() == once.repeat_interleave(3, 0).tolist() and len(lengths) == 9


def test_sampled_copies_differ_and_repeat_under_the_same_seed(model64):
    def draw(seed):
        return decode.Decoder(model64).generate(
            prompts(2, 6), 4, torch.tensor([1]), 8, 1.5, 0, 1.0, uniform(seed, 8, 8)
        )

    (first, ends), (again, same_ends), (other, _) = draw(0), draw(0), draw(1)
    assert torch.equal(first, again) and torch.equal(ends, same_ends)
    assert first.shape != other.shape or not torch.equal(first, other)
    assert len(set(map(tuple, first[:4].tolist()))) > 1


def test_sampled_responses_have_the_probabilities_of_the_model(model64):
    # Sampling after a fixed prompt at top_k 3: the three first tokens must come as often as the
    # model's softmax says.
    ids = prompts(1, 6)
    logits = model64(input_ids=torch.tensor(ids)).logits[0, -1].detach() / 4
    best = logits.topk(3)
    tokens, _ = decode.Decoder(model64).generate(
        ids, 6000, NO_STOP, 1, 4.0, 3, 1.0, uniform(0, 6000, 1)
    )
    counts = torch.stack([(tokens == token).sum() for token in best.indices])
    assert counts.sum() == 6000
    assert chisquare(counts.double(), 6000 * best.values.softmax(-1)).pvalue > 0.01


def test_other_architectures_are_refused_by_name():
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    with pytest.raises(ValueError, match="Qwen3 models; got llama"):
        decode.Decoder(LlamaForCausalLM(config))
