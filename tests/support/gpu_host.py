"""Archives, hosts and calls for the tests of the GPU's script, whose modules lie beside it."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "gpu"
sys.path.insert(0, str(FOLDER))  # as Python does for a script

from host import Host  # noqa: E402
from options import Options  # noqa: E402

CLASSES = ("cat", "dog", "ship")


def write_archive(path: Path, members: Sequence[str]) -> Path:
    """A tar.gz of JPEG images of 32 px with these names."""
    random = np.random.default_rng(len(members))
    with tarfile.open(path, "w:gz") as tar:
        for name in members:
            content = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(content, "JPEG")
            info = tarfile.TarInfo(name)
            info.size = content.tell()
            content.seek(0)
            tar.addfile(info, content)
    return path


def write_archives(folder: Path, train: int = 20, test: int = 10) -> Path:
    """Two archives to train on and one to test on, `train` and `test` images of each class."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {
        part: [f"{part}/{c}/{n:04d}.jpg" for c in CLASSES for n in range(count)]
        for part, count in (("train", train), ("test", test))
    }
    write_archive(folder / "tiny-train-1of2.tar.gz", names["train"][::2])
    write_archive(folder / "tiny-train-2of2.tar.gz", names["train"][1::2])
    write_archive(folder / "tiny-test-1of1.tar.gz", names["test"])
    return folder


def make_host(work: Path, seconds: float = 60.0) -> Host:
    """A host on a CPU, with a stage of so many seconds."""
    work.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    host = Host("cpu", work, 1.0, 1.0, end, end, end)
    host.evidence.mkdir(exist_ok=True)
    return host


def make_options(folder: Path, stages: Sequence[str], budget: float = 600.0, chosen: bool = True) -> Options:
    """A call of these stages, without images."""
    for name in ("out", "work"):
        (folder / name).mkdir(exist_ok=True)
    return Options("cpu", folder / "out", folder / "work", tuple(stages), chosen, budget, None)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
