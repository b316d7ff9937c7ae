"""What the long tests measured: a row a claim in results/reliability.csv."""

import csv
import io
from pathlib import Path

from pslib import checkpoint

PATH = Path(__file__).parents[2] / "results" / "reliability.csv"
COLUMNS = ("claim", "tried", "survived", "seconds")


def record(claim, tried, survived, seconds):
    """Write the row of a claim in the place of its earlier one; the rows of others stay."""
    rows = list(csv.DictReader(io.StringIO(PATH.read_text(encoding="utf-8")))) if PATH.exists() else []
    rows = [row for row in rows if row["claim"] != claim]
    rows.append(dict(zip(COLUMNS, (claim, tried, survived, float(f"{seconds:.3g}")))))
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: row["claim"]))
    checkpoint.write(PATH, text.getvalue())
