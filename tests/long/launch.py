"""A launched run whose responses are graded by their text: an untrained model is never right.

Started by torchrun: -m tests.long.launch <profile> <method> <size> <seed>
"""

import sys

from pslib import rewards
from pslib.lab import launched, runs
from tests.support.steps import parity

if __name__ == "__main__":
    name, method, size, seed = sys.argv[1:]
    rewards.grade = parity
    launched.train_run(runs.load_profile(name), method, size, int(seed))
