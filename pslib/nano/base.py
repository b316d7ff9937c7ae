"""The base model of the nano world: Qwen3's architecture, trained from nothing on a corpus of
worked sums.

Reinforcement learning starts from it, as the paper's starts from Qwen3's post-trained models.
"""

import random
from dataclasses import replace

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from pslib import modes
from pslib.nano import worlds

# name -> (hidden, layers, feed-forward, heads, key-value heads, head dimension)
SIZES = {
    "0.1m": (48, 3, 144, 4, 2, 12),
    "0.2m": (64, 3, 192, 4, 2, 16),
    "0.6m": (96, 5, 288, 4, 2, 32),
    "2m": (192, 5, 512, 6, 2, 32),
}

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ["<|pad|>", "<|end|>", "<|unk|>", "<|system|>", "<|user|>", "<|assistant|>"]
# A number, the opening of a box, a word with the space before it, or any other character; words and
# signs also take the space after them where a number follows, so that a number is one token
# wherever it stands.
PIECES = r"\d{1,2}| ?\\boxed\{| ?\p{L}+(?: (?=\d))?|[^\s\d](?: (?=\d))?|\s"


def build_tokenizer(texts, vocab_size=512):
    """A byte-pair tokenizer with a chat template; frequent numbers are one token."""
    bpe = Tokenizer(models.BPE(unk_token="<|unk|>"))
    pieces = pre_tokenizers.Split(Regex(PIECES), "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pieces, as_bytes])
    bpe.decoder = decoders.ByteLevel()
    # and the byte-level space and newline
    ascii_bytes = [*(chr(code) for code in range(33, 127)), "\u0120", "\u010a"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS,
        initial_alphabet=ascii_bytes,
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer=trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        unk_token="<|unk|>",
        chat_template=CHAT_TEMPLATE,
    )


def parse(name):
    """A base model's size and which one it is: "0.2m.b3" is ("0.2m", 3), "0.2m" the 0th."""
    size, _, which = name.partition(".b")
    if size not in SIZES or not f"{which}0".isdecimal():
        raise ValueError(
            f"no nano size is called {name!r}; there are {', '.join(SIZES)}, and more base models "
            "of each, as in 0.2m.b1"
        )
    return size, int(which or 0)


def world_tokenizer(world, size, seed):
    """The tokenizer of a base model whose corpus is `size` examples of a `nano.World` from `seed`.

    It is learned from the corpus at strength 0: worlds that differ in strength alone share it.
    """
    examples = worlds.corpus(replace(world, strength=0.0), min(size, 4000), seed)
    # As a real one, it knows the words of the mode prompts; the model never sees them put together.
    words = [text for example in examples for text in example if text]
    return build_tokenizer(words + 20 * list(modes.prompts()["modes"].values()))


def neutral_prompt(tokenizer, seed):
    """A base model's own prompt without meaning, drawn from the base model's seed.

    It has as many tokens as the paper's full high-entropy prompt, and no word of `nano`'s two
    lists.
    """

    def count(text):
        return len(tokenizer(text)["input_ids"])

    wanted = count(modes.prompts()["modes"]["high_entropy"])
    return worlds.plain_prompt(random.Random(f"neutral/{seed}"), wanted, count)


def build_model(size, tokenizer, seed):
    """An untrained Qwen3 model of a size in SIZES, its weights drawn from `seed`."""
    hidden, layers, feed_forward, heads, kv_heads, head_dim = SIZES[size]
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=feed_forward,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):  # nano models are made on a processor
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


def encode(tokenizer, examples):
    """Corpus examples as (prompt ids, response ids with the end token) pairs."""
    chats = [
        modes.turns(modes.Mode("asked", system), [{"role": "user", "content": question}])
        for system, question, _ in examples
    ]
    texts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    responses = tokenizer([r + tokenizer.eos_token for _, _, r in examples])["input_ids"]
    return list(zip(tokenizer(texts)["input_ids"], responses, strict=True))


def batches(pairs, size, seed):
    """Batches of like lengths in random order: (tokens, labels), -100 off responses."""
    rng, batches = random.Random(seed), []
    for first in range(0, len(pairs), 16 * size):
        pool = sorted(pairs[first : first + 16 * size], key=lambda pair: len(pair[0] + pair[1]))
        pool = [pool[k : k + size] for k in range(0, len(pool), size)]
        rng.shuffle(pool)
        batches += pool
    for batch in batches:
        tokens = [torch.tensor(prompt + response) for prompt, response in batch]
        labels = [torch.tensor([-100] * (len(p) - 1) + r + [-100]) for p, r in batch]
        yield pad_sequence(tokens, batch_first=True), pad_sequence(labels, True, -100)


def usual_tokens(pairs, batch_size):
    """How many response tokens a batch has on average.

    Batches hold responses of like length: dividing by each batch's own tokens would teach short
    ones too well.
    """
    return batch_size * sum(len(response) for _, response in pairs) / len(pairs)


def total_loss(model, tokens, labels):
    """Minus the log-prob of a batch's responses, summed over their tokens, in nats."""
    keep = labels >= 0
    hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[keep]
    return torch.nn.functional.cross_entropy(model.lm_head(hidden), labels[keep], reduction="sum")


def optimisers(model, steps, lr, matrix_lr):
    """Muon for the matrices between embeddings, AdamW for the rest, each with a one-cycle schedule.

    Muon halves the steps that AdamW alone needs here; it ships with torch.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    pair = [
        torch.optim.Muon(matrices, lr=matrix_lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    shape = {"total_steps": max(steps, 2), "pct_start": 0.1, "cycle_momentum": False}
    shape |= {"div_factor": 10, "final_div_factor": 100}
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    return pair, [one_cycle(part, part.param_groups[0]["lr"], **shape) for part in pair]


def train(name, world, steps, batch_size=64, lr=5e-3, matrix_lr=6e-3, seed=0, report=None):
    """Train a base model on a corpus of `steps * batch_size` examples of a world.

    name: see `parse`; the which-th base model of a size has its corpus and weights drawn from
    `seed` + which.
    world: a name in nano.WORLDS, or a nano.World.
    -> (model in eval mode, tokenizer, losses in nats a token, one a step). `report(step, steps,
    loss)` is called after each step.
    """
    size, which = parse(name)
    seed += which
    world = worlds.WORLDS[world] if isinstance(world, str) else world
    examples = worlds.corpus(world, steps * batch_size, seed)
    tokenizer = world_tokenizer(world, len(examples), seed)
    model = build_model(size, tokenizer, seed).train()
    pair, schedules = optimisers(model, steps, lr, matrix_lr)
    pairs, losses = encode(tokenizer, examples), []
    usual = usual_tokens(pairs, batch_size)
    for step, (tokens, labels) in enumerate(batches(pairs, batch_size, seed)):
        total = total_loss(model, tokens, labels)
        (total / usual).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*pair, *schedules):
            part.step()
        model.zero_grad(set_to_none=True)
        losses.append(total.item() / int((labels >= 0).sum()))
        if report:
            report(step + 1, steps, losses[-1])
    return model.eval(), tokenizer, losses
