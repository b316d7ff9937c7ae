"""Engines: they draw the same tokens, end where they should, and draw from the policy itself
whatever a checkpoint's generation_config says.
"""

import copy
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, OPTConfig

from pslib import modes, policy, rollouts
from pslib.lab import engines
from pslib.lab.engines import CachedEngine, DecoderEngine, GenerateEngine
from pslib.rollouts import Decoding
from tests.support.adapters import LowRank, Wrapped
from tests.support.drawing import HOSTILE, TOGETHER, as_lists, bent, fit

EVERY = [DecoderEngine, CachedEngine, GenerateEngine]
GREEDY = Decoding(0, 0, 1.0, 12)
SAMPLED = Decoding(1.0, 0, 1.0, 6)


def mixed_prompts(tokenizer, questions, he):
    """Prompts of four lengths, not in the order of their lengths."""
    every = {
        mode.name: rollouts.render_all(tokenizer, mode, questions, SAMPLED, 512)
        for mode in (modes.NORMAL, he)
    }
    prompts = [
        every["he"][2],
        every["normal"][0],
        every["he"][0],
        every["normal"][2],
        every["normal"][1],
    ]
    assert len(set(map(len, prompts))) == 4
    return prompts


@pytest.mark.parametrize("decoding", [GREEDY, Decoding(1.0, 0, 1.0, 12)], ids=["greedy", "drawn"])
@pytest.mark.parametrize("engine", [DecoderEngine, CachedEngine])
def test_engines_say_the_same(engine, decoding, model64, tokenizer, questions, he):
    prompts = mixed_prompts(tokenizer, questions, he)
    # a stop token that some of the responses reach, so that lengths are compared too
    free = as_lists(engine(model64, tokenizer).generate(prompts, 1, decoding, range(5)))
    model64.generation_config.eos_token_id = [tokenizer.eos_token_id, free[1][4]]
    ours = engine(model64, tokenizer).generate(prompts, 1, decoding, range(5))
    theirs = GenerateEngine(model64, tokenizer).generate(prompts, 1, decoding, range(5))
    assert as_lists(ours) == as_lists(theirs)
    assert len(set(ours[1].tolist())) > 1 and max(ours[1].tolist()) == 12
    assert ours[0].tolist() == theirs[0].tolist()


@pytest.mark.parametrize("engine", EVERY)
def test_an_engine_repeats_itself_under_one_seed_and_keeps_copies_together(
    engine, model64, tokenizer, questions, he
):
    prompts = mixed_prompts(tokenizer, questions, he)

    def draw(seed, decoding=SAMPLED):
        return engine(model64, tokenizer).generate(prompts, 2, decoding, range(seed, seed + 5))

    tokens, lengths = draw(0)
    assert tokens.shape[0] == 10 and tokens.shape[1] <= 6 and tokens.shape[1] >= lengths.max()
    assert as_lists(draw(0)) == as_lists((tokens, lengths)) != as_lists(draw(1))
    likeliest = as_lists(
        draw(0, Decoding(1.0, 1, 1.0, 6))
    )  # of one token there is no choice: copies say the same
    assert likeliest[0::2] == likeliest[1::2] and likeliest[0] != likeliest[2]


@pytest.mark.parametrize("engine", EVERY)
def test_a_prompts_responses_are_the_same_whatever_stands_beside_it(
    engine, model64, tokenizer, questions, he
):
    # some responses end early, so that rows are dropped while others go on
    prompts, engine = mixed_prompts(tokenizer, questions, he), engine(model64, tokenizer)
    engine.stops = torch.arange(0, 200, 9)
    together = as_lists(engine.generate(prompts, 6, Decoding(1.0, 0, 1.0, 12), range(5)))
    assert len(set(map(len, together))) > 3
    for place, prompt in enumerate(prompts):
        alone = as_lists(engine.generate([prompt], 6, Decoding(1.0, 0, 1.0, 12), [place]))
        assert together[6 * place : 6 * place + 6] == alone
    assert together[0] != together[1]


