"""The command line: `python -m pslib reproduce quick`, `python -m pslib notebook 06_train -p seed
2`, ...

Errors are one sentence on standard error and exit code 1; earlier results are never touched by a
command that fails. What a command needs is imported when it runs, since that takes seconds.
"""

import errno
import os
import signal
import sys
from typing import Annotated

import typer
from typer.core import TyperGroup

from pslib.lab import place


class OneSentence(TyperGroup):
    """Commands whose errors are one sentence each."""

    def invoke(self, ctx):
        """Run a command; typer.Exit where it fails or is stopped."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            code = 128 + (signal.SIGTERM if stop.args == (signal.SIGTERM,) else signal.SIGINT)
            said = "stopped; run the same command again to continue"
        except typer.Exit:
            raise
        except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
            code, said = 1, error
            if getattr(error, "errno", None) == errno.ENOSPC:
                where = f" ({error.filename})" if error.filename else ""
                said = f"the disk is full{where}; free some space and run again, nothing was lost"
        print(f"pslib: {' '.join(str(said).split())}", file=sys.stderr)
        raise typer.Exit(code)


app = typer.Typer(cls=OneSentence, add_completion=False, pretty_exceptions_enable=False)


def _loaded(given):
    """The profile that a command names; None where it names none."""
    from pslib.lab import runs

    return runs.load_profile(place.whole_path(given)) if given else None


PROFILE = "A profile's name, or the path of a file that ends in .yaml."
Given = Annotated[str, typer.Argument(help=PROFILE, callback=place.whole_path)]
Profile = Annotated[str, typer.Argument(help=PROFILE, callback=_loaded)]
Method = Annotated[str, typer.Argument(help="A method's name, like policy_split, or a variant's.")]
Size = Annotated[str, typer.Argument(help="One of the profile's sizes, like 0.2m.")]
Seed = Annotated[int, typer.Argument(help="The run's seed.", min=0)]
Cores = Annotated[int, typer.Option(help="How many runs at once.")]
CORES = os.cpu_count()
Notebook = Annotated[str, typer.Argument(help="The notebook's, like 06_train.")]
Executed = Annotated[str, typer.Option(help="Where the executed notebook goes.")]
PARAMETER = typer.Option("-p", metavar="NAME VALUE", help="A parameter; given once or more.")
NewFolder = Annotated[str, typer.Option(help="The folder, which must not be there yet.")]
Baseline = Annotated[str, typer.Argument(help="The method that it is compared with.")]
Measure = Annotated[str, typer.Argument(help="points, longer or bits: see the table worlds.")]


@app.callback()
def prepare(ctx: typer.Context):
    """Policy Split on a laptop."""
    place.print_anywhere()
    place.check(ctx.invoked_subcommand)
    place.use_writable_folders()


@app.command()
def reproduce(profile: Given, cores: Cores = CORES):
    """Run a profile's whole chain, up to table 1.

    Example: `python -m pslib reproduce quick --cores 2`
    """
    from pslib.lab import reproduce

    reproduce.reproduce(profile, cores)


@app.command()
def notebook(name: Notebook, out: Executed = "", parameter: Annotated[list[str], PARAMETER] = ()):
    """Execute one notebook with checked parameters.

    Example: `python -m pslib notebook 06_train -p profile quick -p seed 2`
    """
    from pslib.lab import notebook

    notebook.execute(name, out, dict(pair.split("=", 1) for pair in parameter))


@app.command()
def train(profile: Profile, method: Method, size: Size, seed: Seed):
    """Train one run; a size that the profile launches, on TRL's trainer in all processes.

    Examples: `python -m pslib train quick grpo 0.2m.b11 11`,
    `torchrun --nproc_per_node 2 -m pslib train paper grpo 8B 1`
    """
    if size not in profile.launch and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            f"size {size} of profile {profile.name} trains in one process; name it in the "
            "profile's launch to train it in several"
        )
    if size in profile.launch:
        from pslib.lab.launched import train_run
    else:
        from pslib.lab.chain import train_run
    train_run(profile, method, size, seed)


@app.command()
def export(profile: Profile, method: Method, size: Size, seed: Seed, out: NewFolder):
    """Write a finished run's model to a new folder, with its prompts and a card.

    Example: `python -m pslib export quick policy_split 0.2m.b11 11 --out mine`
    """
    from pslib.lab import export

    export.export(profile, method, size, seed, out)
    print(f"written to {out}; its README.md says how to use it")


@app.command()
def ask(profile: Profile):
    """Ask base models under system prompts before any training.

    A pretrained model as it comes: sums, word problems and stories under five prompts. Models of a
    world of prompts: sums, under prompts that lean more and more to free answers. Goes on where it
    stopped. Example: `python -m pslib ask smollm2`
    """
    from pslib.evidence import pretrained
    from pslib.nano import strength

    if not (profile.origin.made_here and profile.probe.asked):
        pretrained.ask(profile)
        return
    for size in profile.sizes:
        strength.of_base(profile, size)


@app.command()
def figures(profile: Profile = ""):
    """Make every table and figure again, without training.

    From the committed results of all profiles, or from this machine's of the one that is named.
    Example: `python -m pslib figures quick`
    """
    from pslib.evidence import artefacts

    for each, folder in [(profile, profile.folder)] if profile else artefacts.committed():
        print(f"{folder}: {', '.join(artefacts.write_all(each, folder))}", flush=True)


@app.command()
def trace(profile: Profile, method: Method, baseline: Baseline, measure: Measure):
    """What is behind a difference of two methods: runs, paired differences, interval, commits.

    Example: `python -m pslib trace split policy_split grpo bits`
    """
    from pslib.evidence import trace

    carried = profile.results("committed")
    folder = carried if (carried / "runs").exists() else profile.folder
    print(trace.report(profile, method, baseline, measure, folder))


@app.command()
def compare(profile: Profile):
    """Show table 1: this machine's, the committed and the paper's.

    Example: `python -m pslib compare quick`
    """
    from pslib.lab import reproduce

    reproduce.compare(profile)


@app.command()
def publish(profile: Profile):
    """Copy a profile's small results to where they are committed.

    Example: `python -m pslib publish quick`
    """
    from pslib.lab import publish

    publish.publish(profile)


def _joined(argv):
    """The arguments with every `-p NAME VALUE`, as papermill takes it, as `-p NAME=VALUE`."""
    words, out = iter(argv), []
    for word in words:
        out.append(word)
        if word == "-p":
            out.append(f"{next(words, '')}={next(words, '')}")
    return out


def _terminated(number, frame):
    signal.signal(number, signal.SIG_IGN)  # the end is under way
    raise KeyboardInterrupt(number)


def main(argv=None):
    """Parse the command line and run it; -> exit code."""
    if argv is None:
        signal.signal(signal.SIGTERM, _terminated)  # ends like Ctrl-C
    try:
        app(args=_joined(sys.argv[1:] if argv is None else argv), prog_name="python -m pslib")
    except SystemExit as end:
        return end.code
