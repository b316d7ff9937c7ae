"""A tiny Llama, for what must hold of any causal language model."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pslib import policy


def save(tokenizer, folder, size=16, positions=512, **more):
    """Write a tiny Llama with random weights, and its tokenizer, to a folder -> the folder."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size,
        intermediate_size=2 * size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **more,
    )
    with policy.fork_rng(torch.device("cpu")):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
