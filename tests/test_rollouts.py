"""Rollouts: who drew what for which question, both engines, and ids that are never tokenised
again.
"""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import LowRank, Wrapped
from scipy.stats import chisquare
from transformers import GenerationConfig, WatermarkingConfig

from pslib import modes, policy, rollouts
from pslib.rollouts import DecoderEngine, Decoding, GenerateEngine

GREEDY = Decoding(0, 0, 1.0, 12)
SAMPLED = Decoding(1.0, 0, 1.0, 6)


class Scripted:
    """An engine that says which prompt and copy each row is: the first token, the last prompt id's
    place, the copy.
    """

    def __init__(self, width=3, stop=1):
        self.width, self.calls, self.seeds = width, [], []

    def generate(self, prompts, copies, decoding, seeds):
        self.calls.append((prompts, copies))
        self.seeds.append(seeds.tolist())
        rows = [
            [10 * len(self.calls) + place, 100 + copy] + [7] * (self.width - 2)
            for place in range(len(prompts))
            for copy in range(copies)
        ]
        self.width += 1  # the next mode's responses are longer
        return torch.tensor(rows), torch.full((len(rows),), len(rows[0]))


def rendered(tokenizer, questions, *using):
    return {
        mode.name: rollouts.render_all(tokenizer, mode, questions, SAMPLED, 512) for mode in using
    }


def sampled(engine, tokenizer, questions, using, group_size):
    prompts = rendered(tokenizer, questions, *using)
    return rollouts.sample(engine, tokenizer, questions, prompts, group_size, SAMPLED, None)


# --- who drew what --------------------------------------------------------------------------------
def test_every_question_gets_half_its_responses_from_each_mode(tokenizer, questions, he):
    engine = Scripted()
    out = sampled(engine, tokenizer, questions, (modes.NORMAL, he), 4)
    assert out.modes == ["normal"] * 6 + ["he"] * 6
    assert out.group_ids.tolist() == [0, 0, 1, 1, 2, 2] * 2
    # "first" and "second" have the same text: groups go by the question, not by its words
    assert out.question_ids == ["first", "first", "second", "second", "third", "third"] * 2
    assert out.tokens[:, 0].tolist() == [10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15]
    assert out.tokens[:, 1].tolist() == [100, 101] * 6
    assert [copies for _, copies in engine.calls] == [2]


def test_each_mode_and_question_has_a_seed_of_its_own_from_the_generator(tokenizer, questions, he):
    seen = []
    for seed in (0, 0, 1):
        engine, prompts = Scripted(), rendered(tokenizer, questions, modes.NORMAL, he)
        rollouts.sample(
            engine, tokenizer, questions, prompts, 2, SAMPLED, torch.Generator().manual_seed(seed)
        )
        seen.append(engine.seeds)
    assert seen[0] == seen[1] != seen[2] and len({s for own in seen[0] for s in own}) == 6


def test_each_mode_is_given_its_own_prompts(tokenizer, questions, he):
    engine, prompts = Scripted(), rendered(tokenizer, questions, modes.NORMAL, he)
    rollouts.sample(engine, tokenizer, questions, prompts, 2, SAMPLED, None)
    assert [given for given, _ in engine.calls] == [prompts["normal"] + prompts["he"]]
    assert prompts["normal"][0] == prompts["normal"][1] and prompts["normal"] != prompts["he"]


def test_one_mode_draws_the_whole_group(tokenizer, questions):
    out = sampled(Scripted(), tokenizer, questions, (modes.NORMAL,), 3)
    assert out.modes == ["normal"] * 9 and out.group_ids.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_group_that_cannot_be_halved_is_refused(tokenizer, questions, he):
    with pytest.raises(ValueError, match="group_size 3 .* normal, he; choose a multiple of 2"):
        sampled(Scripted(), tokenizer, questions, (modes.NORMAL, he), 3)


