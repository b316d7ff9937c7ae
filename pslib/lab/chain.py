"""The steps that the notebooks of the chain call, each from a profile's settings to files in
results/local/<profile>.

A step that is done is not done again; a training run that was stopped goes on from its last
checkpoint; a file is there whole or not at all.
"""

import itertools
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, replace

import pandas as pd
import torch
from datasets import Dataset

from pslib import modes, rollouts, tasks, train
from pslib.evidence import evaluate, probe
from pslib.lab import checkpoint, checks, engines, origins, records, runs
from pslib.nano import worlds


def use_one_thread():
    """Let this process compute on one thread, or on OMP_NUM_THREADS.

    On a small model a second one gains nothing, and the chain fills other cores with other runs.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))


class Progress:
    """Says how far a long job is and what is left, at most every `every` seconds."""

    def __init__(self, name, every=10.0):
        self.name, self.every = name, every
        self.begun, self.said, self.first = time.time(), 0.0, None

    def __call__(self, done, total, note=""):
        """Report `done` of `total` steps."""
        now = time.time()
        self.first = done - 1 if self.first is None else self.first
        if now - self.said < self.every and done < total:
            return
        self.said, pace = now, (now - self.begun) / (done - self.first)
        left = f"{pace:.2f} s a step, {pace * (total - done):.0f} s left{note}"
        print(f"{self.name}: step {done}/{total}, {left}", file=sys.stderr, flush=True)


def save_model(folder, model, tokenizer):
    """Save a Hugging Face folder, whole or not at all; OSError where it cannot be written."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        put(temporary, folder)
    except Exception as error:  # the libraries raise kinds of their own when the disk is full
        shutil.rmtree(temporary, ignore_errors=True)
        why = f"{error}; nothing earlier was lost: put this right and run again"
        known = filter(None, [getattr(error, "errno", None)])
        raise OSError(*known, f"could not save the model to {folder}: {why}") from error


def put(temporary, folder):
    """Give a folder its final name, in place of an earlier one, once all of it is on the disk."""
    for path in (*temporary.rglob("*"), temporary):
        checkpoint.sync(path)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    checkpoint.sync(folder.parent)


def _write_json(path, content):
    checkpoint.write(path, json.dumps(content, indent=1))


def _write_table(path, table):
    checkpoint.write(path, table.to_csv(index=False))


def _manifest(folder, seed, begun, inputs):
    """Say in manifest.json that the model of a folder is made, and of what."""
    inputs = {**inputs, "model": records.files_digest(folder / "model")}
    _write_json(folder / "manifest.json", runs.manifest(seed, time.time() - begun, inputs))


def _load(profile, source):
    use_one_thread()
    return origins.load(source, profile.device)


def make_base(profile, size):
    """The model that reinforcement learning starts from, as (model, tokenizer, losses).

    One that is made here is trained once and kept in base/<size>; losses is its training curve, in
    nats a token. Any other is named by the profile, and losses is empty.
    """
    if not profile.origin.made_here:
        return *_load(profile, profile.model.replace("{size}", size)), []
    folder, wanted = runs.base_folder(profile, size), records.base_record(profile, size)
    # a finished one is only read, by as many runs at once as there are
    if not _base_is_made(folder, wanted):
        with runs.owned(folder):
            if not _base_is_made(folder, wanted):  # by another process, just before this one asked
                _train_base(profile, size, folder, wanted)
    return *_load(profile, folder / "model"), pd.read_csv(folder / "losses.csv").loss.tolist()


def _train_base(profile, size, folder, wanted):
    """Train a base model into a folder that is owned."""
    use_one_thread()
    records.begin(folder / "params.yaml", wanted)
    begun, progress = time.time(), Progress(f"base {size}")
    model, tokenizer, losses = profile.origin.make(
        size,
        records.of_base(profile),
        folder / "checkpoints",
        lambda step, steps, loss: progress(step, steps, f", loss {loss:.2f}"),
    )
    save_model(folder / "model", model, tokenizer)
    _write_table(folder / "losses.csv", pd.DataFrame({"loss": losses}).round(4))
    _manifest(folder, profile.base.seed, begun, {})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _base_is_made(folder, wanted):
    """Whether a folder holds the wanted base model; ValueError if it is another or changed."""
    records.same(folder / "params.yaml", wanted)
    if not (folder / "manifest.json").exists():
        return False
    records.untouched(folder)
    return True


