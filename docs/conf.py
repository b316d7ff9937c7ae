"""How `make site` builds README, these pages and the executed notebooks: nothing is executed."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the source folder, so links are the checkout's own

# These notebooks stand in the checkout with their smallest profile. The site shows copies that were
# executed with the profile `quick`.
EXECUTED = {
    "05_base_model.ipynb": "05_base_model-0.2m.b11.ipynb",
    "06_train.ipynb": "06_train-policy_split_released-0.2m.b11-s11.ipynb",
    "07_evaluate.ipynb": "07_evaluate-policy_split_released-0.2m.b11.ipynb",
}

project = "Policy Split, on a laptop"
author = "the authors of this project"
html_title = project
extensions = ["myst_nb"]
root_doc = "docs/contents"
include_patterns = [
    "README.md",
    "docs/*.md",
    "notebooks/[0-4]*.ipynb",
    "notebooks/50_explore.ipynb",
    "notebooks/60_your_model.ipynb",
    *(f"results/quick/notebooks/{copy}" for copy in EXECUTED.values()),
    "results/smollm2/notebooks/50_explore-*.ipynb",
    "results/*/tables/*.md",
]
exclude_patterns = [
    *(f"notebooks/{name}" for name in EXECUTED),
    *("docs/_build", "results/local", ".venv"),  # not searched for pages
]

highlight_language = "none"  # of blocks that name none: commands and what they print
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = (
    "myst"  # what cells print in Markdown has tables and links, as these pages have
)
# A control needs a running kernel: the table or picture that stands beside it is shown instead.
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_additional_pages = {"index": "index.html"}  # opens README.html
templates_path = ["_templates"]
html_static_path = [
    "site.css",
    str(Path(find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax/tex-svg.js"),
]
html_css_files = ["site.css"]
mathjax_path = "tex-svg.js"  # formulas without a network; SVG needs no font files
html_copy_source = False
html_use_index = False
html_show_sphinx = False
html_show_copyright = False


def link_to_executed(app, docname, source):
    """Lead the notebooks' links to the executed copies; `source` is a list of one text."""
    if docname.startswith("notebooks/"):
        for name, copy in EXECUTED.items():
            source[0] = source[0].replace(f"({name})", f"(../results/quick/notebooks/{copy})")


def link_to_pages(app, docname, source):
    """Lead from the name of a committed table or of a notebook to its page; `source` is a list of
    one text.
    """

    def page_of(name):
        file = f"{name[1]}.ipynb"
        copy = EXECUTED.get(file)
        page = f"results/quick/notebooks/{copy}" if copy else f"notebooks/{file}"
        return f"[`{name[1]}`](/{page})"

    if not docname.startswith("results/"):
        source[0] = re.sub(r"(?<!\[)`(results/\w+/tables/\w+\.md)`", r"[`\1`](/\1)", source[0])
        source[0] = re.sub(r"(?<!\[)`(\d\d_[a-z]\w+)`", page_of, source[0])


def fold_hidden_cells(app, docname, source):
    """Fold the cells that JupyterLab folds, as solutions; `source` is a list of one text."""
    if not docname.startswith("notebooks/"):
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        if cell["metadata"].get("jupyter", {}).get("source_hidden"):
            cell["metadata"].setdefault("tags", []).append("hide-cell")
    source[0] = json.dumps(notebook)


def setup(app):
    app.connect("source-read", link_to_executed)
    app.connect("source-read", link_to_pages)
    app.connect("source-read", fold_hidden_cells)
