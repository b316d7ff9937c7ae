"""Runs: profiles, the folder of a run, its manifest, and who owns it."""

import json
import os
import platform
import re
import resource
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import filelock
import torch
import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pslib import methods, modes, policy, tasks
from pslib.evidence import evaluate
from pslib.lab import checkpoint, engines, origins, ranges
from pslib.lab.origins import NEUTRAL
from pslib.lab.place import ROOT, results_root
from pslib.lab.settings import Training
from pslib.tasks import benchmarks

PROFILES = Path(__file__).parents[1] / "profiles"
BASE_MODELS = "base models"  # see Profile.replicates
# a small trained model that the checkout carries; see the README there
TOUR = ROOT / "results" / "tour" / "model"


@dataclass(frozen=True)
class BaseSettings(ranges.Checked):
    """How base models are made in a nano world; a profile's `base` section."""

    world: str
    steps: ranges.Count
    batch_size: ranges.Count = 64
    seed: ranges.Seed = 0
    # Kept once for all profiles of the world, with committed weights, see base_folder
    shared: bool = False


# How many numbers the sums of a suite have
Terms = Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)]


@dataclass(frozen=True)
class Profile:
    """One YAML file: which models, methods and seeds, and how they are trained and evaluated."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    name: str
    # "nano", or a folder or hub id of a causal language model, in which {size} stands for one of
    # sizes; with a `base` section it is first taught
    model: str
    sizes: list[str]  # nano sizes; for another model, what stands for {size}, or one name for it
    methods: list[str]
    seeds: list
    he_prompt: str  # which prompt of prompts.yaml makes the high-entropy mode
    train: Training
    evaluate: evaluate.Settings
    base: BaseSettings = None  # of models that are made here
    # suite -> {data set: where it is}, see benchmarks; empty: the nano world's
    data: dict = field(default_factory=dict)
    # how the nano world's sums are put to a model that reads words, see tasks.load
    wording: str = ""
    # suite -> how many numbers its sums have, where that is not its own
    terms: dict[Literal[tuple(tasks.SUITES)], Terms] = field(default_factory=dict)
    # which draws responses in evaluations
    engine: Literal[tuple(engines.ENGINES)] = "auto"
    # where models are loaded, and so where all is computed
    device: Literal[policy.DEVICES] = "auto"
    enable_thinking: bool = None  # see modes.Mode.thinking
    # method -> coefficients that differ from the paper's
    coefficients: dict[str, dict] = field(default_factory=dict)
    probe: evaluate.Probe = field(default_factory=evaluate.Probe)
    # asked of runs that were probed before, and so recorded apart from `probe`
    probe_later: evaluate.Probe = field(default_factory=evaluate.Probe)
    ablation_size: str = ""  # the size at which the variants run; empty: at every size
    # name -> {of: method, then its coefficients}: rows of the ablation table
    variants: dict[str, dict] = field(default_factory=dict)
    # size -> the file of notebooks/accelerate whose processes train it
    launch: dict[str, str | int] = field(default_factory=dict)
    # rule -> what it asks of a cluster, see notebooks/Snakefile
    resources: dict[str, dict] = field(default_factory=dict)

    def method(self, name):
        """A method with this profile's coefficients, or one of its variants with its own."""
        if name not in self.variants:
            return methods.get(name, **self.coefficients.get(name, {}))
        given = dict(self.variants[name])
        of = methods.get(given.pop("of", name))
        label = ", ".join([of.label, *(f"{key} {value}" for key, value in given.items())])
        return of.with_coefficients(label, **given)

    @property
    def origin(self):
        """Where the profile's base models come from, and what they can do."""
        if self.model == origins.NANO:
            return origins.Nano(self)
        return origins.Taught(self) if self.base else origins.Pretrained(self)

    @property
    def grid(self):
        """Every run that the profile holds: (method or variant, size, seed)."""
        table1 = [(name, size) for size in self.sizes for name in self.methods]
        varied = [(name, size) for size in self.ablation_sizes for name in self.variants]
        return [(*row, seed) for row in table1 + varied for seed in self.seeds_of(row[1])]

    def seeds_of(self, size):
        """The seeds of a size's runs; where `seeds` is [base], that of its base model."""
        return self.seeds if self.seeds != ["base"] else [self.origin.parse(size)[1]]

    @property
    def ablation_sizes(self):
        """The sizes at which the variants run."""
        return [self.ablation_size] if self.ablation_size else self.sizes

    @property
    def ablation_unit(self):
        """The size under which the variants stand in tables, see `unit`."""
        return self.unit(self.ablation_sizes[0], 0)[0]

    def unit(self, size, seed):
        """A run's (size, seed) in tables; base models of one size count as its seeds."""
        kind, which = self.origin.parse(size)
        alike = sum(self.origin.parse(other)[0] == kind for other in self.sizes)
        return (kind, which) if alike > 1 and len(self.seeds) == 1 else (size, seed)

    def replicates(self, method=""):
        """What the runs behind a row of a table differ in: what an interval can speak for.

        Of an untrained model seeds are no training runs: they sample the same weights again.
        (Methods count as trained unless named.)
        """
        if self.table_sizes != self.sizes:
            return BASE_MODELS
        trained = not method or self.method(method).training
        return "seeds of one base model" if trained else "sampling seeds of one base model"

    @property
    def table_sizes(self):
        """The sizes that tables and figures show, in order: see `unit`."""
        return list(dict.fromkeys(self.unit(size, 0)[0] for size in self.sizes))

    @property
    def modes(self):
        """The normal and the high-entropy mode; but see `modes_of`."""
        both = modes.NORMAL, modes.he_mode(self.he_prompt)
        return tuple(replace(mode, thinking=self.enable_thinking) for mode in both)

    def modes_of(self, size, tokenizer):
        """The two modes of the runs of a size, whose base model has this tokenizer."""
        if self.he_prompt != NEUTRAL:
            return self.modes
        own = self.origin.neutral_prompts(size, tokenizer)[NEUTRAL]
        return modes.NORMAL, modes.Mode("he", own)

    def questions(self, suite, count, split="test", least=1):
        """Up to `count` questions of a suite, of the profile's data sets or the nano world's;
        least: the least number of the latter's sums.
        """
        if self.data:
            return benchmarks.load(self.data, suite, count, split)
        given = {"terms": self.terms.get(suite, ()), "wording": self.wording, "least": least}
        return tasks.load(suite, count, split, **given)

    @property
    def stories(self):
        """The story prompts: the paper's, or those of a world of few words."""
        return self.origin.stories

    @property
    def folder(self):
        """Where this machine's results of the profile go: results/local/<profile>."""
        return results_root() / "local" / self.name

    def results(self, which):
        """The folder of this machine's results ("local"), or of the "committed" ones."""
        folders = {"local": self.folder, "committed": ROOT / "results" / self.name}
        if which not in folders:
            raise ValueError(f"results are {' or '.join(folders)}; got {which!r}")
        return folders[which]


