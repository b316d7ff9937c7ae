"""Benchmarks on a CPU, ours and a peer's in one run and in turns: `make bench`.

Every pair is measured one after the other on one thread, PAIRS times after warm-up; a row holds
medians, the ratio of the medians, and the smallest and largest ratio of a pair; what a row should
reach stands in GOALS. Questions are the nano world's, weights are random, and the stop token lies
outside the model's vocabulary, so that every response has exactly the tokens that are asked for.
"""

import dataclasses
import itertools
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from pslib import methods, modes, policy, rewards, rollouts, tasks, train
from pslib.evidence import figures
from pslib.lab import engines, runs
from pslib.lab.settings import Training
from pslib.nano import base, worlds

PAIRS, WARM_UP = 7, 2
GROUP, NEW = 8, 64
SHAPES = {
    "0.2M": base.SIZES["0.2m"],
    "1M": (128, 5, 384, 4, 2, 32),
    "3M": (192, 7, 512, 6, 2, 32),
    "10M": (320, 8, 960, 10, 5, 32),
}
MODES = modes.NORMAL, modes.he_mode("high_entropy_short")
SPLIT, GRADING = (
    "Policy Split step against GRPO step",
    "grading a nano answer, milliseconds at the median",
)
PRETRAINED = "sampling from a model of SmolLM2-135M's shape against generate, 64 rows"
WITHIN = 0.05  # of what twice the training makes of GRPO's step, see `judged`
# What each case should reach; a case that is not here stands for itself.
GOALS = {
    "GRPO step against TRL, 0.2M": "<= 0.5",
    "GRPO step against TRL, 1M": "<= 0.7",
    "GRPO step against TRL, 3M": "<= 0.75",
    "decoding against generate, 0.2M, batch 8": "<= 0.4",
    "decoding against generate, 1M, batch 64": "<= 0.75",
    "training with 25% of the groups live against all live, 0.2M": "<= 0.3",
    "training with 50% of the groups live against all live, 0.2M": "<= 0.55",
    "training with 75% of the groups live against all live, 0.2M": "<= 0.8",
    "shared prefixes against repeated, 0.2M": "<= 0.65",
    "shared prefixes against repeated, 1M": "<= 0.65",
    "log-prob and entropy at V = 151,936: extra memory over the full logits'": "<= 0.1",
    "tokens computed on padding, scoring and training": "<= 0.05",
    GRADING: "<= 0.2",
    PRETRAINED: "<= 0.667",
    "training throughput over the matrix-product peak, 0.2M": ">= 0.15",
    "training throughput over the matrix-product peak, 1M": ">= 0.3",
    "training throughput over the matrix-product peak, 3M": ">= 0.4",
    "exponent of step time in responses": "<= 1.05",
}
COLUMNS = [
    "case",
    "ours_s",
    "peer_s",
    "ratio",
    "ratio_min",
    "ratio_max",
    "sample_s",
    "train_s",
    "goal",
    "met",
    "note",
]


# --- what is measured -----------------------------------------------------------------------------
@cache
def tokenizer():
    """The nano tokenizer, with a stop token that no nano model can draw."""
    examples = worlds.corpus(worlds.WORLDS["rare"], 2000, seed=0)
    made = base.build_tokenizer([text for example in examples for text in example if text])
    made.add_special_tokens({"eos_token": "<|never|>"})
    return made


def model(size):
    with patch.dict(base.SIZES, {size: SHAPES[size]}):
        made = base.build_model(size, tokenizer(), seed=0)
    made.resize_token_embeddings(len(tokenizer()) - 1)  # all but the stop token
    made.config.max_position_embeddings = 2048
    return made


def run_of(size, method="grpo", new=NEW, **changes):
    settings = Training(
        steps=1,
        questions=8,
        group_size=GROUP,
        pool=512,
        learning_rate=1e-5,
        max_new_tokens=new,
        measure_every=10**9,
        **changes,
    )
    with no_check():
        return train.Run(model(size), tokenizer(), methods.get(method), MODES, settings, seed=0)


