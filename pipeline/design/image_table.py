"""A data set as a table: a CSV file with the path and the class of each image, and its part where it says so."""

from __future__ import annotations

import csv
import io
import os
import stat as modes
from dataclasses import dataclass
from pathlib import Path

from pipeline.design.image_files import PART_NAMES, SplitFiles, changed_ns, is_image, leads_inside, refused
from pipeline.files import reading

# what the columns are called, by the usual tools' conventions
_COLUMNS = {
    "path": ("path", "file_name", "filename", "file", "image"),
    "label": ("label", "class", "target"),
    "split": ("split", "part", "set"),
}
_MAX_BYTES = 1 << 30
_ALLOWED = "a CSV file with the columns path,label[,split], paths from its own folder, split train, val or test"


@dataclass(frozen=True)
class ImageTable:
    """What a CSV file lists.

    Attributes:
        classes: the labels, sorted as text.
        parts: `train`, `val`, `test` -> its images, in the file's order; all in `train` where no split is said.
    """

    classes: tuple[str, ...]
    parts: dict[str, SplitFiles]


def is_table(path: Path) -> bool:
    """Whether a data set's place is a table's rather than a folder's."""
    return path.suffix.lower() == ".csv" and not path.is_dir()


def read_table(path: Path, where: str) -> ImageTable:
    """Reads a table and looks for each of its files.

    Args:
        path: the CSV file; paths in it are relative to its folder.
        where: what named it, for messages.

    Raises:
        InputError: it is none, a column is missing, or a line names what is no image in the folder; names the line.
    """
    root = path.parent
    seen: dict[str, int] = {}
    inside = _Inside(root)
    rows: list[tuple[str, str, str, int, int]] = []
    for line, (written, label, part) in _lines(path, where):
        name = os.path.normpath(os.path.relpath(written, root) if written.startswith(os.sep) else written)
        problem = _problem(written, label, part) or ("" if inside(name) else f"{written!r} is no file in {str(root)!r}")
        if not problem and name in seen:
            problem = f"{written!r} stands in line {seen[name]} already"
        if problem:
            raise refused(where, path, f"line {line}: {problem}", _ALLOWED)
        seen[name] = line
        stat = (root / name).stat()
        if not modes.S_ISREG(stat.st_mode):
            raise refused(where, path, f"line {line}: {written!r} is no regular file", _ALLOWED)
        rows.append((PART_NAMES.get(part.lower(), "train"), name, label, stat.st_size, changed_ns(stat)))
    if not rows:
        raise refused(where, path, "has no lines", _ALLOWED)
    classes = tuple(sorted({label for _part, _name, label, _size, _time in rows}))
    place = {label: index for index, label in enumerate(classes)}
    parts = {}
    for part in dict.fromkeys(PART_NAMES.values()):
        mine = [(name, place[label], size, time) for own, name, label, size, time in rows if own == part]
        if mine:
            names, labels, sizes, times = zip(*mine, strict=True)
            parts[part] = SplitFiles(names, labels, sizes, times)
    return ImageTable(classes, parts)


def _problem(name: str, label: str, part: str) -> str:
    """What is wrong with the words of a line; empty when nothing is."""
    if not name or not label:
        return "no path" if not name else "no label"
    if part and part.lower() not in PART_NAMES:
        return f"split {part!r}"
    return "" if is_image(name) else f"{name!r} has no ending of an image"


class _Inside:
    """Whether a file is there and lies in a folder; links are followed where there are any, once for each folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, bool] = {}

    def __call__(self, name: str) -> bool:
        path = os.path.join(self._root, name)  # noqa: PTH118 - a path object for each of many images takes longer
        parent = os.path.dirname(path)  # noqa: PTH120
        if parent not in self._folders:
            self._folders[parent] = leads_inside(self._root, parent)
        if "\0" in name or not self._folders[parent] or not os.path.exists(path):  # noqa: PTH110
            return False
        return not os.path.islink(path) or leads_inside(self._root, path)  # noqa: PTH114


def _lines(path: Path, where: str) -> list[tuple[int, tuple[str, str, str]]]:
    """(number of the line, (path, label, split)) of each row."""
    try:
        with reading(path) as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise refused(where, path, f"has more than {_MAX_BYTES} bytes", _ALLOWED)
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        columns = {name.strip().lower(): name for name in reader.fieldnames or ()}
        named = {key: next((columns[name] for name in names if name in columns), "") for key, names in _COLUMNS.items()}
        missing = [key for key in ("path", "label") if not named[key]]
        if missing:
            raise refused(where, path, f"has no column {missing[0]!r} (but {', '.join(columns) or 'none'})", _ALLOWED)
        return [
            (reader.line_num, (_text(row, named["path"]), _text(row, named["label"]), _text(row, named["split"])))
            for row in reader
        ]
    except UnicodeDecodeError:
        raise refused(where, path, "is not text in UTF-8", _ALLOWED) from None
    except csv.Error as error:
        raise refused(where, path, f"is no CSV file ({error})", _ALLOWED) from None


def _text(row: dict[str, str | None], column: str) -> str:
    return (row.get(column) or "").strip()