# What a step may ask of a cluster in numbers; see notebooks/Snakefile.
RESOURCES = {
    **dict.fromkeys(("threads", "mem_mb", "runtime", "nodes", "tasks"), ranges.COUNT),
    **dict.fromkeys(("gpu", "tasks_per_gpu"), ranges.COUNT_OR_NONE),
}


def build(cls, given, where):
    """A dataclass from a mapping; ValueError in one sentence names what is wrong."""
    try:
        # By way of JSON, in which pydantic takes a mapping for a dataclass and still no text for a
        # number.
        return TypeAdapter(cls).validate_json(json.dumps(given, default=str))
    except ValidationError as error:
        # a misspelt setting is both unknown and missing: what is unknown says more
        faults = sorted(error.errors(), key=lambda fault: "unexpected" not in fault["type"])
        raise ValueError(_sentence(faults[0], cls, where)) from None


def _sentence(fault, cls, where):
    """What pydantic found wrong, as one sentence."""
    *sections, name = fault["loc"] or [""]
    for section in sections:
        cls = {f.name: f.type for f in fields(cls)}.get(section, cls)
        where += f", section {section}"
    if fault["type"] == "missing":
        return f"{where} lacks the setting {name!r}"
    if fault["type"] == "unexpected_keyword_argument":
        return f"{where} has no setting {name!r}; it has {', '.join(f.name for f in fields(cls))}"
    if fault["type"] == "value_error":  # of a section's own check
        return f"{where}, section {name}: {str(fault['ctx']['error']).partition(': ')[2]}"
    should = fault["msg"].removeprefix("Input should be ")
    should = should.replace("an object", "a mapping").replace("a valid array", "a list")
    return f"{where}: {name} must be {should}; got {fault['input']!r}"


