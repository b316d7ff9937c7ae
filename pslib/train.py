"""The training loop: sample, grade, share, score, advantage, update; the same for every method.

Where this differs from what one may expect:
- There is one update for each batch of rollouts, so the policy that is updated is the one that
  sampled: every ratio is 1 where the gradient is taken, and PPO's clip never binds. (The paper
  gives a batch size and no number of updates.)
- A response that the other mode drew gets its old log-prob under the mode that trains on it, as in
  the released code: its ratio starts at 1 too, with no correction for who drew it.
- Log-probs, entropies, bonus and gradient are of the policy that samples, softmax(z / temperature).
- The loss is a mean over the valid tokens of the whole batch, whatever the micro-batches.
- A dead group (all rewards equal) has no gradient, but in methods that say `learns_from_dead`. It
  is scored where the method needs the whole batch, and in every `measure_every`-th step, which
  measures entropies and inter-mode KL.
- With `bf16`, products are in bfloat16, and weights, gradients' sums and optimiser in float32: an
  update of 3e-6 is lost in a bfloat16 weight of 0.02, whose neighbours are 6e-5 away. Sampling is
  then from a copy in bfloat16.
- A step in which a number is not finite is undone: weights, optimiser and generators are as before
  it.
- Weights that require no gradient are left alone, by weight decay too. Dropout is turned off, since
  what is trained would else not be the policy that sampled.
- One process trains on one device, the model's. For more, see `pslib.trl`.
"""

import copy
import json
import warnings
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_

from pslib import advantages, losses, policy, rollouts, tasks
from pslib.lab import checkpoint, checks, engines, measures, records
from pslib.lab import micro_batches as micro
from pslib.lab.stopping import stop_requests
from pslib.methods import Weighed
from pslib.policy import Policy, stop_ids, unwrapped
from pslib.rollouts import Rollouts


@dataclass
class Batch:
    """What a step knows, in the order in which it comes to know it.

    N rows are responses x training modes.
    """

    prompts: dict  # mode name -> a prompt to each question
    rollouts: Rollouts
    measured: bool  # whether all rows are scored, for the metrics
    group_ids: torch.Tensor = None  # (R,)
    learned: torch.Tensor = None  # bool (N, T): the tokens that each training mode learns from
    parts: list = None  # the micro-batches of the rows that have a gradient
    outputs: list = None  # of each part (logp, entropy) with their graph; None: made again
    logp: torch.Tensor = None  # (N, T), in nats, detached as is the entropy
    entropy: torch.Tensor = None
    weighed: Weighed = None  # advantages, and the tokens of the loss


