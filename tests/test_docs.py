"""The pages of docs/: every loss has its entry, numbers and links are true, and scripts run."""

import doctest
import inspect
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from jaxseg import labels, losses

pytestmark = pytest.mark.exhaustive  # the pages are the same with any version

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGES = {path.name: path.read_text() for path in (*DOCS.glob("*.md"), DOCS.parent / "README.md")}
MADE = {name for name in losses.__all__ if name.startswith("upsample_")}  # by `upsampled`
PUBLIC = {name: getattr(losses, name) for name in losses.__all__ if name not in MADE}
PUBLIC |= {f"labels.{name}": getattr(labels, name) for name in labels.__all__}
ENTRIES = dict(re.findall(r"^### (\S+)\n(.*?)(?=^#|\Z)", PAGES["losses.md"], re.M | re.S))
# That every loss has alike; the page says once what they are.
SHARED = {"where", "class_weights", "reduce", "axis_name"}


def run(*arguments):
    """Python in a process of its own, in docs/ and with this jaxseg."""
    environment = os.environ | {"PYTHONPATH": str(DOCS.parent)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=DOCS, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_loss_has_an_entry():
    assert set(ENTRIES) == set(PUBLIC)
    assert {*re.findall(r"`(upsample_\w+)`", ENTRIES["upsampled"])} == MADE


@pytest.mark.parametrize("name", PUBLIC)
def test_entry(name):
    """The options with their defaults, a line of mathematics, some words, and a picture."""
    call, mathematics, *words, picture = ENTRIES[name].strip().split("\n\n")
    function, arguments, marks = re.fullmatch(r"`([\w.]+)\((.*)\)`(.*)", call).groups()
    assert function == name
    written = {}
    exec(f"def function({arguments}): pass", written)
    expected = inspect.signature(PUBLIC[name]).parameters
    shared = set() if name.startswith("labels.") else SHARED
    assert [(x.name, x.kind, x.default) for x in parameters(written["function"])] == [
        (x.name, x.kind, x.default) for x in parameters(PUBLIC[name]) if x.name not in shared
    ]
    wanted = [("map", "reduce"), ("weights", "class_weights")]
    assert re.findall(r"\*\*(\w+)\*\*", marks) == [mark for mark, x in wanted if x in expected]
    assert re.search(r"\$`.+`\$", mathematics)
    assert "\n" not in mathematics
    assert len(" ".join(words)) > 80
    assert f'<img src="losses/{name}.png" width="600" alt=' in picture


def parameters(function):
    return inspect.signature(function).parameters.values()


def anchors(text):
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links(page):
    """Files exist, and headings in pages."""
    folder = DOCS.parent if page == "README.md" else DOCS
    targets = re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", PAGES[page])
    for target in filter(lambda x: "://" not in x, ("".join(x) for x in targets)):
        path, _, anchor = target.partition("#")
        path = folder / path if path else folder / page
        assert path.is_file(), target
        assert not anchor or anchor in anchors(path.read_text()), target


def test_pictures():
    """Each is drawn by the script and shown by a page; together they stay small."""
    files = {path.stem: path for path in (DOCS / "losses").iterdir()}
    assert {*run("-c", "import pictures; print(*pictures.PICTURES)").split()} == set(files)
    shown = re.findall(r"losses/([\w.]+)\.png", "".join(PAGES.values()))
    assert set(shown) == set(files)
    assert sum(path.stat().st_size for path in files.values()) < 1.5e6


@pytest.mark.parametrize("name", ["focal", "dice"])
def test_drawing(name, tmp_path):
    run("pictures.py", f"--out={tmp_path}", name)
    (path,) = tmp_path.iterdir()
    with Image.open(path) as drawn, Image.open(DOCS / "losses" / path.name) as kept:
        assert drawn.size == kept.size
        assert len(drawn.getcolors()) > 10


def test_tables(tmp_path):
    """Computed again they are what the page has."""
    page = shutil.copy(DOCS / "kl-and-relative-entropy.md", tmp_path)
    run("kl_tables.py", page)
    assert pathlib.Path(page).read_text() == PAGES["kl-and-relative-entropy.md"]


def test_examples():
    blocks = re.findall(r"^```pycon\n(.*?)^```$", PAGES["kl-and-relative-entropy.md"], re.M | re.S)
    test = doctest.DocTestParser().get_doctest("".join(blocks), {}, "page", None, 0)
    assert len(test.examples) > 30
    said = []
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not said, "".join(said)
