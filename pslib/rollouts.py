"""Rollouts: responses drawn in one or both modes, kept as the token ids that were drawn.

An engine is anything with `generate(prompts, copies, decoding, seeds) -> (tokens (N, T), lengths (N,))`, rows of one
prompt being neighbours, and seeds one number a prompt. Two are here: `generate` of transformers for any model, and
`decode` for nano models, which draws the same responses to a prompt whatever other prompts it is given.
"""

from dataclasses import dataclass

import torch

from pslib import decode, modes, rewards
from pslib.policy import stop_ids


@dataclass(frozen=True)
class Decoding:
    """How tokens are drawn: temperature (0 is greedy), top_k (0: all), top_p, and the most tokens of a response."""

    temperature: float
    top_k: int
    top_p: float
    max_new_tokens: int


@dataclass
class Rollouts:
    """R responses to a step's questions, grouped by question."""

    question_ids: list  # R texts
    group_ids: torch.Tensor  # (R,) place of the question in the step
    modes: list  # R names: the mode that each was sampled in
    tokens: torch.Tensor  # (R, T) response ids, padding beyond each length
    lengths: torch.Tensor  # (R,) response tokens, the stop token included
    texts: list  # R responses, decoded for grading and reading only
    rewards: torch.Tensor  # (R,) 0.0 or 1.0

    @property
    def mask(self):
        """bool (R, T): True on response tokens."""
        return torch.arange(self.tokens.shape[1]) < self.lengths[:, None]


def unfinished(rollouts, stops):
    """bool (R,): the responses that ran into their length limit, their last token being none of the ids that end one."""
    return ~torch.isin(rollouts.tokens.gather(1, rollouts.lengths[:, None] - 1).squeeze(1), torch.tensor(stops))


class GenerateEngine:
    """Sampling by `transformers.generate`, for any causal language model."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer

    @torch.no_grad()
    def generate(self, prompts, copies, decoding, seeds):
        """`copies` responses to each prompt (list of lists of ids) -> tokens (N, T), lengths (N,).

        All rows draw from one stream, seeded by the first prompt's seed, so responses depend on the batch.
        """
        prompts = [prompt for prompt in prompts for _ in range(copies)]
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.tokenizer.pad_token_id)
        seen = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :], seen[row, width - len(prompt) :] = torch.tensor(prompt), 1
        # top_k must be set: when sampling, generate takes 50 although the config shows none.
        drawing = {"do_sample": False} if decoding.temperature == 0 else {
            "do_sample": True, "temperature": decoding.temperature, "top_k": decoding.top_k, "top_p": decoding.top_p}
        device = self.model.device
        with torch.random.fork_rng():  # generate draws from the global generator: seed it, then restore
            torch.manual_seed(int(seeds[0]))
            out = self.model.generate(ids.to(device), attention_mask=seen.to(device),
                                      max_new_tokens=decoding.max_new_tokens, **drawing)
        tokens = out[:, width:].cpu()
        stops = torch.isin(tokens, torch.tensor(stop_ids(self.model, self.tokenizer)))
        lengths = torch.where(stops.any(1), stops.int().argmax(1) + 1, tokens.shape[1])
        return tokens, lengths


class DecoderEngine:
    """Sampling by `decode.Decoder`, for small Qwen3 models on a CPU."""

    def __init__(self, model, tokenizer):
        self.model, self.stops = model, torch.tensor(stop_ids(model, tokenizer))

    def generate(self, prompts, copies, decoding, seeds):
        """`copies` responses to each prompt (list of lists of ids) -> tokens (N, T), lengths (N,)."""
        draws = torch.cat([torch.rand(copies, decoding.max_new_tokens, generator=torch.Generator().manual_seed(int(seed)))
                           for seed in seeds])
        return decode.Decoder(self.model).generate(prompts, copies, self.stops, decoding.max_new_tokens,
                                                   decoding.temperature, decoding.top_k, decoding.top_p, draws)


def engine_for(model, tokenizer):
    """The fastest engine here that fits a model."""
    small = model.config.model_type == "qwen3" and model.device.type == "cpu" and model.num_parameters() < 20_000_000
    return (DecoderEngine if small else GenerateEngine)(model, tokenizer)


def render_all(tokenizer, mode, questions, decoding, context):
    """Every question's prompt under a mode; ValueError if one leaves no room for its response in the context."""
    prompts = [modes.render(tokenizer, mode, q["question"]) for q in questions]
    for question, prompt in zip(questions, prompts):
        if len(prompt) + decoding.max_new_tokens > context:
            raise ValueError(f"question {question['id']} takes {len(prompt)} tokens in {mode.name} mode, which with "
                             f"max_new_tokens={decoding.max_new_tokens} is more than the model's context of {context}; "
                             "shorten the question or lower max_new_tokens")
    return prompts


def sample(engine, tokenizer, questions, prompts, group_size, decoding, generator):
    """Draw group_size responses to each question, in equal parts from each mode, and grade them.

    questions: Q rows with id and answer; prompts: {mode name: Q prompts} of the modes that sample -> Rollouts with
    R = Q group_size. Policy Split draws G/2 in each mode (eq. 10), so G must be even there. The generator gives each mode
    and question a seed of its own.
    """
    if group_size % len(prompts):
        raise ValueError(f"group_size {group_size} cannot be split evenly over the modes {', '.join(prompts)}; "
                         f"choose a multiple of {len(prompts)}")
    copies = group_size // len(prompts)
    every = [prompt for rendered in prompts.values() for prompt in rendered]  # all modes in one batch
    tokens, lengths = engine.generate(every, copies, decoding, torch.randint(2**62, (len(every),), generator=generator))
    group_ids = torch.arange(len(questions)).repeat_interleave(copies).repeat(len(prompts))
    texts = tokenizer.batch_decode([t[:n] for t, n in zip(tokens.tolist(), lengths.tolist())], skip_special_tokens=True)
    rows = [questions[g] for g in group_ids.tolist()]
    return Rollouts(
        question_ids=[q["id"] for q in rows], group_ids=group_ids,
        modes=[name for name in prompts for _ in range(len(questions) * copies)],
        tokens=tokens, lengths=lengths, texts=texts,
        rewards=torch.tensor([rewards.grade(text, q["answer"]) for text, q in zip(texts, rows)]),
    )
