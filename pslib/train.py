"""The training loop: sample, grade, share, score, advantage, update; the same for every method.

Where this differs from what one may expect:
- There is one update for each batch of rollouts, so the policy that is updated is the one that sampled: every ratio is
  1 where the gradient is taken, and PPO's clip never binds. (The paper gives a batch size and no number of updates.)
- A response that the other mode drew gets its old log-prob under the mode that trains on it, as in the released code:
  its ratio starts at 1 too, with no correction for who drew it.
- The policy is softmax(z / temperature), from which the responses are drawn: log-probs, entropies, bonus, gradient and
  metrics are all at that temperature.
- The policy is the one that samples: log-probs, entropies, bonus and gradient are of softmax(z / temperature). At another
  temperature than 1 its entropies here are therefore not those of an evaluation, which reports them at temperature 1.
- The loss is a mean over the valid tokens of the whole batch, whatever the micro-batches.
- A dead group (all rewards equal) has no gradient but in methods that say `learns_from_dead` (an entropy term in the loss, or a
  bonus without a clip), so it is not differentiated, which changes no weight. It is scored where the method needs statistics of the whole batch, and every
  `measure_every` steps, when the step's entropies and inter-mode KL are measured; in between they are blank.
- Several processes share out a step's prompts for sampling and its rows for scoring; all else, being small, each does
  for the whole batch, so that a run is the same for any number of processes, to rounding (`GenerateEngine` excepted:
  its draws depend on the batch). Each process holds the whole model, and the gradient is summed once a step; or, where
  accelerate is told to use FSDP2, a part of it, with the gradient summed at every micro-batch.
- With `bf16`, products are in bfloat16, and weights, gradients' sums and optimiser in float32: an update of 3e-6 is lost
  in a bfloat16 weight of 0.02, whose neighbours are 6e-5 away. Sampling is then from a copy in bfloat16.
- A step in which a number is not finite is undone: weights, optimiser and generators are as before it.
- Weights that require no gradient are left alone, by weight decay too: freeze a part of a model, or wrap it with PEFT, and
  only the rest is trained. Dropout is turned off, since what is trained would else not be the policy that sampled.
- A reward is 0 or 1 (`rollouts.exact`), or what a function of one's own gives for a response and its question. Each process
  calls it for every response, so it must give all of them the same.
"""

import copy
import math
import os
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from pslib import advantages, checkpoint, losses, ranges, tasks
from pslib import policy as scoring
from pslib.methods import Scored
from pslib.modes import rendered
from pslib.policy import Policy, pack, stop_ids
from pslib.rollouts import Decoding, check_room, engine_for, exact, must_finish, render_all, sample, unfinished

BITS = 1 / math.log(2)


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
    graph_tokens: int = 65536  # up to this many tokens a step, scoring and training share one forward pass
    bf16: bool = False  # products in bfloat16, on float32 weights and optimiser
    recompute: bool = False  # gradient checkpointing: activations inside a layer are made again for the gradient
    # Runaway entropy: a step with a mode's entropy above max_entropy_bits (0: no bound) or a mode's accuracy (where rewards
    # are not 0 or 1: mean reward) below min_accuracy is beyond its bounds. The column beyond_bounds counts such measured steps in a row; the run stops at
    # stop_beyond of them, and where that is 0 it only reports.
    max_entropy_bits: float = 0.0
    min_accuracy: float = 0.0
    stop_beyond: int = 0

    def __post_init__(self):
        counts = ("steps", "questions", "group_size", "pool", "max_new_tokens", "save_every", "measure_every", "micro_tokens")
        ranges.check(vars(self), {
            **dict.fromkeys(counts, ranges.COUNT), "learning_rate": ranges.POSITIVE, "warmup": ranges.COUNT_OR_NONE,
            "weight_decay": ranges.FROM_ZERO, "grad_clip_norm": ranges.POSITIVE, "clip_eps": ranges.BETWEEN,
            "temperature": ranges.POSITIVE, "graph_tokens": ranges.COUNT_OR_NONE, "max_entropy_bits": ranges.FROM_ZERO,
            "min_accuracy": ranges.ANY, "stop_beyond": ranges.COUNT_OR_NONE}, "training")