def test_a_pad_id_inside_a_response_is_a_token_like_any_other():
    tokens = torch.tensor([[5, 0, 1, 0]])
    made = rollouts.Rollouts(
        ["a"], torch.tensor([0]), ["normal"], tokens, torch.tensor([3]), [""], torch.zeros(1)
    )
    assert made.mask.tolist() == [[True, True, True, False]]


# --- grading --------------------------------------------------------------------------------------
def test_responses_are_graded_against_the_answer_of_their_own_question(tokenizer, questions):
    class Writing:
        """Answers 27 and then 36 to every question."""

        def generate(self, prompts, copies, decoding, seeds):
            ids = [
                tokenizer(text)["input_ids"]
                for text in ("\\boxed{27}<|end|>", "\\boxed{36}<|end|>")
            ]
            width = max(map(len, ids))
            tokens = torch.tensor([row + [9] * (width - len(row)) for row in ids]).repeat(
                len(prompts), 1
            )
            return tokens, torch.tensor(list(map(len, ids))).repeat(len(prompts))

    out = sampled(Writing(), tokenizer, questions, (modes.NORMAL,), 2)
    assert (
        out.rewards.tolist() == [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]
        and out.rewards.dtype == torch.float32
    )
    # special tokens and what stands beyond the length are no part of the text
    assert out.texts == ["\\boxed{27}", "\\boxed{36}"] * 3


@pytest.mark.parametrize(
    "thinking, wanted", [(None, [1.0] * 4), (False, [1.0] * 4), (True, [1.0, 1.0, 0.0, 1.0])]
)
def test_a_response_whose_thinking_has_no_end_is_right_only_where_thinking_is_off(
    thinking, wanted, tokenizer, questions
):
    class Decoded:
        """A tokenizer whose texts are given, since the nano world's knows no thinking."""

        def batch_decode(self, rows, skip_special_tokens):
            return ["\\boxed{27}", "2</think>\\boxed{27}"] * 2

    using = [modes.NORMAL, replace(modes.he_mode("high_entropy_short"), thinking=thinking)]
    prompts = rendered(tokenizer, questions[:1], modes.NORMAL, modes.he_mode("high_entropy_short"))
    named = rollouts.must_finish(using)
    out = rollouts.sample(
        Scripted(), Decoded(), questions[:1], prompts, 4, SAMPLED, None, thinking=named
    )
    assert out.rewards.tolist() == wanted
    out = rollouts.sample(
        Scripted(),
        Decoded(),
        questions[:1],
        prompts,
        4,
        SAMPLED,
        None,
        lambda text, row: 2.0,
        named,
    )
    assert out.rewards.tolist() == [2.0] * 4  # another reward says itself what it asks for


def test_a_question_can_ask_for_worked_out_answers():
    assert rollouts.exact("\\boxed{2^{10}}", {"answer": "1024"}) == 0.0
    assert rollouts.exact("\\boxed{2^{10}}", {"answer": "1024", "worked_out": False}) == 0.0
    assert rollouts.exact("\\boxed{2^{10}}", {"answer": "1024", "worked_out": True}) == 1.0


def test_another_reward_is_given_the_whole_question_and_may_be_any_number(tokenizer, questions):
    rows, prompts = (
        [{**q, "level": k} for k, q in enumerate(questions)],
        rendered(tokenizer, questions, modes.NORMAL),
    )
    seen = []

    def reward(text, row):
        seen.append((text, row))
        return row["level"] / 4

    for row in rows:
        del row["answer"]  # which only our own reward needs
    out = rollouts.sample(Scripted(), tokenizer, rows, prompts, 2, SAMPLED, None, reward)
    assert out.rewards.tolist() == [0.0, 0.0, 0.25, 0.25, 0.5, 0.5] and not out.right_or_wrong
    assert seen == list(zip(out.texts, [row for row in rows for _ in range(2)], strict=True))
    for value in (1, True, torch.tensor(1.0)):
        out = rollouts.sample(
            Scripted(),
            tokenizer,
            rows,
            prompts,
            2,
            SAMPLED,
            None,
            lambda text, row, value=value: value,
        )
        assert (
            out.rewards.tolist() == [1.0] * 6
            and out.rewards.dtype == torch.float32
            and out.right_or_wrong
        )