def profile_file(given):
    """The file of a profile, by its name or its path, which ends in .yaml; ValueError if none.

    A profile is called as its file, and so are its results: no two profiles may share a name.
    """
    known, path = {p.stem: p for p in sorted(PROFILES.glob("*.yaml"))}, Path(given)
    if path.suffix not in (".yaml", ".yml"):
        if given not in known:
            there = f"there are {', '.join(known)}, or give the path of a YAML file"
            raise ValueError(f"no profile is called {given!r}; {there}")
        return known[given]
    if not path.is_file():
        raise ValueError(f"there is no profile in {given}: there is no such file")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", path.stem):
        raise ValueError(
            "a profile is called as its file, whose name may hold letters, digits, '.', '_' and "
            f"'-' and begins with one of the first two; got {path.name!r}"
        )
    if path.stem in known and path.read_bytes() != known[path.stem].read_bytes():
        raise ValueError(
            f"{given} would be called {path.stem}, and another profile of this package is; give "
            "the file another name"
        )
    return path


def load_profile(name):
    """A profile by name or path, every setting checked; ValueError in one sentence for a fault."""
    path = profile_file(name)
    where = f"profile {path.stem}"
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"profile {path} is not readable YAML: {said}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{where} must be a mapping; got {given!r}")
    if "name" in given:
        raise ValueError(
            f"{where} has the setting 'name', and is called as its file; take the setting out"
        )
    profile = build(Profile, {"name": path.stem, **given}, where)
    for fault in (*_faults(profile), *profile.origin.faults()):
        raise ValueError(f"{where}: {fault}")
    asked = (profile.probe.methods, profile.probe_later.methods)
    for names in (profile.methods, profile.coefficients, profile.variants, *asked):
        for name in names:
            profile.method(name)
    for step, asked in profile.resources.items():
        ranges.check(asked, RESOURCES, f"{where}, resources of {step}")
    if profile.data:
        benchmarks.check(profile.data, f"{where}, section data")
    for size in profile.sizes:
        run_id("", size, 0)  # raises for what cannot be a folder's name
    return profile


def _faults(profile):
    """What settings of a profile do not fit together, each as a sentence without its name."""
    if profile.train.group_size % 2:
        yield (
            "group_size must be even, so that Policy Split can draw half of each group in each "
            f"mode; got {profile.train.group_size}"
        )
    there = sorted(path.stem for path in (ROOT / "notebooks" / "accelerate").glob("*.yaml"))
    for size, file in profile.launch.items():
        # A package without a checkout has none of these files, and no chain that would read them.
        if size not in profile.sizes or (there and str(file) not in there):
            yield (
                f"launch must be like {{{profile.sizes[0]}: 8}}, with one of its sizes and one of "
                f"{', '.join(there)}; got {size!r}: {file!r}"
            )
    if profile.wording and "{sum}" not in profile.wording:
        yield f"wording must hold {{sum}}, where a question's sum stands; got {profile.wording!r}"
    for name in profile.variants:
        if not re.fullmatch(r"[A-Za-z0-9_.]+", name):
            yield f"a variant's name may hold letters, digits, '_' and '.'; got {name!r}"
    if profile.ablation_size and profile.ablation_size not in profile.sizes:
        yield (
            f"ablation_size must be one of its sizes, {', '.join(profile.sizes)}; got "
            f"{profile.ablation_size!r}"
        )
    first, later = profile.probe, profile.probe_later
    for part in evaluate.PARTS:
        both = [method for method in first.methods if method in later.methods]
        if both and getattr(first, part) and getattr(later, part):
            yield f"probe and probe_later both ask {both[0]} for {part}; one answer is kept of each"
    for seed in profile.seeds:
        if type(seed) is not int and not (profile.seeds == ["base"] and profile.origin.made_here):
            yield f"seeds must be whole numbers, or [base] for nano models; got {seed!r}"
        elif seed != "base" and seed not in ranges.SEED:
            yield f"seed must be {ranges.SEED}; got {seed!r}"