@pytest.mark.parametrize("engine", EVERY)
def test_the_draws_are_the_same_whatever_fits_at_once(
    engine, model64, tokenizer, questions, he, monkeypatch
):
    prompts, engine = mixed_prompts(tokenizer, questions, he), engine(model64, tokenizer)
    engine.stops = torch.arange(0, 200, 9)
    held, generate = [], engine.decoder.generate

    def spy(self, prompts, copies, stops, new, *rest):
        held.append(len(prompts) * copies * (max(map(len, prompts)) + new))
        return generate(self, prompts, copies, stops, new, *rest)

    monkeypatch.setattr(engine.decoder, "generate", spy)
    whole = engine.generate(prompts, 6, Decoding(1.0, 0, 1.0, 12), range(5))
    longest = max(map(len, prompts)) + 12
    assert len(held) == 1
    for budget in (13 * longest, 4 * longest, 1):  # two prompts, some copies of one, one row
        held.clear()
        parts = engine.generate(prompts, 6, Decoding(1.0, 0, 1.0, 12, budget), range(5))
        assert torch.equal(parts[0], whole[0]) and torch.equal(parts[1], whole[1])
        assert len(held) > 1 and max(held) <= max(budget, longest)


def test_pieces_hold_the_longest_prompts_together_and_all_in_their_order_where_they_fit():
    lengths = [5, 9, 2, 8, 5]

    def cut(budget):
        return engines.pieces(lengths, 2, Decoding(1.0, 0, 1.0, 1, budget))

    assert cut(2 * 5 * 10) == [[0, 1, 2, 3, 4]]
    assert cut(2 * 5 * 10 - 1) == [[1, 3, 0, 4], [2]]
    assert cut(2 * 2 * 10) == [[1, 3], [0, 4, 2]]
    assert cut(1) == [[1], [3], [0], [4], [2]]


def test_generate_leaves_the_global_generator_alone(model, tokenizer, questions, he):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    GenerateEngine(model, tokenizer).generate([[3, 4]], 1, SAMPLED, [0])
    assert torch.equal(torch.rand(3), expected)


def test_generate_samples_from_the_whole_vocabulary(model, tokenizer):
    # with transformers' own default, top_k = 50, no more than 50 first tokens could appear
    drawn = GenerateEngine(model, tokenizer).generate(
        [[3, 4, 5]], 600, Decoding(50.0, 0, 1.0, 1), [0]
    )
    assert len(set(drawn[0][:, 0].tolist())) > 100


# --- what is drawn is the policy, whatever the checkpoint's generation_config says ----------------
@pytest.mark.parametrize("name", HOSTILE)
def test_no_field_of_the_checkpoints_generation_config_changes_what_generate_draws(
    name, model, tokenizer
):
    def draw(decoding):
        return as_lists(
            GenerateEngine(model, tokenizer).generate(
                [[8, 9, 10, 11], [9, 8]], 20, decoding, [0, 1]
            )
        )

    plain = [draw(decoding) for decoding in (SAMPLED, GREEDY)]
    bent(model, name)
    config = model.generation_config
    assert [draw(decoding) for decoding in (SAMPLED, GREEDY)] == plain
    assert model.generation_config is config  # and it is there again


def test_a_wrapped_models_own_generation_config_changes_nothing_either(model, tokenizer):
    def draw():
        return as_lists(
            GenerateEngine(wrapped, tokenizer).generate(
                [[8, 9, 10, 11], [9, 8]], 20, SAMPLED, [0, 1]
            )
        )

    wrapped = Wrapped(model)
    plain = draw()
    bent(model, *TOGETHER)
    config = model.generation_config
    assert draw() == plain and model.generation_config is config
    assert "generation_config" not in vars(
        wrapped
    )  # nor has the wrapper got one that would hide the model's


@pytest.mark.parametrize("engine", EVERY)
def test_draws_fit_the_exact_softmax_under_a_hostile_generation_config(engine, model, tokenizer):
    bent(model, *TOGETHER)
    for temperature in (1.0, 0.6):
        drawn = engine(model, tokenizer).generate(
            [[8, 9, 10, 11]], 3000, Decoding(temperature, 0, 1.0, 3), [3]
        )
        assert fit(model, [8, 9, 10, 11], drawn, temperature) > 0.001


