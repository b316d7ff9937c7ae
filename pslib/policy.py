"""The policy: any causal language model, with exact log-probs and entropies of given responses under given prompts."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

logging.disable_progress_bar()  # a bar for every load of a nano model would be most of a notebook


class _LogprobEntropy(torch.autograd.Function):
    """log_softmax(z)[token] and its entropy in one pass, saving one tensor the size of z for both gradients."""

    @staticmethod
    def forward(ctx, logits, tokens):
        logp_all = torch.log_softmax(logits, -1)
        p = logp_all.exp()
        entropy = -(p * logp_all).sum(-1)
        ctx.save_for_backward(logp_all, tokens, entropy)
        return logp_all.gather(-1, tokens[..., None]).squeeze(-1), entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_logp, grad_entropy):
        logp_all, tokens, entropy = ctx.saved_tensors
        p = logp_all.exp()
        # d logp / dz = onehot - p;  dH / dz = -p (log p + H)
        grad = -grad_logp[..., None] * p
        grad.scatter_add_(-1, tokens[..., None], grad_logp[..., None])
        if grad_entropy.any():
            grad -= grad_entropy[..., None] * p * (logp_all + entropy[..., None])
        return grad, None


def logprobs_and_entropy(logits, tokens, temperature=1.0):
    """The log-prob of each token and the entropy of the whole distribution it was drawn from.

    log softmax(z / temperature)[o],   H = logsumexp(z) - sum softmax(z) z

    logits (N, T, V) or (M, V), tokens (N, T) or (M,) -> (logp, entropy), both shaped as tokens, in nats, both
    differentiable once.
    """
    if logits.shape[:-1] != tokens.shape:
        raise ValueError(f"logits {tuple(logits.shape)} do not fit tokens {tuple(tokens.shape)}")
    return _LogprobEntropy.apply(logits if temperature == 1.0 else logits / temperature, tokens)


class Policy(nn.Module):
    """A causal language model that scores responses; `forward` is what is trained, and what accelerate wraps."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens, starts, lengths, temperature=1.0):
        """Log-probs and entropies of responses under their prompts.

        tokens (N, L): prompt, response, padding on the right; starts (N,): where the response begins, at least 1;
        lengths (N,): its tokens -> logp (N, T), entropy (N, T) in nats, T the longest response, 0 beyond each.

        Padding is on the right alone, so causal attention never sees it and no attention mask is needed. Logits are
        made for response tokens only: (N, L, V) never exists.
        """
        hidden = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        steps = torch.arange(int(lengths.max()), device=tokens.device)
        rows, cols = (steps < lengths[:, None]).nonzero(as_tuple=True)
        places = starts[rows] + cols
        logits = self.model.get_output_embeddings()(hidden[rows, places - 1]).float()
        logp, entropy = logprobs_and_entropy(logits, tokens[rows, places], temperature)
        padded = logp.new_zeros(len(tokens), len(steps))
        return padded.index_put((rows, cols), logp), padded.index_put((rows, cols), entropy)


def pack(prompts, responses, lengths):
    """Lay prompts (list of N lists of ids) and responses (N, T), lengths (N,) side by side, as `Policy` takes them.

    -> tokens (N, L), starts (N,). Response ids are used as they are: nothing is decoded or tokenised again.
    """
    starts = torch.tensor([len(p) for p in prompts])
    tokens = torch.zeros(len(prompts), int((starts + lengths).max()), dtype=torch.long)
    for row, (prompt, response, length) in enumerate(zip(prompts, responses, lengths.tolist())):
        tokens[row, : len(prompt)] = torch.as_tensor(prompt)
        tokens[row, len(prompt) : len(prompt) + length] = response[:length]
    return tokens, starts


def load(source, dtype=torch.float32):
    """A causal LM and its tokenizer from a folder or a hub id: safetensors only, and no code from the repository.

    -> (model in eval mode, tokenizer). ValueError in one sentence for what cannot serve: no such model, no
    safetensors or damaged ones, no chat template, or logits that are not the output embedding of the last hidden state.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    except Exception as error:  # what a folder can make the libraries raise has no common kind
        what = "folder" if Path(source).exists() else "folder or hub id (is it spelled right, and is the hub in reach?)"
        raise ValueError(f"no causal language model with safetensors weights could be loaded from the {what} "
                         f"{str(source)!r}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
    if not tokenizer.chat_template:
        raise ValueError(f"the tokenizer of {str(source)!r} has no chat template, so it has no system turn to tell the "
                         "modes apart; use an instruction-tuned model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.eval()
    probe = torch.arange(3)[None]
    with torch.no_grad():
        ours = model.get_output_embeddings()(model.base_model(input_ids=probe).last_hidden_state)
        if not torch.allclose(ours, model(input_ids=probe).logits, atol=1e-3):
            raise ValueError(f"{str(source)!r} changes its logits after the output embedding (soft-capping or scaling), "
                             "which this project's scoring does not do; use a Qwen3, Qwen2 or Llama model")
    return model, tokenizer


def stop_ids(model, tokenizer):
    """Every token id that ends a response, as a sorted list (Qwen3 has two)."""
    ids = model.generation_config.eos_token_id
    ids = [] if ids is None else ids if isinstance(ids, list) else [ids]
    return sorted({*ids, tokenizer.eos_token_id} - {None})