@pytest.mark.parametrize(
    "value",
    [None, "1", [1.0, 0.0], torch.ones(2), 10**400, 1j],
    ids=["None", "text", "list", "vector", "beyond floats", "complex"],
)
def test_a_reward_that_is_no_number_names_its_question(value, tokenizer, questions):
    prompts = rendered(tokenizer, questions, modes.NORMAL)
    with pytest.raises(
        ValueError, match="^the reward of a response to the question third must be a number; got "
    ):
        rollouts.sample(
            Scripted(),
            tokenizer,
            questions,
            prompts,
            2,
            SAMPLED,
            None,
            lambda text, row: value if row["id"] == "third" else 0.5,
        )


# --- prompts --------------------------------------------------------------------------------------
def test_a_question_that_leaves_no_room_for_its_response_is_named(tokenizer, questions, he):
    longest = max(len(modes.render(tokenizer, he, q["question"])) for q in questions)
    assert (
        len(rollouts.render_all(tokenizer, he, questions, SAMPLED, longest + 6)) == 3
    )  # just fits
    message = (
        rf"question third takes {longest} tokens in he mode, .*max_new_tokens=6 .* context of "
        rf"{longest + 5}"
    )
    with pytest.raises(ValueError, match=message):
        rollouts.render_all(tokenizer, he, questions, SAMPLED, longest + 5)


@pytest.mark.parametrize("room", [0, 5])
def test_room_is_checked_for_the_longest_question_in_the_longest_mode(
    room, model, tokenizer, questions, he
):
    long = {"id": "long", "question": "9+9+1+1+5+5+2+4" * 10}
    longest, both = len(modes.render(tokenizer, he, long["question"])), (modes.NORMAL, he)
    fits = 512 - longest - room
    rollouts.check_room(model, tokenizer, both, [*questions, long], fits)
    with pytest.raises(ValueError, match=f"question long takes {longest} tokens in he mode"):
        rollouts.check_room(model, tokenizer, both, [*questions, long], fits + room + 1)
    rollouts.check_room(model, tokenizer, both, questions, fits + room + 1)
    with pytest.raises(ValueError, match="question '' takes .* with max_new_tokens=510"):
        rollouts.check_room(model, tokenizer, both, [], 510)


def test_prompts_are_those_of_the_mode_in_the_order_of_the_questions(tokenizer, questions, he):
    expected = [modes.render(tokenizer, he, q["question"]) for q in questions]
    assert rollouts.render_all(tokenizer, he, questions, SAMPLED, 512) == expected


# --- engines --------------------------------------------------------------------------------------
def mixed_prompts(tokenizer, questions, he):
    """Prompts of four lengths, not in the order of their lengths."""
    every = rendered(tokenizer, questions, modes.NORMAL, he)
    prompts = [
        every["he"][2],
        every["normal"][0],
        every["he"][0],
        every["normal"][2],
        every["normal"][1],
    ]
    assert len(set(map(len, prompts))) == 4
    return prompts


def as_lists(drawn):
    return [row[:length] for row, length in zip(drawn[0].tolist(), drawn[1].tolist(), strict=True)]


def test_both_engines_say_the_same_greedily(model64, tokenizer, questions, he):
    prompts = mixed_prompts(tokenizer, questions, he)
    # a stop token that some of the responses reach, so that lengths are compared too
    free = as_lists(DecoderEngine(model64, tokenizer).generate(prompts, 1, GREEDY, range(5)))
    model64.generation_config.eos_token_id = [tokenizer.eos_token_id, free[1][4]]
    ours = DecoderEngine(model64, tokenizer).generate(prompts, 1, GREEDY, range(5))
    theirs = GenerateEngine(model64, tokenizer).generate(prompts, 1, GREEDY, range(5))
    assert as_lists(ours) == as_lists(theirs)
    assert len(set(ours[1].tolist())) > 1 and max(ours[1].tolist()) == 12
    assert ours[0].tolist() == theirs[0].tolist()