def measure_base(profile, size):
    """What makes the base model a fair stand-in, on tuning questions at temperature 1 -> DataFrame.

    Rows by `measure`: "suite" (accuracy and entropy_bits of each suite), "default" (share and
    accuracy of each derivation without a system prompt), "named" (the same under a prompt that
    names it: share says how well it obeys, kl in nats a token how far that prompt moves the model),
    "prompt" (the KL under each of the paper's mode prompts). Also written to measured.csv beside
    the model.
    """
    model, tokenizer, _ = make_base(profile, size)
    settings = replace(profile.evaluate, temperature=1.0, top_k=0, top_p=1.0)
    generator, rows = torch.Generator().manual_seed(profile.base.seed), []

    def given(suite, *both):
        asked = profile.questions(suite, settings.questions, "tuning")
        return model, tokenizer, *both, asked, settings, generator

    def answered(suite):
        return evaluate.evaluate(*given(suite, modes.NORMAL), suite)[0]

    def moved(mode):
        return evaluate.inter_mode_kl(*given("train", mode, modes.NORMAL))

    for suite in tasks.TEST_SUITES:
        rows.append({"measure": "suite", "name": suite, **_totals(answered(suite))})
    default = answered("train")
    for derivation in worlds.DERIVATIONS:
        rows.append({"measure": "default", **_use(default, derivation)})
        text = worlds.NAMED_PROMPTS[derivation][0]
        kl, table = moved(modes.Mode("he", text))
        rows.append({"measure": "named", "name": text, **_use(table, derivation), "kl": kl})
    for name in modes.prompts()["modes"]:
        kl, table = moved(modes.he_mode(name))
        rows.append({"measure": "prompt", "name": name, **_totals(table), "kl": kl})
    measured = pd.DataFrame(rows).round(4)
    _write_table(runs.measured_folder(profile, size) / "measured.csv", measured)
    return measured


def _totals(table):
    """Accuracy and entropy of all answers of a table."""
    totals = evaluate.summary(table).iloc[0]
    return {"accuracy": totals.accuracy, "entropy_bits": totals.entropy_bits}


def _use(table, derivation):
    """How often a derivation is used, and how often it is right."""
    used = table[table.derivation == derivation]
    share = len(used) / len(table)
    return {"derivation": derivation, "share": share, "accuracy": used.correct.mean()}


def bonus_of_base(profile, size):
    """What eq. 3 adds to the base model's advantages, see probe.bonus; writes bonus.csv."""
    model, tokenizer, _ = make_base(profile, size)
    generator = torch.Generator().manual_seed(profile.base.seed)
    questions = profile.questions("train", profile.train.questions, "tuning")
    # as a training step draws
    settings = replace(profile.evaluate, temperature=profile.train.temperature, top_k=0, top_p=1.0)
    given = profile.modes_of(size, tokenizer), settings, questions, profile.train.group_size
    table = probe.bonus(model, tokenizer, *given, generator).round(5)
    _write_table(runs.measured_folder(profile, size) / "bonus.csv", table)
    return table


@dataclass
class Prepared:
    """A training run that was checked and has something to do."""

    questions: Dataset
    model: torch.nn.Module
    tokenizer: object
    both: tuple  # its modes
    settings: dict  # its record, for params.yaml
    inputs: dict  # what its manifest says that it was made from


def prepare(profile, method, size, seed, folder):
    """Check a training run and load it -> Prepared, or None where it is done already."""
    recipe = profile.method(method)
    settings = records.training_settings(profile, method, size, seed)
    done = (folder / "manifest.json").exists()
    before = records.same(folder / "params.yaml", settings)
    if done and not before.get("inputs"):  # from before inputs were recorded
        return None
    questions = profile.questions("train", profile.train.pool, "train")
    model, tokenizer, _ = make_base(profile, size)
    both = profile.modes_of(size, tokenizer)
    made_from = records.of_model(model, tokenizer, both)
    asked = {"questions": records.of_questions(questions)}
    settings["inputs"] = asked | made_from | settings.get("inputs", {})
    records.same(folder / "params.yaml", settings)
    if done:
        records.whole_curve(folder, profile.train.steps)
        return None
    if before and not before.get("inputs"):
        raise ValueError(
            f"{folder} is a run that was stopped before inputs were recorded, so it cannot be told "
            "whether it would go on with the same ones; remove it to train it from its start"
        )
    named = ("prompts", "date")
    inputs = {name: value for name, value in settings["inputs"].items() if name in named}
    if not profile.origin.made_here:
        inputs |= {"base": _source(profile, size, model), "data": questions.info.description}
    checks.check_training(model, tokenizer, recipe, both, profile.train, questions)
    # evaluation comes after hours of training
    rollouts.check_room(model, tokenizer, both, [], profile.evaluate.max_new_tokens)
    return Prepared(questions, model, tokenizer, both, settings, inputs)