@pytest.mark.parametrize("engine", EVERY)
def test_a_response_ends_at_the_tokenizers_end_token_too(engine, model, tokenizer):
    free = as_lists(GenerateEngine(model, tokenizer).generate([[8, 9, 10, 11]], 1, GREEDY, [0]))[0]
    place = next(t for t in range(2, 12) if free[t] not in free[:t])
    model.generation_config.eos_token_id = next(
        token for token in range(6, 200) if token not in free
    )
    calls = []
    model.register_forward_hook(lambda *given: calls.append(1))
    ending = SimpleNamespace(pad_token_id=tokenizer.pad_token_id, eos_token_id=free[place])
    tokens, lengths = engine(model, ending).generate([[8, 9, 10, 11]], 1, GREEDY, [0])
    assert tokens.tolist() == [free[: place + 1]] and lengths.tolist() == [place + 1]
    assert len(calls) <= place + 1  # and nothing was computed beyond it


@pytest.fixture
def vllm(monkeypatch):
    """A stand-in for vLLM: what its models are made of, and what draws are asked of them."""
    made, asked = [], []

    class LLM:
        def __init__(self, folder, **settings):
            made.append((folder, settings))

        def generate(self, prompts, wanted, **settings):
            answer = SimpleNamespace(index=0, token_ids=[7, 1])
            return [SimpleNamespace(outputs=[answer]) for _ in prompts]

    fake = SimpleNamespace(LLM=LLM, SamplingParams=lambda **settings: asked.append(settings))
    monkeypatch.setitem(sys.modules, "vllm", fake)
    engines._vllm.cache_clear()
    yield made, asked
    engines._vllm.cache_clear()


def test_vllm_reads_a_models_folder_once(vllm, model, tokenizer):
    made, _ = vllm
    for name in ("a/folder", "a/folder", "another"):
        model.name_or_path = name
        engines.choose(model, tokenizer, "vllm")
        assert engines.engine_for(model, tokenizer).generate([[8]], 1, SAMPLED, [5])[1] == 2
    assert [folder for folder, _ in made] == ["a/folder", "another"]


def test_vllm_is_told_every_setting_that_shapes_a_distribution(vllm, model, tokenizer):
    made, asked = vllm
    model.name_or_path = "a/folder"
    bent(model, *TOGETHER)
    engine = engines.VllmEngine(model, tokenizer)
    engine.generate([[8, 9]], 1, Decoding(0.6, 0, 1.0, 3), [5])
    assert made[0][1]["generation_config"] == "vllm"  # and not the checkpoint's
    neutral = {
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "min_p": 0.0,
        "min_tokens": 0,
        "logit_bias": None,
        "bad_words": None,
        "allowed_token_ids": None,
        "ignore_eos": False,
    }
    own = {
        "temperature": 0.6,
        "top_k": 0,
        "top_p": 1.0,
        "n": 1,
        "max_tokens": 3,
        "seed": 5,
        "stop_token_ids": policy.stop_ids(model, tokenizer),
    }
    assert {key: value for key, value in asked[0].items() if key != "detokenize"} == neutral | own
    with pytest.raises(ValueError, match="vllm draws at temperatures of 0 or from 0.01; got 0.001"):
        engine.generate([[8, 9]], 1, Decoding(0.001, 0, 1.0, 3), [5])


def test_the_fast_decoder_is_chosen_for_small_qwen3_models_only(model, tokenizer, monkeypatch):
    assert isinstance(engines.engine_for(model, tokenizer), DecoderEngine)
    monkeypatch.setattr(type(model), "num_parameters", lambda self: 20_000_000)
    assert isinstance(engines.engine_for(model, tokenizer), GenerateEngine)
    monkeypatch.undo()
    model.config.model_type = "llama"
    assert isinstance(engines.engine_for(model, tokenizer), GenerateEngine)


@pytest.mark.parametrize("wrap", [lambda model: model, Wrapped], ids=["plain", "wrapped"])
def test_a_model_that_is_scored_is_drawn_from_with_a_cache(wrap, model64, tokenizer):
    model64.config.model_type = "other"
    made = wrap(model64)
    drawn = as_lists(GenerateEngine(made, tokenizer).generate([[3, 4, 5]], 2, GREEDY, [0]))
    policy.Policy(made)
    engine = engines.engine_for(made, tokenizer)
    assert isinstance(engine, CachedEngine)
    assert as_lists(engine.generate([[3, 4, 5]], 2, GREEDY, [0])) == drawn