@pytest.mark.parametrize("engine", [DecoderEngine, GenerateEngine])
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


def test_the_decoder_draws_the_same_responses_to_a_prompt_whatever_stands_beside_it(
    model64, tokenizer, questions, he
):
    # some responses end early, so that rows are dropped while others go on
    prompts, engine = mixed_prompts(tokenizer, questions, he), DecoderEngine(model64, tokenizer)
    engine.stops = torch.arange(0, 200, 9)
    together = as_lists(engine.generate(prompts, 6, Decoding(1.0, 0, 1.0, 12), range(5)))
    assert len(set(map(len, together))) > 3
    for place, prompt in enumerate(prompts):
        alone = as_lists(engine.generate([prompt], 6, Decoding(1.0, 0, 1.0, 12), [place]))
        assert together[6 * place : 6 * place + 6] == alone
    assert together[0] != together[1]


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
# Each bends the distribution, ends a response early or late, or changes what `generate` returns.
HOSTILE = {
    "repetition_penalty": 1.3,
    "suppress_tokens": [50, 60, 70],
    "begin_suppress_tokens": [*range(6, 100)],
    "min_p": 0.9,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.02,
    "eta_cutoff": 0.9,
    "top_h": 0.5,
    "top_k": 5,
    "top_p": 0.5,
    "temperature": 0.5,
    "bad_words_ids": [[50], [60, 70]],
    "no_repeat_ngram_size": 1,
    "min_new_tokens": 6,
    "min_length": 20,
    "num_beams": 3,
    "num_return_sequences": 2,
    "sequence_bias": [[[50], 9.0]],
    "forced_bos_token_id": 70,
    "forced_eos_token_id": 70,
    "exponential_decay_length_penalty": [1, 3.0],
    "guidance_scale": 3.0,
    "renormalize_logits": True,
    "remove_invalid_values": True,
    "max_time": 1e-9,
    "max_length": 4,
    "prompt_lookup_num_tokens": 2,
    "return_dict_in_generate": True,
    "output_scores": True,
    "do_sample": False,
    "watermarking_config": WatermarkingConfig(bias=9.0, greenlist_ratio=0.25),
}
TOGETHER = (
    "repetition_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "min_p",
    "typical_p",
    "no_repeat_ngram_size",
    "min_new_tokens",
    "sequence_bias",
    "top_k",
    "bad_words_ids",
)


def bent(model, *names):
    """Put some of HOSTILE into a model's generation_config, beside the ids that end a response."""
    ends = {
        name: getattr(model.generation_config, name) for name in ("eos_token_id", "pad_token_id")
    }
    model.generation_config = GenerationConfig(**ends)
    for (
        name
    ) in names:  # set one by one: together some would be refused, and a checkpoint's are not asked
        setattr(model.generation_config, name, HOSTILE[name])


def fit(model, prompt, drawn, temperature):
    """The p-value of a chi-square test: how often each token was drawn, against the sum of its
    exact probabilities.

    Every token of every response counts, each with the distribution after the tokens before it.
    """
    tokens, lengths = drawn
    with torch.no_grad():
        whole = torch.cat((torch.tensor([prompt]).expand(len(tokens), -1), tokens), 1)
        logits = model(input_ids=whole).logits[:, len(prompt) - 1 : -1].double()
    counted = torch.arange(tokens.shape[1]) < lengths[:, None]
    expected = torch.softmax(logits / temperature, -1)[counted].sum(0)
    found = tokens[counted].bincount(minlength=len(expected)).double()
    rare = expected < 5
    if rare.any():
        expected, found = (
            torch.cat((t[~rare], t[rare].sum(0, keepdim=True))) for t in (expected, found)
        )
    return chisquare(found, expected * (found.sum() / expected.sum())).pvalue


@pytest.mark.parametrize("name", HOSTILE)
def test_no_field_of_the_checkpoints_generation_config_changes_what_generate_draws(
    name, model, tokenizer
):
    def draw(decoding):
        return as_lists(
            GenerateEngine(model, tokenizer).generate([[8, 9, 10, 11], [9, 8]], 20, decoding, [0])
        )

    plain = [draw(decoding) for decoding in (SAMPLED, GREEDY)]
    bent(model, name)
    config = model.generation_config
    assert [draw(decoding) for decoding in (SAMPLED, GREEDY)] == plain
    assert model.generation_config is config  # and it is there again


