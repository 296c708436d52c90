"""The documents are true: what they name exists, generated pages are current, the README stays short."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import generate

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FILE = re.compile(r"(?<![\w/])(?:schemas|feedback|serving|trainer|deploy|tests|docs)(?:/[\w.-]+)+")
ROW = re.compile(r"^\| (.+) \| `(.+)` \| `(.+)` \|$", re.MULTILINE)


def behaviours() -> list[tuple[str, str, str]]:
    """The rows of CONTRIBUTING's map of the house: a behaviour, its file, its symbol."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## The map of the house")[1].split("\n## ")[0]
    return ROW.findall(text)


def symbols(path: Path) -> Iterator[str]:
    """The names that a module defines at its top, and those in its classes after a dot."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            methods = (each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
            yield from (f"{node.name}.{method.name}" for method in methods)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


def tree() -> set[str]:
    """The paths that CONTRIBUTING's tree shows; a folder without files ends with a slash."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## The tree")[1].split("```")[1]
    found, room = set(), ""
    for line in text.strip("\n").splitlines():
        names = re.split(r"\s{2,}", line.strip())[0].split()
        if not line.startswith(" "):
            room = names[0]
        elif names[0].endswith("/") and len(names) > 1 and "." in names[1]:
            found |= {room + names[0] + name for name in names[1:]}
        else:
            found |= {room + name for name in names}
    return found


@pytest.mark.parametrize(("behaviour", "file", "symbol"), behaviours())
def test_the_map_of_the_house_is_true(behaviour: str, file: str, symbol: str) -> None:
    assert symbol in set(symbols(ROOT / file)), behaviour


def test_the_map_has_twenty_behaviours() -> None:
    assert len(behaviours()) == 20


def test_files_that_documents_name_exist() -> None:
    named = {
        (document.relative_to(ROOT).as_posix(), found.rstrip("."))
        for document in DOCUMENTS
        for found in FILE.findall(document.read_text("utf-8"))
    }
    assert [pair for pair in sorted(named) if not (ROOT / pair[1]).exists()] == []


def test_every_file_is_in_the_tree() -> None:
    shown = tree()
    assert [path for path in sorted(shown) if not (ROOT / path).exists()] == []
    whole = tuple(path for path in shown if path.endswith("/"))
    modules = {
        path.relative_to(ROOT).as_posix()
        for room in ("schemas", "feedback", "serving", "trainer", "deploy")
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert [path for path in sorted(modules - shown) if not path.startswith(whole)] == []


def test_generated_pages_are_current() -> None:
    stale = [path.name for path, text in generate.pages().items() if path.read_text("utf-8") != text]
    assert stale == [], "run `make docs`"


def test_each_experiment_is_in_the_index() -> None:
    folder = ROOT / "docs" / "experiments"
    linked = re.findall(r"\]\(([\w-]+\.md)\)", (folder / "index.md").read_text("utf-8"))
    assert sorted(linked) == sorted(path.name for path in folder.glob("*.md") if path.name != "index.md")


def test_the_readme_has_700_words_at_most() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 700
