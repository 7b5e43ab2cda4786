"""What an image folder holds: parts, classes, files and their content, checked before anything is decoded.

No torch and no numpy here: the parent half lists a folder to check it and to know its digest.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.design import file_digests, folder_split
from pipeline.design.image_files import (
    LAYOUT,
    PART_NAMES,
    SplitFiles,
    class_folders,
    images_of,
    is_hidden,
    refused,
)
from pipeline.design.image_table import is_table, read_table
from pipeline.design.spec import content_digest
from pipeline.errors import InputError, first_line
from pipeline.paths import default_data_dir
from pipeline.progress import Tell, long_task
from pipeline.shown import printable

_SHOWN = 6  # kinds of what is passed over that are listed
_TABLE_RULE = "table: labels are columns"
_HELD_OUT_RULE = "validation part: a folder of its own"


@dataclass(frozen=True)
class FolderListing:
    """The files of an image folder, or of a table of images.

    Attributes:
        root: the folder that names are relative to, absolute.
        classes: class names, sorted; those of the training part.
        train: images to train on, and behind them those that are held out for validation.
        test: images to test on.
        held_out: how many of `train`, the last ones, are a validation part of their own; 0 where a part of the
            training images is to be held out.
        rule: what besides names and content decides which image is what; empty for `train/` and `test/`.
        left_out: names of images that cannot be decoded and are in no part.
        skipped: what was found and is no image, by kind (an ending, `hidden`, ..), no part of the identity.
        parts: what the parts were made of, in a few words; empty for `train/` and `test/`.
        causes: why each of `left_out` is.
    """

    root: Path
    classes: tuple[str, ...]
    train: SplitFiles
    test: SplitFiles
    held_out: int = 0
    rule: str = ""
    left_out: tuple[str, ...] = ()
    skipped: Counter[str] = field(default_factory=Counter, compare=False)
    parts: str = field(default="", compare=False)
    causes: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def passed_over(self) -> str:
        """What was not read, in a few words; empty when all was."""
        ranked = sorted(self.skipped.items(), key=lambda item: (-item[1], item[0]))
        kinds = [f"{count} {kind}" for kind, count in ranked[:_SHOWN]]
        more = ", .." if len(ranked) > _SHOWN else ""
        return f"{self.skipped.total()} passed over: {', '.join(kinds)}{more}" if kinds else ""

    @property
    def remarks(self) -> list[str]:
        """What a user should know of the folder, each in a line."""
        return [text for text in (self.parts, self.passed_over, self.skipped_unreadable) if text]

    @property
    def skipped_unreadable(self) -> str:
        """What was left out and why, in a few words; empty when nothing was."""
        why = [f"{name} ({self.causes.get(name, '')})" for name in self.left_out]
        return f"{len(why)} left out that cannot be decoded: {listed(why)}" if why else ""

    @cached_property
    def digest(self) -> str:
        """Identity of the content: digest over names, sizes and content of all files, wherever the folder lies.

        About a second for each gigabyte, once: it is remembered under the default data directory by `stamp`. On a
        terminal, standard error tells how far it is.

        Raises:
            InputError: a file cannot be read.
        """
        with long_task(f"reading the images of {self.root.name}", len(self.train) + len(self.test)) as tell:
            return self._digest(tell)

    def know_digest(self, report: Callable[[str, int, int], None]) -> str:
        """Returns `digest`; where it is not known yet, `report` is called with (what is done, images, in all)."""
        total = len(self.train) + len(self.test)
        if "digest" not in self.__dict__:
            self.__dict__["digest"] = self._digest(lambda done: report("reading images", done, total))
        return self.digest

    def _digest(self, tell: Tell) -> str:
        cache = _cache()
        found = file_digests.recall(cache, self.stamp) if cache else None
        if found is None:
            parts = (self.train, self.test)
            names = [*self.train.names, *self.test.names]
            try:
                sums = file_digests.digests(self.root, names, tell)
            except OSError as error:
                path = Path(error.filename or self.root)
                raise refused("dataset", path, error.strerror or str(error), "files that can be read") from None
            apart = (sums[: len(self.train)], sums[len(self.train) :])
            content = [(part.names, part.sizes, own) for part, own in zip(parts, apart, strict=True)]
            found = content_digest([*content, self._rules] if self._rules else content)
            if cache:
                file_digests.remember(cache, self.stamp, found, max(max(part.times) for part in parts))
        return found

    @property
    def _rules(self) -> list[Any]:
        """What besides names and content is part of the identity; nothing for `train/` and `test/`."""
        if not self.rule and not self.left_out:
            return []
        return [self.rule, self.held_out, self.classes, self.train.labels, self.test.labels, self.left_out]

    @cached_property
    def stamp(self) -> str:
        """What the file system says without reading a file: place, names, sizes and times."""
        parts = [(part.names, part.sizes, part.times) for part in (self.train, self.test)]
        return content_digest([os.fsencode(self.root).hex(), parts, *self._rules])

    def without(self, causes: Mapping[str, str]) -> FolderListing:
        """Leaves images out of their parts.

        Args:
            causes: name of each in `train` or `test` -> why.
        """
        first = len(self.train) - self.held_out
        kept = [row for row, name in enumerate(self.train.names) if name not in causes]
        test = [row for row, name in enumerate(self.test.names) if name not in causes]
        return replace(
            self,
            train=self.train.rows(kept),
            test=self.test.rows(test),
            held_out=sum(row >= first for row in kept),
            left_out=tuple(sorted(causes)),
            causes=causes,
        )

    def only(self, train: Sequence[int], test: Sequence[int]) -> FolderListing:
        """Some of the images, to decode no others; of no identity of its own.

        Args:
            train: rows of the training part.
            test: rows of the test part.
        """
        return replace(self, train=self.train.rows(train), test=self.test.rows(test), held_out=0)


def listed(names: Sequence[str]) -> str:
    """The first of some names in a line."""
    return ", ".join(printable(name) for name in names[:_SHOWN]) + (", .." if len(names) > _SHOWN else "")


def _cache() -> Path | None:
    try:
        return default_data_dir() / "digests"
    except InputError:  # no home: every call computes them anew
        return None


def scan_folder(dir: Path, where: str) -> FolderListing:
    """Lists an image folder, or a table of images, without opening an image.

    A folder has parts (`train/`, `val/`, `test/`, as `image_files.PART_NAMES` spells them) with a folder for each
    class, or the folders of its classes alone. Hidden entries, files with other endings, FIFOs, sockets and devices
    are passed over and counted; a class is a folder of the training part.

    Args:
        dir: the folder, or a CSV file.
        where: what named it, for messages (a flag or field).

    Raises:
        InputError: the folder or a part is missing or unreadable, a class has no images, test has a class
            that train lacks, a class folder holds folders, or a link leads out of the folder.
    """
    skipped: Counter[str] = Counter()
    try:
        root = Path(os.path.realpath(dir.expanduser()))
        if is_table(root):
            return _scan_table(root, where)
        if not root.is_dir():
            raise refused(where, root, "no such folder")
        folders, unused = _parts(root, where)
        if not folders:
            return _scan_classes(root, where, skipped)
        return _scan_parts(root, folders, unused, where, skipped)
    except (RuntimeError, ValueError) as error:  # no such user's home, or a NUL in the name
        raise refused(where, dir, first_line(error)) from None
    except OSError as error:
        raise refused(where, dir, error.strerror or str(error), f"{LAYOUT}, that can be read") from None


def _parts(root: Path, where: str) -> tuple[dict[str, str], list[str]]:
    """(part -> name of its folder, folders that are none), both empty where `root` has the classes themselves.

    A class may be called `test`: that a folder of this name is a part shows in folders inside of it, or in that there
    are no others.
    """
    with os.scandir(root) as found:
        folders = sorted(entry.name for entry in found if not is_hidden(entry.name) and entry.is_dir())
    named = [name for name in folders if name.lower() in PART_NAMES]
    if not named or (len(named) < len(folders) and not any(_has_folders(root / name) for name in named)):
        return {}, []
    parts: dict[str, str] = {}
    for name in named:
        part = PART_NAMES[name.lower()]
        if part in parts:
            raise refused(where, root, f"has {parts[part]!r} and {name!r}", "one folder for each part")
        parts[part] = name
    return parts, [name for name in folders if name not in named]


def _has_folders(folder: Path) -> bool:
    with os.scandir(folder) as found:
        return any(entry.is_dir() for entry in found if not is_hidden(entry.name))


def _scan_parts(
    root: Path, folders: dict[str, str], unused: list[str], where: str, skipped: Counter[str]
) -> FolderListing:
    if "train" not in folders:
        raise refused(where, root / "train", "no such folder")
    classes, train = _scan_part(root, folders["train"], where, skipped)
    test_folder = folders.get("test") or folders.get("val")
    if test_folder is None:
        return _split(FolderListing(root, classes, train, SplitFiles(), skipped=skipped), where, f"{folders['train']}/")
    found = FolderListing(root, classes, train, _labelled(root, test_folder, classes, where, skipped), skipped=skipped)
    if "test" not in folders:
        found = replace(found, parts=f"{test_folder}/ is the test part ({len(found.test):,} images)")
    elif "val" in folders:
        held_out = _labelled(root, folders["val"], classes, where, skipped)
        found = _with_validation(found, held_out, f"{folders['val']}/")
    if unused:
        also = f"not used: {listed([name + '/' for name in unused])}"
        found = replace(found, parts="; ".join(filter(None, (found.parts, also))))
    return found


def _scan_classes(root: Path, where: str, skipped: Counter[str]) -> FolderListing:
    classes, images = _scan_part(root, "", where, skipped)
    return _split(FolderListing(root, classes, images, SplitFiles(), skipped=skipped), where, "the class folders")


def _scan_table(path: Path, where: str) -> FolderListing:
    if not path.is_file():
        raise refused(where, path, "no such file")
    table = read_table(path, where)
    train = table.parts.get("train", SplitFiles())
    listing = FolderListing(path.parent, table.classes, train, SplitFiles(), rule=_TABLE_RULE)
    missing = sorted(set(range(len(table.classes))) - set(train.labels))
    if missing:
        raise refused(
            where, path, f"label {table.classes[missing[0]]!r} is in no training line", "labels that train has"
        )
    test, held_out = table.parts.get("test"), table.parts.get("val")
    if test is None and held_out is None:
        return _split(listing, where, "the table")
    listing = replace(listing, test=test or held_out or SplitFiles())
    if test is None:
        return replace(listing, parts=f"val is the test part ({len(listing.test):,} images)")
    return _with_validation(listing, held_out, "val") if held_out else listing


def _with_validation(listing: FolderListing, held_out: SplitFiles, name: str) -> FolderListing:
    return replace(
        listing,
        train=listing.train + held_out,
        held_out=len(held_out),
        rule=listing.rule or _HELD_OUT_RULE,
        parts=f"{name} is held out for validation ({len(held_out):,} images), instead of a part of train",
    )


def _split(listing: FolderListing, where: str, name: str) -> FolderListing:
    """Sets a test part aside."""
    rare = [label for label, count in Counter(listing.train.labels).items() if count < 2]
    if rare:
        allowed = "two images or more of every class, one to train and one to test on"
        raise refused(where, listing.root, f"class {listing.classes[rare[0]]!r} has one image", allowed)
    names, labels = listing.train.names, listing.train.labels
    keys = [f"{listing.classes[label]}/{os.path.basename(file)}" for file, label in zip(names, labels, strict=True)]  # noqa: PTH119
    train, test = folder_split.set_aside(listing.train, keys)
    percent = f"{100 * folder_split.TEST_SHARE:g} % of each class"
    said = f"no test part: {len(test):,} of the {len(names):,} images of {name} are set aside as one ({percent})"
    rule = " ".join(filter(None, (listing.rule, folder_split.RULE)))
    return replace(listing, train=train, test=test, rule=rule, parts=said)


def _labelled(root: Path, part: str, classes: tuple[str, ...], where: str, skipped: Counter[str]) -> SplitFiles:
    """Lists a part that may lack classes: its labels are positions in the training part's list."""
    own, files = _scan_part(root, part, where, skipped)
    if extra := sorted(set(own) - set(classes)):
        raise refused(where, root / part / extra[0], "class is not in train/", "classes that train/ has")
    place = {name: index for index, name in enumerate(classes)}
    return replace(files, labels=tuple(place[own[label]] for label in files.labels))


def _scan_part(root: Path, part: str, where: str, skipped: Counter[str]) -> tuple[tuple[str, ...], SplitFiles]:
    """Lists the class folders of a part, or of the whole folder where `part` is empty."""
    classes = class_folders(root, root / part, where, skipped)
    if not classes:
        tables = sorted(path.name for path in (root / part).glob("*.csv"))
        hint = f" (did you mean imagefolder:{root / part / tables[0]}?)" if tables else ""
        raise refused(where, root / part, "has no class folder", LAYOUT + hint)
    rows: list[tuple[str, int, int, int]] = []
    for label, name in enumerate(classes):
        files = images_of(root, root / part / name, where, skipped)
        prefix = f"{part}/{name}" if part else name
        rows += [(f"{prefix}/{file}", label, size, time) for file, size, time in files]
    names, labels, sizes, times = zip(*rows, strict=True)
    return tuple(classes), SplitFiles(names, labels, sizes, times)