def no_check():
    """Let a run begin whose tokenizer has one token that the model lacks: the stop token."""
    return patch.object(policy, "check")


@cache
def questions():
    return list(tasks.load("train", 512, "tuning"))


def graded(live=1.0):
    """Rewards by place: every live group half right, the share 1 - live of the groups all wrong."""

    def sampled(*args, sample=rollouts.sample, **kwargs):
        out = sample(*args, **kwargs)
        place = torch.arange(len(out.rewards))
        dead = out.group_ids >= live * (int(out.group_ids.max()) + 1)
        return dataclasses.replace(out, rewards=torch.where(dead, 0.0, (place % 2).float()))

    return patch.object(rollouts, "sample", sampled)


# --- how ------------------------------------------------------------------------------------------
def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turns(ours, peer, pairs=PAIRS):
    """Seconds of two calls, one after the other: [(ours, peer), ...]."""
    for _ in range(WARM_UP):
        ours(), peer()
    return [(seconds(ours), seconds(peer)) for _ in range(pairs)]


def row(case, times, note="", **more):
    ours, peer = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = [a / b for a, b in times]
    return {
        "case": case,
        "ours_s": ours,
        "peer_s": peer,
        "ratio": ours / peer,
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "note": note,
        **more,
    }


def figure_row(case, value, note=""):
    return {"case": case, "ratio": value, "note": note}


def judged(table):
    """A table of cases, this run's or a committed one, with what each should reach, `goal`, and
    whether it did, `met`.

    Policy Split samples what GRPO samples and trains on each response twice, so its step should
    take (s + 2t) / (s + t) of GRPO's, within 5%: s and t are the seconds that GRPO's steps spent on
    sampling and on training in the same benchmark (columns sample_s and train_s). Blank where those
    were not recorded, and for a case without a goal.
    """
    table = table.reindex(columns=COLUMNS).astype({"goal": object, "met": object})
    for at, case in table.iterrows():
        goal, met = GOALS.get(case.case), None
        if case.case.startswith(SPLIT) and case.sample_s + case.train_s > 0:
            twice = (case.sample_s + 2 * case.train_s) / (case.sample_s + case.train_s)
            goal, met = f"within {WITHIN:.0%} of {twice:.2f}", abs(case.ratio / twice - 1) <= WITHIN
        elif goal:
            sign, bound = goal.split()
            met = case.ratio <= float(bound) if sign == "<=" else case.ratio >= float(bound)
        table.loc[at, ["goal", "met"]] = goal, met
    return table


