"""Runs: profiles, the folder of a run, its manifest, and who owns it."""

import dataclasses
import os
import platform
import re
import resource
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import filelock
import torch
import yaml

from pslib import methods, modes, rollouts, tasks
from pslib.evidence import evaluate
from pslib.lab import checkpoint, ranges
from pslib.lab.settings import Training
from pslib.nano import base, worlds
from pslib.tasks import benchmarks

ROOT = Path(__file__).resolve().parents[2]
PROFILES = Path(__file__).parents[1] / "profiles"
# as he_prompt: not the same text for all, but each nano base model's own, which means nothing
NEUTRAL = "neutral"
BASE_MODELS = "base models"  # see Profile.replicates
TOUR = (
    ROOT / "results" / "tour" / "model"
)  # a small trained model that the checkout carries; see the README there


@dataclass(frozen=True)
class BaseSettings:
    """How the nano base model is made; a profile's `base` section."""

    world: str
    steps: int
    batch_size: int = 64
    seed: int = 0
    shared: bool = (
        False  # kept once for all profiles of the world, with committed weights, see base_folder
    )

    def __post_init__(self):
        allowed = {"steps": ranges.COUNT, "batch_size": ranges.COUNT, "seed": ranges.SEED}
        ranges.check(vars(self), allowed, "base model")


@dataclass(frozen=True)
class Profile:
    """One YAML file: which models, methods and seeds, and how they are trained and evaluated."""

    name: str
    # "nano", or a folder or hub id of a causal language model, in which {size} stands for one of
    # sizes
    model: str
    sizes: list  # nano sizes; for another model, what stands for {size}, or one name for it
    methods: list
    seeds: list
    he_prompt: str  # which prompt of prompts.yaml makes the high-entropy mode
    train: Training
    evaluate: evaluate.Settings
    base: BaseSettings = None  # the nano model's
    # suite -> {data set: where it is}, see benchmarks; empty: the nano world's
    data: dict = field(default_factory=dict)
    wording: str = (
        ""  # how the nano world's sums are put to a model that reads words, see tasks.load
    )
    # suite -> list of how many numbers its sums have, where that is not its own
    terms: dict = field(default_factory=dict)
    engine: str = "auto"  # which of rollouts.ENGINES draws responses
    enable_thinking: bool = None  # see modes.Mode.thinking
    # method -> coefficients that differ from the paper's
    coefficients: dict = field(default_factory=dict)
    probe: evaluate.Probe = field(default_factory=evaluate.Probe)
    ablation_size: str = ""  # the size at which the variants run; empty: at every size
    # name -> {of: method, then its coefficients}: rows of the ablation table
    variants: dict = field(default_factory=dict)
    # size -> the file of notebooks/accelerate whose processes train it
    launch: dict = field(default_factory=dict)
    # rule -> what it asks of a cluster, see notebooks/Snakefile
    resources: dict = field(default_factory=dict)

    def method(self, name):
        """A method with this profile's coefficients, or one of its variants, whose coefficients are
        all given there.
        """
        if name in self.variants:
            given = dict(self.variants[name])
            of = methods.get(given.pop("of", name))
            return of.having(
                ", ".join([of.label, *(f"{key} {value}" for key, value in given.items())]), **given
            )
        return methods.get(name, **self.coefficients.get(name, {}))

    @property
    def grid(self):
        """Every run that the profile holds: (method or variant, size, seed)."""
        table1 = [(name, size) for size in self.sizes for name in self.methods]
        varied = [(name, size) for size in self.ablation_sizes for name in self.variants]
        return [(*row, seed) for row in table1 + varied for seed in self.seeds_of(row[1])]

    def seeds_of(self, size):
        """The seeds with which a size is trained; where `seeds` is [base], the seed of its base
        model: both then vary together.
        """
        return self.seeds if self.seeds != ["base"] else [base.parse(size)[1]]

    @property
    def ablation_sizes(self):
        """The sizes at which the variants run."""
        return [self.ablation_size] if self.ablation_size else self.sizes

    @property
    def ablation_unit(self):
        """The size under which the variants stand in tables, see `unit`."""
        return self.unit(self.ablation_sizes[0], 0)[0]

    def unit(self, size, seed):
        """The (size, seed) under which a run stands in tables: base models of one size with a run
        each count as its seeds.
        """
        if self.model != "nano" or len(self.seeds) > 1:
            return size, seed
        kind, which = base.parse(size)
        return (
            (kind, which)
            if sum(base.parse(other)[0] == kind for other in self.sizes) > 1
            else (size, seed)
        )

    def replicates(self, method=""):
        """What the runs behind one row of a table differ in, in words: all that an interval over
        them can speak for.

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
        """The normal and the high-entropy mode; see `modes_of` for a prompt that every base model
        has for itself.
        """
        return tuple(
            replace(mode, thinking=self.enable_thinking)
            for mode in (modes.NORMAL, modes.he_mode(self.he_prompt))
        )

    def modes_of(self, size, tokenizer):
        """The two modes of the runs of a size, whose base model has this tokenizer."""
        if self.he_prompt != NEUTRAL:
            return self.modes
        return modes.NORMAL, modes.Mode("he", self.neutral_prompt(size, tokenizer))

    def neutral_prompt(self, size, tokenizer):
        """A nano base model's own prompt without meaning, as long as the paper's: see
        base.neutral_prompt.
        """
        return base.neutral_prompt(tokenizer, self.base.seed + base.parse(size)[1])

    def questions(self, suite, count, split="test"):
        """Up to `count` questions of a suite, of the profile's data sets or the nano world's."""
        if self.data:
            return benchmarks.load(self.data, suite, count, split)
        return tasks.load(
            suite, count, split, terms=self.terms.get(suite, ()), wording=self.wording
        )

    @property
    def stories(self):
        """The story prompts: the paper's, or for nano models, which know few words, the nano
        world's.
        """
        return worlds.story_prompts() if self.model == "nano" else modes.prompts()["stories"]

    @property
    def folder(self):
        """Where this machine's results of the profile go: results/local/<profile>."""
        return results_root() / "local" / self.name

    def results(self, which):
        """The folder of this machine's results of the profile ("local"), or of those that the
        checkout carries ("committed").
        """
        folders = {"local": self.folder, "committed": ROOT / "results" / self.name}
        if which not in folders:
            raise ValueError(f"results are {' or '.join(folders)}; got {which!r}")
        return folders[which]


