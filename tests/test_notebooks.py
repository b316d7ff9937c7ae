"""The committed notebooks as files, and that checking their outputs can fail.

`make test` executes them with nbval, which compares the outputs of the cells tagged
`nbval-check-output`. It passes over a tagged cell that was committed without having been run, so
that is looked for here.
"""

import pkgutil
import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from pslib.lab import runs

NOTEBOOKS = sorted((runs.ROOT / "notebooks").glob("*.ipynb"))
TAG = "nbval-check-output"


def is_checked(cell):
    return TAG in cell.metadata.get("tags", [])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_whole_and_some_of_it_is_checked(path):
    book = nbformat.read(path, 4)
    nbformat.validate(book)
    assert book.metadata.kernelspec.name == "python3"
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    checked = [cell for cell in cells if is_checked(cell)]
    assert checked, f"no cell of {path.name} is tagged {TAG}"
    for cell in checked:
        assert cell.execution_count and cell.outputs, (
            f"{cell.id} is tagged {TAG}, and was committed without being run"
        )
    for cell in cells:
        assert cell.source.count("\n") < 15, f"{cell.id} is a long cell; logic belongs in pslib"
        assert not any(
            out.get("name") == "stderr" or out.output_type == "error" for out in cell.outputs
        ), cell.id


@pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if path.stem < "05"], ids=lambda path: path.stem
)
def test_a_lesson_is_committed_as_it_was_run(path):
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            assert cell.execution_count, cell.id
            if cell.source.endswith(");"):  # which shows a figure
                assert any("image/png" in out.get("data", {}) for out in cell.outputs), cell.id


def outputs(cell, kind):
    return [out["data"][kind] for out in cell.get("outputs", ()) if kind in out.get("data", {})]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_names_a_folder_of_the_machine_that_ran_it(path):
    assert "PosixPath('/" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_table_shows_nan(path):
    for cell in nbformat.read(path, 4).cells:
        assert not any(">NaN<" in table for table in outputs(cell, "text/html")), cell.id


@pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if "10" <= path.stem < "25"], ids=lambda path: path.stem
)
def test_each_section_of_results_says_what_its_tables_and_figures_show(path):
    sections = [[]]
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown" and cell.source.startswith("#"):
            sections.append([])
        sections[-1].append(cell)
    for section in sections:
        tables = [table for cell in section for table in outputs(cell, "text/html")]
        filled = any("<td" in table for table in tables)  # one without results has nothing to read
        if filled or any(outputs(cell, "image/png") for cell in section):
            read = any(cell.source.startswith("**Reading it.**") for cell in section)
            assert read, section[0].source


def test_the_picture_of_a_step_names_what_pslib_has():
    picture = (runs.ROOT / "notebooks" / "step.svg").read_text(encoding="utf-8")
    names = re.findall(r">(?:all of it: )?(\w+)\.([\w.]+)</text>", picture)
    assert len(names) == 12
    for module, name in names:
        pkgutil.resolve_name(f"pslib.{module}:{name}")


def test_the_picture_of_a_step_has_the_rewards_of_the_tour():
    picture = (runs.ROOT / "notebooks" / "step.svg").read_text(encoding="utf-8")
    tour = nbformat.read(runs.ROOT / "notebooks" / "00_tour.ipynb", 4)
    printed = "".join(out.get("text", "") for cell in tour.cells for out in cell.get("outputs", ()))
    rewards = re.findall(r"^(?:normal|he) +reward ([01])", printed, re.M)
    # of the responses, and of their rows under each prompt
    assert re.findall(r">([01])</text>", picture) == 3 * rewards and len(rewards) == 8


def nbval(path, source, output):
    """What nbval makes of a notebook of one checked cell with this committed output: its exit
    code.
    """
    cell = new_code_cell(
        source,
        execution_count=1,
        metadata={"tags": [TAG]},
        outputs=[
            nbformat.v4.new_output("execute_result", {"text/plain": output}, execution_count=1)
        ],
    )
    nbformat.write(
        new_notebook(
            cells=[cell], metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        ),
        path,
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval-lax",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        str(path),
    ]
    return subprocess.run(command, capture_output=True, cwd=path.parent).returncode


def test_a_checked_output_that_is_wrong_fails(tmp_path):
    assert nbval(tmp_path / "wrong.ipynb", "1 + 1", "3") == 1
    assert nbval(tmp_path / "right.ipynb", "1 + 1", "2") == 0


def test_every_figure_of_a_notebook_is_shown(tmp_path):
    # The notebook's backend makes pyplot interactive when it is loaded. Inside a rc_context, the
    # context's end would undo it, and only the first figure of a notebook would be shown.
    draw = "with figures.plt.rc_context(figures.STYLE):\n    figures.plt.figure()\n"
    book = new_notebook(
        cells=[
            new_code_cell("from pslib.evidence import figures"),
            new_code_cell(draw),
            new_code_cell(draw),
        ]
    )
    NotebookClient(
        book, kernel_name="python3", resources={"metadata": {"path": runs.ROOT}}
    ).execute()
    assert [out.output_type for cell in book.cells[1:] for out in cell.outputs] == [
        "display_data"
    ] * 2


@pytest.mark.parametrize("name", ["05_base_model", "06_train", "07_evaluate"])
def test_a_step_of_the_chain_takes_the_modes_of_its_size(name):
    # A profile whose prompt has no meaning has one of its own for each base model.
    source = (runs.ROOT / "notebooks" / f"{name}.ipynb").read_text()
    assert not re.search(r"(settings|profile)\.modes\b", source)