# --- the cases ------------------------------------------------------------------------------------
def grpo_against_trl(size):
    """A whole GRPO step, 64 responses of 64 tokens in groups of 8, against TRL's GRPOTrainer."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    state, batches = run_of(size), itertools.cycle(questions()[k : k + 8] for k in range(0, 512, 8))
    times, lengths, started = [], [], []

    class InTurns(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            started.append(time.perf_counter())

        def on_step_end(self, *args, **kwargs):
            theirs = time.perf_counter() - started[-1]
            with graded():
                begin = time.perf_counter()
                _, drawn = state.step(next(batches))
                times.append((time.perf_counter() - begin, theirs))
            lengths.append(drawn.lengths.float().mean().item())

    def alternate(completion_ids, **kwargs):
        lengths.append(statistics.mean(map(len, completion_ids)))
        return [float(place % 2) for place in range(len(completion_ids))]

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            fp16=False,
            gradient_checkpointing=False,
            disable_dropout=True,
            per_device_train_batch_size=8 * GROUP,
            gradient_accumulation_steps=1,
            steps_per_generation=1,
            num_generations=GROUP,
            max_completion_length=NEW,
            max_steps=PAIRS + WARM_UP,
            beta=0.0,
            num_iterations=1,
            epsilon=0.2,
            loss_type="dapo",
            scale_rewards="group",
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            learning_rate=1e-5,
            lr_scheduler_type="constant",
            weight_decay=0.01,
            max_grad_norm=1.0,
            shuffle_dataset=False,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        data = Dataset.from_list(
            [{"prompt": [{"role": "user", "content": q["question"]}]} for q in questions()]
        )
        trainer = GRPOTrainer(
            model(size),
            alternate,
            config,
            data,
            processing_class=tokenizer(),
            callbacks=[InTurns()],
        )
        torch.set_num_threads(1)
        trainer.train()
    assert set(lengths) == {float(NEW)}, (
        f"responses should have {NEW} tokens on both sides; got {set(lengths)}"
    )
    return row(
        f"GRPO step against TRL, {size}",
        times[WARM_UP:],
        f"64 responses of {NEW} tokens on both sides",
    )


def decoding_against_transformers(size, batch):
    """Greedy decoding of prompts of several lengths, against `generate`; the tokens must be the
    same.
    """
    made, words = model(size).eval(), tokenizer()
    prompts = [modes.render(words, modes.NORMAL, q["question"]) for q in questions()[:batch]]
    greedy, found = rollouts.Decoding(0, 0, 1.0, NEW), {}

    def of(engine, name):
        def call():
            found[name] = engine.generate(prompts, 1, greedy, range(batch))[0]

        return call

    times = in_turns(
        of(engines.DecoderEngine(made, words), "ours"),
        of(engines.GenerateEngine(made, words), "theirs"),
    )
    same = (found["ours"] == found["theirs"]).all(1).float().mean().item()
    assert same == 1, (
        f"both should decode the same tokens; got {100 * same:.0f}% of the responses identical"
    )
    return row(
        f"decoding against generate, {size}, batch {batch}",
        times,
        f"{NEW} tokens each; {100 * same:.0f}% of the responses identical",
    )


def sampling_from_a_pretrained_shape(pairs=3):
    """64 responses to 8 prompts from random weights of SmolLM2-135M's shape, against `generate`."""
    config = LlamaConfig(
        hidden_size=576,
        num_hidden_layers=30,
        intermediate_size=1536,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49_152,
        tie_word_embeddings=True,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    made, words = (
        LlamaForCausalLM(config).eval(),
        SimpleNamespace(eos_token_id=None, pad_token_id=0),
    )
    decoding, draw = rollouts.Decoding(1.0, 0, 1.0, 16), torch.Generator().manual_seed(0)
    prompts = [
        torch.randint(49_152, (width,), generator=draw).tolist() for width in range(60, 100, 5)
    ]

    def of(engine):
        return lambda: engine.generate(prompts, GROUP, decoding, range(len(prompts)))

    ours, peer = (kind(made, words) for kind in (engines.CachedEngine, engines.GenerateEngine))
    times = in_turns(of(ours), of(peer), pairs)
    rates = [64 * 16 / statistics.median(column) for column in zip(*times, strict=True)]
    note = "prompts of 60 to 95 tokens, 16 new tokens, float32: {:.0f} and {:.0f} tokens/s"
    return row(PRETRAINED, times, note.format(*rates))


def split_against_grpo(size):
    """A Policy Split step against our own GRPO step on as many responses, with GRPO's seconds of
    sampling and of training.
    """
    split, grpo, spent = run_of(size, "policy_split"), run_of(size), []
    with graded():
        times = in_turns(
            lambda: split.step(questions()[:8]), lambda: spent.append(grpo.step(questions()[:8])[0])
        )
    sampling = [metrics["seconds_sample"] for metrics in spent[WARM_UP:]]
    training = [metrics["seconds_score"] + metrics["seconds_update"] for metrics in spent[WARM_UP:]]
    return row(
        f"{SPLIT}, {size}",
        times,
        f"64 responses of {NEW} tokens each",
        sample_s=statistics.median(sampling),
        train_s=statistics.median(training),
    )


def dead_groups_left_out(size, live):
    """Scoring and update with a share of the groups live, against all of them live."""
    some, every, spent = run_of(size), run_of(size), {}

    def of(state, share, name):
        with graded(share):
            metrics, _ = state.step(questions()[:8])
        spent.setdefault(name, []).append(metrics["seconds_score"] + metrics["seconds_update"])

    for _ in range(WARM_UP + PAIRS):
        of(some, live, "ours"), of(every, 1.0, "peer")
    times = list(zip(spent["ours"], spent["peer"], strict=True))[WARM_UP:]
    return row(f"training with {live:.0%} of the groups live against all live, {size}", times)


def batch_of(prompt, new, groups=8, shared=True):
    """A Packed of random ids: groups of GROUP responses; each row has a prompt of its own where not
    shared.
    """
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(6, 500, (groups, prompt), generator=draw).tolist()
    responses, lengths = (
        torch.randint(6, 500, (groups * GROUP, new), generator=draw),
        torch.full((groups * GROUP,), new),
    )
    owner = torch.arange(groups).repeat_interleave(GROUP)
    if not shared:
        prompts, owner = [prompts[g] for g in owner.tolist()], torch.arange(groups * GROUP)
    return policy.pack(prompts, owner, responses, lengths)


def training_pass(scored, packed):
    logp, entropy = scored(packed)
    (logp.sum() - 0.1 * entropy.sum()).backward()


def shared_prefixes(size):
    """Scoring and gradient with each question's prompt read once, against once a response."""
    scored = policy.Policy(model(size))
    packs = [batch_of(92, 60, groups=4, shared=shared) for shared in (True, False)]
    times = in_turns(*(lambda packed=packed: training_pass(scored, packed) for packed in packs))
    return row(
        f"shared prefixes against repeated, {size}",
        times,
        f"92 prompt and 60 response tokens, G = 8: {len(packs[0].tokens)} tokens against "
        f"{len(packs[1].tokens)}",
    )


def lean_memory():
    """Peak extra memory of log-probs and entropies at V = 151,936, 512 tokens, forward and
    backward; in a process of its own.
    """
    # Freed memory goes back to the system at once, so that the peak is of what is held.
    out = subprocess.run(
        [sys.executable, __file__, "--memory"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144"},
    )
    extra, full, error = map(float, out.stdout.split())
    assert error <= 1e-5, f"both forms should give the same numbers; they differ by {error:.1g}"
    return figure_row(
        "log-prob and entropy at V = 151,936: extra memory over the full logits'",
        extra / full,
        f"{extra:.0f} of {full:.0f} MB, the gradients themselves not counted; largest error "
        f"{error:.1g}",
    )


def memory_of_the_lean_form():
    """Print the extra MB, the full logits' MB and the error; Linux only, whose peak of a process's
    memory can be reset.
    """

    def resident(which):
        return int(re.search(rf"{which}:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

    draw, mb = torch.Generator().manual_seed(0), 2**20
    hidden = torch.randn(512, 64, generator=draw).requires_grad_()
    weight = (torch.randn(151_936, 64, generator=draw) / 8).requires_grad_()
    tokens = torch.randint(151_936, (512,), generator=draw)

    def call(rows):
        logp, entropy = policy._HeadLogprobEntropy.apply(hidden[:rows], weight, tokens[:rows], 1.0)
        return torch.autograd.grad(logp.sum() + entropy.sum(), (hidden, weight))

    call(1)  # torch's work space is there from here on
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    ours = call(512)
    extra = resident("VmHWM") - before - sum(gradient.nbytes for gradient in ours) / mb
    logp, entropy = policy.logprobs_and_entropy(hidden @ weight.t(), tokens)
    theirs = torch.autograd.grad(logp.sum() + entropy.sum(), (hidden, weight))
    lean = policy._HeadLogprobEntropy.apply(hidden, weight, tokens, 1.0)
    error = max(
        (a - b).abs().max().item()
        for a, b in zip((*ours, *lean), (*theirs, logp, entropy), strict=True)
    )
    print(extra, 512 * 151_936 * 4 / mb, error)


def padding():
    """Tokens that went through the layers for nothing, in a step of responses of unlike lengths."""
    state, seen = run_of("0.2M", "policy_split"), []

    def uneven(*args, sample=rollouts.sample, **kwargs):
        out = sample(*args, **kwargs)
        lengths = torch.randint(
            8, NEW + 1, out.lengths.shape, generator=torch.Generator().manual_seed(0)
        )
        return dataclasses.replace(
            out, lengths=lengths, rewards=(torch.arange(len(lengths)) % 2).float()
        )

    def spy(self, packed, *args, forward=policy.Policy.forward):
        fed = packed.tokens.numel()
        useful = len(set(packed.flat.tolist()))  # distinct places of prompts and responses
        seen.append(
            (
                fed - useful,
                fed,
                packed.visible.shape[0] * packed.response_at.shape[1] / max(1, packed.flat.numel()),
            )
        )
        return forward(self, packed, *args)

    with patch.object(rollouts, "sample", uneven), patch.object(policy.Policy, "forward", spy):
        state.step(questions()[:8])
    wasted, fed, _attended = map(sum, zip(*seen, strict=True))
    return figure_row(
        "tokens computed on padding, scoring and training",
        wasted / fed,
        f"{fed} tokens, none twice; inside attention alone rows are padded to the longest of the "
        "micro-batch",
    )


def throughput(size):
    """Useful FLOPs, 6 a parameter and token, over the matrix-product peak of one thread, in
    turns.
    """
    scored, packed = policy.Policy(model(size)), batch_of(24, NEW, groups=7)
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    times = in_turns(lambda: training_pass(scored, packed), lambda: a @ b)
    ours, product = (statistics.median(column) for column in zip(*times, strict=True))
    parameters, tokens = scored.model.num_parameters(), len(packed.tokens)
    share = 6 * parameters * tokens / ours / (2 * 1024**3 / product)
    return figure_row(
        f"training throughput over the matrix-product peak, {size}",
        share,
        f"{tokens / ours:,.0f} tokens/s, each prompt token counted once; peak "
        f"{2e-9 * 1024**3 / product:.0f} GFLOP/s",
    )


def grading():
    """Grading a nano answer that is right or wrong, as a training step does, one by one."""
    draw, taken = random.Random(0), []
    for _ in range(2000):
        question = worlds.draw_sum(draw, 7)
        text = worlds.respond(question, draw.choice(worlds.DERIVATIONS), draw)
        reference = draw.choice((question.answer, "17", "40"))
        taken.append(seconds(lambda text=text, reference=reference: rewards.grade(text, reference)))
    return figure_row(
        GRADING, 1000 * statistics.median(taken), "2,000 sums of seven numbers, each graded once"
    )


def scaling():
    """Step time against responses, response length and parameters: rows of (against, value,
    seconds), and exponents.
    """
    points = []

    def measure(against, value, size, number, new):
        state = run_of(size, new=new)
        batch = questions()[: number // GROUP]
        with graded():
            state.step(batch)
            points.append(
                {
                    "against": against,
                    "value": value,
                    "seconds": statistics.median(
                        seconds(lambda: state.step(batch)) for _ in range(3)
                    ),
                }
            )

    for number in (64, 128, 256, 512, 1024):
        measure("responses", number, "0.2M", number, NEW)
    for new in (32, 64, 128, 256, 512):
        measure("response tokens", new, "0.2M", 64, new)
    for size in SHAPES:
        measure("parameters", model(size).num_parameters(), size, 64, NEW)
    points, made = pd.DataFrame(points), []
    for against, part in points.groupby("against", sort=False):
        exponent = np.polyfit(np.log(part.value), np.log(part.seconds), 1)[0]
        note = "; ".join(
            f"{value:,}: {spent:.2f} s"
            for value, spent in zip(part.value, part.seconds, strict=True)
        )
        made.append(figure_row(f"exponent of step time in {against}", exponent, note))
    return made, points


def cases():
    """Every row of the table, as it is measured."""
    for size in ("0.2M", "1M", "3M"):
        yield grpo_against_trl(size)
    yield decoding_against_transformers("0.2M", 8)
    yield decoding_against_transformers("1M", 64)
    yield sampling_from_a_pretrained_shape()
    for size in ("0.2M", "1M"):
        yield split_against_grpo(size)
    for live in (0.25, 0.5, 0.75):
        yield dead_groups_left_out("0.2M", live)
    for size in ("0.2M", "1M"):
        yield shared_prefixes(size)
    yield lean_memory()
    yield padding()
    for size in ("0.2M", "1M", "3M"):
        yield throughput(size)
    yield grading()


def picture(table, points):
    """Ratios with their spread and goals, and step time against the three kinds of work."""
    pairs = table[table.ours_s.notna()][::-1].reset_index(drop=True)
    with plt.rc_context(figures.STYLE):
        figure, axes = plt.subplots(1, 4, figsize=(15, 4.2), width_ratios=[1.5, 1, 1, 1])
        spread = [pairs.ratio - pairs.ratio_min, pairs.ratio_max - pairs.ratio]
        axes[0].errorbar(
            pairs.ratio,
            pairs.index,
            xerr=spread,
            fmt="o",
            color=figures.COLOURS["grpo"],
            label="measured",
        )
        goals = pairs.goal.str.extract(r"([\d.]+)$")[0].astype(float)
        axes[0].scatter(goals, pairs.index, marker="|", s=120, color="black", label="goal")
        axes[0].set_yticks(pairs.index, pairs.case)
        axes[0].set(xlabel="our time over the peer's, with the pairs' spread", xlim=(0, None))
        axes[0].legend(loc="lower right")
        for axis, (against, part) in zip(
            axes[1:], points.groupby("against", sort=False), strict=True
        ):
            axis.loglog(part.value, part.seconds, "o-", color=figures.COLOURS["grpo"])
            axis.loglog(
                part.value,
                part.seconds.iloc[0] * part.value / part.value.iloc[0],
                ":",
                color="grey",
            )
            axis.set(xlabel=against, ylabel="seconds a GRPO step")
            axis.set_xticks(
                part.value,
                [f"{value / 1e6:.1f}M" if value > 1e5 else str(value) for value in part.value],
            )
            axis.set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
            axis.minorticks_off()
        axes[-1].legend(["measured", "in proportion"])
        figure.tight_layout()
    return figure


def main():
    torch.set_num_threads(1)
    name = re.sub(
        r"[^a-z0-9]+",
        "-",
        f"{runs._processor() or platform.machine()} {os.cpu_count()} cores".lower(),
    ).strip("-")
    folder, rows = Path(runs.results_root()) / "benchmarks", []
    for made in cases():
        rows.append(made)
        print(f"{made['case']}: {made['ratio']:.3f} {made['note']}", flush=True)
    scaled, points = scaling()
    table = judged(pd.DataFrame(rows + scaled)).round(4)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{name}.csv", index=False)
    points.round(4).to_csv(folder / f"{name}-scaling.csv", index=False)
    figures.save(picture(table, points), folder, name)
    print(table.drop(columns="note").to_markdown(index=False, floatfmt=".3f"))
    missed = table[table.met == False]  # noqa: E712  blank where there is no goal
    print("no goal missed" if missed.empty else "missed: " + "; ".join(missed.case))


if __name__ == "__main__":
    memory_of_the_lean_form() if "--memory" in sys.argv else main()
