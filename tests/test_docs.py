"""The documents name only what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_rooms import MAY_IMPORT

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/*.md"), *ROOT.glob("experiments/gpu/*.md")]
)
# a path in backticks that lies in one of the project's folders, or in a room of the package
FOLDERS = r"(?:pipeline|tests|experiments|docs)/[\w./-]+"
PATH = re.compile(rf"`({FOLDERS}|[a-z]+/(?:[a-z_0-9]+/)*[a-z_0-9]+\.py)`")


def names_of_paths(text: str) -> list[str]:
    """Paths that a document names, of the project's root or of the package; not its examples."""
    return [name for name in PATH.findall(text) if not re.search(r"[A-Z]{3}|/x\.py|/test_x\.py", name)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_document_names_is_there(document: Path) -> None:
    if document.name == "CHANGELOG.md":
        return  # it tells of what has gone, too
    names = names_of_paths(document.read_text())
    gone = [name for name in names if not (ROOT / name).exists() and not (ROOT / "pipeline" / name).exists()]
    assert not gone


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    assert not [target for target in targets if not (document.parent / target).exists()]


def test_paths_are_found() -> None:
    text = "see `design/plan.py`, `pipeline/cli.py`, `tests/ROOM/test_x.py` and `pipeline/ROOM/x.py`"
    assert names_of_paths(text) == ["design/plan.py", "pipeline/cli.py"]


def architecture() -> str:
    return (ROOT / "docs" / "architecture.md").read_text()


def test_the_tree_shows_every_folder() -> None:
    shown = set(re.findall(r"^ {2,4}([a-z]+)/", architecture().partition("```\n\n")[0], re.MULTILINE))
    folders = {path.parent.name for path in (ROOT / "pipeline").rglob("__init__.py")} - {"pipeline"}
    assert shown == folders


def test_the_table_of_imports_is_the_rule() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (nothing|(?:`\w+`(?:, )?)+) \|$", architecture(), re.MULTILINE)
    assert {room: set(re.findall(r"`(\w+)`", rooms)) for room, rooms in rows} == {
        room: rooms for room, rooms in MAY_IMPORT.items() if room != "__main__"
    }
