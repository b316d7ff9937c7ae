"""A profile's small results, copied from results/local/<profile> to where they are committed."""

import hashlib
import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd

from pslib.evidence import evaluate
from pslib.lab import runs

KINDS = ["prompts.*", "tables/*", "figures/*", "notebooks/*.ipynb", "base/*/*.*"]
KINDS += [f"runs/*/*.{kind}" for kind in ("yaml", "json", "csv", "parquet")]


def publish(profile):
    """Copy a profile's small results to results/<profile>.

    Executed notebooks are copied without their progress lines (stderr) and with paths relative to
    the checkout, those of single runs and base models only where there are few. An evaluation
    becomes a row a question (see evaluate.condensed), beside the shares of the derivations (see
    evaluate.derivations). A shared base model is copied with its weights.
    """
    committed = runs.ROOT / "results"
    for size in profile.sizes if profile.base and profile.base.shared else ():
        to = committed / "base" / profile.base.world / size
        publish_base(runs.base_folder(profile, size), to)
    few = len(profile.grid) <= 30 and len(profile.sizes) <= 3
    for path in (path for kind in KINDS for path in sorted(profile.folder.glob(kind))):
        if path.name.startswith(".") or (path.match("notebooks/0[567]_*.ipynb") and not few):
            continue
        runs.within(profile.folder, path)
        to = committed / profile.name / path.relative_to(profile.folder)
        runs.within(committed, to).parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".ipynb":
            to.write_text(_relative(nbformat.read(path, 4)), encoding="utf-8")
        elif path.name == "evaluation.csv":
            table = pd.read_csv(path)
            to.write_text(evaluate.condensed(table).to_csv(index=False), encoding="utf-8")
            if profile.origin.has_derivations:
                shares = evaluate.derivations(table).to_csv(index=False)
                to.with_name("derivations.csv").write_text(shares, encoding="utf-8")
        else:
            shutil.copyfile(path, to)
    _write_sums(committed / profile.name)
    print(f"published to {committed / profile.name}")


def _write_sums(folder):
    """Write the SHA-256 of every published file of runs, for `sha256sum --check SHA256SUMS`."""
    with open(folder / "SHA256SUMS", "w", encoding="utf-8") as file:
        for path in filter(Path.is_file, sorted(folder.glob("runs/*/*"))):
            own = hashlib.sha256(path.read_bytes()).hexdigest()
            file.write(f"{own}  {path.relative_to(folder).as_posix()}\n")


def publish_base(folder, target):
    """Copy a shared base model with its weights, once; it is never replaced."""
    if (target / "manifest.json").exists() or not (folder / "manifest.json").exists():
        return
    for path in (*folder.glob("*.*"), *folder.glob("model/*")):
        if path.is_file() and not path.name.startswith("."):
            to = target / path.relative_to(folder)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)


def _relative(book):
    """An executed notebook as text, without progress lines and with the checkout as ".".

    Its links lead from its new place, three folders down, where those of the notebook led.
    """
    for cell in book.cells:
        if cell.cell_type == "markdown":
            linked = re.sub(r"\]\((?=\d\d_\w+\.ipynb)", "](../notebooks/", cell.source)
            cell.source = linked.replace("](../", "](../../../")
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    checkout = str(Path(book.metadata.papermill.input_path).parents[1])
    return nbformat.writes(book).replace(checkout, ".")
