"""Fast sampling from small Qwen3 models on a CPU: the same tokens as `transformers.generate`, in a fraction of its time.

Below a few million parameters, decoding time is dispatch and cache copies, not arithmetic. So: projections are packed,
the key-value cache is allocated once, a question's prompt is read once for all its responses, rows that have ended
are dropped, and prompts are taken in groups of one length, so that nothing is padded or masked.
"""

import torch
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu


def _rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def sample_from(logits, temperature, top_k, top_p, draws):
    """One token a row from logits (N, V): softmax at a temperature, cut to top_k (0: all) and top_p; greedy at 0.

    draws (N,) are uniform in [0, 1): each row's place in its own cumulative distribution.
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits / temperature
    if top_k:
        kth = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p < 1:
        ranked, order = logits.sort(-1, descending=True)
        probs = ranked.softmax(-1)
        outside = probs.cumsum(-1) - probs >= top_p
        logits = logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
    cumulative = logits.softmax(-1).cumsum(-1)
    return (cumulative <= draws[:, None] * cumulative[:, -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)


class Decoder:
    """A Qwen3 model's weights, packed for decoding. Make a new one after every update of the model."""

    def __init__(self, model):
        config = self.config = model.config
        if config.model_type != "qwen3":
            raise ValueError(f"this decoder is for Qwen3 models; got {config.model_type}")
        self.embedding, self.head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        self.final_norm, self.eps = model.model.norm.weight, config.rms_norm_eps
        self.rotary = model.model.rotary_emb
        self.layers = [(
            layer.input_layernorm.weight,
            torch.cat([layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight, layer.self_attn.v_proj.weight]),
            layer.self_attn.q_norm.weight, layer.self_attn.k_norm.weight, layer.self_attn.o_proj.weight,
            layer.post_attention_layernorm.weight,
            torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight]), layer.mlp.down_proj.weight,
        ) for layer in model.model.layers]

    def _forward(self, ids, cache, at):
        """Logits (N, V) after ids (N, S), whose keys and values go into the cache from position `at` on."""
        config, (n, s) = self.config, ids.shape
        heads, kv, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        x = self.embedding[ids]
        cos, sin = (part[:, :, None] for part in self.rotary(x, torch.arange(at, at + s)[None]))
        for (norm_in, qkv, q_norm, k_norm, out, norm_mlp, gate_up, down), keys, values in zip(self.layers, *cache):
            packed = linear(rms_norm(x, x.shape[-1:], norm_in, self.eps), qkv).view(n, s, heads + 2 * kv, dim)
            q = _rotate(rms_norm(packed[:, :, :heads], (dim,), q_norm, self.eps), cos, sin)
            keys[:, :, at : at + s] = _rotate(rms_norm(packed[:, :, heads : heads + kv], (dim,), k_norm, self.eps),
                                              cos, sin).transpose(1, 2)
            values[:, :, at : at + s] = packed[:, :, heads + kv :].transpose(1, 2)
            k, v = keys[:, :, : at + s], values[:, :, : at + s]
            if s == 1:  # the queries that share a key-value head attend as if they were a sequence
                mixed = scaled_dot_product_attention(q.view(n, kv, heads // kv, dim), k, v).reshape(n, 1, heads * dim)
            else:
                mixed = scaled_dot_product_attention(q.transpose(1, 2), k, v, is_causal=True, enable_gqa=True)
                mixed = mixed.transpose(1, 2).reshape(n, s, heads * dim)
            x = x + linear(mixed, out)
            gate, up = linear(rms_norm(x, x.shape[-1:], norm_mlp, self.eps), gate_up).chunk(2, -1)
            x = x + linear(silu(gate) * up, down)
        return linear(rms_norm(x[:, -1], x.shape[-1:], self.final_norm, self.eps), self.head)

    @torch.no_grad()
    def generate(self, prompts, copies, stops, max_new_tokens, temperature, top_k, top_p, draws):
        """`copies` responses to each of K prompts of one length: prompts (K, P) -> tokens (K copies, T), lengths.

        draws (K copies, max_new_tokens) are uniform in [0, 1), one a token, so that a row's do not depend on which other
        rows there are or when they end. Rows of one prompt are neighbours. A response ends with its stop token, which is
        part of it, or at max_new_tokens; beyond its length a row holds 0.
        """
        config, (count, width) = self.config, prompts.shape
        rows, dtype = count * copies, self.embedding.dtype
        shape = (config.num_hidden_layers, count, config.num_key_value_heads, width + max_new_tokens, config.head_dim)
        cache = [torch.empty(shape, dtype=dtype) for _ in range(2)]
        logits = self._forward(prompts, cache, 0).repeat_interleave(copies, 0)
        cache = [part.repeat_interleave(copies, 1) for part in cache]
        tokens = torch.zeros(rows, max_new_tokens, dtype=torch.long)
        lengths = torch.full((rows,), max_new_tokens)
        live, ended = torch.arange(rows), torch.zeros(rows, dtype=torch.bool)
        for t in range(max_new_tokens):
            drawn = sample_from(logits, temperature, top_k, top_p, draws[live, t])
            tokens[live[~ended], t] = drawn[~ended]
            stop = torch.isin(drawn, stops) & ~ended
            lengths[live[stop]] = t + 1
            ended |= stop
            if ended.all() or t + 1 == max_new_tokens:
                break
            if ended.sum() > len(live) // 4:
                stay = (~ended).nonzero().squeeze(1)
                live, ended, drawn, cache = live[stay], ended[stay], drawn[stay], [part[:, stay] for part in cache]
            logits = self._forward(drawn[:, None], cache, width + t)
        return tokens[:, : int(lengths.max())], lengths
