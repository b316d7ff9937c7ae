"""Rollouts: responses drawn in one or both modes, kept as the token ids that were drawn.

An engine is anything with `generate(prompts, copies, decoding, seeds) -> (tokens (N, T), lengths
(N,))`, rows of one prompt being neighbours, and seeds one number a prompt. Four are here:
`generate` of transformers for any model; its continuous batching, for many responses of varied
length on a GPU; vLLM, where that is installed; and `decode` for nano models. Whichever draws, the
trained model scores what was drawn itself, so no engine's log-probs enter a loss.
"""

import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from pslib import modes, rewards
from pslib.lab import ranges
from pslib.nano import decode
from pslib.policy import stop_ids, unwrapped


@dataclass(frozen=True)
class Decoding(ranges.Checked):
    """How tokens are drawn: temperature (0 is greedy), top_k (0: all), top_p, and the most tokens
    of a response.
    """

    temperature: ranges.FromZero
    top_k: ranges.CountOrNone
    top_p: ranges.PositiveShare
    max_new_tokens: ranges.Count


@dataclass
class Rollouts:
    """R responses to a step's questions: by sampling mode, then by question."""

    question_ids: list  # R texts
    group_ids: torch.Tensor  # (R,) place of the question in the step
    modes: list  # R names: the mode that each was sampled in
    tokens: torch.Tensor  # (R, T) response ids, padding beyond each length
    lengths: torch.Tensor  # (R,) response tokens, the stop token included
    texts: list  # R responses, decoded for grading and reading only
    rewards: torch.Tensor  # (R,) 0.0 or 1.0, or what another reward function gives

    @property
    def right_or_wrong(self):
        """Whether every reward is 0 or 1, so that their mean is an accuracy."""
        return bool(((self.rewards == 0) | (self.rewards == 1)).all())

    @property
    def mask(self):
        """bool (R, T): True on response tokens."""
        return torch.arange(self.tokens.shape[1]) < self.lengths[:, None]


def unfinished(rollouts, stops):
    """bool (R,): the responses that ran into their length limit, their last token being none of the
    ids that end one.
    """
    return ~torch.isin(
        rollouts.tokens.gather(1, rollouts.lengths[:, None] - 1).squeeze(1), torch.tensor(stops)
    )


# Every field of a GenerationConfig that shapes a distribution and has a value that leaves it alone.
# The library's own default, which it would take for a field that is left unset, may be another:
# top_k of 50.
_NEUTRAL = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "diversity_penalty": 0.0,
    "length_penalty": 1.0,
    "early_stopping": False,
    "min_length": 0,
    "min_new_tokens": 0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "guidance_scale": 1.0,
    "renormalize_logits": False,
    "remove_invalid_values": False,
    "token_healing": False,
    "return_dict_in_generate": False,
}


def _drawing(model, tokenizer, decoding):
    """A generation config that draws from the policy itself at the given settings, and ends at
    every stop id.
    """
    drawing = {"do_sample": False}
    if decoding.temperature:
        drawing = {
            "do_sample": True,
            "temperature": decoding.temperature,
            "top_k": decoding.top_k,
            "top_p": decoding.top_p,
        }
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        eos_token_id=stop_ids(model, tokenizer),
        pad_token_id=pad,
        **_NEUTRAL,
        **drawing,
    )


@contextmanager
def _configured(model, wanted):
    """Give a model, also one inside a wrapper, a generation config while the block runs.

    From the checkpoint's own, `generate` would fill what the given one leaves unset (suppressed
    tokens, min_p and the like, which only None leaves out), and draw from another policy than the
    one that is trained.
    """
    model = unwrapped(model)
    own, model.generation_config = model.generation_config, wanted
    try:
        yield
    finally:
        model.generation_config = own