class Distributed:
    """An engine whose prompts are shared out among processes: each draws its part, and all get the whole."""

    def __init__(self, engine, accelerator):
        self.engine, self.accelerator = engine, accelerator

    def generate(self, prompts, copies, decoding, seeds):
        """As the engine's; ValueError unless the prompts can be shared out evenly."""
        each, left = divmod(len(prompts), self.accelerator.num_processes)
        if left:
            raise ValueError(f"{len(prompts)} prompts cannot be shared out evenly among {self.accelerator.num_processes} "
                             "processes; choose a multiple of their number")
        mine = slice(self.accelerator.process_index * each, (self.accelerator.process_index + 1) * each)
        drawn, device = self.engine.generate(prompts[mine], copies, decoding, seeds[mine]), self.accelerator.device
        tokens, lengths = (self.accelerator.pad_across_processes(t.to(device), dim=1) for t in drawn)
        return self.accelerator.gather(tokens).cpu(), self.accelerator.gather(lengths).cpu()


def _accelerator(bf16, model):
    """This process's place among the others; with FSDP2 where ACCELERATE_USE_FSDP says so, as accelerate's launcher does."""
    from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin  # here: it takes seconds to import
    from accelerate.state import AcceleratorState
    from torch.distributed.fsdp import MixedPrecisionPolicy

    plugin, precision = None, "bf16" if bf16 else "no"
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=list(model._no_split_modules),
            mixed_precision_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy())
    AcceleratorState._reset_state()  # of an earlier run in this process, whose precision it would insist on; the processes stay
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=precision, fsdp_plugin=plugin)
    if plugin and accelerator.distributed_type == DistributedType.MULTI_CPU:  # where accelerate leaves it out, torch does not
        accelerator.state.distributed_type, accelerator.state.fsdp_plugin = DistributedType.FSDP, plugin
    return accelerator


def check(model, tokenizer, method, modes, settings, questions=()):
    """Check, before anything is computed or written, that a method can train a model on some questions.

    It needs a prompt of its own for each of the method's modes, weights that require a gradient, a model that `Policy` scores
    and that fits the tokenizer, and for every question's response room in the context. ValueError in one sentence.
    """
    if not method.training:
        raise ValueError(f"{method.label} is not trained; evaluate the base model instead")
    named = {mode.name: mode for mode in modes}
    needed = dict.fromkeys((*method.sampling, *method.training))
    if not needed.keys() <= named.keys():
        raise ValueError(f"{method.label} needs the modes {', '.join(needed)}; got {', '.join(named)}")
    if settings.group_size % len(method.sampling):
        raise ValueError(f"group_size {settings.group_size} cannot be split evenly over the modes {', '.join(method.sampling)}; "
                         f"choose a multiple of {len(method.sampling)}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("no weight of the model requires a gradient, so there is nothing to train; set requires_grad where it is to "
                         "learn")
    used = [named[name] for name in needed]
    rendered(tokenizer, used)
    scoring.check(model, tokenizer)
    check_room(model, tokenizer, used, questions, settings.max_new_tokens)