def finish(profile, folder, seed, begun, inputs):
    """Say in manifest.json that a training run is done, and remove its checkpoints."""
    records.whole_curve(folder, profile.train.steps)
    _manifest(folder, seed, begun, inputs)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


class Curve:
    """A run's metrics.csv, a row a step, written before the step's checkpoint."""

    def __init__(self, folder, steps):
        self.path, self.steps, self.rows = folder / "metrics.csv", steps, []
        self.progress = Progress(folder.name)
        if self.path.exists():
            self.rows = pd.read_csv(self.path).to_dict("records")

    def before(self, step):
        """The rows of the steps before one; ValueError where the file lacks some."""
        earlier = self.rows[: step - 1]
        if [row["step"] for row in earlier] != list(range(1, step)):
            records.whole_curve(self.path.parent, step - 1)
        return earlier

    def add(self, row):
        """Write a step's row, and say how far the run is; later rows go."""
        self.rows = [*self.before(row["step"]), row]
        _write_table(self.path, pd.DataFrame(self.rows).round(6))
        self.progress(row["step"], self.steps, f", reward {row['reward']:.2f}")


def train_run(profile, method, size, seed, folder=None):
    """Train one run to its end, or read one that is done -> its metrics, a row a step.

    Writes params.yaml, metrics.csv, rollouts.parquet (the last step's), manifest.json, and model/
    for evaluation, to `folder` or by default to the run's own.
    """
    folder, begun = folder or runs.run_folder(profile, method, size, seed), time.time()
    with runs.owned(folder):
        prepared = prepare(profile, method, size, seed, folder)
        if prepared:
            _train(prepared, profile, profile.method(method), seed, folder)
            finish(profile, folder, seed, begun, prepared.inputs)
        return pd.read_csv(folder / "metrics.csv")


def _train(prepared, profile, recipe, seed, folder):
    """Train in our own loop, from the run's newest checkpoint, and save the model."""
    given = prepared.model, prepared.tokenizer, recipe, prepared.both, profile.train
    state = train.Run(*given, seed)
    records.begin(folder / "params.yaml", prepared.settings)
    curve = Curve(folder, profile.train.steps)

    def record(metrics, drawn):
        curve.add(metrics)
        if metrics["step"] == profile.train.steps:
            rewards = drawn.rewards.long() if drawn.right_or_wrong else drawn.rewards
            kept = {"question_id": drawn.question_ids, "mode": drawn.modes}
            kept |= {"response": drawn.texts, "reward": rewards.numpy()}
            checkpoint.write(folder / "rollouts.parquet", pd.DataFrame(kept).to_parquet())

    train.run(state, prepared.questions, folder / "checkpoints", record)
    records.whole_curve(folder, profile.train.steps)
    save_model(folder / "model", state.model.eval(), prepared.tokenizer)


def _source(profile, size, model):
    """Where a run's first model is from: name@revision on the hub, or a folder or world."""
    name = profile.model.replace("{size}", size)
    revision = getattr(model.config, "_commit_hash", None)
    return f"{name}@{revision}" if revision else name


def trained_folder(profile, method, size, seed, folder=None):
    """A finished run's model folder; FileNotFoundError or ValueError if there is none."""
    folder = folder or runs.run_folder(profile, method, size, seed)
    if not (folder / "manifest.json").exists():
        raise FileNotFoundError(
            f"run {folder.name} of profile {profile.name} is not trained yet; run 06_train with "
            f"method={method}, size={size} and seed={seed} first"
        )
    records.same(folder / "params.yaml", records.training_settings(profile, method, size, seed))
    records.untouched(folder)
    return folder / "model"


def trained_model(profile, method, size, seed, folder=None):
    """The model of a finished run, or the base model for "original", as (model, tokenizer).

    The profile's engine draws from it.
    """
    if profile.method(method).training:
        source = trained_folder(profile, method, size, seed, folder)
        model, tokenizer = _load(profile, source)
    else:
        model, tokenizer, _ = make_base(profile, size)
    engines.choose(model, tokenizer, profile.engine)
    return model, tokenizer


