"""The command line: `python -m pslib reproduce quick`, `python -m pslib notebook 06_train -p seed
2`, ...

Errors are one sentence on standard error and exit code 1; earlier results are never touched by a
command that fails.
"""

import argparse
import atexit
import codecs
import errno
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # not from `runs`: this file stays light to import


def _absolute(profile):
    """A profile's path as an absolute one, since its steps run in other folders; a name as it
    is.
    """
    return str(Path(profile).resolve()) if profile.endswith((".yaml", ".yml")) else profile


def _need_checkout(command):
    """RuntimeError where this package was installed without the notebooks and results around it."""
    if not (ROOT / "notebooks" / "Snakefile").exists():
        raise RuntimeError(
            f"`{command}` needs the notebooks and results of a checkout, which the "
            f"package installed in {ROOT} does not have; clone the repository and "
            "run it there"
        )


def _need_results_folder(command):
    """RuntimeError where no checkout holds results and PSLIB_RESULTS names no other folder."""
    if not (ROOT / "notebooks" / "Snakefile").exists() and not os.environ.get("PSLIB_RESULTS"):
        raise RuntimeError(
            f"`{command}` must be told where results are, since {ROOT} is not a "
            "checkout; set PSLIB_RESULTS to a folder and run again"
        )


# These commands need no checkout where PSLIB_RESULTS is set; all others read what is in one.
WITHOUT_CHECKOUT = {"export", "train", "tune"}


