"""What the long tests measured: results/reliability.csv, a row for each claim.

Counts of what was tried and what survived, which another machine would give too; how fast something
is, is a benchmark's.
"""

import pandas as pd

from pslib.lab import checkpoint, runs

COLUMNS = ["claim", "tried", "survived", "seconds"]


def record(claim, tried, survived, seconds):
    """Put a claim's counts and time in place of those that it had; other claims keep theirs."""
    path = runs.ROOT / "results" / "reliability.csv"
    table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)
    row = pd.DataFrame([[claim, tried, survived, round(seconds, 1)]], columns=COLUMNS)
    table = pd.concat([table[table.claim != claim], row]).sort_values("claim")
    checkpoint.write(path, table.to_csv(index=False))
