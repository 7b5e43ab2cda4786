"""What an image folder holds: classes, files and their content, checked before anything is decoded.

No torch and no numpy here: the parent half lists a folder to check it and to know its digest.
"""

from __future__ import annotations

import os
import stat as modes
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pipeline.design import file_digests
from pipeline.design.spec import content_digest
from pipeline.errors import InputError, first_line
from pipeline.paths import default_data_dir
from pipeline.shown import printable

# those of torchvision's ImageFolder, and what browsers call a JPEG and animations, whose first picture counts
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".jfif", ".gif")
_SHOWN = 6  # kinds of what is passed over that are listed
_LAYOUT = "a folder with train/CLASS/* and test/CLASS/*"


@dataclass(frozen=True)
class SplitFiles:
    """The images of one split, sorted by class and name; all tuples are of equal length.

    Attributes:
        names: paths relative to the folder, as `train/CLASS/FILE`.
        labels: index of each image's class.
        sizes: bytes.
        times: the later of the times of the last change of content and of status, ns. The second cannot be set
            back as the first can (`touch -d`, `rsync --times`).
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]
    sizes: tuple[int, ...]
    times: tuple[int, ...]


@dataclass(frozen=True)
class FolderListing:
    """An image folder's files.

    Attributes:
        root: the folder, absolute.
        classes: class names, sorted; those of train.
        train: images to train on.
        test: images to test on.
        skipped: what was found and is no image, by kind (an ending, `hidden`, ..), no part of the identity.
    """

    root: Path
    classes: tuple[str, ...]
    train: SplitFiles
    test: SplitFiles
    skipped: Counter[str] = field(default_factory=Counter, compare=False)

    @property
    def passed_over(self) -> str:
        """What was not read, in a few words; empty when all was."""
        ranked = sorted(self.skipped.items(), key=lambda item: (-item[1], item[0]))
        kinds = [f"{count} {kind}" for kind, count in ranked[:_SHOWN]]
        more = ", .." if len(ranked) > _SHOWN else ""
        return f"{self.skipped.total()} passed over: {', '.join(kinds)}{more}" if kinds else ""

    @cached_property
    def digest(self) -> str:
        """Identity of the content: digest over names, sizes and content of all files, wherever the folder lies.

        About a second for each gigabyte, once: it is remembered under the default data directory by `stamp`.

        Raises:
            InputError: a file cannot be read.
        """
        cache = _cache()
        found = file_digests.recall(cache, self.stamp) if cache else None
        if found is None:
            parts = (self.train, self.test)
            try:
                sums = [file_digests.digests(self.root, part.names) for part in parts]
            except OSError as error:
                path = Path(error.filename or self.root)
                raise _refused("dataset", path, error.strerror or str(error), "files that can be read") from None
            found = content_digest([(part.names, part.sizes, own) for part, own in zip(parts, sums, strict=True)])
            if cache:
                file_digests.remember(cache, self.stamp, found, max(max(part.times) for part in parts))
        return found

    @cached_property
    def stamp(self) -> str:
        """What the file system says without reading a file: place, names, sizes and times."""
        parts = [(part.names, part.sizes, part.times) for part in (self.train, self.test)]
        return content_digest([os.fsencode(self.root).hex(), parts])


def _cache() -> Path | None:
    try:
        return default_data_dir() / "digests"
    except InputError:  # no home: every call computes them anew
        return None


def scan_folder(dir: Path, where: str) -> FolderListing:
    """Lists an image folder without opening an image.

    Hidden entries, files with other endings, FIFOs, sockets and devices are passed over and counted; a class is a
    folder of `train/`.

    Args:
        dir: folder with `train/CLASS/*` and `test/CLASS/*`.
        where: what named the folder, for messages (a flag or field).

    Raises:
        InputError: the folder or a split is missing or unreadable, a class has no images, test has a class
            that train lacks, a class folder holds folders, or a link leads out of the folder.
    """
    skipped: Counter[str] = Counter()
    try:
        root = Path(os.path.realpath(dir.expanduser()))
        for folder in (root, root / "train", root / "test"):
            if not folder.is_dir():
                raise _refused(where, folder, "no such folder", _LAYOUT)
        classes, train = _scan_split(root, "train", where, skipped)
        test_classes, test = _scan_split(root, "test", where, skipped)
    except (RuntimeError, ValueError) as error:  # no such user's home, or a NUL in the name
        raise _refused(where, dir, first_line(error), _LAYOUT) from None
    except OSError as error:
        raise _refused(where, dir, error.strerror or str(error), f"{_LAYOUT} that can be read") from None
    if extra := sorted(set(test_classes) - set(classes)):
        raise _refused(where, root / "test" / extra[0], "class is not in train/", "classes that train/ has")
    # test may lack classes, so its labels are positions in train's list
    place = {name: index for index, name in enumerate(classes)}
    labels = tuple(place[test_classes[label]] for label in test.labels)
    return FolderListing(root, classes, train, SplitFiles(test.names, labels, test.sizes, test.times), skipped)


def _scan_split(root: Path, split: str, where: str, skipped: Counter[str]) -> tuple[tuple[str, ...], SplitFiles]:
    classes = []
    for name, is_dir, entry in _entries(root, root / split, where, skipped):
        if is_dir:
            classes.append(name)
        else:
            skipped[_kind(name, entry)] += 1
    if not classes:
        raise _refused(where, root / split, "has no class folder", _LAYOUT)
    rows: list[tuple[str, int, int, int]] = []
    for label, name in enumerate(sorted(classes)):
        folder = root / split / name
        files = sorted(_images(root, folder, where, skipped))
        if not files:
            raise _refused(where, folder, "has no images", f"a file of {' '.join(ENDINGS)} in every class")
        rows += [(f"{split}/{name}/{file}", label, size, time) for file, size, time in files]
    names, labels, sizes, times = zip(*rows, strict=True)
    return tuple(sorted(classes)), SplitFiles(names, labels, sizes, times)


def _images(root: Path, folder: Path, where: str, skipped: Counter[str]) -> Iterator[tuple[str, int, int]]:
    for name, is_dir, entry in _entries(root, folder, where, skipped):
        if is_dir:
            raise _refused(where, folder / name, "folder inside a class folder", "image files")
        stat = entry.stat()
        if name.lower().endswith(ENDINGS) and modes.S_ISREG(stat.st_mode):
            yield name, stat.st_size, max(stat.st_mtime_ns, stat.st_ctime_ns)
        else:
            skipped[_kind(name, entry)] += 1


def _kind(name: str, entry: os.DirEntry[str]) -> str:
    """What an entry is that is no image: a file's ending, or that it is no file."""
    if not entry.is_file():
        return "no regular file"
    ending = Path(name).suffix.lower()
    return printable(ending) if ending else "without ending"


def _entries(
    root: Path, folder: Path, where: str, skipped: Counter[str]
) -> Iterator[tuple[str, bool, os.DirEntry[str]]]:
    """Yields (name, is a folder, entry) of what is not hidden; refuses links that lead out of `root`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                skipped["hidden"] += 1
                continue
            if entry.is_symlink():
                target = Path(os.path.realpath(entry.path))
                if not target.is_relative_to(root) or not target.exists():
                    raise _refused(where, Path(entry.path), "link out of the folder or to nothing", "files inside it")
            yield entry.name, entry.is_dir(), entry


def _refused(where: str, path: Path, problem: str, allowed: str) -> InputError:
    return InputError(f"{where}: {str(path)!r}: {problem}; allowed: {allowed}")