def results_root():
    """The results folder: of this checkout, or PSLIB_RESULTS where that is set."""
    return Path(os.environ.get("PSLIB_RESULTS") or ROOT / "results").absolute()


# What a step may ask of a cluster in numbers; see notebooks/Snakefile.
RESOURCES = {
    **dict.fromkeys(("threads", "mem_mb", "runtime", "nodes", "tasks"), ranges.COUNT),
    **dict.fromkeys(("gpu", "tasks_per_gpu"), ranges.COUNT_OR_NONE),
}
_TYPES = {
    int: (int,),
    float: (int, float),
    str: (str,),
    list: (list,),
    dict: (dict,),
    bool: (bool,),
}


def build(cls, given, where):
    """A dataclass from a mapping; ValueError in one sentence names an unknown, missing or mistyped
    key.
    """
    if not isinstance(given, dict):
        raise ValueError(f"{where} must be a mapping; got {given!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(given) - set(fields))
    if unknown:
        raise ValueError(f"{where} has no setting {unknown[0]!r}; it has {', '.join(fields)}")
    values = {}
    for name, f in fields.items():
        if name not in given:
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                raise ValueError(f"{where} lacks the setting {name!r}")
        elif dataclasses.is_dataclass(f.type):
            values[name] = build(f.type, given[name], f"{where}, section {name}")
        elif isinstance(given[name], bool) != (f.type is bool) or not isinstance(
            given[name], _TYPES[f.type]
        ):
            raise ValueError(f"{where}: {name} must be {f.type.__name__}; got {given[name]!r}")
        else:
            values[name] = f.type(given[name])
    return cls(**values)


def profile_file(given):
    """The file of a profile, given by its name or by its path, which ends in .yaml or .yml;
    ValueError if there is none.

    A profile is called as its file, and its results are kept under that name, so no two profiles
    may share one.
    """
    known, path = {p.stem: p for p in sorted(PROFILES.glob("*.yaml"))}, Path(given)
    if path.suffix not in (".yaml", ".yml"):
        if given not in known:
            raise ValueError(
                f"no profile is called {given!r}; there are {', '.join(known)}, or give the path "
                "of a YAML file"
            )
        return known[given]
    if not path.is_file():
        raise ValueError(f"there is no profile in {given}: there is no such file")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", path.stem):
        raise ValueError(
            "a profile is called as its file, whose name may hold letters, digits, '.', '_' and "
            "'-' and begins with one "
            f"of the first two; got {path.name!r}"
        )
    if path.stem in known and path.read_bytes() != known[path.stem].read_bytes():
        raise ValueError(
            f"{given} would be called {path.stem}, and another profile of this package is; give "
            "the file another name"
        )
    return path


def load_profile(name):
    """A profile by name, or by the path of its file, every setting checked.

    ValueError in one sentence for what is unknown or unreadable.
    """
    path = profile_file(name)
    name = path.stem
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(
            f"profile {path} is not readable YAML: {' '.join(str(error).split())}"
        ) from error
    if isinstance(given, dict) and "name" in given:
        raise ValueError(
            f"profile {name} has the setting 'name', and is called as its file; take the setting "
            "out"
        )
    profile = build(
        Profile, {"name": name, **given} if isinstance(given, dict) else given, f"profile {name}"
    )
    for variant, given in profile.variants.items():
        if not isinstance(given, dict):
            raise ValueError(
                f"profile {name}: variant {variant} must be a mapping like {{of: policy_split, "
                f"eta: 1.0}}; got {given!r}"
            )
    for method in (
        *profile.methods,
        *profile.coefficients,
        *profile.variants,
        *profile.probe.methods,
    ):
        profile.method(method)
    if profile.he_prompt != NEUTRAL or profile.model != "nano":
        modes.he_mode(profile.he_prompt)  # raises for a prompt that there is not
    if profile.train.group_size % 2:
        raise ValueError(
            f"profile {name}: group_size must be even, so that Policy Split can draw half of each "
            "group in each "
            f"mode; got {profile.train.group_size}"
        )
    for size, file in profile.launch.items():
        there = sorted(path.stem for path in (ROOT / "notebooks" / "accelerate").glob("*.yaml"))
        # A package without a checkout has none of these files, and no chain that would read them.
        if size not in profile.sizes or (there and str(file) not in there):
            raise ValueError(
                f"profile {name}: launch must be like {{{profile.sizes[0]}: "
                "8}, with one of its sizes and one of "
                f"{', '.join(there)}; got {size!r}: {file!r}"
            )
    if profile.engine not in rollouts.ENGINES:
        raise ValueError(
            f"profile {name}: engine must be one of {', '.join(rollouts.ENGINES)}; got "
            f"{profile.engine!r}"
        )
    for suite, terms in profile.terms.items():
        whole = isinstance(terms, list) and terms and all(type(n) is int and n > 1 for n in terms)
        if suite not in tasks.SUITES or not whole:
            raise ValueError(
                f"profile {name}: terms must give suites lists of whole numbers from 2, like "
                f"{{train: [2, 3]}}; got "
                f"{suite!r}: {terms!r}"
            )
    if profile.data:
        benchmarks.check(profile.data, f"profile {name}, section data")
    if profile.model == "nano" and not profile.base:
        raise ValueError(
            f"profile {name} lacks the setting 'base', which says how nano models are made"
        )
    if profile.model != "nano" and len(profile.sizes) > 1 and "{size}" not in profile.model:
        raise ValueError(
            f"profile {name} has {len(profile.sizes)} sizes, so its model must say where the size "
            "goes, like "
            f"Qwen/Qwen3-{{size}}; got {profile.model!r}"
        )
    if profile.model == "nano" and profile.base.world not in worlds.WORLDS:
        raise ValueError(
            f"no nano world is called {profile.base.world!r}; there are {', '.join(worlds.WORLDS)}"
        )
    for seed in profile.seeds if profile.seeds != ["base"] or profile.model != "nano" else ():
        if type(seed) is not int:
            raise ValueError(
                f"profile {name}: seeds must be whole numbers, or [base] for nano models; got "
                f"{seed!r}"
            )
        ranges.check({"seed": seed}, {"seed": ranges.SEED}, f"profile {name}")
    for step, asked in profile.resources.items():
        if not isinstance(asked, dict):
            raise ValueError(
                f"profile {name}, resources of {step} must be a mapping like {{mem_mb: 2000}}; got "
                f"{asked!r}"
            )
        ranges.check(asked, RESOURCES, f"profile {name}, resources of {step}")
    if profile.ablation_size and profile.ablation_size not in profile.sizes:
        raise ValueError(
            f"profile {name}: ablation_size must be one of its sizes, {', '.join(profile.sizes)}; "
            "got "
            f"{profile.ablation_size!r}"
        )
    for size in profile.sizes:
        run_id("", size, 0)  # raises for what cannot be a folder's name
        if profile.model == "nano":
            base.parse(size)  # raises for a size that there is not
    return profile


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
            "link "
            "(PSLIB_RESULTS says where results go)"
        )
    return path


