"""The images of one part of a data set in files, and how a folder is listed. No torch and no numpy here."""

from __future__ import annotations

import os
import stat as modes
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.shown import printable

# those of torchvision's ImageFolder, and what browsers call a JPEG and animations, whose first picture counts
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".jfif", ".gif")
# how the parts of a data set are called, in any case -> which part it is
PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
LAYOUT = (
    "a folder with train/CLASS/* and test/CLASS/* (or val/), with CLASS/* alone, or a CSV file with the columns "
    "path,label[,split]"
)
_ARCHIVED = "__MACOSX"  # what unpacked archives have beside their files


@dataclass(frozen=True)
class SplitFiles:
    """The images of one part; all tuples are of equal length.

    Attributes:
        names: paths relative to the data set's folder, as `train/CLASS/FILE`.
        labels: index of each image's class.
        sizes: bytes.
        times: the later of the times of the last change of content and of status, ns. The second cannot be set
            back as the first can (`touch -d`, `rsync --times`).
    """

    names: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    times: tuple[int, ...] = ()

    def __add__(self, other: SplitFiles) -> SplitFiles:
        """These and then those."""
        return SplitFiles(
            self.names + other.names,
            self.labels + other.labels,
            self.sizes + other.sizes,
            self.times + other.times,
        )

    def __len__(self) -> int:
        """How many there are."""
        return len(self.names)

    def rows(self, rows: Sequence[int]) -> SplitFiles:
        """Some of them, in the order of `rows`."""
        return SplitFiles(
            tuple(self.names[row] for row in rows),
            tuple(self.labels[row] for row in rows),
            tuple(self.sizes[row] for row in rows),
            tuple(self.times[row] for row in rows),
        )


def refused(where: str, path: Path, problem: str, allowed: str = LAYOUT) -> InputError:
    """Builds the line that a data set in files is refused with.

    Args:
        where: what named it (a flag or field).
        path: the file or folder that is wrong.
        problem: what is wrong with it.
        allowed: what would be right.
    """
    return InputError(f"{where}: {str(path)!r}: {problem}; allowed: {allowed}")


def class_folders(root: Path, parent: Path, where: str, skipped: Counter[str]) -> list[str]:
    """Lists the folders in `parent`, sorted; counts what is none into `skipped`.

    Args:
        root: folder of the data set, out of which no link may lead.
        parent: folder of the class folders.
        where: for messages.
        skipped: counts by kind.

    Raises:
        InputError: a link leads out of `root`.
        OSError: it cannot be read.
    """
    classes = []
    for name, is_dir, entry in entries(root, parent, where, skipped):
        if is_dir:
            classes.append(name)
        else:
            skipped[_kind(name, entry)] += 1
    return sorted(classes)


def images_of(root: Path, folder: Path, where: str, skipped: Counter[str]) -> list[tuple[str, int, int]]:
    """Lists the images of a class folder, sorted: (name, bytes, time as in `SplitFiles`).

    Args:
        root: folder of the data set, out of which no link may lead.
        folder: the class's.
        where: for messages.
        skipped: counts what is no image, by kind.

    Raises:
        InputError: there are none, there is a folder in it, or a link leads out of `root`.
        OSError: it cannot be read.
    """
    found = []
    for name, is_dir, entry in entries(root, folder, where, skipped):
        if is_dir:
            raise refused(where, folder / name, "folder inside a class folder", "image files in it")
        stat = entry.stat()
        if is_image(name) and modes.S_ISREG(stat.st_mode):
            found.append((name, stat.st_size, changed_ns(stat)))
        else:
            skipped[_kind(name, entry)] += 1
    if not found:
        raise refused(where, folder, "has no images", f"a file of {' '.join(ENDINGS)} in every class")
    return sorted(found)


def is_image(name: str) -> bool:
    """Whether a file's ending is that of an image."""
    return name.lower().endswith(ENDINGS)


def changed_ns(stat: os.stat_result) -> int:
    """When a file last changed, as in `SplitFiles.times`."""
    return max(stat.st_mtime_ns, stat.st_ctime_ns)


def is_hidden(name: str) -> bool:
    """Whether an entry is none of the user's: `.DS_Store`, `.git`, `__MACOSX`."""
    return name.startswith(".") or name == _ARCHIVED


def entries(
    root: Path, folder: Path, where: str, skipped: Counter[str]
) -> Iterator[tuple[str, bool, os.DirEntry[str]]]:
    """Yields (name, is a folder, entry) of what is not hidden; refuses links that lead out of `root`."""
    with os.scandir(folder) as listed:
        for entry in listed:
            if is_hidden(entry.name):
                skipped["hidden"] += 1
                continue
            if entry.is_symlink() and not leads_inside(root, entry.path):
                raise refused(where, Path(entry.path), "link out of the folder or to nothing", "files inside it")
            yield entry.name, entry.is_dir(), entry


def leads_inside(root: Path, path: str) -> bool:
    """Whether a path, its links followed, is something that lies in `root`."""
    try:
        target = Path(os.path.realpath(path))
    except ValueError:  # a name that no file can have
        return False
    return target.is_relative_to(root) and target.exists()


def _kind(name: str, entry: os.DirEntry[str]) -> str:
    """What an entry is that is no image: a file's ending, or that it is no file."""
    if not entry.is_file():
        return "no regular file"
    ending = Path(name).suffix.lower()
    return printable(ending) if ending else "without ending"
