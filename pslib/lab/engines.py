"""Engines: what draws responses from a model.

An engine has `generate(prompts, copies, decoding, seeds) -> (tokens (N, T), lengths (N,))`, rows of
one prompt being neighbours, and seeds one number a prompt (see `rollouts.Engine`). `engine_for`
chooses one. Training always draws from the weights of the moment; an evaluation may ask for vLLM.
Whichever draws, the model itself scores what was drawn, so no engine's log-probs enter a loss or a
table.
"""

import os
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from weakref import WeakKeyDictionary

import torch
import yaml
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from pslib.nano import decode
from pslib.policy import Policy, fork_rng, stop_ids, unwrapped

NEUTRAL = yaml.safe_load(Path(__file__).with_name("neutral.yaml").read_text(encoding="utf-8"))


def _undistorted(stops, pad, max_new_tokens, **drawing):
    """A generation config that draws from the policy itself and ends at each of some ids."""
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=stops,
        pad_token_id=pad,
        **NEUTRAL["transformers"],
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


def _padded(responses):
    """Lists or tensors of ids -> tokens (N, T), 0 beyond each length, and lengths (N,)."""
    rows = [torch.as_tensor(response) for response in responses]
    return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


class VllmEngine:
    """Sampling by vLLM in this process, from the folder or hub id that a model was loaded from.

    vLLM reads the weights once, so it serves evaluation and not training. It has requirements of
    its own: `make .venv/vllm/ready` builds an environment with both.
    """

    def __init__(self, model, tokenizer):
        if unwrapped(model) is not model or not model.name_or_path:
            raise ValueError(
                "the engine vllm reads the folder that a model was loaded from, so it cannot draw "
                "from a wrapped model or a new one; set engine to auto"
            )
        self.stops, self.device = stop_ids(model, tokenizer), model.device
        self.vllm, self.llm = _vllm(model.name_or_path, model.dtype, model.device)

    def generate(self, prompts, copies, decoding, seeds):
        """`copies` responses to each prompt (list of lists of ids) -> tokens (N, T), lengths (N,).

        Temperatures go up to 2. ValueError below 0.01, which vLLM takes for 0.01.
        """
        if 0 < decoding.temperature < 0.01:
            raise ValueError(
                f"vllm draws at temperatures of 0 or from 0.01; got {decoding.temperature}; set "
                "the profile's engine to generate"
            )
        how = {name: getattr(decoding, name) for name in ("temperature", "top_k", "top_p")}
        how |= {"n": copies, "max_tokens": decoding.max_new_tokens, "stop_token_ids": self.stops}
        how |= {"detokenize": False, **NEUTRAL["vllm"]}
        wanted = [self.vllm.SamplingParams(seed=int(seed), **how) for seed in seeds]
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        with fork_rng(self.device):
            out = self.llm.generate(asked, wanted, use_tqdm=False)
        ordered = [sorted(request.outputs, key=lambda one: one.index) for request in out]
        return _padded([list(one.token_ids) for own in ordered for one in own])


