"""The tables of techniques in the documents. `python -m tests.support.technique_tables` renews them from the rows."""

from __future__ import annotations

from pathlib import Path

import pipeline
from pipeline.commands.techniques import TECHNIQUE_COLUMNS, markdown_table

ROOT = Path(pipeline.__file__).parent.parent
BEGIN, END = "<!-- techniques:begin -->\n", "\n<!-- techniques:end -->"
PAGES: dict[str, tuple[str, ...]] = {
    "README.md": ("name", "what it does", "owns", "level"),
    "docs/techniques.md": tuple(TECHNIQUE_COLUMNS),
}


def renewed(page: str) -> tuple[str, str]:
    """A page's text as it is, and with the table that the rows make."""
    text = (ROOT / page).read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, f"{page}: {BEGIN.strip()} and {END.strip()} have to stand around the table"
    return text, before + begin + markdown_table(PAGES[page]) + end + after


if __name__ == "__main__":
    for name in PAGES:
        (ROOT / name).write_text(renewed(name)[1], encoding="utf-8")
