"""The training loop: sample, grade, share, score, advantage, update; the same for every method.

Where this differs from what one may expect:
- There is one update for each batch of rollouts, so the policy that is updated is the one that
  sampled: every ratio is 1 where the gradient is taken, and PPO's clip never binds. (The paper
  gives a batch size and no number of updates.)
- A response that the other mode drew gets its old log-prob under the mode that trains on it, as in
  the released code: its ratio starts at 1 too, with no correction for who drew it.
- The policy is the one that samples: log-probs, entropies, bonus and gradient are of softmax(z /
  temperature). At another temperature than 1 its entropies here are therefore not those of an
  evaluation, which reports them at temperature 1.
- The loss is a mean over the valid tokens of the whole batch, whatever the micro-batches.
- A dead group (all rewards equal) has no gradient but in methods that say `learns_from_dead` (an
  entropy term in the loss, or a bonus without a clip), so it is not differentiated, which changes
  no weight. It is scored where the method needs statistics of the whole batch, and every
  `measure_every` steps, when the step's entropies and inter-mode KL are measured; in between they
  are blank.
- One process trains on one device, a GPU where there is one. For more, see `pslib.trl`.
- With `bf16`, products are in bfloat16, and weights, gradients' sums and optimiser in float32: an
  update of 3e-6 is lost in a bfloat16 weight of 0.02, whose neighbours are 6e-5 away. Sampling is
  then from a copy in bfloat16.
- A step in which a number is not finite is undone: weights, optimiser and generators are as before
  it.
- Weights that require no gradient are left alone, by weight decay too: freeze a part of a model, or
  wrap it with PEFT, and only the rest is trained. Dropout is turned off, since what is trained
  would else not be the policy that sampled.
- A reward is 0 or 1 (`rollouts.exact`), or what a function of one's own gives for a response and
  its question.
"""

import copy
import time
from dataclasses import dataclass, replace

import torch
from torch.nn.utils import clip_grad_norm_

from pslib import advantages, losses, tasks
from pslib import policy as scoring
from pslib.lab import checkpoint, ranges
from pslib.lab import micro_batches as micro
from pslib.lab.measures import BITS, bonus_shares, measure  # noqa: F401 - BITS for notebooks
from pslib.lab.stopping import stop_requests
from pslib.methods import Scored
from pslib.modes import rendered
from pslib.policy import Policy, stop_ids
from pslib.rollouts import (
    Decoding,
    Rollouts,
    check_room,
    engine_for,
    exact,
    must_finish,
    render_all,
    sample,
    share,
    unfinished,
)


@dataclass(frozen=True)
class Settings:
    """What a training run sets beside its method; a profile's `train` section."""

    steps: int
    questions: int  # to a step
    group_size: int  # responses to a question, G
    pool: int  # questions to draw from
    learning_rate: float
    max_new_tokens: int
    warmup: int = 0  # steps over which the learning rate grows to its full value, in equal parts
    weight_decay: float = 0.01
    grad_clip_norm: float = 1.0
    clip_eps: float = 0.2
    temperature: float = 1.0
    save_every: int = 10
    measure_every: int = 5  # steps from one measurement of entropy and inter-mode KL to the next
    micro_tokens: int = 4096  # prompt and response tokens to a forward pass
    graph_tokens: int = (
        65536  # up to this many tokens a step, scoring and training share one forward pass
    )
    bf16: bool = False  # products in bfloat16, on float32 weights and optimiser
    recompute: bool = (
        False  # gradient checkpointing: activations inside a layer are made again for the gradient
    )
    # Runaway entropy: a step with a mode's entropy above max_entropy_bits (0: no bound) or a mode's
    # accuracy (where rewards are not 0 or 1: mean reward) below min_accuracy is beyond its bounds.
    # The column beyond_bounds counts such measured steps in a row; the run stops at stop_beyond of
    # them, and where that is 0 it only reports.
    max_entropy_bits: float = 0.0
    min_accuracy: float = 0.0
    stop_beyond: int = 0

    def __post_init__(self):
        counts = (
            "steps",
            "questions",
            "group_size",
            "pool",
            "max_new_tokens",
            "save_every",
            "measure_every",
            "micro_tokens",
        )
        ranges.check(
            vars(self),
            {
                **dict.fromkeys(counts, ranges.COUNT),
                "learning_rate": ranges.POSITIVE,
                "warmup": ranges.COUNT_OR_NONE,
                "weight_decay": ranges.FROM_ZERO,
                "grad_clip_norm": ranges.POSITIVE,
                "clip_eps": ranges.BETWEEN,
                "temperature": ranges.POSITIVE,
                "graph_tokens": ranges.COUNT_OR_NONE,
                "max_entropy_bits": ranges.FROM_ZERO,
                "min_accuracy": ranges.ANY,
                "stop_beyond": ranges.COUNT_OR_NONE,
            },
            "training",
        )