class Run:
    """A policy, its optimiser and its generators on the way through training; `step` is one update.

    reward: (text, row) -> float, what a response to a question (a row of the data set) is worth; by default whether its
    answer is right. ValueError for what `check` refuses.
    """

    def __init__(self, model, tokenizer, method, modes, settings, seed, reward=exact):
        check(model, tokenizer, method, modes, settings)
        self.reward = reward
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        self.tokenizer, self.method, self.settings, self.seed = tokenizer, method, settings, seed
        self.modes = {mode.name: mode for mode in modes}
        self.accelerator, self.model = _accelerator(settings.bf16, model), model
        if settings.recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.sharded = self.accelerator.is_fsdp2
        # what to sample from where the trained weights do not serve: see `whole`
        self.copy = copy.deepcopy(model).to(self.accelerator.device, torch.bfloat16 if settings.bf16 else model.dtype) \
            if self.sharded or settings.bf16 else None
        optimiser = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad],
                                      lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
        if self.sharded:
            self.policy, self.optimiser = self.accelerator.prepare(Policy(model), optimiser)
            for module in self.policy.modules():
                if hasattr(module, "set_gradient_divide_factor"):  # sum gradients, where FSDP2 would average them
                    module.set_gradient_divide_factor(1.0)
                    module.set_force_sum_reduction_for_comms(True)
        else:
            # not wrapped for distribution: that would wait for the others at every backward, of which each has its own number
            self.policy = self.accelerator.prepare_model(Policy(model), evaluation_mode=True)
            self.optimiser = self.accelerator.prepare_optimizer(optimiser)
        self.generators = {"sampling": torch.Generator().manual_seed(seed), "tokens": torch.Generator().manual_seed(seed)}
        self.decoding = Decoding(settings.temperature, 0, 1.0, settings.max_new_tokens)
        self.done = self.beyond = 0  # steps taken; steps in a row beyond the bounds

    @property
    def runaway(self):
        """Whether entropy or accuracy were beyond their bounds for as many steps as the settings allow."""
        return 0 < self.settings.stop_beyond <= self.beyond

    def save(self, folder):
        """Write a checkpoint from which `resume` goes on exactly; one process does, from all processes' parts."""
        main = self.accelerator.is_main_process
        tensors = checkpoint.state_of(self.model, self.optimiser, self.generators, keep=main) if main or self.sharded else {}
        if main:
            checkpoint.save(folder, self.done, {**tensors, "beyond": torch.tensor(self.beyond)})

    def resume(self, folder):
        """Go on from the newest good checkpoint, if there is one."""
        found = checkpoint.load_newest(folder)
        if found:
            self.done, tensors = found
            self.beyond = int(tensors["beyond"])
            checkpoint.restore(tensors, self.model, self.optimiser, self.generators)

    @torch.no_grad()
    def whole(self):
        """The model to sample from as it stands, in eval mode, with `bf16` in bfloat16.

        All processes must call.
        """
        if self.copy is None:
            return self.model.eval()
        trained = self.model.state_dict()
        for name, tensor in self.copy.state_dict().items():
            tensor.copy_(checkpoint.whole(trained[name]))
        return self.copy.eval()

    @torch.no_grad()
    def trained(self):
        """The model to save, in eval mode: its trained weights, which are float32 with `bf16` too.

        All processes must call. Where weights are sharded, the main one alone gets a model, on the
        CPU, and the others None.
        """
        if not self.sharded:
            return self.model.eval()
        main, weights = self.accelerator.is_main_process, {}
        for name, tensor in self.model.state_dict().items():  # whole on the device one at a time
            tensor = checkpoint.whole(tensor)
            if main:
                weights[name] = tensor.cpu()
        if not main:
            return None
        model = copy.deepcopy(self.copy).to("cpu", self.model.dtype)
        model.load_state_dict(weights)
        return model.eval()

    def step(self, questions):
        """One update on a list of questions (rows with id, question, and what the reward reads) -> (metrics, Rollouts)."""
        clock = [time.perf_counter()]
        self._before = {name: generator.get_state() for name, generator in self.generators.items()}
        # 1. Prompts. 2. Sample: each sampling mode draws its part of every group. 3. Grade: inside `sample`.
        context = self.model.config.max_position_embeddings
        prompts = {name: render_all(self.tokenizer, mode, questions, self.decoding, context)
                   for name, mode in self._prompting().items()}
        try:
            rollouts = sample(Distributed(engine_for(self.whole(), self.tokenizer), self.accelerator), self.tokenizer, questions,
                              {name: prompts[name] for name in self.method.sampling}, self.settings.group_size,
                              self.decoding, self.generators["sampling"], self.reward,
                              must_finish(self.modes.values()))
        except Exception:  # a reward function may end in any way
            self._undo()
            raise
        self._check("rewards", rollouts.rewards, rollouts)
        clock.append(time.perf_counter())
        self.model.train()
        # 4. Share: every response becomes a row under every training mode. 5. Score the rows.
        stops = stop_ids(self.model, self.tokenizer)
        group_ids, learned = share(rollouts, self.method, stops)
        rows = learned.any(1) & self._live(rollouts, group_ids)
        measured = self.done % self.settings.measure_every == 0
        parts, tokens = self._micro_batches(rollouts, prompts, rows)
        dead, _ = self._micro_batches(rollouts, prompts, ~rows) if measured or self.method.whole_batch else ([], 0)
        keep_graph = tokens <= self.settings.graph_tokens
        with torch.set_grad_enabled(keep_graph):
            outputs = [self._forward(part, rollouts, prompts) for part in parts]
        with torch.no_grad():
            unlearned = [self._forward(part, rollouts, prompts) for part in dead]
        logp, entropy = self._gather(parts + dead, outputs + unlearned, rollouts)
        self._check("log-probs", logp, rollouts)
        self._check("entropies", entropy, rollouts)
        clock.append(time.perf_counter())
        # 6. Advantages, each of its training mode's kind; which tokens count.
        mask = rollouts.mask
        by_mode = {name: slice(k * len(mask), (k + 1) * len(mask)) for k, name in enumerate(self.method.training)}
        scored = Scored(rollouts.rewards, group_ids, mask,
                        {name: logp[rows] for name, rows in by_mode.items()},
                        {name: entropy[rows] for name, rows in by_mode.items()})
        coefficients = self.method.coefficients
        adv = torch.cat([advantage(scored, coefficients) for advantage in self.method.advantage.values()])
        self._check("advantages", adv, rollouts)
        keep = self.method.keep(logp, adv, entropy, learned, coefficients, self.generators["tokens"])
        total = int((keep if self.method.divide_by_kept else learned).sum())
        # 7. Loss and gradient, a micro-batch at a time, and update, unless something is not finite.
        loss = self._backward(parts, outputs if keep_graph else None, logp, adv, keep, total, rollouts, prompts)
        if self.sharded:  # after a forward pass without gradient FSDP2 holds some weights whole, which the update would not reach
            self.policy.reshard()
        norm = self.accelerator.clip_grad_norm_(self.policy.parameters(), self.settings.grad_clip_norm)
        norm = checkpoint.whole(norm)
        self._check("loss", torch.tensor(loss), rollouts)
        self._check("gradient norm", norm, rollouts)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * min(1.0, (self.done + 1) / max(1, self.settings.warmup))
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=False)
        self.done += 1
        clock.append(time.perf_counter())
        metrics = {**_measure(rollouts, scored, measured, self.reward is not exact), **_bonus_shares(scored, adv, by_mode),
                   "unfinished": float(unfinished(rollouts, stops).float().mean())}
        if measured:
            self.beyond = self.beyond + 1 if self._is_beyond(metrics) else 0
        return {"step": self.done, "loss": loss, "grad_norm": float(norm), **metrics, "beyond_bounds": self.beyond,
                **{f"seconds_{part}": b - a for part, a, b in zip(("sample", "score", "update"), clock, clock[1:])}
                }, rollouts

    def _prompting(self):
        """The modes whose prompts a step needs, by name."""
        names = dict.fromkeys((*self.method.sampling, *self.method.training))
        rewrapped = {_rewrapped(name): replace(self.modes[name], one_turn=True) for name in self.method.rewrapped}
        return {name: self.modes[name] for name in names} | rewrapped

    def _live(self, rollouts, group_ids):
        """bool (N,): the rows that have a gradient; all of them where dead groups have one too."""
        live = advantages.group_relative(rollouts.rewards, group_ids) != 0  # every method's A is 0 with it
        return (live | self.method.learns_from_dead).repeat(len(self.method.training))

    def _micro_batches(self, rollouts, prompts, wanted):
        """This process's share of the wanted rows (N,), cut to micro_tokens -> (parts, tokens of the largest share).

        A part is (row numbers, pieces for `_forward`). A group stays together, so that its prompt is read once, unless it
        alone is more than micro_tokens; groups go in the order of their longest responses, so that attention pads little.
        Row k R + r is response r under the k-th training mode.
        """
        ends, everyone = rollouts.lengths.tolist(), rollouts.group_ids.tolist()
        groups = {}
        for k, mode in enumerate(self.method.training):
            for r in wanted[k * len(ends) : (k + 1) * len(ends)].nonzero().squeeze(1).tolist():
                foreign = mode in self.method.rewrapped and rollouts.modes[r] != mode
                groups.setdefault((_rewrapped(mode) if foreign else mode, everyone[r]), []).append((k, r))
        pieces = []
        for (mode, g), rows in groups.items():
            size = room = len(prompts[mode][g])
            pieces.append((mode, g, []))
            for row in rows:
                if pieces[-1][2] and size + ends[row[1]] > self.settings.micro_tokens:
                    pieces.append((mode, g, []))
                    size = room
                size += ends[row[1]]
                pieces[-1][2].append(row)
        pieces.sort(key=lambda piece: -max(ends[r] for _, r in piece[2]))

        def tokens(piece):
            return len(prompts[piece[0]][piece[1]]) + sum(ends[r] for _, r in piece[2])

        loads = []
        for process in range(self.accelerator.num_processes):
            parts, size = [], math.inf
            for piece in pieces[process :: self.accelerator.num_processes]:
                if size + tokens(piece) > self.settings.micro_tokens:
                    parts.append(([], []))
                    size = 0
                size += tokens(piece)
                parts[-1][0].extend(k * len(ends) + r for k, r in piece[2])
                parts[-1][1].append(piece)
            loads.append(parts)
        own = loads[self.accelerator.process_index]
        if self.sharded and pieces:  # all must go through the model equally often: what lacks is a response for no row
            mode, g, rows = pieces[-1]
            own += [([], [(mode, g, rows[:1])])] * (max(map(len, loads)) - len(own))
        return own, max(sum(tokens(piece) for _, part in parts for piece in part) for parts in loads)

    def _forward(self, part, rollouts, prompts):
        """Log-probs and entropies (rows, T) of a part, whose layout is made only here: it may be large."""
        chosen, pieces = part
        responses = torch.tensor([r for _, _, rows in pieces for _, r in rows])
        packed = pack([prompts[mode][g] for mode, g, _ in pieces],
                      torch.tensor([place for place, (_, _, rows) in enumerate(pieces) for _ in rows]),
                      rollouts.tokens[responses], rollouts.lengths[responses])
        # Of the policy that sampled: at any other temperature the gradient would be another policy's.
        out = self.policy(packed.to(self.accelerator.device), self.settings.temperature)
        return tuple(t[: len(chosen)] for t in out)

    def _gather(self, parts, outputs, rollouts):
        """Log-probs and entropies of all rows (N, T), detached, from all processes' micro-batches' outputs."""
        shape = (len(rollouts.tokens) * len(self.method.training), rollouts.tokens.shape[1])
        dtype = torch.promote_types(self.model.dtype, torch.float32)
        logp, entropy = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
        for (chosen, _), (part_logp, part_entropy) in zip(parts, outputs):
            logp[chosen, : part_logp.shape[1]] = part_logp.detach().cpu()
            entropy[chosen, : part_entropy.shape[1]] = part_entropy.detach().cpu()
        return (self.accelerator.reduce(t.to(self.accelerator.device), "sum").cpu() for t in (logp, entropy))

    def _backward(self, parts, outputs, old_logp, adv, keep, total, rollouts, prompts):
        """Accumulate the gradient of the batch's loss over its micro-batches and processes; -> the loss."""
        weigh_entropy = self.method.coefficients.get(self.method.entropy_coef, 0.0)
        eps, loss = self.settings.clip_eps, 0.0
        trained = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        for parameter in trained:  # a batch without a live group still steps, on zeros
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for k, (chosen, _) in enumerate(parts):
            logp, entropy = outputs[k] if outputs else self._forward(parts[k], rollouts, prompts)
            self._check("new log-probs", logp, rollouts, chosen)  # minus infinity would give a ratio of 0, and no trace
            old, a, kept = (t[chosen, : logp.shape[1]].to(logp.device) for t in (old_logp, adv, keep))
            per_token = losses.clipped_surrogate(logp, old, a, eps, eps) - weigh_entropy * entropy
            part = losses.token_mean(per_token, kept, total)
            self.accelerator.backward(part)
            loss += part.item()
        for parameter in () if self.sharded else trained:
            parameter.grad = self.accelerator.reduce(parameter.grad, "sum")
        loss = torch.tensor(loss, dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.reduce(loss, "sum"))

    def _is_beyond(self, measured):
        entropies = [measured[f"entropy_bits_{mode}"] for mode in self.method.sampling]
        means = [measured.get(f"reward_{mode}", measured.get(f"accuracy_{mode}")) for mode in self.method.sampling]
        return 0 < self.settings.max_entropy_bits < max(entropies) or min(means) < self.settings.min_accuracy

    def _undo(self):
        """Leave everything as it was before the step at hand, whose update was not made."""
        self.optimiser.zero_grad()
        for name, generator in self.generators.items():
            generator.set_state(self._before[name])

    def _check(self, what, values, rollouts, rows=None):
        """Undo the step and raise FloatingPointError unless all values are finite: one, or some for each of the rows."""
        bad, ids = ~torch.isfinite(values), rollouts.question_ids
        if bad.any():
            if bad.ndim:  # all rows are the responses, once for each training mode
                rows = range(len(bad)) if rows is None else rows
                ids = [ids[row % len(ids)] for row, is_bad in zip(rows, bad.reshape(len(bad), -1).any(1)) if is_bad]
            self._undo()
            ids = ", ".join(dict.fromkeys(ids))
            raise FloatingPointError(f"{what} not finite at step {self.done + 1} of {self.method.label}; no weight was "
                                     f"changed. Lower the learning rate, or look at the questions {ids}")