def test_a_wrapped_models_own_generation_config_changes_nothing_either(model, tokenizer):
    def draw():
        return as_lists(
            GenerateEngine(wrapped, tokenizer).generate([[8, 9, 10, 11], [9, 8]], 20, SAMPLED, [0])
        )

    wrapped = Wrapped(model)
    plain = draw()
    bent(model, *TOGETHER)
    config = model.generation_config
    assert draw() == plain and model.generation_config is config
    assert "generation_config" not in vars(
        wrapped
    )  # nor has the wrapper got one that would hide the model's


@pytest.mark.parametrize("engine", [GenerateEngine, DecoderEngine])
def test_draws_fit_the_exact_softmax_under_a_hostile_generation_config(engine, model, tokenizer):
    bent(model, *TOGETHER)
    for temperature in (1.0, 0.6):
        drawn = engine(model, tokenizer).generate(
            [[8, 9, 10, 11]], 3000, Decoding(temperature, 0, 1.0, 3), [3]
        )
        assert fit(model, [8, 9, 10, 11], drawn, temperature) > 0.001


@pytest.mark.parametrize("engine", [GenerateEngine, DecoderEngine])
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


def test_continuous_batching_is_given_nothing_that_bends_the_distribution(
    model, tokenizer, monkeypatch
):
    # that its draws fit the exact softmax is tested where tests may take longer
    seen = []

    def generate_batch(rows, wanted, settings):
        seen.append((wanted, model.generation_config))
        return {k: SimpleNamespace(error=None, generated_tokens=[7]) for k in range(len(rows))}

    monkeypatch.setattr(model, "generate_batch", generate_batch)
    bent(model, *HOSTILE)
    stops, config = policy.stop_ids(model, tokenizer), model.generation_config
    rollouts.ContinuousEngine(model, tokenizer).generate([[8, 9]], 1, SAMPLED, [0])
    ((wanted, its_own),) = seen
    assert (
        not model._get_logits_processor(wanted)
        and wanted.eos_token_id == stops
        and wanted.max_new_tokens == 6
    )
    assert its_own is wanted and model.generation_config is config


def test_vllm_is_told_every_setting_that_shapes_a_distribution(model, tokenizer, monkeypatch):
    made, asked = [], []

    class LLM:
        def __init__(self, folder, **settings):
            made.append(settings)

        def collective_rpc(self, *args, **kwargs):
            pass

        def reset_prefix_cache(self):
            pass

        def generate(self, prompts, wanted, **settings):
            answer = SimpleNamespace(index=0, token_ids=[7, 1])
            return [SimpleNamespace(outputs=[answer]) for _ in prompts]

    fake = SimpleNamespace(LLM=LLM, SamplingParams=lambda **settings: asked.append(settings))
    monkeypatch.setitem(sys.modules, "vllm", fake)
    bent(model, *TOGETHER)
    engine = rollouts.VllmEngine(model, tokenizer)
    engine.generate([[8, 9]], 1, Decoding(0.6, 0, 1.0, 3), [5])
    assert made[0]["generation_config"] == "vllm"  # and not the checkpoint's
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
    assert isinstance(rollouts.engine_for(model, tokenizer), DecoderEngine)
    monkeypatch.setattr(type(model), "num_parameters", lambda self: 20_000_000)
    assert isinstance(rollouts.engine_for(model, tokenizer), GenerateEngine)
    monkeypatch.undo()
    model.config.model_type = "llama"
    assert isinstance(rollouts.engine_for(model, tokenizer), GenerateEngine)