class GenerateEngine:
    """Sampling by `transformers.generate`, for any causal language model."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer

    @torch.no_grad()
    def generate(self, prompts, copies, decoding, seeds):
        """`copies` responses to each prompt (list of lists of ids) -> tokens (N, T), lengths (N,).

        All rows draw from one stream, seeded by the first prompt's seed, so responses depend on the
        batch.
        """
        prompts = [prompt for prompt in prompts for _ in range(copies)]
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.tokenizer.pad_token_id)
        seen = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :], seen[row, width - len(prompt) :] = (
                torch.tensor(prompt),
                1,
            )
        device, wanted = self.model.device, _drawing(self.model, self.tokenizer, decoding)
        # generate draws from the global generator: seed it, then restore
        with torch.random.fork_rng(), _configured(self.model, wanted):
            torch.manual_seed(int(seeds[0]))
            out = self.model.generate(
                ids.to(device), attention_mask=seen.to(device), generation_config=wanted
            )
        tokens = out[:, width:].cpu()
        stops = torch.isin(tokens, torch.tensor(stop_ids(self.model, self.tokenizer)))
        lengths = torch.where(stops.any(1), stops.int().argmax(1) + 1, tokens.shape[1])
        return tokens, lengths


def _padded(responses):
    """Lists of ids -> tokens (N, T), lengths (N,)."""
    rows = [torch.tensor(response) for response in responses]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor(
        list(map(len, rows))
    )


class ContinuousEngine:
    """Sampling by `transformers.generate_batch`: a response that ends makes room for the next at
    once.

    Far slower than `generate` on a CPU.
    """

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer

    def generate(self, prompts, copies, decoding, seeds):
        """`copies` responses to each prompt (list of lists of ids) -> tokens (N, T), lengths (N,);
        RuntimeError if one fails.

        All rows draw from one stream, seeded by the first prompt's seed, so responses depend on the
        batch.
        """
        wanted = _drawing(self.model, self.tokenizer, decoding)
        # On a GPU it fits its cache to the free memory; on a CPU it would take all of it, and
        # attend to all of it.
        room = (
            {}
            if self.model.device.type == "cuda"
            else {"page_size": 32, "num_blocks": 256, "max_batch_tokens": 512}
        )
        rows, attention = (
            [prompt for prompt in prompts for _ in range(copies)],
            self.model.config._attn_implementation,
        )
        self.model.set_attn_implementation("sdpa")  # it refuses those that it does not know
        try:
            with (
                torch.random.fork_rng(),
                _configured(self.model, wanted),
            ):  # it seeds the global generator
                out = self.model.generate_batch(
                    rows, wanted, ContinuousBatchingConfig(seed=int(seeds[0]) % 2**32, **room)
                )
        finally:
            self.model.set_attn_implementation(attention)
        failed = [str(one.error) for one in out.values() if one.error] + ["no answer came"] * (
            len(rows) - len(out)
        )
        if failed:
            raise RuntimeError(
                f"continuous batching lost {len(failed)} of {len(rows)} responses ({failed[0]}); "
                "set the "
                "profile's engine to generate"
            )
        return _padded([one.generated_tokens for one in out.values()])


class VllmEngine:
    """Sampling by vLLM in this process, which is given the model's weights before every draw.

    vLLM has requirements of its own: `make .venv/vllm/ready` builds an environment with both.
    """

    # What else shapes a distribution, set so that it does nothing.
    NEUTRAL: ClassVar = {
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

    def __init__(self, model, tokenizer):
        for name, value in {
            "ENABLE_V1_MULTIPROCESSING": "0",
            "CPU_OMP_THREADS_BIND": "nobind",
            "CPU_KVCACHE_SPACE": "1",
        }.items():
            os.environ.setdefault(f"VLLM_{name}", value)
        try:
            import vllm
        except ImportError as error:
            raise ValueError(
                "the profile's engine is vllm, which is not installed here; run it in the "
                "environment that "
                "`make .venv/vllm/ready` builds, or set engine to auto"
            ) from error
        if unwrapped(model) is not model:
            raise ValueError(
                "the engine vllm is given weights by the names that they have in a model of their "
                "own, so it cannot draw "
                "from a wrapped model; set engine to auto"
            )
        self.model, self.vllm, self.stops = model, vllm, stop_ids(model, tokenizer)
        with tempfile.TemporaryDirectory() as folder:
            model.config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            with torch.random.fork_rng():  # it seeds the global generator, and draws from it
                self.llm = vllm.LLM(
                    folder,
                    load_format="dummy",
                    dtype=model.dtype,
                    enforce_eager=True,
                    generation_config="vllm",
                    hf_overrides={
                        "architectures": [type(model).__name__]
                    },  # a fresh model's config has none
                    # of a prompt cut in two it cannot draw by a seed on a CPU
                    enable_chunked_prefill=False,
                    gpu_memory_utilization=0.4,
                )  # the rest is for training

    def generate(self, prompts, copies, decoding, seeds):
        """`copies` responses to each prompt (list of lists of ids) -> tokens (N, T), lengths (N,).

        Temperatures go up to 2. ValueError below 0.01, which vLLM takes for 0.01.
        """
        if 0 < decoding.temperature < 0.01:
            raise ValueError(
                f"vllm draws at temperatures of 0 or from 0.01; got {decoding.temperature}; set "
                "the profile's "
                "engine to generate"
            )
        self.llm.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": list(self.model.state_dict().items())}
        )
        self.llm.reset_prefix_cache()  # keys and values of the weights before
        wanted = [
            self.vllm.SamplingParams(
                n=copies,
                temperature=decoding.temperature,
                top_k=decoding.top_k,
                top_p=decoding.top_p,
                seed=int(seed),
                max_tokens=decoding.max_new_tokens,
                stop_token_ids=self.stops,
                detokenize=False,
                **self.NEUTRAL,
            )
            for seed in seeds
        ]
        with torch.random.fork_rng():
            out = self.llm.generate(
                [{"prompt_token_ids": prompt} for prompt in prompts], wanted, use_tqdm=False
            )
        return _padded(
            [
                list(one.token_ids)
                for request in out
                for one in sorted(request.outputs, key=lambda one: one.index)
            ]
        )


class DecoderEngine:
    """Sampling by `decode.Decoder`, for small Qwen3 models on a CPU."""

    def __init__(self, model, tokenizer):
        self.model, self.stops = model, torch.tensor(stop_ids(model, tokenizer))

    def generate(self, prompts, copies, decoding, seeds):
        """`copies` responses to each prompt (list of lists of ids) -> tokens (N, T), lengths
        (N,).
        """
        draws = torch.cat(
            [
                torch.rand(
                    copies,
                    decoding.max_new_tokens,
                    generator=torch.Generator().manual_seed(int(seed)),
                )
                for seed in seeds
            ]
        )
        return decode.Decoder(self.model).generate(
            prompts,
            copies,
            self.stops,
            decoding.max_new_tokens,
            decoding.temperature,
            decoding.top_k,
            decoding.top_p,
            draws,
        )


ENGINES = {
    "auto": None,
    "generate": GenerateEngine,
    "continuous": ContinuousEngine,
    "vllm": VllmEngine,
}


def choose(model, tokenizer, name):
    """Make one of ENGINES the one that `engine_for` gives for this model; it lives as long as the
    model.
    """
    model.rollout_engine = ENGINES[name] and ENGINES[name](model, tokenizer)


def engine_for(model, tokenizer):
    """The engine chosen for a model, or the fastest one here that fits it."""
    if getattr(model, "rollout_engine", None):
        return model.rollout_engine
    small = (
        decode.fits(model) and model.device.type == "cpu" and model.num_parameters() < 20_000_000
    )
    return (DecoderEngine if small else GenerateEngine)(model, tokenizer)


def render_all(tokenizer, mode, questions, decoding, context):
    """Every question's prompt under a mode; ValueError if one leaves no room for its response in
    the context.
    """
    prompts = [modes.render(tokenizer, mode, q["question"]) for q in questions]
    for question, prompt in zip(questions, prompts, strict=True):
        if len(prompt) + decoding.max_new_tokens > context:
            raise ValueError(
                f"question {question['id']} takes {len(prompt)} tokens in {mode.name} mode, which "
                "with "
                f"max_new_tokens={decoding.max_new_tokens} is more than the model's context of "
                f"{context}; "
                "shorten the question or lower max_new_tokens"
            )
    return prompts


def check_room(model, tokenizer, both, questions, max_new_tokens):
    """Check that every question leaves room for its response in the model's context, in each mode;
    ValueError if one does not.
    """
    decoding, context = Decoding(1.0, 0, 1.0, max_new_tokens), model.config.max_position_embeddings
    for mode in both:
        (empty,) = render_all(tokenizer, mode, [{"id": "''", "question": ""}], decoding, context)
        # A token is a byte or more, so only a question of so many bytes can be too long; a few
        # tokens may join otherwise.
        room = context - max_new_tokens - len(empty) - 8
        long = [question for question in questions if len(question["question"].encode()) > room]
        render_all(tokenizer, mode, long, decoding, context)


def exact(text, row, thinking=False):
    """The reward unless another is given: 1.0 if the response ends in the answer of its question,
    else 0.0.

    A question whose column worked_out is true also takes what comes to its answer. thinking: see
    rewards.grade.
    """
    asked = {"worked_out": bool(row.get("worked_out")), "thinking": thinking}
    return rewards.grade(
        text, row["answer"], **{name: True for name, wanted in asked.items() if wanted}
    )


def must_finish(modes):
    """The names of the modes whose thinking is on: a response there is right only if its thinking
    has an end, as in the paper.
    """
    return [mode.name for mode in modes if mode.thinking]


def _reward(reward, text, row):
    """A response's reward as a float; ValueError names the question where it is no number."""
    value = reward(text, row)
    try:
        if isinstance(value, (str, bytes)):  # "1" is more likely a slip than a reward
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"the reward of a response to the question {row['id']} must be a number; got {value!r}"
        ) from error