def check(model, tokenizer, method, modes, settings, questions=()):
    """Check, before anything is computed or written, that a method can train a model on some
    questions.

    It needs a prompt of its own for each of the method's modes, weights that require a gradient, a
    model that `Policy` scores and that fits the tokenizer, and for every question's response room
    in the context. ValueError in one sentence.
    """
    if not method.training:
        raise ValueError(f"{method.label} is not trained; evaluate the base model instead")
    named = {mode.name: mode for mode in modes}
    needed = dict.fromkeys((*method.sampling, *method.training))
    if not needed.keys() <= named.keys():
        raise ValueError(
            f"{method.label} needs the modes {', '.join(needed)}; got {', '.join(named)}"
        )
    if settings.group_size % len(method.sampling):
        raise ValueError(
            f"group_size {settings.group_size} cannot be split evenly over the modes "
            f"{', '.join(method.sampling)}; "
            f"choose a multiple of {len(method.sampling)}"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "no weight of the model requires a gradient, so there is nothing to train; set "
            "requires_grad where it is to "
            "learn"
        )
    used = [named[name] for name in needed]
    rendered(tokenizer, used)
    scoring.check(model, tokenizer)
    check_room(model, tokenizer, used, questions, settings.max_new_tokens)


@dataclass
class Batch:
    """What a step knows, in the order in which it comes to know it; N rows are responses x training
    modes.
    """

    prompts: dict  # mode name -> a prompt to each question
    measured: bool  # whether all rows are scored, for the metrics
    rollouts: Rollouts = None
    group_ids: torch.Tensor = None  # (R,)
    learned: torch.Tensor = None  # bool (N, T): the tokens that each training mode learns from
    parts: list = None  # the micro-batches of the rows that have a gradient
    outputs: list = (
        None  # of each part (logp, entropy) with their graph, or None where they are made again
    )
    logp: torch.Tensor = None  # (N, T), in nats, detached as is the entropy
    entropy: torch.Tensor = None
    scored: Scored = None
    advantage: torch.Tensor = None  # (N, T)
    keep: torch.Tensor = None  # bool (N, T): the tokens of the loss
    total: int = None  # by how many tokens the loss is divided