def share(rollouts, method, stops):
    """Who learns from what: group ids (R,), and bool (N, T), the tokens that each training mode learns from.

    With sharing (eq. 10) that is every token of every response: row k R + r is response r under the k-th training mode.
    Without it a mode has only what it drew, which is then a group of its own. stops: the ids that end a response.
    """
    mask, modes, learned = rollouts.mask, rollouts.modes, []
    last = rollouts.tokens.gather(1, rollouts.lengths[:, None] - 1).squeeze(1)
    ended = torch.isin(last, torch.tensor(stops)) & method.loses_end
    shared = mask & (torch.arange(mask.shape[1]) < (rollouts.lengths - ended.long())[:, None]) & method.shares
    for name in method.training:
        own = torch.tensor([drawn_in == name for drawn_in in modes])
        learned.append(torch.where(own[:, None], mask, shared))
    if method.shares:
        return rollouts.group_ids, torch.cat(learned)
    place = {name: k for k, name in enumerate(method.sampling)}
    return rollouts.group_ids * len(place) + torch.tensor([place[name] for name in modes]), torch.cat(learned)


def _rewrapped(name):
    return f"{name}, one turn"


def _measure(rollouts, scored, measured, own_reward):
    """A step's metrics: by sampling mode, its accuracy; by training mode, the entropy of its own responses in bits.

    Accuracy is left out where rewards are not 0 or 1; a mode's mean reward is given there, and wherever the reward is not ours.
    """
    out = {}
    groups = scored.rewards.new_zeros(int(scored.group_ids.max()) + 1)
    least, most = (groups.scatter_reduce(0, scored.group_ids, scored.rewards, which, include_self=False) for which in ("amin", "amax"))
    out["reward"], out["live_groups"] = float(scored.rewards.mean()), float((least < most).float().mean())
    out["response_tokens"] = float(rollouts.lengths.float().mean())
    for mode in dict.fromkeys(rollouts.modes):
        own = torch.tensor([drawn_in == mode for drawn_in in rollouts.modes])
        tokens = scored.mask & own[:, None]
        mean = float(scored.rewards[own].mean())
        if rollouts.right_or_wrong:
            out[f"accuracy_{mode}"] = mean
        if own_reward or not rollouts.right_or_wrong:
            out[f"reward_{mode}"] = mean
        out[f"entropy_bits_{mode}"] = float(scored.entropy[mode][tokens].mean()) * BITS if measured else math.nan
        if mode == "he":
            kl = (scored.logp["he"] - scored.logp["normal"])[tokens].mean()
            out["kl_he_from_normal"] = float(kl) if measured else math.nan
    return out


