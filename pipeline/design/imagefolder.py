"""What an image folder holds: classes, files and their content, checked before anything is decoded.

No torch and no numpy here: the parent half lists a folder to check it and to know its digest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.design import file_digests
from pipeline.design.spec import content_digest
from pipeline.errors import InputError
from pipeline.paths import default_data_dir

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
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
    """

    root: Path
    classes: tuple[str, ...]
    train: SplitFiles
    test: SplitFiles

    @cached_property
    def digest(self) -> str:
        """Identity of the content: digest over names, sizes and content of all files, wherever the folder lies.

        About a second for each gigabyte, once: it is remembered under the default data directory by `stamp`.

        Raises:
            InputError: a file cannot be read.
        """
        cache = default_data_dir() / "digests"
        found = file_digests.recall(cache, self.stamp)
        if found is None:
            parts = (self.train, self.test)
            try:
                sums = [file_digests.digests(self.root, part.names) for part in parts]
            except OSError as error:
                path = Path(error.filename or self.root)
                raise _refused("dataset", path, error.strerror or str(error), "files that can be read") from None
            found = content_digest([(part.names, part.sizes, own) for part, own in zip(parts, sums, strict=True)])
            file_digests.remember(cache, self.stamp, found, max(max(part.times) for part in parts))
        return found

    @cached_property
    def stamp(self) -> str:
        """What the file system says without reading a file: place, names, sizes and times."""
        parts = [(part.names, part.sizes, part.times) for part in (self.train, self.test)]
        return content_digest([os.fsencode(self.root).hex(), parts])


def scan_folder(dir: Path, where: str) -> FolderListing:
    """Lists an image folder without opening an image.

    Hidden entries and files with other endings are passed over; a class is a folder of `train/`.

    Args:
        dir: folder with `train/CLASS/*` and `test/CLASS/*`.
        where: what named the folder, for messages (a flag or field).

    Raises:
        InputError: the folder or a split is missing or unreadable, a class has no images, test has a class
            that train lacks, a class folder holds folders, or a link leads out of the folder.
    """
    try:
        root = Path(os.path.realpath(dir.expanduser()))
        for folder in (root, root / "train", root / "test"):
            if not folder.is_dir():
                raise _refused(where, folder, "no such folder", _LAYOUT)
        classes, train = _scan_split(root, "train", where)
        test_classes, test = _scan_split(root, "test", where)
    except OSError as error:
        raise _refused(where, dir, error.strerror or str(error), f"{_LAYOUT} that can be read") from None
    if extra := sorted(set(test_classes) - set(classes)):
        raise _refused(where, root / "test" / extra[0], "class is not in train/", "classes that train/ has")
    # test may lack classes, so its labels are positions in train's list
    place = {name: index for index, name in enumerate(classes)}
    labels = tuple(place[test_classes[label]] for label in test.labels)
    return FolderListing(root, classes, train, SplitFiles(test.names, labels, test.sizes, test.times))


def _scan_split(root: Path, split: str, where: str) -> tuple[tuple[str, ...], SplitFiles]:
    classes = sorted(name for name, is_dir, _ in _entries(root, root / split, where) if is_dir)
    if not classes:
        raise _refused(where, root / split, "has no class folder", _LAYOUT)
    rows: list[tuple[str, int, int, int]] = []
    for label, name in enumerate(classes):
        folder = root / split / name
        files = sorted(_images(root, folder, where))
        if not files:
            raise _refused(where, folder, "has no images", f"a file of {' '.join(ENDINGS)} in every class")
        rows += [(f"{split}/{name}/{file}", label, size, time) for file, size, time in files]
    names, labels, sizes, times = zip(*rows, strict=True)
    return tuple(classes), SplitFiles(names, labels, sizes, times)


def _images(root: Path, folder: Path, where: str) -> Iterator[tuple[str, int, int]]:
    for name, is_dir, entry in _entries(root, folder, where):
        if is_dir:
            raise _refused(where, folder / name, "folder inside a class folder", "image files")
        if name.lower().endswith(ENDINGS):
            stat = entry.stat()
            yield name, stat.st_size, max(stat.st_mtime_ns, stat.st_ctime_ns)


def _entries(root: Path, folder: Path, where: str) -> Iterator[tuple[str, bool, os.DirEntry[str]]]:
    """Yields (name, is a folder, entry) of what is not hidden; refuses links that lead out of `root`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                target = Path(os.path.realpath(entry.path))
                if not target.is_relative_to(root) or not target.exists():
                    raise _refused(where, Path(entry.path), "link out of the folder or to nothing", "files inside it")
            yield entry.name, entry.is_dir(), entry


def _refused(where: str, path: Path, problem: str, allowed: str) -> InputError:
    return InputError(f"{where}: {str(path)!r}: {problem}; allowed: {allowed}")
