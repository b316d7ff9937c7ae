"""One row a claim in results/reliability.csv: what was tried, how much of it survived, and how long that took."""

import csv
from pathlib import Path

from pslib import checkpoint

TABLE = Path(__file__).parents[2] / "results" / "reliability.csv"
COLUMNS = ("claim", "tried", "survived", "seconds")


def record(claim, tried, survived, seconds):
    """Write the row of a claim in place of its earlier one; other claims' rows stay. Call it before asserting."""
    rows = {}
    if TABLE.exists():
        with TABLE.open(newline="") as file:
            rows = {row["claim"]: row for row in csv.DictReader(file)}
    rows[claim] = dict(zip(COLUMNS, (claim, tried, survived, round(seconds, 1))))
    lines = [COLUMNS, *([row[column] for column in COLUMNS] for row in rows.values())]
    checkpoint.write(TABLE, "".join(",".join(f'"{cell}"' if "," in str(cell) else str(cell) for cell in line) + "\n"
                                    for line in lines))
