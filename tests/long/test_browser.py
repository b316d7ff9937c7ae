"""Notebooks in JupyterLab in a real browser: 00 run, 50 operated by mouse and keyboard, and every
one opened.
"""

import json
import time

import pytest

from pslib.lab import runs
from tests.long.browser import CHROMIUM, chromium, jupyterlab
from tests.long.reliability import record

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium or Chrome on this machine's PATH to open notebooks in"
)
NAMES = sorted(path.stem for path in (runs.ROOT / "notebooks").glob("*.ipynb"))
BOOK = "document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden)')"
ERRORS = (
    f'[...{BOOK}.querySelectorAll(\'[data-mime-type="application/vnd.jupyter.error"], '
    '[data-mime-type="application/vnd.jupyter.stderr"]\')].map(e => e.textContent)'
)
STEPS = 10  # that operate yields
HOSTILE = '<img src=x onerror="window.struck = 1"><b>7+8</b>'


def opened(page, address, name):
    """Open a notebook as it was committed, and wait until all of its cells are drawn."""
    cells = len(json.loads((runs.ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"])
    page.open(f"{address}lab/tree/{name}.ipynb?reset")
    page.until(
        f"{BOOK} && {BOOK}.querySelectorAll('.jp-Notebook .jp-Cell').length === {cells}", 180
    )


def run_all(page):
    """Choose Run, Run All Cells in the menu, and wait until no cell is running or waiting; ->
    whether all were run.
    """
    page.until(
        f"{BOOK}.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'", 180
    )  # a kernel is there
    prompts = (
        f"[...{BOOK}.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.textContent)"
    )
    page.click(
        "[...document.querySelectorAll('.lm-MenuBar-item')].find(e => e.textContent.trim() === "
        "'Run')"
    )
    page.click("document.querySelector('.lm-Menu-item[data-command=\"runmenu:run-all\"]')")
    page.until(f"{prompts}.some(text => text.includes('*'))")
    page.until(f"!{prompts}.some(text => text.includes('*'))", 600)
    return page.js(f"{prompts}.every(text => /\\d/.test(text))") and page.js(ERRORS) == []


class Controls:
    """The widgets of 50_explore, as a user finds them: by their labels."""

    def __init__(self, page):
        self.page = page

    def at(self, label, part):
        return (
            "[...document.querySelectorAll('.widget-label')].find(e => e.textContent === "
            f"'{label}')"
            f"?.closest('.jupyter-widgets').querySelector('{part}')"
        )

    @property
    def shown(self):
        return self.page.js(
            "[...document.querySelectorAll('.widget-html-content')].at(-1)?.innerText"
        )

    def slide(self, label, key, times=1):
        self.page.click(self.at(label, ".noUi-handle"))
        self.page.press(key, times)
        # A widget sends its last value when the kernel has taken the one before; a button's click
        # overtakes it. No hand is so fast.
        time.sleep(2)
        return self.page.js(self.at(label, ".widget-readout") + ".textContent")

    def sample(self):
        """Press the button; -> (what is shown before, what is shown once something there or in the
        message changed).
        """
        before, said = (
            self.shown,
            "[...document.querySelectorAll('.widget-html-content')].at(-2)?.innerText",
        )
        self.page.js(f"window.before = {said}")
        self.page.click(
            "[...document.querySelectorAll('.jupyter-button')].find(e => e.textContent.trim() === "
            "'Sample')"
        )
        settled = (
            f"!document.querySelector('.jupyter-button:disabled') && {said} !== 'sampling ...'"
        )
        self.page.until(
            "[...document.querySelectorAll('.widget-html-content')].at(-1).innerText !== "
            f"{json.dumps(before)} || ({settled} && {said} !== window.before)",
            120,
        )
        self.page.until(settled, 120)
        return before, self.shown


def operate(page, address):
    """Operate every control of 50_explore; yields (what was done, whether it went as it must)."""
    opened(page, address, "50_explore")
    ran, controls = run_all(page), Controls(page)
    page.until("document.querySelectorAll('.widget-html-content').length >= 2", 60)
    static = page.js(f"{BOOK}.querySelector('.jp-RenderedHTMLCommon table').innerText")
    yield (
        "all cells run",
        ran and static.split()[0:2] == ["Normal", "mode:"] and static in controls.shown,
    )

    before, after = controls.sample()
    yield "the button draws anew", before != after and "seed 2" in after and "seed 1)" in before
    readout = controls.slide("temperature", "Home")
    before, after = controls.sample()
    yield (
        "temperature 0",
        float(readout) == 0 and "temperature 0:" in after and after.count(" tokens") == 2,
    )
    readout = controls.slide("temperature", "ArrowRight", 5)
    before, after = controls.sample()
    yield (
        "temperature 0.5",
        float(readout) == 0.5 and "temperature 0.5," in after and after.count(" tokens") == 8,
    )
    readout = controls.slide("samples a mode", "ArrowLeft", 2)
    before, after = controls.sample()
    yield (
        "two samples a mode",
        readout == "2" and after.count(" tokens") == 4 and before.count(" tokens") == 8,
    )

    page.js(controls.at("colour by", "select") + ".focus()")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="i", code="KeyI", text="i")
    page.call("Input.dispatchKeyEvent", type="keyUp", key="i", code="KeyI")
    page.until(
        "[...document.querySelectorAll('.widget-html-content')].at(-1).innerText.includes('KL(HE ‖ "
        "normal) where')",
        60,
    )
    yield (
        "colour by inter-mode KL",
        controls.shown.split("Normal mode")[1] == after.split("Normal mode")[1],
    )

    page.replace(controls.at("question", "textarea"), "1+2+3+4+5+6")
    before, after = controls.sample()
    yield "another question", "Question: 1+2+3+4+5+6; its answer is 21" in after and before != after
    page.replace(controls.at("question", "textarea"), HOSTILE)
    before, after = controls.sample()
    yield (
        "hostile text stays text",
        f"Question: {HOSTILE} (" in after and page.js("window.struck === undefined"),
    )
    page.replace(controls.at("question", "textarea"), " ")
    before, after = controls.sample()
    said = page.js("[...document.querySelectorAll('.widget-html-content')].at(-2).innerText")
    yield (
        "an empty question is refused in a sentence",
        before == after and said == "there is no question; type one",
    )
    yield "no error in the browser", page.complaints == [] and page.js(ERRORS) == []


def test_the_controls_of_50_explore_work_in_a_real_browser(tmp_path):
    begun, done = time.time(), []
    with jupyterlab(tmp_path) as address, chromium(tmp_path) as page:
        try:
            done += operate(page, address)
        finally:
            page.screenshot(tmp_path / "50_explore.png")
            record(
                "Browser: controls of 50_explore operated in JupyterLab",
                STEPS,
                sum(good for _, good in done),
                time.time() - begun,
            )
            print(tmp_path / "50_explore.png", page.complaints)
    assert len(done) == STEPS and all(good for _, good in done), done


def test_00_tour_runs_in_a_real_browser(tmp_path):
    begun, ran = time.time(), False
    with jupyterlab(tmp_path) as address, chromium(tmp_path, height=12_000) as page:
        opened(page, address, "00_tour")
        ran = run_all(page) and page.complaints == []
        page.screenshot(tmp_path / "00_tour.png")
    record(
        "Browser: 00_tour run from its first cell to its last in JupyterLab",
        1,
        int(ran),
        time.time() - begun,
    )
    assert ran


def test_every_notebook_opens_whole_and_without_errors(tmp_path):
    begun, bad = time.time(), []
    with jupyterlab(tmp_path) as address, chromium(tmp_path, height=12_000) as page:
        for name in NAMES:
            opened(page, address, name)
            if found := page.js(ERRORS) + page.complaints:
                bad.append((name, found))
    record(
        "Browser: notebooks opened in JupyterLab as committed, no error shown",
        len(NAMES),
        len(NAMES) - len(bad),
        time.time() - begun,
    )
    assert not bad
