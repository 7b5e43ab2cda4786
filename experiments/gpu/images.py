"""The images: found as archives or as a folder, unpacked side by side, prepared while other things run.

As a script it unpacks one archive: `python images.py ARCHIVE FOLDER`. Standard library only.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

NAME = "cifar10"  # of the folder in the work folder: short, and the same wherever the images come from
PARTS = ("train", "test")


@dataclass(frozen=True)
class Found:
    """Where the images are.

    Attributes:
        folder: has train/CLASS/* and test/CLASS/* already; None for archives.
        archives: each holds part of such a folder.
    """

    folder: Path | None
    archives: tuple[Path, ...] = ()


def look_in(place: Path) -> Found | None:
    """The images in a folder: the folder itself, or archives in it; None without both parts."""
    if all((place / part).is_dir() for part in PARTS):
        return Found(place.resolve())
    archives = {part: sorted(place.glob(f"*{part}*.tar.gz")) for part in PARTS}
    if all(archives.values()):
        return Found(None, tuple(path.resolve() for part in PARTS for path in archives[part]))
    return None


def find(given: str | None, repo: Path) -> Found | None:
    """The images that were named, or those in `data/` and `.data/` of the repository.

    Raises:
        ValueError: what was named holds none.
    """
    if given is not None:
        found = look_in(Path(given))
        if found is None:
            allowed = "a folder with train/ and test/, or with archives *train*.tar.gz and *test*.tar.gz"
            raise ValueError(f"--data: {given!r} is not allowed; allowed: {allowed}")
        return found
    return look_in(repo / "data") or look_in(repo / ".data")


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks one archive; members that would land elsewhere are refused.

    Others may be unpacked into the same folder meanwhile: `extractall` fails when a class's folder appears between its
    look and its making of it.
    """
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            safe = tarfile.data_filter(member, str(folder))
            (folder / safe.name).parent.mkdir(parents=True, exist_ok=True)
            tar.extract(member, folder, filter="data")


class Images:
    """The images on their way into the work folder, in a thread.

    Args:
        found: where they are, or None.
        work: `NAME` is made in it.
        prepare: makes the data set's store once the folder is there; returns what went wrong, or nothing.
    """

    def __init__(self, found: Found | None, work: Path, prepare: Callable[[], str]) -> None:
        self.problem = ""
        self.absent = found is None
        self._found = found
        self._work = work
        self._prepare = prepare
        self._unpacking: list[subprocess.Popen[bytes]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        if found is not None:
            self._thread.start()

    def ready(self, seconds: float) -> bool:
        """Waits for the images' end, good or bad; whether it came."""
        if not self.absent:
            self._thread.join(max(seconds, 0))
        return not self._thread.is_alive()

    def close(self) -> None:
        """Ends what still unpacks."""
        for process in self._unpacking:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _run(self) -> None:
        try:
            self._bring()
            self.problem = self._prepare()
        except Exception as error:  # the stages that need the images say it, the others go on
            self.problem = f"{type(error).__name__}: {error}"

    def _bring(self) -> None:
        assert self._found is not None
        target = self._work / NAME
        note = self._work / f"{NAME}.json"
        if self._found.folder is not None:
            _remove(target)
            target.symlink_to(self._found.folder, target_is_directory=True)
            return
        source = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in self._found.archives]
        if target.is_dir() and note.is_file() and json.loads(note.read_text()) == source:
            return
        _remove(target)
        making = self._work / f".{NAME}.unpacking"
        _remove(making)
        making.mkdir()
        for archive in self._found.archives:  # one process each: the decompression is what takes long
            words = [sys.executable, str(Path(__file__).resolve()), str(archive), str(making)]
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            self._unpacking.append(process)
        for archive, process in zip(self._found.archives, self._unpacking, strict=True):
            _, errors = process.communicate()
            if process.returncode:
                lines = errors.decode(errors="replace").strip().splitlines()
                raise OSError(f"{archive.name}: {lines[-1] if lines else process.returncode}")
        making.rename(target)
        note.write_text(json.dumps(source))


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
