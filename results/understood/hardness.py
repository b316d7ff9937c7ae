"""How hard the sums of pass@k are in the world `understood`: chosen on untrained models alone.

Pass@k can differ between modes only where k responses leave something to find, and something is
found. The base models add at most eight numbers, and of eight numbers from 1 to 9 they solve all
sums in 256 tries. Large numbers are rare together, so a sum is harder the larger its least number.

The rule was fixed before any trained model had been asked, and before the candidates were measured:
the first look, at two base models and twelve sums each, only gave what to vary. A candidate is the
least of a sum's eight numbers. The candidates are tried from the smallest on, on tuning questions,
with the eight untrained base models in the normal mode and none of them dropped. The first is taken
at which the mean of pass@256 over the base models is 60 to 95%, by both criteria: the answer is
right; the answer and every worked step are right. Where none is such, the first is taken at which
the second criterion is, since it decides.

`python results/understood/hardness.py` writes hardness.csv and hardness.yaml to
results/local/understood.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context

import pandas as pd
import torch
import yaml

from pslib import modes, tasks
from pslib.evidence import probe
from pslib.lab import checkpoint, origins, runs

PROFILE, SUITE, QUESTIONS, TRIES = "understood", "long", 40, 256
CANDIDATES = (4, 5, 6, 7, 8)
RANGE = (60, 95)  # percent


def measure(size, least):
    """Ask one untrained base model -> a row: least, base, pass@1 and pass@256 in percent, by answer
    and by worked steps.
    """
    torch.set_num_threads(1)
    profile = runs.load_profile(PROFILE)
    model, tokenizer = origins.load(runs.base_folder(profile, size) / "model")
    settings = replace(profile.evaluate, temperature=1.0, top_k=0, top_p=1.0)
    questions = {SUITE: tasks.load(SUITE, QUESTIONS, "tuning", least=least)}
    _, seed = profile.origin.parse(size)
    generator = torch.Generator().manual_seed(seed)
    asked = (model, tokenizer, [modes.NORMAL], settings, questions, TRIES, generator)
    found, row = probe.many_tries(*asked), {"least": least, "base": seed}
    for name, right in (("answer", found.correct), ("worked", found.worked)):
        row[f"{name}_1"] = 100 * (right / TRIES).mean()
        row[f"{name}_{TRIES}"] = 100 * (right > 0).mean()
    return row


def chosen(found):
    """The candidate that the rule takes from a table of `measure`, or None where none fits."""
    means = found.groupby("least")[[f"answer_{TRIES}", f"worked_{TRIES}"]].mean()
    fits = (means >= RANGE[0]) & (means <= RANGE[1])
    for fit in (fits.all(axis=1), fits[f"worked_{TRIES}"]):
        if fit.any():
            return int(fit.idxmax())
    return None


def search(pool, sizes, path):
    """Measure candidates until one fits by both criteria -> DataFrame; those that the file at
    `path` holds already are not measured again.
    """
    found = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["least"])
    for least in CANDIDATES:
        if least not in set(found.least):
            rows = list(pool.map(measure, sizes, [least] * len(sizes)))
            found = pd.concat([found, pd.DataFrame(rows)] if len(found) else [pd.DataFrame(rows)])
            checkpoint.write(path, found.round(4).to_csv(index=False))
        own = found[found.least == least].mean()
        if RANGE[0] <= own[f"worked_{TRIES}"] <= own[f"answer_{TRIES}"] <= RANGE[1]:
            break
    return found


if __name__ == "__main__":
    profile = runs.load_profile(PROFILE)
    about = runs.manifest(0, 0.0, {})
    about = {
        "settings": {
            **{"suite": SUITE, "split": "tuning", "questions": QUESTIONS, "tries": TRIES},
            **{"candidates": list(CANDIDATES), "range": list(RANGE)},
            "evaluate": {**asdict(profile.evaluate), "samples": TRIES, "questions": QUESTIONS},
        },
        "made": {key: about[key] for key in ("commit", "dirty", "versions", "processor")},
    }
    checkpoint.write(profile.folder / "hardness.yaml", yaml.safe_dump(about, sort_keys=False))
    with ProcessPoolExecutor(2, get_context("spawn")) as workers:
        table = search(workers, profile.sizes, profile.folder / "hardness.csv")
    print(table.groupby("least").mean().round(1).to_markdown(), "\nchosen:", chosen(table))
