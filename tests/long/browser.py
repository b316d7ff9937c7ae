"""A real browser at a real JupyterLab: Chromium without a screen, driven through its DevTools
protocol.

The websocket client is the one that jupyter_server brings.
"""

import base64
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import websocket

from pslib.lab import runs

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
KEYS = {"Enter": ("\r", 13), "ArrowLeft": ("", 37), "ArrowRight": ("", 39), "Home": ("", 36)}


def _until(what, find, seconds):
    """What `find` returns once that is true; TimeoutError says what was waited for."""
    since = time.time()
    while time.time() - since < seconds:
        if found := find():
            return found
        time.sleep(0.2)
    raise TimeoutError(f"{what}: not within {seconds} s")


@contextmanager
def _running(command, log, **options):
    """A process with all its children in a group of their own, which ends with the block."""
    with open(log, "w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, **options
        )
        try:
            yield process
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)
                    process.wait(10)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    pass


@contextmanager
def jupyterlab(folder):
    """The address of a JupyterLab on a free port that serves the notebooks of this project, copied
    to a folder.
    """
    shutil.copytree(
        runs.ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*")
    )
    home = {
        name: str(folder / name.lower())
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    log = folder / "jupyterlab.log"
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        "--ServerApp.port=0",
        "--IdentityProvider.token=",
        f"--ServerApp.root_dir={folder / 'notebooks'}",
    ]
    with _running(
        command,
        log,
        env={**os.environ, **home, "PYTHONPATH": str(runs.ROOT), "OMP_NUM_THREADS": "1"},
    ):
        found = _until(
            "JupyterLab's address",
            lambda: re.search(r"http://127\.0\.0\.1:(?!0/)\d+/", log.read_text()),
            120,
        )
        yield found[0]


class Page:
    """One tab: what it shows is read by JavaScript, and operated by mouse and keyboard alone."""

    def __init__(self, address):
        self.socket, self.count, self.complaints = (
            websocket.create_connection(address, timeout=60),
            itertools.count(1),
            [],
        )
        self.call("Runtime.enable")
        self.call("Page.enable")

    def call(self, method, **params):
        """The result of one command of the protocol; exceptions that the page threw meanwhile are
        kept as complaints.
        """
        number = next(self.count)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("method") == "Runtime.exceptionThrown":
                details = message["params"]["exceptionDetails"]
                self.complaints.append(
                    details.get("exception", {}).get("description", details["text"])
                )
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]

    def js(self, expression):
        """The value of a JavaScript expression."""
        out = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in out:
            raise RuntimeError(f"{expression}: {out['exceptionDetails']}")
        return out["result"].get("value")

    def until(self, expression, seconds=60):
        """Wait until a JavaScript expression is true, and return it."""
        return _until(expression, lambda: self.js(expression), seconds)

    def open(self, address):
        """Go to an address."""
        self.call("Page.navigate", url=address)

    def click(self, element, seconds=60):
        """Click the middle of an element, given as a JavaScript expression, once it is there."""
        x, y = self.until(
            f"(e => {{ if (!e) return null; e.scrollIntoView({{block: 'center'}}); "
            "const b = e.getBoundingClientRect(); "
            f"return b.width ? [b.x + b.width / 2, b.y + b.height / 2] : null; }})({element})",
            seconds,
        )
        for kind, button in (
            ("mouseMoved", "none"),
            ("mousePressed", "left"),
            ("mouseReleased", "left"),
        ):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    def press(self, key, times=1):
        """Press a key of KEYS."""
        text, code = KEYS[key]
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                self.call(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=key,
                    code=key,
                    windowsVirtualKeyCode=code,
                    **({"text": text} if text and kind == "keyDown" else {}),
                )

    def replace(self, element, text):
        """Put a text in place of what a field holds, as typing over the selected content does."""
        self.click(element)
        self.js(f"({element}).select()")
        self.call("Input.insertText", text=text)

    def screenshot(self, path):
        """Write what the window shows as a PNG."""
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def chromium(folder, width=1300, height=4000):
    """A Page of a new Chromium without a screen; its window is tall, so that JupyterLab draws all
    of a notebook at once.
    """
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-port=0",
        "--no-first-run",
        "--remote-allow-origins=*",
        f"--user-data-dir={folder / 'chromium'}",
        f"--window-size={width},{height}",
        "about:blank",
    ]
    with _running(command, folder / "chromium.log"):
        port_file = folder / "chromium" / "DevToolsActivePort"
        port = _until(
            "Chromium's port",
            lambda: port_file.exists() and port_file.read_text().split("\n")[0],
            60,
        )

        def tab():
            try:
                listed = json.load(
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10)
                )
            except OSError:
                return None
            return next(
                (each["webSocketDebuggerUrl"] for each in listed if each["type"] == "page"), None
            )

        page = Page(_until("a tab", tab, 60))
        try:
            yield page
        finally:
            page.socket.close()