class Run:
    """A policy, its optimiser and its generators on the way through training; `step` is one update.

    reward: (text, row) -> float, what a response to a question (a row of the data set) is worth; by
    default whether its answer is right. ValueError for what `check` refuses.
    """

    def __init__(self, model, tokenizer, method, modes, settings, seed, reward=exact):
        check(model, tokenizer, method, modes, settings)
        self.tokenizer, self.method, self.settings, self.seed = tokenizer, method, settings, seed
        self.reward, self.modes = reward, {mode.name: mode for mode in modes}
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if settings.recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.policy = Policy(model)
        self.copy = copy.deepcopy(model).bfloat16() if settings.bf16 else None
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.generators = {
            name: torch.Generator().manual_seed(seed) for name in ("sampling", "tokens")
        }
        self.decoding = Decoding(settings.temperature, 0, 1.0, settings.max_new_tokens)
        self.done = self.beyond = 0  # steps taken; steps in a row beyond the bounds

    @property
    def runaway(self):
        """Whether entropy or accuracy were beyond their bounds for as many steps as the settings
        allow.
        """
        return 0 < self.settings.stop_beyond <= self.beyond

    def save(self, folder):
        """Write a checkpoint from which `resume` goes on exactly."""
        tensors = checkpoint.state_of(self.model, self.optimiser, self.generators)
        checkpoint.save(folder, self.done, {**tensors, "beyond": torch.tensor(self.beyond)})

    def resume(self, folder):
        """Go on from the newest good checkpoint, if there is one."""
        found = checkpoint.load_newest(folder)
        if found:
            self.done, tensors = found
            self.beyond = int(tensors["beyond"])
            checkpoint.restore(tensors, self.model, self.optimiser, self.generators)

    @torch.no_grad()
    def sampler(self):
        """The model to sample from as it stands, in eval mode: with `bf16` a copy in bfloat16."""
        if self.copy is None:
            return self.model.eval()
        for own, trained in zip(self.copy.parameters(), self.model.parameters(), strict=True):
            own.copy_(trained)
        return self.copy.eval()

    def step(self, questions):
        """One update on a list of questions (rows with id, question, and what the reward reads) ->
        (metrics, Rollouts).
        """
        clock = [time.perf_counter()]
        self._before = {name: generator.get_state() for name, generator in self.generators.items()}
        batch = Batch(self._prompts(questions), self.done % self.settings.measure_every == 0)
        self._sample_and_grade(batch, questions)
        clock.append(time.perf_counter())
        self._share(batch)
        self._score(batch)
        clock.append(time.perf_counter())
        self._weigh(batch)
        loss, norm = self._update(batch)
        clock.append(time.perf_counter())
        seconds = zip(("sample", "score", "update"), clock, clock[1:], strict=False)
        return {
            "step": self.done,
            "loss": loss,
            "grad_norm": norm,
            **self._metrics(batch),
            "beyond_bounds": self.beyond,
            **{f"seconds_{part}": end - begin for part, begin, end in seconds},
        }, batch.rollouts

    def _prompts(self, questions):
        """{mode name: a prompt to each question} of the modes that a step needs."""
        method, context = self.method, self.model.config.max_position_embeddings
        needed = {name: self.modes[name] for name in (*method.sampling, *method.training)}
        needed |= {
            micro.rewrapped(name): replace(self.modes[name], one_turn=True)
            for name in method.rewrapped
        }
        return {
            name: render_all(self.tokenizer, mode, questions, self.decoding, context)
            for name, mode in needed.items()
        }

    def _sample_and_grade(self, batch, questions):
        """Each sampling mode draws its part of every group, and the reward grades it."""
        prompts = {name: batch.prompts[name] for name in self.method.sampling}
        engine = engine_for(self.sampler(), self.tokenizer)
        try:
            batch.rollouts = sample(
                engine,
                self.tokenizer,
                questions,
                prompts,
                self.settings.group_size,
                self.decoding,
                self.generators["sampling"],
                self.reward,
                must_finish(self.modes.values()),
            )
        except Exception:  # a reward function may end in any way
            self._undo()
            raise
        self._check("rewards", batch.rollouts.rewards, batch)

    def _share(self, batch):
        """Every response becomes a row under every training mode (eq. 10)."""
        batch.group_ids, batch.learned = share(
            batch.rollouts, self.method, stop_ids(self.model, self.tokenizer)
        )

    def _score(self, batch):
        """Log-probs and entropies of the rows that have a gradient; of all where the batch is
        measured as a whole.
        """
        self.model.train()
        rows = batch.learned.any(1) & self._live(batch.rollouts, batch.group_ids)
        batch.parts, tokens = self._cut(batch, rows)
        others = self._cut(batch, ~rows)[0] if batch.measured or self.method.whole_batch else []
        keep_graph = tokens <= self.settings.graph_tokens
        with torch.set_grad_enabled(keep_graph):
            outputs = [self._forward(part, batch) for part in batch.parts]
        with torch.no_grad():
            unlearned = [self._forward(part, batch) for part in others]
        dtype = torch.promote_types(self.model.dtype, torch.float32)
        batch.logp, batch.entropy = (
            torch.zeros(batch.learned.shape, dtype=dtype) for _ in range(2)
        )
        for part, (logp, entropy) in zip(batch.parts + others, outputs + unlearned, strict=True):
            batch.logp[part.rows, : logp.shape[1]] = logp.detach().cpu()
            batch.entropy[part.rows, : entropy.shape[1]] = entropy.detach().cpu()
        batch.outputs = outputs if keep_graph else None
        self._check("log-probs", batch.logp, batch)
        self._check("entropies", batch.entropy, batch)

    def _live(self, rollouts, group_ids):
        """bool (N,): the rows that have a gradient; all of them where dead groups have one too."""
        live = (
            advantages.group_relative(rollouts.rewards, group_ids) != 0
        )  # every method's A is 0 with it
        return (live | self.method.learns_from_dead).repeat(len(self.method.training))

    def _cut(self, batch, wanted):
        return micro.cut(
            batch.rollouts, self.method, batch.prompts, wanted, self.settings.micro_tokens
        )

    def _forward(self, part, batch):
        """Log-probs and entropies (rows, T) of a micro-batch, whose layout is made only here: it
        may be large.
        """
        packed = micro.packed(part, batch.rollouts, batch.prompts).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, self.settings.bf16):
            # Of the policy that sampled: at any other temperature the gradient would be another
            # policy's.
            return self.policy(packed, self.settings.temperature)

    def _weigh(self, batch):
        """Advantages, each of its training mode's kind, and the tokens that count."""
        by_mode = [
            dict(zip(self.method.training, t.chunk(len(self.method.training)), strict=True))
            for t in (batch.logp, batch.entropy)
        ]
        batch.scored = Scored(
            batch.rollouts.rewards, batch.group_ids, batch.rollouts.mask, *by_mode
        )
        coefficients = self.method.coefficients
        kinds = self.method.advantage.values()
        batch.advantage = torch.cat([advantage(batch.scored, coefficients) for advantage in kinds])
        self._check("advantages", batch.advantage, batch)
        batch.keep = self.method.keep(
            batch.logp,
            batch.advantage,
            batch.entropy,
            batch.learned,
            coefficients,
            self.generators["tokens"],
        )
        batch.total = int((batch.keep if self.method.divide_by_kept else batch.learned).sum())

    def _update(self, batch):
        """Gradient, a micro-batch at a time, and update, unless something is not finite -> (loss,
        gradient norm).
        """
        for weight in self.trained:  # a batch without a live group still steps, on zeros
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        loss = sum((self._backward(k, batch) for k in range(len(batch.parts))), 0.0)
        norm = clip_grad_norm_(self.model.parameters(), self.settings.grad_clip_norm)
        self._check("loss", torch.tensor(loss), batch)
        self._check("gradient norm", norm, batch)
        warmed = min(1.0, (self.done + 1) / max(1, self.settings.warmup))
        self.optimiser.param_groups[0]["lr"] = self.settings.learning_rate * warmed
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=False)
        self.done += 1
        return loss, float(norm)

    def _backward(self, k, batch):
        """Add the gradient of the k-th micro-batch's part of the loss -> that part."""
        part, eps = batch.parts[k], self.settings.clip_eps
        logp, entropy = batch.outputs[k] if batch.outputs else self._forward(part, batch)
        self._check(
            "new log-probs", logp, batch, part.rows
        )  # minus infinity would give a ratio of 0, and no trace
        old, adv, keep = (
            t[part.rows, : logp.shape[1]].to(self.device)
            for t in (batch.logp, batch.advantage, batch.keep)
        )
        coef = self.method.coefficients.get(self.method.entropy_coef, 0.0)
        loss = losses.token_mean(
            losses.clipped_surrogate(logp, old, adv, eps, eps) - coef * entropy, keep, batch.total
        )
        loss.backward()
        return loss.item()

    def _metrics(self, batch):
        """What the batch shows, by mode, and whether the run is still within its bounds."""
        names = self.method.training
        rows = {
            name: slice(k * len(batch.rollouts.tokens), (k + 1) * len(batch.rollouts.tokens))
            for k, name in enumerate(names)
        }
        ran_out = unfinished(batch.rollouts, stop_ids(self.model, self.tokenizer))
        metrics = {
            **measure(batch.rollouts, batch.scored, batch.measured, self.reward is not exact),
            **bonus_shares(batch.scored, batch.advantage, rows),
            "unfinished": float(ran_out.float().mean()),
        }
        if batch.measured:
            self.beyond = self.beyond + 1 if self._is_beyond(metrics) else 0
        return metrics

    def _is_beyond(self, measured):
        entropies = [measured[f"entropy_bits_{mode}"] for mode in self.method.sampling]
        means = [
            measured.get(f"reward_{mode}", measured.get(f"accuracy_{mode}"))
            for mode in self.method.sampling
        ]
        return (
            0 < self.settings.max_entropy_bits < max(entropies)
            or min(means) < self.settings.min_accuracy
        )

    def _undo(self):
        """Leave everything as it was before the step at hand, whose update was not made."""
        self.optimiser.zero_grad()
        for name, generator in self.generators.items():
            generator.set_state(self._before[name])

    def _check(self, what, values, batch, rows=None):
        """Undo the step and raise FloatingPointError unless all values are finite: one, or some for
        each of the rows.
        """
        bad, ids = ~torch.isfinite(values), batch.rollouts.question_ids
        if not bad.any():
            return
        if bad.ndim:  # all rows are the responses, once for each training mode
            rows = range(len(bad)) if rows is None else rows
            ids = [
                ids[row % len(ids)]
                for row, is_bad in zip(rows, bad.reshape(len(bad), -1).any(1), strict=True)
                if is_bad
            ]
        self._undo()
        ids = ", ".join(dict.fromkeys(ids))
        raise FloatingPointError(
            f"{what} not finite at step {self.done + 1} of {self.method.label}; no weight was "
            f"changed. Lower the learning rate, or look at the questions {ids}"
        )