def _bonus_shares(scored, adv, by_mode):
    """How large a training mode's bonus is beside the advantage: the mean of |A~ - A| / |A| over live groups' tokens.

    A is eq. 2's advantage and A~ what the mode trains with; 0 where no group is live.
    """
    plain = advantages.group_relative(scored.rewards, scored.group_ids)[:, None]
    tokens = scored.mask & (plain != 0)
    return {f"bonus_share_{name}": float(((adv[rows] - plain).abs() / plain.abs())[tokens].mean()) if tokens.any() else 0.0
            for name, rows in by_mode.items()}


@contextmanager
def _stop_requests():
    """A list that is no longer empty once Ctrl-C or SIGTERM has come; a second one acts at once, as outside.

    Outside the main thread, where Python handles no signals, it stays empty.
    """
    asked, before = [], {}

    def ask(number, frame):
        asked.append(number)
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(state, dataset, folder=None, record=None):
    """Train to the end, from the newest checkpoint in `folder` if there is one, saving every `save_every` steps.

    state: a Run; dataset: questions. `record(metrics, rollouts)` is called after each step, in one process. Ctrl-C and
    SIGTERM end the run after the step at hand, saved, with KeyboardInterrupt. RuntimeError where entropy or accuracy ran
    away.
    """
    settings = state.settings
    if folder:
        state.resume(folder)
    with _stop_requests() as asked:
        for step, questions in enumerate(tasks.batches(dataset, settings.questions, settings.steps, state.seed)):
            if step < state.done:
                continue
            if state.runaway:
                raise RuntimeError(f"{state.method.label} was stopped after step {step}: for {state.beyond} steps entropy "
                                   f"was above max_entropy_bits={settings.max_entropy_bits} or accuracy below min_accuracy="
                                   f"{settings.min_accuracy}; lower the learning rate or the method's coefficients")
            metrics, rollouts = state.step(questions)
            if record and state.accelerator.is_main_process:
                record(metrics, rollouts)
            # all processes stop after one step, whichever was asked
            stop = bool(state.accelerator.reduce(torch.tensor(len(asked), device=state.accelerator.device), "sum"))
            due = state.done % settings.save_every == 0 or state.done == settings.steps
            if folder and (stop or due or state.runaway):
                state.save(folder)
            if stop:
                raise KeyboardInterrupt(f"stopped after step {state.done} of {settings.steps}; run the same again to "
                                        "continue")
