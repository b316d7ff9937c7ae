"""The site that `make site` builds: no warning, every internal link leads somewhere, and nothing
comes from a network.
"""

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from urllib.parse import unquote, urlsplit

import pytest

from pslib.lab import runs

NEEDED = ("sphinx", "myst_nb", "furo", "sphinx-mathjax-offline")
lacking = [name for name in NEEDED if find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(lacking),
    reason=f"the site needs {', '.join(lacking)}: install the extra `site`, as `make site` does",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the pages, built as the Makefile builds them."""
    out = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--fail-on-warning", "--keep-going", "--conf-dir", "docs"]
    folders = ["--doctree-dir", out / "doctrees", ".", out / "html"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, *folders],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out / "html"


class Page(HTMLParser):
    """A page's anchors, where its links lead, and what a browser loads with it."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loads = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon"):
            self.loads.append(given["href"])
        elif tag in ("img", "script") and given.get("src"):
            self.loads.append(given["src"])


@pytest.fixture(scope="module")
def pages(site):
    return {path.resolve(): Page(path) for path in site.rglob("*.html")}


def internal(path, address):
    """Where an address on a page leads within the site: (file, anchor), or None."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return None
    target = path.parent / unquote(parts.path) if parts.path else path
    return target.resolve(), unquote(parts.fragment)


def test_every_internal_link_leads_somewhere(site, pages):
    dead = []
    for path, page in pages.items():
        for address in page.links + page.loads:
            target, anchor = internal(path, address) or (path, "")
            anchored = not anchor or target not in pages or anchor in pages[target].anchors
            if not target.exists() or not anchored:
                dead.append(f"{path.relative_to(site)}: {address}")
    assert not dead


def test_nothing_is_loaded_from_a_network(pages):
    fetched = {
        address
        for page in pages.values()
        for address in page.loads
        if urlsplit(address).netloc or urlsplit(address).scheme not in ("", "data")
    }
    assert not fetched


def test_formulas_search_and_the_first_page_are_there(site, pages):
    assert any("tex-svg.js" in load for load in pages[site / "notebooks/03_advantages.html"].loads)
    assert (site / "_static" / "tex-svg.js").stat().st_size > 1e6
    assert (site / "search.html").exists() and (site / "searchindex.js").exists()
    assert "README.html" in pages[site / "index.html"].links


def of_notebooks(site):
    return {path.stem: path.read_text(encoding="utf-8") for path in site.glob("notebooks/*.html")}


def test_tables_that_cells_print_in_markdown_are_tables(site):
    assert not [name for name, text in of_notebooks(site).items() if "<p>| " in text]


def test_the_solutions_of_exercises_are_folded(site):
    solved = [text for text in of_notebooks(site).values() if "# Solution<" in text]
    assert len(solved) == 4
    for text in solved:
        before = text[: text.index("# Solution<")]
        assert before.rfind("<details") > before.rfind("</details>")


def test_the_name_of_a_notebook_leads_to_it(site):
    name = r"<code[^>]*><span class=\"pre\">\d\d_[a-z]\w+</span></code>"
    for page, text in of_notebooks(site).items():
        assert not re.findall(rf"(?<!\">){name}", text), page


def test_pages_stand_in_reading_order(site):
    """The next page of each, from the first to the last."""

    def following(path):
        found = []

        class Next(HTMLParser):
            def handle_starttag(self, tag, attributes):
                given = dict(attributes)
                if tag == "a" and "next-page" in (given.get("class") or ""):
                    found.append(given["href"])

        Next().feed(path.read_text(encoding="utf-8"))
        return (path.parent / found[0]).resolve() if found else None

    order, path = [], (site / "README.html").resolve()
    while path:
        order.append(path.stem[:2] if path.parent.name == "notebooks" else path.stem)
        path = following(path)
    shown = [name for name in order if name[:2].isdigit() or name == "world"]
    first = ["00", "world", "05", "01", "02", "03", "04", "30", "60", "40", "25", "50", "10"]
    assert shown[: len(first)] == first
    aside = ("index", "search", "contents")
    assert len(order) == len([path for path in site.rglob("*.html") if path.stem not in aside])
