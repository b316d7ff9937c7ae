"""Starts a program in several processes; accelerate's own launcher starts one on a CPU,
silently.
"""

import os
import subprocess
import sys

from pslib.lab import runs


def command(processes, *program):
    """The command line that runs a program of Python's command line in so many processes."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes)
    return list(map(str, (sys.executable, *launcher, *program)))


def torchrun(processes, *args, program, **environment):
    """Run a program of Python's command line in so many processes -> the finished process, with its
    words.
    """
    return subprocess.run(
        command(processes, *program, *args),
        capture_output=True,
        text=True,
        timeout=900,
        cwd=runs.ROOT,
        env={**os.environ, **environment},
    )