def run_id(method, size, seed):
    """The name of a run's folder; ValueError for parts that could lead out of it."""
    name = f"{method}-{size}-s{seed}"
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name) or ".." in name:
        raise ValueError(f"a run id may hold letters, digits, '.', '_' and '-'; got {name!r}")
    return name


def within(root, path):
    """The path, if it lies in `root` when all links are followed; ValueError if it does not."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(
            f"{path} leads out of {root}, and results stay there; use another name, or remove the "
            "link (PSLIB_RESULTS says where results go)"
        )
    return path


def run_folder(profile, method, size, seed):
    """The folder of one run of a profile."""
    return within(results_root(), profile.folder / "runs" / run_id(method, size, seed))


def measured_folder(profile, size):
    """Where measurements of a base model go; ValueError for a size that leads out."""
    run_id("base", size, 0)
    return within(results_root(), profile.folder / "base" / size)


def base_folder(profile, size):
    """The folder of a profile's base model: its own or, for a `shared` one, that of its world.

    A shared one is read from results/base/<world>/<size> where the checkout carries it, and else
    made in results/local/base/<world>/<size>.
    """
    own = measured_folder(profile, size)
    if not profile.base.shared:
        return own
    carried = ROOT / "results" / "base" / profile.base.world / size
    if (carried / "manifest.json").exists():
        return carried
    return within(results_root(), results_root() / "local" / "base" / profile.base.world / size)


@contextmanager
def owned(folder):
    """Own a run's folder while the block runs; BlockingIOError says which other process has it.

    The lock is the operating system's, so a dead owner's is free at once.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock, owner = filelock.FileLock(folder / ".lock"), folder / ".owner"
    try:
        # one asks at a time: who is refused finds the holder's name, no older one
        with filelock.FileLock(folder / ".door"):
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                raise BlockingIOError(
                    f"{folder} is in use by {owner.read_text()}; wait for it to end, or stop it"
                ) from None
            checkpoint.write(owner, f"process {os.getpid()} on {platform.node()}")
        for path in folder.rglob("*"):
            within(folder, path)
        yield folder
    finally:
        lock.release()


def manifest(seed, seconds, inputs):
    """What a run's numbers depend on: commit, versions, hardware, time, memory, inputs' hashes."""
    named = ("torch", "transformers", "tokenizers", "accelerate", "datasets")
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "versions": {name: version(name) for name in named},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        # cores of one name differ in it, and rounding with it
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "seed": seed,
        "seconds": round(seconds, 1),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _RSS_PER_MB),
        **_gpu(),
        "inputs": inputs,
    }


def _git(*args):
    """What git says of the checkout; "" where there is none or git fails."""
    if not (ROOT / ".git").exists():
        return ""  # git would go on to the repository of a folder above, which is another's
    try:
        return subprocess.check_output(
            ["git", *args], cwd=ROOT, text=True, stderr=subprocess.DEVNULL
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


_RSS_PER_MB = 2**20 if platform.system() == "Darwin" else 2**10


def _gpu():
    """The GPU that this process used, its memory and the most that tensors took in MB, or {}."""
    if not torch.cuda.is_initialized():
        return {}
    card = torch.cuda.get_device_properties(None)
    return {
        "gpu": card.name,
        "gpu_memory_mb": round(card.total_memory / 2**20),
        "peak_gpu_memory_mb": round(torch.cuda.max_memory_allocated() / 2**20),
    }


def _processor():
    try:
        return re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        return platform.processor()
