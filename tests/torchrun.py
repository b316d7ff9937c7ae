"""Starts a program in several processes; accelerate's own launcher starts one on a CPU,
silently.
"""

import os
import subprocess
import sys


def torchrun(processes, *args, program, **environment):
    """Run a program of Python's command line in so many processes -> the finished process, with its
    words.
    """
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        processes,
        *program,
        *args,
    ]
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, **environment},
    )
