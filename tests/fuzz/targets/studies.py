"""Study files, from bytes to a plan."""

from __future__ import annotations

from pathlib import Path

from pipeline.design.plan import build_plan
from pipeline.design.study import load_study
from tests.fuzz.checks import Guard
from tests.support.ablate import ROOT

WORDS = """
    models datasets techniques recipe variants overrides seeds extends test_resnet digits
    !!python/object:os.system &a *a 1e999 .nan 2001-01-01 1:30 0x imagefolder: timm: batch_size num_workers
    fractional sentinels
    """


def seeds(_cache: Path) -> list[bytes]:
    """The studies that come with the program."""
    return [path.read_bytes() for path in sorted((ROOT / "experiments").glob("*.yaml"))]


class Target:
    """Reads a study and plans it.

    Args:
        folder: to work in.
        _cache: what targets share.
    """

    def __init__(self, folder: Path, _cache: Path) -> None:
        self._file = folder / "mutant.yaml"
        self._guard = Guard(folder)

    def __call__(self, data: bytes) -> None:
        """Tries one file."""
        self._file.write_bytes(data)
        with self._guard.watching():
            study = load_study(str(self._file))
            build_plan(study, "cuda" if len(data) % 2 else "cpu")