def _asked_of(profile, method, size, model, tokenizer, questions, folder):
    """The inputs of a step that asks a run's model some suites' questions, for its record."""
    place = runs.base_folder(profile, size) if profile.origin.made_here else None
    if profile.method(method).training:
        place = folder
    which = _source(profile, size, model)
    if place:
        which = json.loads((place / "manifest.json").read_text())["inputs"]["model"]
    return {
        "model": which,
        "questions": {suite: records.of_questions(own) for suite, own in questions.items()},
        **records.of_model(model, tokenizer, profile.modes_of(size, tokenizer)),
    }


def _suites(profile):
    """The questions of an evaluation, by suite."""
    count = profile.evaluate.questions
    return {suite: profile.questions(suite, count) for suite in tasks.TEST_SUITES}


def evaluate_run(profile, method, size, seed, folder=None):
    """Evaluate a run or the original on the suites in its modes -> evaluation.csv, written too."""
    folder = folder or runs.run_folder(profile, method, size, seed)
    path, record = folder / "evaluation.csv", folder / "evaluation.yaml"
    with runs.owned(folder):
        wanted = records.evaluation_settings(profile, size)
        records.same(record, wanted)
        if path.exists() and not record.exists():  # from before inputs were recorded
            return pd.read_csv(path)
        begun = time.time()
        asked = _suites(profile)
        model, tokenizer = trained_model(profile, method, size, seed, folder)
        wanted["inputs"] = _asked_of(profile, method, size, model, tokenizer, asked, folder)
        records.begin(record, wanted)
        if path.exists():
            return pd.read_csv(path)
        # its pieces, until all are there, under a name that says what they are made from
        kept = folder / f".evaluation-{records.digest(record.read_bytes())}"
        table = _evaluate(profile, method, size, seed, model, tokenizer, asked, kept)
        if profile.data:
            inputs = {suite: own.info.description for suite, own in asked.items()}
            inputs = {"model": _source(profile, size, model), **inputs}
            manifest = runs.manifest(seed, time.time() - begun, inputs)
            _write_json(folder / "evaluation.json", manifest)
        _write_table(path, table)
        shutil.rmtree(kept)
        return table


def _evaluate(profile, method, size, seed, model, tokenizer, asked, kept):
    """The rows of all suites, {name: questions}, in each mode of a method; pieces go to `kept`."""
    generator, parts, name = torch.Generator().manual_seed(seed), [], kept.parent.name
    progress, sampling = Progress(f"evaluate {name}"), profile.method(method).sampling
    wanted = [mode for mode in profile.modes_of(size, tokenizer) if mode.name in sampling]
    for mode in wanted:
        for suite, questions in asked.items():
            given = (model, tokenizer, mode, questions, profile.evaluate, generator, suite)
            report = Progress(f"evaluate {name}, {suite}, {mode.name} mode, in pieces")
            parts.append(evaluate.evaluate_in_pieces(*given, kept, report))
            progress(len(parts), len(wanted) * len(asked))
    return pd.concat(parts).round({"entropy_bits": 4})


def _sections(profile, method):
    """What the profile's `probe` and `probe_later` want of a method's models: {section: files}."""
    sections = {"probe": profile.probe, "probe_later": profile.probe_later}
    return {
        name: [part for part in evaluate.PARTS if getattr(wanted, part)]
        for name, wanted in sections.items()
        if method in wanted.methods
    }


def probe_run(profile, method, size, seed):
    """Ask a run's model (or the original's) what the profile's `probe` and `probe_later` sections
    want, in both modes; -> {name: DataFrame}.

    Each is written beside the run's evaluation: evaluate.PARTS, and story_texts.parquet.
    A section has its own record, <section>.yaml. `probe_later` also has a manifest of its own,
    probe_later.json, since its models may have been trained at another commit.
    """
    folder, found = runs.run_folder(profile, method, size, seed), {}
    with runs.owned(folder):
        for section, parts in _sections(profile, method).items():
            _probe(profile, method, size, seed, section, [folder / f"{part}.csv" for part in parts])
            found |= {part: pd.read_csv(folder / f"{part}.csv") for part in parts}
    return found