@lru_cache(maxsize=1)
def _vllm(source, dtype, device):
    """vLLM and its model of a folder or hub id, which takes minutes to start."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    try:
        import vllm
    except ImportError as error:
        raise ValueError(
            "the profile's engine is vllm, which is not installed here; run it in the environment "
            "that `make .venv/vllm/ready` builds, or set engine to auto"
        ) from error
    with fork_rng(device):  # it seeds the global generator, and draws from it
        return vllm, vllm.LLM(
            source,
            dtype=dtype,
            enforce_eager=True,
            generation_config="vllm",
            # of a prompt cut in two it cannot draw by a seed on a CPU
            enable_chunked_prefill=False,
            gpu_memory_utilization=0.4,  # the rest is for scoring
        )


def pieces(lengths, copies, decoding):
    """Places of prompts of these lengths, in pieces of up to decoding.batch_tokens tokens, or one.

    All in their own order where they fit; else the longest together, so that little is padded.
    """

    def size(places):
        longest = max(lengths[place] for place in places)
        return len(places) * copies * (longest + decoding.max_new_tokens)

    everything = list(range(len(lengths)))
    if size(everything) <= decoding.batch_tokens:
        return [everything]
    cut = []
    for place in sorted(everything, key=lambda place: -lengths[place]):
        if not cut or size([*cut[-1], place]) > decoding.batch_tokens:
            cut.append([])
        cut[-1].append(place)
    return cut


class DecoderEngine:
    """Sampling by `decode.Decoder`, for small Qwen3 models on a CPU.

    Each prompt's draws come from its own seed, so they do not depend on the other prompts, nor on
    how many are drawn at once.
    """

    decoder = decode.Decoder

    def __init__(self, model, tokenizer):
        self.model, self.stops = model, torch.tensor(stop_ids(model, tokenizer))

    def generate(self, prompts, copies, decoding, seeds):
        """`copies` responses to each prompt, lists of ids -> tokens (N, T), lengths (N,)."""
        decoder, found = self.decoder(self.model), {}
        for places in pieces(list(map(len, prompts)), copies, decoding):
            drawn = self._drawn(decoder, places, prompts, copies, decoding, seeds)
            found |= dict(zip(places, drawn, strict=True))
        rows = [row for place in range(len(prompts)) for row in found[place]]
        return _padded(rows)

    def _drawn(self, decoder, places, prompts, copies, decoding, seeds):
        """The responses to the prompts at some places: for each prompt a list of tensors."""
        at_once = copies
        if len(places) == 1:  # a prompt whose copies may be too many by themselves
            own = len(prompts[places[0]]) + decoding.max_new_tokens
            at_once = min(copies, max(1, decoding.batch_tokens // own))
        generators = [torch.Generator().manual_seed(int(seeds[place])) for place in places]
        shape = copies, decoding.max_new_tokens
        draws = torch.stack([torch.rand(shape, generator=own) for own in generators])
        found = [[] for _ in places]
        for part in draws.split(at_once, 1):
            how = decoding.max_new_tokens, decoding.temperature, decoding.top_k, decoding.top_p
            given = [prompts[place] for place in places], part.shape[1], self.stops
            tokens, lengths = decoder.generate(*given, *how, part.flatten(0, 1))
            rows = [row[:n] for row, n in zip(tokens, lengths.tolist(), strict=True)]
            for k, own in enumerate(found):
                own += rows[k * part.shape[1] : (k + 1) * part.shape[1]]
        return found


class _Drawn(LogitsProcessor):
    """Leaves each row the token that its own draw falls on, so that `generate` takes that one.

    width: of the prompts; settings: temperature, top_k and top_p; draws: see `decode.Rows`.
    """

    def __init__(self, width, settings, draws):
        self.width, self.settings, self.draws = width, settings, draws

    def __call__(self, ids, logits):
        """Logits (N, V) after ids (N, width + t): 0 at the token drawn, else minus infinity."""
        tokens = decode.sample_from(
            logits, *self.settings, self.draws[:, ids.shape[1] - self.width]
        )
        return torch.full_like(logits, -torch.inf).scatter(1, tokens[:, None], 0.0)


class GenerateModel:
    """A model that `transformers.generate` reads, with the draws of `decode.Rows`."""

    def __init__(self, model):
        self.model = model

    @torch.no_grad()
    def generate(self, prompts, copies, stops, max_new_tokens, temperature, top_k, top_p, draws):
        """See `decode.Rows.generate`."""
        rows = [torch.tensor(prompt) for prompt in prompts for _ in range(copies)]
        pad, device = 0, self.model.device  # which is never attended to, nor part of a response
        ids = pad_sequence(rows, True, pad, "left")
        seen = pad_sequence([torch.ones_like(row) for row in rows], True, 0, "left")
        wanted = _undistorted(stops.tolist(), pad, max_new_tokens, do_sample=False)
        drawn = _Drawn(ids.shape[1], (temperature, top_k, top_p), draws.to(device))
        with _configured(self.model, wanted):
            out = self.model.generate(
                ids.to(device),
                attention_mask=seen.to(device),
                generation_config=wanted,
                logits_processor=LogitsProcessorList([drawn]),
            )
        tokens = out[:, ids.shape[1] :].cpu()
        ends = torch.isin(tokens, stops)
        return tokens, torch.where(ends.any(1), ends.int().argmax(1) + 1, tokens.shape[1])


class GenerateEngine(DecoderEngine):
    """Sampling by `transformers.generate`, for any causal language model."""

    decoder = GenerateModel


class CachedModel(decode.Rows):
    """A model that `policy.Policy` scores, as it stands, with a cache that is allocated once."""

    def __init__(self, model):
        self.model = unwrapped(model)
        config, self.device, self.dtype = self.model.config, model.device, model.dtype
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.sizes = config.num_hidden_layers, config.num_key_value_heads, dim

    def _logits(self, ids, positions, attend):
        """Logits (N, V) at the last of the ids (N, T), whose attention `attend` makes."""
        hidden = self.model.base_model(
            input_ids=ids,
            position_ids=positions,
            packed=SimpleNamespace(attend=attend),
            use_cache=False,
            # four dimensions: transformers makes no mask of its own
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device),
        ).last_hidden_state
        return self.model.get_output_embeddings()(hidden[:, -1])

    def _read(self, ids, pads, cache):
        positions, seen = decode.left_padded(ids.shape[1], pads)

        def attend(module, q, k, v, scaling):
            keys, values = (part[module.layer_idx] for part in cache)
            keys[..., : k.shape[2]], values[:, :, : k.shape[2]] = k.transpose(2, 3), v
            how = {"scale": scaling, "enable_gqa": True}
            return scaled_dot_product_attention(q, k, v, seen[:, None], **how).transpose(1, 2)

        return self._logits(ids, positions, attend)

    def _next(self, ids, position, cache, at, hidden):
        def attend(module, q, k, v, scaling):
            keys, values = (part[module.layer_idx] for part in cache)
            keys[..., at], values[:, :, at] = k[:, :, 0], v[:, :, 0]
            keys, values = keys[..., : at + 1], values[:, :, : at + 1]
            return decode.attend_one(q[:, :, 0] * scaling, keys, values, hidden)[:, None]

        return self._logits(ids[:, None], position[:, None], attend)


class CachedEngine(DecoderEngine):
    """Sampling by `CachedModel`, for any model that `policy.Policy` scores, on any device."""

    decoder = CachedModel

    def __init__(self, model, tokenizer):
        Policy(model)
        super().__init__(model, tokenizer)


ENGINES = {
    "auto": None,
    "generate": GenerateEngine,
    "vllm": VllmEngine,
}
_chosen = WeakKeyDictionary()  # model -> the class of its engine, where one was chosen


def choose(model, tokenizer, name):
    """Let `engine_for` give a model one of ENGINES from now on; ValueError if it cannot serve."""
    _chosen[model] = ENGINES[name]
    engine_for(model, tokenizer)


def engine_for(model, tokenizer):
    """The engine chosen for a model, or the fastest one here that fits it."""
    if _chosen.get(model):
        return _chosen[model](model, tokenizer)
    small = model.device.type == "cpu" and model.num_parameters() < 20_000_000
    if small and decode.fits(model):
        return DecoderEngine(model, tokenizer)
    config = unwrapped(model).config
    scored = config._attn_implementation == "shared_prefixes"
    # GPT-2 and OPT, whose positions are learned, count them otherwise and have no such setting.
    cached = scored and hasattr(config, "num_key_value_heads")
    return (CachedEngine if cached else GenerateEngine)(model, tokenizer)