def run(state, dataset, folder=None, record=None):
    """Train to the end, from the newest checkpoint in `folder` if there is one, saving every
    `save_every` steps.

    state: a Run; dataset: questions. `record(metrics, rollouts)` is called after each step. Ctrl-C
    and SIGTERM end the run after the step at hand, saved, with KeyboardInterrupt. RuntimeError
    where entropy or accuracy ran away.
    """
    settings = state.settings
    if folder:
        state.resume(folder)
    with stop_requests() as asked:
        for step, questions in enumerate(
            tasks.batches(dataset, settings.questions, settings.steps, state.seed)
        ):
            if step < state.done:
                continue
            if state.runaway:
                raise RuntimeError(
                    f"{state.method.label} was stopped after step {step}: for {state.beyond} steps "
                    "entropy "
                    f"was above max_entropy_bits={settings.max_entropy_bits} or accuracy below "
                    "min_accuracy="
                    f"{settings.min_accuracy}; lower the learning rate or the method's coefficients"
                )
            metrics, rollouts = state.step(questions)
            if record:
                record(metrics, rollouts)
            stop = bool(asked)
            due = state.done % settings.save_every == 0 or state.done == settings.steps
            if folder and (stop or due or state.runaway):
                state.save(folder)
            if stop:
                raise KeyboardInterrupt(
                    f"stopped after step {state.done} of {settings.steps}; run the same again to "
                    "continue"
                )