class Run:
    """A policy, its optimiser and its generators in training; `step` is one update.

    reward: (text, row) -> float, what a response to a question (a row of the data set) is worth; by
    default whether its answer is right. ValueError for what `checks.check_training` refuses.
    """

    def __init__(self, model, tokenizer, method, modes, settings, seed, reward=rollouts.exact):
        checks.check_training(model, tokenizer, method, modes, settings)
        self.tokenizer, self.method, self.settings, self.seed = tokenizer, method, settings, seed
        self.reward, self.modes = reward, {mode.name: mode for mode in modes}
        self.model, self.device = model, model.device
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if settings.recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.policy = Policy(model)
        if settings.bf16 and policy.slow_bf16(self.device):
            warnings.warn(checks.SLOW_BF16, stacklevel=2)
        self.copy = copy.deepcopy(model) if settings.bf16 else None
        for weight in self.copy.parameters() if self.copy else ():  # and no buffer: the frequencies
            if weight.is_floating_point():  # packed weights of 4 bits are not
                weight.data = weight.data.bfloat16()
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.generators = {
            name: torch.Generator().manual_seed(seed) for name in ("sampling", "tokens")
        }
        self.decoding = rollouts.Decoding(settings.temperature, 0, 1.0, settings.max_new_tokens)
        self.done = self.beyond = 0  # steps taken; steps in a row beyond the bounds

    def step(self, questions):
        """One update on questions (id, question, what the reward reads) -> (metrics, Rollouts)."""
        clock = measures.Clock(self.device)
        with checkpoint.undone_on_error(self.optimiser, self.generators):
            batch = self._sample_and_grade(questions)
            clock("sample")
            self._share(batch)
            self._score(batch)
            clock("score")
            self._take_advantages(batch)
            loss, norm = self._take_gradient(batch)
        self._update()
        clock("update")
        return self._report(batch, loss, norm) | clock.seconds, batch.rollouts

    def _sample_and_grade(self, questions):
        """Each sampling mode draws its part of every group, and the reward grades it -> Batch."""
        tokenizer, method, decoding = self.tokenizer, self.method, self.decoding
        context = self.model.config.max_position_embeddings
        prompts = micro.render(tokenizer, method, self.modes, questions, decoding, context)
        asked = {name: prompts[name] for name in method.sampling}
        engine = engines.engine_for(self.sampler(), tokenizer)
        drawing = self.settings.group_size, decoding, self.generators["sampling"]
        grading = self.reward, rollouts.must_finish(self.modes.values())
        drawn = rollouts.sample(engine, tokenizer, questions, asked, *drawing, *grading)
        batch = Batch(prompts, drawn, self.done % self.settings.measure_every == 0)
        self._require_finite("rewards", drawn.rewards, batch)
        return batch

    def _share(self, batch):
        """Every response becomes a row under every training mode (eq. 10)."""
        stops = stop_ids(self.model, self.tokenizer)
        batch.group_ids, batch.learned = rollouts.share(batch.rollouts, self.method, stops)

    def _score(self, batch):
        """Log-probs and entropies of the rows that have a gradient, or if measured of all."""
        self.model.train()
        # Every method's A is 0 where eq. 2's is.
        live = advantages.group_relative(batch.rollouts.rewards, batch.group_ids) != 0
        live = (live | self.method.learns_from_dead).repeat(len(self.method.training))
        rows = batch.learned.any(1) & live
        micro_tokens = self.settings.micro_tokens
        batch.parts, tokens = micro.cut(batch, self.method, rows, micro_tokens)
        others = []
        if batch.measured or self.method.whole_batch:
            others, _ = micro.cut(batch, self.method, ~rows, micro_tokens)
        keep_graph = tokens <= self.settings.graph_tokens
        with torch.set_grad_enabled(keep_graph):
            outputs = [self._forward(part, batch) for part in batch.parts]
        with torch.no_grad():
            unlearned = [self._forward(part, batch) for part in others]
        dtype = torch.promote_types(self.model.dtype, torch.float32)
        scored = batch.parts + others, outputs + unlearned
        batch.logp, batch.entropy = micro.gather(*scored, batch.learned.shape, dtype)
        batch.outputs = outputs if keep_graph else None
        self._require_finite("log-probs", batch.logp, batch)
        self._require_finite("entropies", batch.entropy, batch)

    def _forward(self, part, batch):
        """Log-probs and entropies (rows, T) of a micro-batch, whose large layout is made here."""
        packed = micro.packed(part, batch, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, self.settings.bf16):
            return self.policy(packed, self.settings.temperature)

    def _take_advantages(self, batch):
        """Each training mode's kind of advantage (eq. 2 and 3), and the tokens of the loss."""
        rewards, mask = batch.rollouts.rewards, batch.rollouts.mask
        given = rewards, batch.group_ids, mask, batch.learned, batch.logp, batch.entropy
        batch.weighed = self.method.weigh(*given, self.generators["tokens"])
        self._require_finite("advantages", batch.weighed.advantage, batch)

    def _take_gradient(self, batch):
        """The gradient of the loss, a micro-batch at a time, clipped -> (loss, gradient norm)."""
        for weight in self.trained:  # a batch without a live group still steps, on zeros
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        total = 0.0
        for k in range(len(batch.parts)):
            loss = self._loss(k, batch)
            loss.backward()
            total += loss.item()
        norm = clip_grad_norm_(self.model.parameters(), self.settings.grad_clip_norm)
        self._require_finite("loss", torch.tensor(total), batch)
        self._require_finite("gradient norm", norm, batch)
        return total, float(norm)

    def _loss(self, k, batch):
        """The k-th micro-batch's part of the loss (eq. 7 and 8), less the method's entropy term."""
        part, weighed, eps = batch.parts[k], batch.weighed, self.settings.clip_eps
        logp, entropy = batch.outputs[k] if batch.outputs else self._forward(part, batch)
        # Minus infinity would give a ratio of 0, and no trace.
        self._require_finite("new log-probs", logp, batch, part.rows)
        old, adv, keep = (
            values[part.rows, : logp.shape[1]].to(self.device)
            for values in (batch.logp, weighed.advantage, weighed.keep)
        )
        coef = self.method.coefficients.get(self.method.entropy_coef, 0.0)
        surrogate = losses.clipped_surrogate(logp, old, adv, eps, eps)
        return losses.token_mean(surrogate - coef * entropy, keep, int(weighed.total))

    def _update(self):
        """One step of AdamW, at a rate that grows over the warm-up."""
        warmed = min(1.0, (self.done + 1) / max(1, self.settings.warmup))
        self.optimiser.param_groups[0]["lr"] = self.settings.learning_rate * warmed
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=False)
        self.done += 1

    def _report(self, batch, loss, norm):
        """The step's metrics, but for its seconds; counts steps in a row beyond the bounds."""
        metrics = {"step": self.done, "loss": loss, "grad_norm": norm}
        own_reward = self.reward is not rollouts.exact
        metrics |= measures.of_step(batch.rollouts, batch.weighed, batch.measured, own_reward)
        stops = stop_ids(self.model, self.tokenizer)
        metrics["unfinished"] = float(rollouts.unfinished(batch.rollouts, stops).float().mean())
        self.beyond = measures.count_beyond(self.beyond, metrics, self.settings)
        return metrics | {"beyond_bounds": self.beyond}

    def _require_finite(self, what, values, batch, rows=None):
        where = f"step {self.done + 1} of {self.method.label}"
        checks.require_finite(what, values, batch.rollouts, where, rows)

    @torch.no_grad()
    def sampler(self):
        """The model to sample from as it stands, in eval mode: with `bf16` a copy in bfloat16."""
        if self.copy is None:
            return self.model.eval()
        for own, trained in zip(self.copy.parameters(), self.model.parameters(), strict=True):
            own.copy_(trained)
        return self.copy.eval()