def _can_write(folder):
    """Whether a file with something in it can be made in a folder."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
        return True
    except OSError:
        return False


def _use_writable_folders():
    """Give this process and those it starts a TMPDIR and a home that can be written to.

    Snakemake, Jupyter and matplotlib keep caches and connection files at home and fail without
    one. Snakemake's solver fails without TMPDIR. The hub's cache stays where it is: models are
    read from there. OSError where nothing can be written.
    """
    try:  # TMPDIR itself, or the first of the usual folders that can be written to
        os.environ["TMPDIR"] = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise OSError(
            f"{error.strerror}; free some space, or set TMPDIR to a folder that can be written to"
        ) from None
    home = os.path.expanduser("~")
    if not _can_write(home):
        os.environ.setdefault("HF_HOME", os.path.join(home, ".cache", "huggingface"))
        os.environ["HOME"] = tempfile.mkdtemp(prefix="pslib-home-")
        atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)


def _in_ascii(error):
    """What a terminal shows of characters that it does not have."""
    missing = error.object[error.start : error.end]
    return "".join({"±": "+-", "−": "-"}.get(character, "?") for character in missing), error.end


def _print_anywhere():
    """Let an ASCII terminal show +- for ±, where printing would end in an error."""
    codecs.register_error("pslib.ascii", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="pslib.ascii")


def _typed(name, given, default):
    """A parameter's text as the type of its default in the notebook; ValueError if it is not
    one.
    """
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False}[given.lower()]
        return kind(given)
    except (ValueError, KeyError):
        raise ValueError(
            f"parameter {name} must be {kind.__name__}, like {default!r}; got {given!r}"
        ) from None


def _plain(path):
    """A path for papermill, which fills in {parameters}: their values would choose the file."""
    return str(path).replace("{", "{{").replace("}", "}}")


def notebook(name, out, given):
    """Execute a notebook of the chain with parameters (a dict of texts), each checked by name and
    type first.
    """
    import ast

    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    path = ROOT / "notebooks" / f"{Path(name).stem}.ipynb"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.ipynb")))
        raise ValueError(f"no notebook is called {name!r}; there are {known}")
    found = papermill.inspect_notebook(_plain(path)).values()
    known = {p["name"]: ast.literal_eval(p["default"]) for p in found}
    for key in given:
        if key not in known:
            raise ValueError(f"{path.stem} has no parameter {key!r}; it has {', '.join(known)}")
    values = {
        key: _typed(key, _absolute(text) if key == "profile" else text, known[key])
        for key, text in given.items()
    }
    out = Path(out or f"{path.stem}-executed.ipynb").absolute()
    if out.suffix != ".ipynb" or out.resolve() == path:
        raise ValueError(
            f"the executed notebook must go to a file of its own that ends in .ipynb; got {out}"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    # Asked to stop, papermill interrupts the kernel and waits for so many seconds, in which a
    # training step can end. The kernel's own log would then fill the screen with the trouble it has
    # in answering.
    stopping = {
        "config": Config(KernelManager={"shutdown_wait_time": 600.0}),
        "extra_arguments": ["--log-level=CRITICAL"],
    }
    try:
        papermill.execute_notebook(
            _plain(path),
            _plain(out),
            values,
            log_output=True,
            progress_bar=False,
            kernel_name="python3",
            cwd=str(ROOT),
            **stopping,
        )
    except papermill.PapermillExecutionError as error:
        if error.ename == "KeyboardInterrupt":
            raise KeyboardInterrupt from None
        reason = re.sub(r"\x1b\[[0-9;]*m", "", f"{error.ename}: {error.evalue}")
        raise RuntimeError(
            f"{path.stem} stopped with {reason} (the notebook up to there is {out})"
        ) from None
    except DeadKernelError:
        raise RuntimeError(f"{_killed(path.stem)} (the notebook up to there is {out})") from None


def _left(seconds):
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


class Watch:
    """Follows a chain from outside by its files: share of the work done, and the latest word of
    each job's log.
    """

    # A job's cost in training steps of GRPO, roughly, for the estimate alone. The base model's
    # counts double: nothing else can run beside it.
    BASE, NOTEBOOK, EVALUATION, SPLIT = 900, 25, 15, 1.8

    def __init__(self, profile):
        self.profile, self.begun, self.told = profile, time.time(), {}
        self.at_start = self.done()[0]

    def done(self):
        """(cost done, cost in all), in training steps of GRPO."""
        from pslib.lab import runs

        p, done, total = self.profile, 0.0, 0.0
        for size in p.sizes:
            total += self.BASE
            done += self.BASE * self._base_share(size)
            for method in p.methods:
                for seed in p.seeds_of(size):
                    folder = runs.run_folder(p, method, size, seed)
                    modes = len(p.method(method).sampling)
                    cost = self.NOTEBOOK + self.EVALUATION * modes
                    total += cost
                    done += cost * (folder / "evaluation.csv").exists()
                    if p.method(method).training:
                        weight = self.SPLIT if modes > 1 else 1.0
                        total += weight * p.train.steps + self.NOTEBOOK
                        done += self.NOTEBOOK * (folder / "manifest.json").exists()
                        metrics = folder / "metrics.csv"
                        done += weight * max(
                            0, metrics.read_text().count("\n") - 1 if metrics.exists() else 0
                        )
        return done, total

    def _base_share(self, size):
        from pslib.lab import runs

        if (
            self.profile.model != "nano"
            or (runs.base_folder(self.profile, size) / "manifest.json").exists()
        ):
            return 1.0
        log = self.profile.folder / "logs" / f"05_base_model-{size}.log"
        steps = (
            re.findall(r"step (\d+)/(\d+)", log.read_text(errors="replace")) if log.exists() else []
        )
        return int(steps[-1][0]) / int(steps[-1][1]) if steps else 0.0

    def say(self):
        """Print how far the chain is, and for each running job its newest line."""
        done, total = self.done()
        spent, new = time.time() - self.begun, done - self.at_start
        rest = (
            f"about {_left(spent / new * (total - done))} left"
            if new > 0
            else "time left known after the first job"
        )
        print(
            f"[{time.strftime('%H:%M:%S')}] {self.profile.name}: {100 * done / total:.0f}% done, "
            f"{rest}",
            flush=True,
        )
        for path in sorted((self.profile.folder / "logs").glob("*.log")):
            lines = [
                line for line in path.read_text(errors="replace").splitlines() if " s left" in line
            ]
            if lines and self.told.get(path) != lines[-1] and path.stat().st_mtime > self.begun:
                self.told[path] = lines[-1]
                print("    " + lines[-1].strip(), flush=True)


# The chain runs in a session of its own, on a leash: however this process ends, killed outright
# included, the pipe that it holds closes, `read` returns, and every process of the chain gets
# SIGTERM.
LEASH = 'exec 3<&0 </dev/null; (read _ <&3; kill 0) & exec "$@"'


def reproduce(name, cores):
    """Run a profile's whole chain, then show this machine's table beside the committed one and the
    paper's.

    name: the profile's, or the absolute path of its file.
    """
    from pslib.lab import chain, runs

    profile = runs.load_profile(name)
    with runs.owned(profile.folder):
        chain.check(profile)
        for step in chain.missing(
            profile
        ):  # a stamp says that a step has ended, and not that its results are still there
            (profile.folder / "steps" / step).unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            str(ROOT / "notebooks" / "Snakefile"),
            "--cores",
            str(cores),
            "--directory",
            str(profile.folder.parent),
            "--config",
            f"profile={name}",
            "--rerun-incomplete",
            "--rerun-triggers",
            "mtime",
            "--nolock",
            "--quiet",
            "rules",
            "--keep-going",
        ]
        print(
            f"profile {profile.name}: results go to {profile.folder}; stopping and running again "
            "continues",
            flush=True,
        )
        watch, said = Watch(profile), 0.0
        chain_log = profile.folder / "chain.log"
        with open(chain_log, "w") as log:
            running = subprocess.Popen(
                ["sh", "-c", LEASH, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "PYTHONWARNINGS": "ignore,default:::pslib.train",
                },
            )
            try:
                while running.poll() is None:
                    time.sleep(0.5)
                    if time.time() - said > 15:
                        watch.say()
                        said = time.time()
            finally:
                running.stdin.close()
                running.wait()
        if running.returncode:
            reason = _reason(chain_log, running.returncode)
            raise RuntimeError(f"a step failed; what was finished before it is kept. {reason}")
    chain.check(profile)
    lacking = chain.missing(profile)
    if lacking:
        raise RuntimeError(
            f"the chain has ended and {next(iter(lacking.values()))} is not there; run the same "
            "command again"
        )
    compare(profile)
    print(
        f"\nreproduced in {_left(time.time() - watch.begun)}; tables, figures and executed "
        f"notebooks are in {profile.folder}"
    )


def _last_line(text):
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing")


def _killed(what):
    return (
        f"{what} was killed, most likely because memory ran out; free memory or use --cores 1, "
        "and run again"
    )


def _reason_of_step(log, signal_name):
    """Why a step failed, in one sentence: from its log, and the signal that ended it, if any."""
    text = log.read_text(errors="replace") if log.exists() else ""
    own = [line for line in text.splitlines() if line.startswith("pslib: ")]
    if own:
        return own[-1]
    if signal_name == "SIGKILL":
        return _killed(log.stem)
    return f"{log.stem} ended with: {_last_line(text)} (its log is {log})"


# How Snakemake tells of a failed step: its shell command, which ends with its log, and its end.
FAILED = re.compile(
    r"> '([^'\n]+\.log)' 2>&1' "
    r"(?:returned non-zero exit status|died with <Signals\.(\w+))"
)
# Or of its own failure. What was wrong may stand on the next line.
OWN_ERROR = re.compile(r"^[ \t]*([\w.]*(?:Error|Exception)\b.*(?:(?<=:)\n.*)?)", re.M)


def _reason(chain_log, code):
    """Why a chain failed, in one sentence: from a failed step's log, else from Snakemake's own.

    The chain was started in the folder above the one of its log, and ended with this exit code.
    What a step says of itself goes before a guess.
    """
    text = chain_log.read_text(errors="replace")
    started_in = chain_log.parents[1]
    reasons = [_reason_of_step(started_in / name, ended) for name, ended in FAILED.findall(text)]
    if reasons:
        return next((reason for reason in reasons if reason.startswith("pslib: ")), reasons[0])
    if code == -signal.SIGKILL:
        return _killed("Snakemake")
    said = OWN_ERROR.findall(text)
    last = " ".join((said[-1] if said else _last_line(text)).split())
    return f"Snakemake ended with: {last} (its log is {chain_log})"


def compare(profile):
    """Print this machine's averages beside the committed ones and the paper's."""
    import pandas as pd

    from pslib.evidence import tables
    from pslib.lab import runs

    committed = runs.ROOT / "results" / profile.name / "tables" / "table1_general.csv"
    ours = pd.read_csv(profile.folder / "tables" / "table1_general.csv")
    old = pd.read_csv(committed) if committed.exists() else ours.iloc[:0]
    print(
        "\nTable 1, average of the four suites: accuracy in %, entropy in bits a token, mean ± 95% "
        "interval over "
        f"{ours.seeds.max()} {profile.replicates()}\n"
    )
    print(
        tables.beside(ours, old, tables.reported_table1()).to_markdown(
            index=False, disable_numparse=True
        )
    )
    print(
        "\nOn another processor or installation rounding differs, and sampled responses with it: "
        "expect intervals that overlap, "
        "not the same digits."
    )


def train(profile, method, size, seed):
    """Train one run: on TRL's trainer where the profile's `launch` names its size, in all processes
    of this world; else in our loop.
    """
    if size in profile.launch:
        from pslib.lab import launched

        launched.train_run(profile, method, size, seed)
    elif int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            f"size {size} of profile {profile.name} trains in one process; name it in the "
            "profile's launch to train it in "
            "several"
        )
    else:
        from pslib.lab import chain

        chain.train_run(profile, method, size, seed)


def _publish_base(folder, target):
    """Copy a shared base model with its weights, once; it is never replaced."""
    if (target / "manifest.json").exists() or not (folder / "manifest.json").exists():
        return
    for path in (*folder.glob("*.*"), *folder.glob("model/*")):
        if path.is_file() and not path.name.startswith("."):
            to = target / path.relative_to(folder)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)


def publish(profile):
    """Copy a profile's small results from results/local/<profile> to results/<profile>, where they
    can be committed.

    Executed notebooks are copied without their progress lines (stderr) and with paths relative to
    the checkout, those of single runs and base models only where there are few. An evaluation
    becomes a row a question (see evaluate.condensed), beside the shares of the derivations (see
    evaluate.derivations).
    """
    import nbformat
    import pandas as pd

    from pslib.evidence import evaluate
    from pslib.lab import runs

    for size in profile.sizes if profile.model == "nano" and profile.base.shared else ():
        _publish_base(
            runs.base_folder(profile, size),
            runs.ROOT / "results" / "base" / profile.base.world / size,
        )
    each = len(profile.grid) <= 30 and profile.sizes == profile.table_sizes
    target = runs.ROOT / "results" / profile.name
    for kind in (
        "tuning.csv",
        "tables/*",
        "figures/*",
        "notebooks/*.ipynb",
        "base/*/*.*",
        "runs/*/*.yaml",
        "runs/*/*.json",
        "runs/*/*.csv",
        "runs/*/*.parquet",
    ):
        for path in sorted(profile.folder.glob(kind)):
            if path.name.startswith(".") or (path.match("notebooks/0[567]_*.ipynb") and not each):
                continue
            runs.within(profile.folder, path)
            to = runs.within(runs.ROOT / "results", target / path.relative_to(profile.folder))
            to.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".ipynb":
                book = nbformat.read(path, 4)
                for cell in book.cells:
                    if "outputs" in cell:
                        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
                checkout = str(Path(book.metadata.papermill.input_path).parents[1])
                to.write_text(nbformat.writes(book).replace(checkout, "."), encoding="utf-8")
            elif path.name == "evaluation.csv":
                table = pd.read_csv(path)
                to.write_text(evaluate.condensed(table).to_csv(index=False), encoding="utf-8")
                if profile.model == "nano":
                    to.with_name("derivations.csv").write_text(
                        evaluate.derivations(table).to_csv(index=False), encoding="utf-8"
                    )
            else:
                shutil.copyfile(path, to)
    print(f"published to {target}")


def _terminated(number, frame):
    signal.signal(number, signal.SIG_IGN)  # the end is under way
    raise KeyboardInterrupt(number)


def _parameters(argv):
    """Take every `-p NAME VALUE` out of the arguments -> (the others, {name: value}).

    argparse would take a value like -1e-3 for an option.
    """
    rest, given, left = [], {}, list(argv)
    while left:
        if left[0] == "-p" and len(left) > 2:
            _, name, value, *left = left
            given[name] = value
        else:
            rest.append(left.pop(0))
    return rest, given


def main(argv=None):
    """Parse the command line and run it; -> exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pslib",
        description="Policy Split on a laptop.",
        epilog="A profile is given by its name, or by the path of a file that ends in .yaml.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("reproduce", help="run a profile's whole chain, up to table 1")
    one.add_argument("profile")
    one.add_argument(
        "--cores",
        type=int,
        default=os.cpu_count(),
        help="how many runs at once (default: all cores)",
    )
    two = commands.add_parser("notebook", help="execute one notebook with checked parameters")
    two.add_argument("name")
    two.add_argument("--out", help="where the executed notebook goes")
    two.add_argument(
        "-p",
        nargs=2,
        action="append",
        metavar=("NAME", "VALUE"),
        help="a parameter; given once or more",
    )
    three = commands.add_parser(
        "export", help="write a finished run's model to a new folder, with its prompts and a card"
    )
    for name in ("profile", "method", "size"):
        three.add_argument(name)
    three.add_argument("seed", type=int)
    three.add_argument("--out", required=True, help="the folder, which must not be there yet")
    four = commands.add_parser(
        "train",
        help="train one run; a size that the profile launches, on TRL's trainer under torchrun or "
        "accelerate launch",
    )
    for name in ("profile", "method", "size"):
        four.add_argument(name)
    four.add_argument("seed", type=int)
    six = commands.add_parser(
        "figures",
        help="make every table and figure again, without training: from the committed results, or "
        "from this machine's of a profile",
    )
    six.add_argument("profile", nargs="?")
    seven = commands.add_parser(
        "trace",
        help="what is behind a difference of two methods: runs, paired differences, interval, "
        "commits",
    )
    for name in ("profile", "method", "baseline"):
        seven.add_argument(name)
    seven.add_argument("measure", help="points, longer or bits, as in the table worlds")
    for name, help_text in (
        ("compare", "show table 1: this machine's, the committed and the paper's"),
        ("tune", "try every method's settings on tuning questions and seeds; writes tuning.csv"),
        ("publish", "copy a profile's small results to where they are committed"),
    ):
        commands.add_parser(name, help=help_text).add_argument("profile")
    rest, parameters = _parameters(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(rest)
    if os.environ.get(
        "PSLIB_RESULTS"
    ):  # relative to where this command was started, also for the processes that it starts
        os.environ["PSLIB_RESULTS"] = str(Path(os.environ["PSLIB_RESULTS"]).absolute())
    if getattr(args, "profile", None):
        args.profile = _absolute(args.profile)
    _print_anywhere()
    try:
        (_need_results_folder if args.command in WITHOUT_CHECKOUT else _need_checkout)(args.command)
        _use_writable_folders()
        if args.command == "reproduce":
            if args.cores < 1:
                raise ValueError(
                    f"--cores must be at least 1, since every run needs one; got {args.cores}"
                )
            reproduce(args.profile, args.cores)
        elif args.command == "notebook":
            notebook(args.name, args.out, parameters)
        elif args.command == "export":
            from pslib.lab import export, runs

            export.export(
                runs.load_profile(args.profile), args.method, args.size, args.seed, args.out
            )
            print(f"written to {args.out}; its README.md says how to use it")
        elif args.command == "train":
            from pslib.lab import runs

            train(runs.load_profile(args.profile), args.method, args.size, args.seed)
        elif args.command == "figures":
            from pslib.evidence import artefacts
            from pslib.lab import runs

            mine = runs.load_profile(args.profile) if args.profile else None
            for profile, folder in [(mine, mine.folder)] if mine else artefacts.committed():
                print(f"{folder}: {', '.join(artefacts.write_all(profile, folder))}", flush=True)
        elif args.command == "trace":
            from pslib.evidence import trace
            from pslib.lab import runs

            own = runs.load_profile(args.profile)
            carried = own.results("committed")
            folder = carried if (carried / "runs").exists() else own.folder
            print(trace.report(own, args.method, args.baseline, args.measure, folder))
        elif args.command == "tune":
            from pslib.lab import tuning

            print(tuning.tune(args.profile, os.cpu_count()).to_markdown(index=False))
        else:
            from pslib.lab import runs

            {"compare": compare, "publish": publish}[args.command](runs.load_profile(args.profile))
    except KeyboardInterrupt as stop:
        print("pslib: stopped; run the same command again to continue", file=sys.stderr)
        return 128 + (signal.SIGTERM if stop.args == (signal.SIGTERM,) else signal.SIGINT)
    except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            where = f" ({error.filename})" if error.filename else ""
            error = (
                f"the disk is full{where}; free some space and run again, nothing earlier was "
                "changed"
            )
        print(f"pslib: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)  # ends like Ctrl-C
    sys.exit(main())