def run_folder(profile, method, size, seed):
    """The folder of one run of a profile."""
    return within(results_root(), profile.folder / "runs" / run_id(method, size, seed))


def measured_folder(profile, size):
    """Where a profile's measurements of its base model go; ValueError for a size that could lead
    out of it.
    """
    run_id("base", size, 0)
    return within(results_root(), profile.folder / "base" / size)


def base_folder(profile, size):
    """The folder of a profile's base model: the profile's own or, for a `shared` one, that of its
    world.

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
    """Own a run's folder while the block runs; BlockingIOError says who has it if another process
    does.

    The lock is the operating system's, so a dead owner's is free at once.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock, owner = filelock.FileLock(folder / ".lock"), folder / ".owner"
    try:
        with filelock.FileLock(
            folder / ".door"
        ):  # one asks at a time: who is refused finds the holder's name, no older one
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
    """What a run's numbers depend on: commit, versions, hardware, seed, time, memory, inputs'
    hashes.

    Of a GPU, where there is one, its name and its memory in MB.
    """

    def git(*args):
        if not (ROOT / ".git").exists():
            return ""  # git would go on to the repository of a folder above, which is another's
        try:
            return subprocess.run(
                ["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""

    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "versions": {
            name: version(name)
            for name in ("torch", "transformers", "tokenizers", "accelerate", "datasets")
        },
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


_RSS_PER_MB = 2**20 if platform.system() == "Darwin" else 2**10


def _gpu():
    """This process's GPU, its memory and the most that tensors took of it in MB; {} without one."""
    if not torch.cuda.is_available():
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