def run(state, dataset, folder=None, record=None):
    """Train to the end, from the newest checkpoint in `folder` if there is one.

    state: a Run; dataset: questions. A checkpoint is saved every `save_every` steps, and
    `record(metrics, rollouts)` is called after each step. Ctrl-C and SIGTERM end the run after the
    step at hand, saved, with KeyboardInterrupt. RuntimeError where entropy or accuracy ran away.
    ValueError, before anything is computed, for a question that cannot be asked and for the
    checkpoints of a run with another model, method, seed, questions or settings (`_made_of`).
    """
    settings = state.settings
    asked = [state.modes[name] for name in state.method.needed]
    checks.check_questions(state.model, state.tokenizer, asked, dataset, settings.max_new_tokens)
    if folder:
        made_of = _made_of(state, dataset)
        checkpoint.resume_run(folder, state, made_of)
    batches = tasks.batches(dataset, settings.questions, settings.steps, state.seed)
    with stop_requests() as stops:
        for questions in islice(batches, state.done, None):
            measures.refuse_runaway(state)
            metrics, rolled_out = state.step(questions)
            if record:
                record(metrics, rolled_out)
            stop = bool(stops)
            due = state.done % settings.save_every == 0 or state.done == settings.steps
            if folder and (stop or due or measures.is_runaway(state)):
                checkpoint.save_run(folder, state, made_of)
            if stop:
                where = f"step {state.done} of {settings.steps}"
                raise KeyboardInterrupt(f"stopped after {where}; run the same again to continue")


# The settings that decide what a step computes, other than its rounding.
DECIDING = ("questions", "group_size", "pool", "learning_rate", "max_new_tokens", "warmup")
DECIDING += ("weight_decay", "grad_clip_norm", "clip_eps", "temperature", "bf16")


def _made_of(state, dataset):
    """{name: value} of what a run is made of, which its checkpoints carry.

    Left out: how many steps there are, the reward with the columns that it reads, and the weights,
    since adapters begin anew in each process.
    """
    method, given = state.method, asdict(state.settings)
    prompts = {name: state.modes[name].system for name in method.needed}
    rows = (dataset[k] for k in range(len(dataset)))
    asked = records.digest(*(json.dumps([str(row["id"]), row["question"]]) for row in rows))
    model = Path(unwrapped(state.model).config.name_or_path).name
    made_of = {"model": model, "method": method.label, "coefficients": method.coefficients}
    made_of |= {"prompts": prompts, "seed": state.seed, "dataset": asked}
    made_of |= {name: given[name] for name in DECIDING}
    return json.loads(json.dumps(made_of, default=str))
