"""A profile's whole chain: run by Snakemake, checked, and its table shown beside the committed one
and the paper's.
"""

import os
import re
import signal
import subprocess
import sys
import time

import pandas as pd

from pslib import policy
from pslib.evidence import tables
from pslib.lab import chain, checks, place, runs
from pslib.lab.notebook import killed

# The chain runs in a session of its own, on a leash: however this process ends, killed outright
# included, the pipe that it holds closes, `read` returns, and every process of the chain gets
# SIGTERM.
LEASH = 'exec 3<&0 </dev/null; (read _ <&3; kill 0) & exec "$@"'
# Snakemake's own progress
DONE = re.compile(r"^\d+ of \d+ steps \(\d+%\) done", re.M)


def reproduce(name, cores):
    """Run a profile's whole chain, `cores` runs at once, then `compare` its table.

    name: the profile's, or the absolute path of its file.
    """
    if cores < 1:
        raise ValueError(f"--cores must be at least 1, since every run needs one; got {cores}")
    profile, begun = runs.load_profile(name), time.time()
    with runs.owned(profile.folder):
        chain.check(profile)
        # a stamp says that a step has ended, and not that its results are still there
        for step in chain.missing(profile):
            (profile.folder / "steps" / step).unlink(missing_ok=True)
        if profile.train.bf16 and policy.slow_bf16(policy.device_of(profile.device)):
            print(f"a warning: {checks.SLOW_BF16}", flush=True)
        print(
            f"profile {profile.name}: results go to {profile.folder}; stopping and running again "
            "continues",
            flush=True,
        )
        _run(profile, name, cores)
    chain.check(profile)
    lacking = chain.missing(profile)
    if lacking:
        raise RuntimeError(
            f"the chain has ended and {next(iter(lacking.values()))} is not there; run the same "
            "command again"
        )
    compare(profile)
    print(
        f"\nreproduced in {(time.time() - begun) / 60:.1f} min; tables, figures and executed "
        f"notebooks are in {profile.folder}"
    )


def _run(profile, name, cores):
    """Let Snakemake run the chain, showing how far it is; RuntimeError says why it failed."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(place.SNAKEFILE)]
    command += ["--cores", str(cores), "--directory", str(profile.folder.parent)]
    command += ["--config", f"profile={name}", "--rerun-incomplete", "--rerun-triggers", "mtime"]
    command += ["--nolock", "--quiet", "rules", "--keep-going"]
    log, said, begun = profile.folder / "chain.log", "", time.time()
    quiet = {"PYTHONPATH": str(place.ROOT), "PYTHONWARNINGS": "ignore,default:::pslib.train"}
    with open(log, "w") as file:
        running = subprocess.Popen(
            ["sh", "-c", LEASH, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **quiet},
        )
        try:
            ended = False
            while not ended:
                time.sleep(0.5)
                ended = running.poll() is not None
                steps = DONE.findall(log.read_text(errors="replace"))
                if steps and steps[-1] != said:
                    said = steps[-1]
                    shown = f"{profile.name}: {said}{still(said, time.time() - begun)}"
                    print(f"[{time.strftime('%H:%M:%S')}] {shown}", flush=True)
        finally:
            running.stdin.close()
            running.wait()
    if running.returncode:
        why = why_failed(log, running.returncode)
        raise RuntimeError(f"a step failed; what was finished before it is kept. {why}")


def still(said, seconds):
    """How long a chain will still take that has come so far in some seconds; "" before a tenth of
    its steps are done, and after all of them.
    """
    done, total = map(int, re.findall(r"\d+", said)[:2])
    if not total / 10 <= done < total:
        return ""
    left = (total - done) * seconds / done / 60
    return f"; about {max(1, round(left))} min left, by the pace so far"


# How Snakemake tells of a failed step: its shell command, which ends with its log, and its end.
FAILED = re.compile(
    r"> '([^'\n]+\.log)' 2>&1' (?:returned non-zero exit status|died with <Signals\.(\w+))"
)
# Or of its own failure. What was wrong may stand on the next line.
OWN_ERROR = re.compile(r"^[ \t]*([\w.]*(?:Error|Exception)\b.*(?:(?<=:)\n.*)?)", re.M)


def why_failed(chain_log, code):
    """Why a chain failed, in one sentence: from a failed step's log, else from Snakemake's own.

    The chain was started in the folder above the one of its log, and ended with this exit code.
    What a step says of itself goes before a guess.
    """
    text = chain_log.read_text(errors="replace")
    started_in = chain_log.parents[1]
    reasons = [_why_step_failed(started_in / name, ended) for name, ended in FAILED.findall(text)]
    if reasons:
        return next((reason for reason in reasons if reason.startswith("pslib: ")), reasons[0])
    if code == -signal.SIGKILL:
        return killed("Snakemake")
    said = OWN_ERROR.findall(text)
    last = " ".join((said[-1] if said else _last_line(text)).split())
    return f"Snakemake ended with: {last} (its log is {chain_log})"


def _why_step_failed(log, signal_name):
    """Why a step failed, in one sentence: from its log, and the signal that ended it, if any."""
    text = log.read_text(errors="replace") if log.exists() else ""
    own = [line for line in text.splitlines() if line.startswith("pslib: ")]
    if own:
        return own[-1]
    if signal_name == "SIGKILL":
        return killed(log.stem)
    return f"{log.stem} ended with: {_last_line(text)} (its log is {log})"


def _last_line(text):
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing")


def compare(profile):
    """Print this machine's averages beside the committed ones and the paper's."""
    committed = runs.ROOT / "results" / profile.name
    general = committed / "tables" / "table1_general.csv"
    ours = pd.read_csv(profile.folder / "tables" / "table1_general.csv")
    old = pd.read_csv(general) if general.exists() else ours.iloc[:0]
    count = ours.seeds.max()
    over = f"mean ± 95% interval over {count} {profile.replicates()}"
    beside = tables.beside(ours, old, tables.reported_table1())
    print(
        "\nTable 1, average of the four suites: accuracy in %, entropy in bits a token, "
        f"{over if count > 1 else 'one run each'}\n\n"
        f"{beside.to_markdown(index=False, disable_numparse=True)}\n\n"
        f"{repetition(tables.repeated(profile, profile.folder, committed))}"
    )


def repetition(table):
    """What is said of the rows of `tables.repeated`."""
    if table.empty:
        return "There is no committed run to compare with."
    count = f"{table.same.sum()} of {len(table)}"
    if table.same.all():
        count = f"All {len(table)}"
    said = f"{count} runs repeat the committed ones to the last digit of every step."
    if table.same.all():
        return said
    mean, most = table[["acc", "ent"]].mean(), table[["acc", "ent"]].max()
    return (
        f"{said} On another processor or installation rounding differs, and sampled responses with "
        f"it: in the normal mode a run ends {mean.acc:.1f} points and {mean.ent:.3f} bits from the "
        f"committed one on average, at most {most.acc:.1f} points and {most.ent:.3f} bits."
    )