def _probe(profile, method, size, seed, section, files):
    """Ask what a section wants and write its files, in a folder that is owned."""
    folder, asked = runs.run_folder(profile, method, size, seed), getattr(profile, section)
    record, wanted = folder / f"{section}.yaml", records.probe_settings(profile, size, asked)
    done = all(path.exists() for path in files)
    records.same(record, wanted)
    # results without a record are from before inputs were recorded
    if files and not (done and not record.exists()):
        model, tokenizer = trained_model(profile, method, size, seed)
        questions = probe.questions(profile, asked)
        wanted["inputs"] = _asked_of(profile, method, size, model, tokenizer, questions, folder)
        records.begin(record, wanted)
    if done:
        return
    begun, found = time.time(), probe.probe(model, tokenizer, profile, size, seed, asked)
    if "story_texts" in found:
        texts = found.pop("story_texts").to_parquet()
        checkpoint.write(folder / "story_texts.parquet", texts)
    for name, table in found.items():
        _write_table(folder / f"{name}.csv", table.round(4))
    if section == "probe_later" or not profile.origin.made_here:
        made = profile.origin.made_here
        which = wanted["inputs"]["model"] if made else _source(profile, size, model)
        manifest = runs.manifest(seed, time.time() - begun, {"model": which})
        _write_json(folder / f"{section}.json", manifest)


def _numbers(seeds):
    """Seeds given as a text like "1,2,3"; ValueError for another text."""
    try:
        return [int(seed) for seed in seeds.replace("_", ",").split(",")]
    except ValueError:
        raise ValueError(
            f'seeds must be whole numbers with commas between them, like "1,2,3"; got {seeds!r}'
        ) from None


def evaluate_runs(profile, method, size, seeds):
    """`evaluate_run` for seeds given as a text like "1,2,3": all rows, with a column seed."""
    numbers = _numbers(seeds)
    return pd.concat([evaluate_run(profile, method, size, k).assign(seed=k) for k in numbers])


def probe_runs(profile, method, size, seeds):
    """`probe_run` for such seeds: {name: all rows, with a column seed}."""
    found = {seed: probe_run(profile, method, size, seed) for seed in _numbers(seeds)}
    return {
        name: pd.concat([own[name].assign(seed=seed) for seed, own in found.items()])
        for name in next(iter(found.values()))
    }


def check(profile):
    """ValueError names what this machine made of a profile from other settings or inputs.

    Of models that are not made here the weights are checked by each step.
    """
    records.check(profile)
    if not profile.origin.made_here:
        return
    questions = records.of_questions(profile.questions("train", profile.train.pool, "train"))
    asked = {suite: records.of_questions(own) for suite, own in _suites(profile).items()}
    for size in profile.sizes:
        folder = runs.base_folder(profile, size)
        if not _base_is_made(folder, records.base_record(profile, size)):
            continue
        started, tokenizer = _load(profile, folder / "model")
        model = records.of_model(started, tokenizer, profile.modes_of(size, tokenizer))
        trained = {"inputs": {"questions": questions, **model}}
        del model["weights"]  # an evaluation's are those of the run's own model
        evaluated = {"inputs": {"questions": asked, **model}}
        settings = records.evaluation_settings(profile, size)
        for which in (run for run in profile.grid if run[1] == size):
            own = runs.run_folder(profile, *which)
            wanted = records.training_settings(profile, *which)
            records.same(own / "params.yaml", {**wanted, **trained})
            records.same(own / "evaluation.yaml", {**settings, **evaluated})
            if (own / "manifest.json").exists() and (own / "model").exists():
                records.untouched(own)


def missing(profile):
    """What a profile's grid still lacks here: {step's name in the Snakefile: what it is}."""
    out = {}
    for size in profile.sizes if profile.origin.made_here else ():
        if not (runs.base_folder(profile, size) / "manifest.json").exists():
            out[f"05_base_model-{size}"] = f"the base model of size {size}"
    for method, size, seed in profile.grid:
        name = runs.run_id(method, size, seed)
        own = runs.run_folder(profile, method, size, seed)
        if profile.method(method).training and not (own / "manifest.json").exists():
            out[f"06_train-{name}"] = f"run {name}"
        for part in ("evaluation", *itertools.chain(*_sections(profile, method).values())):
            if not (own / f"{part}.csv").exists():
                seeds = "_".join(map(str, profile.seeds_of(size)))
                out[f"07_evaluate-{method}-{size}-s{seeds}"] = f"{part}.csv of run {name}"
    return out


def sample_of_rollouts(profile, method, size, seed, count=3):
    """The first `count` responses in each mode of a run's last step."""
    kept = pd.read_parquet(runs.run_folder(profile, method, size, seed) / "rollouts.parquet")
    return kept.groupby("mode", sort=False).head(count)[["mode", "reward", "response"]]