def sample(
    engine,
    tokenizer,
    questions,
    prompts,
    group_size,
    decoding,
    generator,
    reward=exact,
    thinking=(),
):
    """Draw group_size responses to each question, in equal parts from each mode, and grade them.

    questions: Q rows with id, and answer for the reward `exact`; prompts: {mode name: Q prompts} of
    the modes that sample;
    reward: (text, row) -> float, row being the whole question; thinking: names of the modes in
    which `exact` gives nothing for a response whose thinking has no end (see `must_finish`). ->
    Rollouts with R = Q group_size. Policy Split draws G/2 in each mode (eq. 10), so G must be even
    there. The generator gives each mode and question a seed of its own. ValueError for a reward
    that is no number; whether it is finite is for the caller to check.
    """
    if group_size % len(prompts):
        raise ValueError(
            f"group_size {group_size} cannot be split evenly over the modes {', '.join(prompts)}; "
            f"choose a multiple of {len(prompts)}"
        )
    copies = group_size // len(prompts)
    every = [
        prompt for rendered in prompts.values() for prompt in rendered
    ]  # all modes in one batch
    tokens, lengths = engine.generate(
        every, copies, decoding, torch.randint(2**62, (len(every),), generator=generator)
    )
    group_ids = torch.arange(len(questions)).repeat_interleave(copies).repeat(len(prompts))
    texts = tokenizer.batch_decode(
        [t[:n] for t, n in zip(tokens.tolist(), lengths.tolist(), strict=True)],
        skip_special_tokens=True,
    )
    rows = [questions[g] for g in group_ids.tolist()]
    drawn_in = [name for name in prompts for _ in range(len(questions) * copies)]
    in_mode = {
        name: partial(exact, thinking=True) if reward is exact and name in thinking else reward
        for name in prompts
    }
    return Rollouts(
        question_ids=[q["id"] for q in rows],
        group_ids=group_ids,
        modes=drawn_in,
        tokens=tokens,
        lengths=lengths,
        texts=texts,
        rewards=torch.tensor(
            [
                _reward(in_mode[name], text, row)
                for name, text, row in zip(drawn_in, texts, rows, strict=True)
            ]
        ),
    )


def share(rollouts, method, stops):
    """Who learns from what: group ids (R,), and bool (N, T), the tokens that each training mode
    learns from.

    With sharing (eq. 10) that is every token of every response: row k R + r is response r under the
    k-th training mode. Without it a mode has only what it drew, which is then a group of its own.
    stops: the ids that end a response.
    """
    mask, modes, learned = rollouts.mask, rollouts.modes, []
    last = rollouts.tokens.gather(1, rollouts.lengths[:, None] - 1).squeeze(1)
    ended = torch.isin(last, torch.tensor(stops)) & method.loses_end
    shared = (
        mask
        & (torch.arange(mask.shape[1]) < (rollouts.lengths - ended.long())[:, None])
        & method.shares
    )
    for name in method.training:
        own = torch.tensor([drawn_in == name for drawn_in in modes])
        learned.append(torch.where(own[:, None], mask, shared))
    if method.shares:
        return rollouts.group_ids, torch.cat(learned)
    place = {name: k for k, name in enumerate(method.sampling)}
    return rollouts.group_ids * len(place) + torch.tensor(
        [place[name] for name in modes]
    ), torch.cat(learned)
