"""The commands that README and the documents show: found, sorted by what they need, run as written."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "experiments").rglob("README.md")),
)
# the programs whose command lines are shown beside ours; each has tests of its own, or is not ours to test
OTHERS = ("make", "docker", "ray", "mlflow", "python", "python3", "export", "mkdir", "for", "eval")
# a word in capitals stands for something that the reader puts in its place
PLACEHOLDER = re.compile(r"\b(DB)?(HOST|HEAD|NAME|MACHINE|DIR|PATH)\b")


@dataclass(frozen=True)
class Example:
    """One command line of `ablate` as a document shows it.

    Attributes:
        document: path from the project's root.
        line: number of the line, from 1.
        text: without the remark behind it.
    """

    document: str
    line: int
    text: str

    @property
    def words(self) -> list[str]:
        """The words behind `ablate`."""
        words = shlex.split(self.text)
        return words[next(n for n, word in enumerate(words) if is_ablate(word)) + 1 :]

    @property
    def variables(self) -> dict[str, str]:
        """What is set for this command, `NAME=value` before it."""
        words = shlex.split(self.text)
        head = words[: next(n for n, word in enumerate(words) if is_ablate(word))]
        return dict(word.split("=", 1) for word in head)

    @property
    def is_a_pattern(self) -> bool:
        """Whether a reader has to put something in the place of a word."""
        return bool(PLACEHOLDER.search(self.text))

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.text}"


def is_ablate(word: str) -> bool:
    """Whether a word of a command line is our program."""
    return word == "ablate" or word.endswith("/ablate")


def shown_lines(document: Path) -> list[tuple[int, str]]:
    """Number and text of each command line in a document's blocks of code; lines that go on are joined."""
    lines: list[tuple[int, str]] = []
    inside = False
    for number, line in enumerate(document.read_text().splitlines(), start=1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif (inside or line.startswith("    ")) and line.strip():
            if lines and lines[-1][1].endswith("\\"):
                lines[-1] = lines[-1][0], lines[-1][1][:-1] + line.strip()
            else:
                lines.append((number, line.strip()))
    return lines


def examples(document: Path) -> list[Example]:
    """The command lines of `ablate` in a document."""
    found = []
    for number, line in shown_lines(document):
        text = re.sub(r"(\s+#|\s*&\s*$|\s*;).*", "", line)
        if re.match(r"(\w+=\S+ )*(\S*/)?ablate ", text):
            found.append(Example(str(document.relative_to(ROOT)), number, text))
    return found


def all_examples() -> list[Example]:
    """Those of all documents."""
    return [example for document in DOCUMENTS for example in examples(document)]
