"""What tests of engines share: generation configs that bend what is drawn, and how draws are held
against the exact softmax.
"""

import torch
from scipy.stats import chisquare
from transformers import GenerationConfig, WatermarkingConfig


def as_lists(drawn):
    return [row[:length] for row, length in zip(drawn[0].tolist(), drawn[1].tolist(), strict=True)]


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