@pytest.mark.parametrize("part", ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"])
def test_a_model_with_adapters_is_drawn_from_with_them(part, model, tokenizer):
    # the fast decoder reads weights, and an adapter's are not in the weight of the layer that it
    # wraps
    where, name = part.split(".")
    greedy = engines.engine_for(model, tokenizer).generate([[3, 4, 5]], 1, GREEDY, [0])[0]
    module = getattr(model.model.layers[0], where)
    setattr(module, name, LowRank(getattr(module, name)))
    assert isinstance(engines.engine_for(model, tokenizer), GenerateEngine)
    drawn = engines.engine_for(model, tokenizer).generate([[3, 4, 5]], 1, GREEDY, [0])[0]
    assert as_lists((drawn, torch.tensor([12]))) != as_lists((greedy, torch.tensor([12])))


def test_a_wrapped_model_is_drawn_from_through_its_wrapper(model, tokenizer):
    wrapped = Wrapped(model)
    assert isinstance(engines.engine_for(wrapped, tokenizer), GenerateEngine)
    tokens, lengths = engines.engine_for(wrapped, tokenizer).generate([[3, 4, 5]], 1, GREEDY, [0])
    ids = torch.cat((torch.tensor([3, 4, 5]), tokens[0, : lengths[0]]))
    assert wrapped(input_ids=ids[None]).logits[0, 2:-1].argmax(-1).tolist() == ids[3:].tolist()


@pytest.mark.parametrize("changes", [{"attention_bias": True}, {"hidden_act": "gelu"}])
def test_a_qwen3_model_that_the_fast_decoder_does_not_compute_is_left_to_generate(
    changes, model, tokenizer
):
    other = type(model)(type(model.config)(**{**model.config.to_dict(), **changes}))
    assert isinstance(engines.engine_for(other, tokenizer), GenerateEngine)


def test_the_engine_that_a_profile_chooses_is_given_for_its_model_every_time(model, tokenizer):
    before = set(vars(model))
    engines.choose(model, tokenizer, "generate")
    assert isinstance(engines.engine_for(model, tokenizer), engines.GenerateEngine)
    assert set(vars(model)) == before  # which is somebody else's object
    assert isinstance(engines.engine_for(copy.deepcopy(model), tokenizer), DecoderEngine)
    engines.choose(model, tokenizer, "auto")
    assert isinstance(engines.engine_for(model, tokenizer), DecoderEngine)


def test_an_engine_that_is_not_installed_says_how_to_get_it(model, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    model.name_or_path = "a/folder"
    with pytest.raises(ValueError, match="not installed here; run it in the environment"):
        engines.choose(model, tokenizer, "vllm")


def test_vllm_which_reads_a_folder_refuses_a_wrapped_and_a_new_model(vllm, model, tokenizer):
    for other in (model, Wrapped(model)):
        with pytest.raises(
            ValueError, match="vllm .* cannot draw from a wrapped model or a new one; set engine"
        ):
            engines.choose(other, tokenizer, "vllm")


OLD = [
    GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=64),
    OPTConfig(
        hidden_size=16, word_embed_proj_dim=16, ffn_dim=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=64,
    ),
]  # fmt: skip


@pytest.mark.parametrize("config", OLD, ids=lambda config: config.model_type)
def test_a_model_with_learned_positions_is_left_to_generate(config, tokenizer):
    config.vocab_size, config.bos_token_id, config.eos_token_id = len(tokenizer), None, None
    old = AutoModelForCausalLM.from_config(config).eval()
    policy.Policy(old)
    engine = engines.engine_for(old, tokenizer)
    assert isinstance(engine, GenerateEngine) and not isinstance(engine, CachedEngine)
    tokens, _ = engine.generate([[3, 4, 5]], 1, GREEDY, [0])
    ids = torch.cat((torch.tensor([3, 4, 5]), tokens[0]))
    assert old(input_ids=ids[None]).logits[0, 2:-1].argmax(-1).tolist() == ids[3:].tolist()
