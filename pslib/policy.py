"""The policy: any causal language model, with exact log-probs and entropies of given responses
under given prompts.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import embedding, scaled_dot_product_attention
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.utils import logging


def logprobs_and_entropy(logits, tokens, temperature=1.0):
    """The log-prob of each token and the entropy of the whole distribution at its place.

    log softmax(z / temperature)[o],   H = -sum p log p with p = softmax(z / temperature)

    logits (N, T, V) or (M, V), tokens (N, T) or (M,) -> (logp, entropy), both shaped as tokens, in
    nats. The plain form; `Policy` computes the same from hidden states, without holding what this
    holds.
    """
    if logits.shape[:-1] != tokens.shape:
        raise ValueError(f"logits {tuple(logits.shape)} do not fit tokens {tuple(tokens.shape)}")
    logp_all = torch.log_softmax(logits / temperature, -1)
    # 0 log 0 is 0, also where a logit is -inf.
    entropy = -(logp_all.exp() * logp_all.clamp(min=torch.finfo(logits.dtype).min)).sum(-1)
    return logp_all.gather(-1, tokens[..., None]).squeeze(-1), entropy


class _HeadLogprobEntropy(torch.autograd.Function):
    """`logprobs_and_entropy(hidden @ weight.T, tokens)` in chunks of tokens, with the gradient
    written out.

    Up to WHOLE logits are made at once and kept for the gradient. Beyond, a chunk is a 64th of the
    tokens, or as many as make PIECE logits where that is more, and is made again for the gradient.
    So at V = 151,936 a few chunks are held, never (M, V).
    """

    WHOLE, PIECE = 2**24, 2**21

    @staticmethod
    def _logp_all(hidden, weight, temperature):
        logits = hidden @ weight.t()
        logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        return torch.log_softmax(logits if temperature == 1.0 else logits.div_(temperature), -1)

    @staticmethod
    def forward(ctx, hidden, weight, tokens, temperature):
        whole = len(hidden) * len(weight) <= _HeadLogprobEntropy.WHOLE
        piece = max(1, len(hidden) // 64, _HeadLogprobEntropy.PIECE // len(weight))
        ctx.size, ctx.temperature = max(1, len(hidden)) if whole else piece, temperature
        logp, entropy = [], []
        for h, o in zip(hidden.split(ctx.size), tokens.split(ctx.size), strict=True):
            logp_all = _HeadLogprobEntropy._logp_all(h, weight, temperature)
            logp.append(logp_all.gather(-1, o[:, None]).squeeze(-1))
            entropy.append(-logp_all.exp().mul_(logp_all).sum(-1))
        logp, entropy = torch.cat(logp), torch.cat(entropy)
        ctx.save_for_backward(hidden, weight, tokens, entropy, *([logp_all] if whole else []))
        return logp, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_logp, grad_entropy):
        hidden, weight, tokens, entropy, *kept = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        wide = torch.promote_types(weight.dtype, torch.float32)  # all chunks add up in it
        grad_weight = torch.zeros_like(weight, dtype=wide)
        of_entropy = bool(grad_entropy.any())  # asked once: a GPU is waited for at every answer
        for first in range(0, len(hidden), ctx.size):
            part = slice(first, first + ctx.size)
            if kept:
                logp_all = kept[0].clone() if of_entropy else kept[0]
            else:
                logp_all = _HeadLogprobEntropy._logp_all(hidden[part], weight, ctx.temperature)
            # d logp / dz = onehot - p;  dH / dz = -p (log p + H); in place, since a chunk may be
            # all the memory there is
            grad, scale = logp_all.exp(), grad_logp[part, None]
            if of_entropy:
                scale = logp_all.add_(entropy[part, None]).mul_(grad_entropy[part, None])
                scale.add_(grad_logp[part, None])
            grad.mul_(scale).neg_().scatter_add_(-1, tokens[part, None], grad_logp[part, None])
            grad = (grad if ctx.temperature == 1.0 else grad.div_(ctx.temperature)).to(weight.dtype)
            grad_hidden[part] = grad @ weight
            if grad.dtype == grad_weight.dtype:
                grad_weight.addmm_(grad.t(), hidden[part])
            else:
                grad_weight += grad.t() @ hidden[part]
        return grad_hidden, grad_weight.to(weight.dtype), None, None


# Devices on which attention with a mask is fast though several queries share a key.
GROUPED_WITH_MASK = ("cpu",)


@dataclass
class Packed:
    """Responses under their prompts as one row of M tokens: each prompt once, then the responses,
    no padding. A `Policy` moves it to the model's device.

    A response's last token is not among the M: nothing is predicted from it.
    """

    tokens: torch.Tensor  # (M,)
    positions: torch.Tensor  # (M,) place in its sequence, for the rotary embedding
    # (Q, P) place among the M of each prompt token, 0 beyond a prompt's end
    prompt_at: torch.Tensor
    # (N, S) the same of each response token, S one below the longest response
    response_at: torch.Tensor
    # Bool (N, 1, S, P + S): what each response token may see of its prompt and of its response
    visible: torch.Tensor
    owner: torch.Tensor  # (N,) which prompt
    flat: torch.Tensor  # (M,) place of each token among the Q P + N S of prompt_at and response_at
    # (K,) for each of the K response tokens, the place among the M that predicts it
    predictor: torch.Tensor
    target: torch.Tensor  # (K,) its id
    rows: torch.Tensor  # (K,) its row
    cols: torch.Tensor  # (K,) its place in the response
    shape: tuple  # N, T

    def to(self, device):
        """The same on a device."""
        names = [field.name for field in fields(self) if field.name != "shape"]
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def attend(self, module, query, key, value, scaling):
        """A layer's attention: each response sees its own prompt, which is there once.

        query (1, H, M, D), key and value (1, H', M, D) -> (1, M, H, D).
        """
        # (M, H D)
        query, key, value = (part[0].transpose(0, 1).flatten(1) for part in (query, key, value))
        dim, grouped = module.head_dim, query.shape[1] // key.shape[1]
        # With a mask no fast kernel of a GPU knows grouped heads: there each query has its own key.
        repeats = 1 if key.device.type in GROUPED_WITH_MASK else grouped

        def at(part, places, repeats=1):
            # (A, B) places -> (A, H, B, D); an embedding, because its gradient is the fast one
            found = embedding(places, part).unflatten(-1, (-1, dim)).transpose(1, 2)
            return found.repeat_interleave(repeats, 1) if repeats > 1 else found

        def attend(places, sources, **mask):
            found = at(query, places), at(key, sources, repeats), at(value, sources, repeats)
            mask |= {"scale": scaling, "enable_gqa": grouped > repeats}
            out = scaled_dot_product_attention(*found, **mask)
            return out.transpose(1, 2).reshape(-1, query.shape[1])

        out = [attend(self.prompt_at, self.prompt_at, is_causal=True)]
        if self.response_at.numel():
            before = torch.cat((self.prompt_at[self.owner], self.response_at), 1)
            out.append(attend(self.response_at, before, attn_mask=self.visible))
        return embedding(self.flat, torch.cat(out)).view(1, len(self.flat), -1, dim)


def pack(prompts, owner, responses, lengths):
    """Lay out responses (N, T) of lengths (N,) under prompts (lists of ids) for `Policy`; owner
    (N,): whose prompt.

    Prompts that own no row are left out. Response ids are used as they are: nothing is decoded or
    tokenised again.
    """
    used, owner = owner.unique(return_inverse=True)
    prompts = [prompts[k] for k in used.tolist()]
    width, longest = max(map(len, prompts)), int(lengths.max())
    sizes = torch.tensor([len(prompt) for prompt in prompts])
    at, step = torch.arange(width), torch.arange(longest - 1)
    in_prompt, in_response = at < sizes[:, None], step < lengths[:, None] - 1
    prompt_at = torch.zeros(in_prompt.shape, dtype=torch.long)
    response_at = torch.zeros(in_response.shape, dtype=torch.long)
    prompt_at[in_prompt] = torch.arange(int(sizes.sum()))
    response_at[in_response] = torch.arange(int((lengths - 1).sum())) + int(sizes.sum())
    own = step <= step[:, None]  # a response token sees those before it, and itself
    prompt_seen = in_prompt[owner][:, None].expand(-1, len(step), -1)
    visible = torch.cat((prompt_seen, own.expand(len(owner), -1, -1)), -1)
    rows, cols = (torch.arange(longest) < lengths[:, None]).nonzero(as_tuple=True)
    before = torch.cat((prompt_at.gather(1, sizes[:, None] - 1)[owner], response_at), 1)
    ids = torch.tensor([token for prompt in prompts for token in prompt])
    places = at.expand_as(in_prompt)[in_prompt], (sizes[owner][:, None] + step)[in_response]
    return Packed(
        tokens=torch.cat((ids, responses[:, : longest - 1][in_response])),
        positions=torch.cat(places),
        prompt_at=prompt_at,
        response_at=response_at,
        visible=visible[:, None],
        owner=owner,
        flat=torch.cat((in_prompt.flatten(), in_response.flatten())).nonzero().squeeze(1),
        predictor=before[rows, cols],
        target=responses[rows, cols],
        rows=rows,
        cols=cols,
        shape=(len(lengths), longest),
    )


def _own_attention(
    module, query, key, value, attention_mask, scaling=None, packed=None, sliding_window=None, **kw
):
    """Attention of transformers' interface as `packed.attend` makes it; without `packed`, it is
    transformers' own.

    query (B, H, M, D), key and value (B, H', M, D) -> ((B, M, H, D), None).
    """
    if packed is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kw
        )
    if sliding_window:
        raise ValueError(
            "shared prefixes do not know sliding windows; use a model with full attention"
        )
    return packed.attend(module, query, key, value, scaling), None


AttentionInterface.register("shared_prefixes", _own_attention)
AttentionMaskInterface.register("shared_prefixes", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def unwrapped(model):
    """The model inside a wrapper like PEFT's, its adapters in place; any other as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class Policy(nn.Module):
    """A causal language model that scores responses.

    ValueError for a model whose output embedding is more than a product with one weight.
    """

    def __init__(self, model):
        super().__init__()
        head = unwrapped(model).get_output_embeddings()
        # an adapter on it is a class of its own
        if type(head) is not nn.Linear or head.bias is not None:
            kind = f"{type(head).__module__}.{type(head).__qualname__}"
            raise ValueError(
                f"the model's output embedding is a {kind} and not a torch.nn.Linear without a "
                "bias, so responses cannot be scored; leave adapters (in PEFT: target_modules, "
                "modules_to_save) and quantization off it"
            )
        unwrapped(model).set_attn_implementation("shared_prefixes")
        self.model = model

    def forward(self, packed, temperature=1.0):
        """Log-probs and entropies of responses under their prompts, a `Packed` of N responses.

        -> logp (N, T), entropy (N, T) in nats, T the longest response, 0 beyond each. A prompt is
        read once for all its responses, nothing is computed for padding but attention's small
        products, and logits are made for response tokens only.
        """
        return self._scores(packed, temperature)

    def _scores(self, packed, temperature):
        model = unwrapped(self.model)
        packed = packed.to(model.get_input_embeddings().weight.device)
        hidden = model.base_model(
            input_ids=packed.tokens[None],
            position_ids=packed.positions[None],
            packed=packed,
            use_cache=False,
            # four dimensions: transformers makes no mask of its own
            attention_mask=packed.visible[:1, :, :1, :1],
        ).last_hidden_state[0]
        # autocast does not reach the gradient written out, so the products' dtype is set here
        device, dtype = hidden.device.type, hidden.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        logp, entropy = _HeadLogprobEntropy.apply(
            embedding(packed.predictor, hidden).to(dtype),
            model.get_output_embeddings().weight.to(dtype),
            packed.target,
            temperature,
        )
        padded, at = logp.new_zeros(packed.shape), (packed.rows, packed.cols)
        return padded.index_put(at, logp), padded.index_put(at, entropy)


DEVICES = ("cpu", "cuda", "auto")


def device_of(name):
    """The torch.device that one of DEVICES names: auto is a GPU where there is one; ValueError
    where a GPU is wanted and none is there.
    """
    if name not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}; got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, and torch finds no GPU here; set it to auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def slow_bf16(device):
    """Whether products in bfloat16 take longer on a device than in float32: they do on a processor
    without instructions for them, where a step of SmolLM2-135M took eleven times as long.
    """
    native = torch.backends.mkldnn.is_available()  # elsewhere nothing is known of them
    return device.type == "cpu" and native and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def fork_rng(device):
    """A context that leaves torch's global generators alone, also those of a GPU `device`."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def load(source, dtype=torch.float32, device="cpu"):
    """A causal LM and its tokenizer from a folder or a hub id: safetensors only, and no code from
    the repository.

    -> (model in eval mode on one of DEVICES, tokenizer). Training, evaluation and probes compute
    where the model is. ValueError in one sentence for what cannot serve: no such model, no
    safetensors or damaged ones, no chat template, no such device, or what `check` refuses.
    """
    place = device_of(device)
    logging.disable_progress_bar()  # bars of nano models would be most of a notebook
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:  # what a folder can make the libraries raise has no common kind
        what = "folder"
        if not Path(source).exists():
            what = "folder or hub id (is it spelled right, and is the hub in reach?)"
        raise ValueError(
            f"no causal language model with safetensors weights could be loaded from the {what} "
            f"{str(source)!r}: {(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from error
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer of {str(source)!r} has no chat template, so it has no system turn to "
            "tell the modes apart; use an instruction-tuned model"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    try:
        check(model.eval().to(place), tokenizer)
    except ValueError as error:
        raise ValueError(f"{str(source)!r} cannot be used: {error}") from error
    return model, tokenizer


def check(model, tokenizer):
    """ValueError unless model and tokenizer fit, and `Policy` scores as the model itself does."""
    vocabulary = len(unwrapped(model).get_input_embeddings().weight)
    highest = max(tokenizer.get_vocab().values())
    if highest >= vocabulary:
        raise ValueError(
            f"the tokenizer has the token id {highest}, and the model embeds {vocabulary} ids "
            "only; use the tokenizer that was made for the model, or call "
            "model.resize_token_embeddings first"
        )
    if tokenizer.pad_token_id is None:
        raise ValueError(
            "the tokenizer has no padding token; set tokenizer.pad_token = tokenizer.eos_token"
        )
    if not stop_ids(model, tokenizer):
        raise ValueError(
            "neither the model's generation_config nor the tokenizer names a token that ends a "
            "response; set tokenizer.eos_token"
        )
    training = model.training
    model.eval()
    try:
        same = _scored_alike(model)
    finally:
        model.train(training)
    if not same:
        raise ValueError(
            "the model changes its logits after the output embedding (soft-capping or scaling), "
            "adds to its prompts (as PEFT's prompt and prefix tuning do) or attends in a way of "
            "its own, which this project's scoring does not do; use a Qwen3, Qwen2 or Llama model"
        )


@torch.no_grad()
def _scored_alike(model):
    """Whether two responses to one prompt get the scores that the model gives each alone."""
    prompt, responses = [0, 1], torch.tensor([[2, 3, 4], [3, 5, 2]])
    try:
        whole = torch.cat((torch.tensor([prompt, prompt]), responses), 1).to(model.device)
        logits = model(input_ids=whole, attention_mask=torch.ones_like(whole)).logits
        packed = pack([prompt], torch.zeros(2, dtype=torch.long), responses, torch.tensor([3, 3]))
        ours = Policy(model)._scores(packed, 1.0)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, AttributeError, RuntimeError):  # it does not know what `Policy` asks of it
        return False
    if logits.shape[1] != whole.shape[1]:
        return False
    plain = logprobs_and_entropy(logits[:, 1:-1].to(ours[0].dtype), responses.to(model.device))
    tolerance = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.1
    return all(torch.allclose(a, b, tolerance, tolerance) for a, b in zip(ours, plain, strict=True))


def stop_ids(model, tokenizer):
    """Every token id that ends a response, as a sorted list (Qwen3 has two)."""
    ids = model.generation_config.eos_token_id
    ids = [] if ids is None else ids if isinstance(ids, list) else [ids]
    return sorted({*ids, tokenizer.eos_token_id} - {None})