@pytest.mark.parametrize("part", ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"])
def test_a_model_with_adapters_is_drawn_from_with_them(part, model, tokenizer):
    # the fast decoder reads weights, and an adapter's are not in the weight of the layer that it
    # wraps
    where, name = part.split(".")
    greedy = rollouts.engine_for(model, tokenizer).generate([[3, 4, 5]], 1, GREEDY, [0])[0]
    module = getattr(model.model.layers[0], where)
    setattr(module, name, LowRank(getattr(module, name)))
    assert isinstance(rollouts.engine_for(model, tokenizer), GenerateEngine)
    drawn = rollouts.engine_for(model, tokenizer).generate([[3, 4, 5]], 1, GREEDY, [0])[0]
    assert as_lists((drawn, torch.tensor([12]))) != as_lists((greedy, torch.tensor([12])))


def test_a_wrapped_model_is_drawn_from_through_its_wrapper(model, tokenizer):
    wrapped = Wrapped(model)
    assert isinstance(rollouts.engine_for(wrapped, tokenizer), GenerateEngine)
    tokens, lengths = rollouts.engine_for(wrapped, tokenizer).generate([[3, 4, 5]], 1, GREEDY, [0])
    ids = torch.cat((torch.tensor([3, 4, 5]), tokens[0, : lengths[0]]))
    assert wrapped(input_ids=ids[None]).logits[0, 2:-1].argmax(-1).tolist() == ids[3:].tolist()


@pytest.mark.parametrize("changes", [{"attention_bias": True}, {"hidden_act": "gelu"}])
def test_a_qwen3_model_that_the_fast_decoder_does_not_compute_is_left_to_generate(
    changes, model, tokenizer
):
    other = type(model)(type(model.config)(**{**model.config.to_dict(), **changes}))
    assert isinstance(rollouts.engine_for(other, tokenizer), GenerateEngine)


def test_the_engine_that_a_profile_chooses_is_given_for_its_model_every_time(model, tokenizer):
    rollouts.choose(model, tokenizer, "continuous")
    assert isinstance(rollouts.engine_for(model, tokenizer), rollouts.ContinuousEngine)
    assert rollouts.engine_for(model, tokenizer) is rollouts.engine_for(model, tokenizer)
    rollouts.choose(model, tokenizer, "auto")
    assert isinstance(rollouts.engine_for(model, tokenizer), DecoderEngine)


def test_an_engine_that_is_not_installed_says_how_to_get_it(model, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ValueError, match="not installed here; run it in the environment"):
        rollouts.choose(model, tokenizer, "vllm")


def test_vllm_which_takes_weights_by_name_refuses_a_wrapped_model(model, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", object())
    with pytest.raises(
        ValueError, match="vllm .* cannot draw from a wrapped model; set engine to auto"
    ):
        rollouts.choose(Wrapped(model), tokenizer, "vllm")


def test_a_response_that_continuous_batching_loses_is_not_passed_over(
    model, tokenizer, monkeypatch
):
    policy.Policy(model)
    monkeypatch.setattr(model, "generate_batch", lambda rows, *settings: {})
    with pytest.raises(RuntimeError, match="lost 4 of 4 responses .no answer came.; set the"):
        rollouts.ContinuousEngine(model, tokenizer).generate([[3, 4], [3]], 2, GREEDY, [0])
    assert model.config._attn_implementation == "shared_prefixes"


def test_sampled_ids_are_kept_as_drawn(model, tokenizer, questions, he):
    # What the untrained model writes does not survive decoding and tokenising: any detour through
    # text would show.
    prompts = rendered(tokenizer, questions, modes.NORMAL, he)
    engine = rollouts.engine_for(model, tokenizer)
    out = rollouts.sample(
        engine, tokenizer, questions, prompts, 4, SAMPLED, torch.Generator().manual_seed(3)
    )
    seeds = torch.randint(2**62, (2, 3), generator=torch.Generator().manual_seed(3))
    drawn = []
    for mode, own in zip(("normal", "he"), seeds, strict=True):
        drawn += as_lists(engine.generate(prompts[mode], 2, SAMPLED, own))
    kept = as_lists((out.tokens, out.lengths))
    assert kept == drawn
    assert kept != [tokenizer(text)["input_ids"] for text in out.texts]
