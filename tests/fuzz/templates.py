"""What targets mutate: real data, a real store with its journal, a real Optuna storage and checkpoint, made once."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.support.ablate import run_ablate
from tests.support.commands import SMALL


def once(cache: Path, name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, made where it is not there.

    Args:
        cache: of all targets.
        name: of the folder.
        make: fills it.
    """
    place = cache / name
    if not place.is_dir():
        work = cache / f".{name}.{os.getpid()}"
        work.mkdir(parents=True)
        make(work)
        work.rename(place)
    return place


def data(cache: Path) -> Path:
    """A data folder with `digits`."""
    from pipeline.training.data.store import prepare_dataset

    return once(cache, "data", lambda folder: void(prepare_dataset("digits", folder, image_size=16)))


def void(_value: object) -> None:
    """Takes a value that nobody needs."""


def grid(cache: Path) -> Path:
    """A folder with a finished grid of two cells."""

    def make(folder: Path) -> None:
        words = ("--models", "test_resnet", "--datasets", "digits", "--techniques", "ga")
        result = run_ablate("grid", *SMALL, *words, cwd=folder, data_dir=data(cache))
        assert result.code == 0, result.err

    return once(cache, "grid", make)


def checkpoint(cache: Path) -> bytes:
    """The checkpoint of a run, as it is on the disk."""
    from pipeline.training.checkpoint import Checkpoints
    from tests.support.training import run_in_process, small_spec

    def make(folder: Path) -> None:
        spec = small_spec(epochs=2, num_workers=0)
        kept: list[bytes] = []
        original = Checkpoints.discard
        try:
            Checkpoints.discard = lambda self: kept.append(self._path.read_bytes())  # type: ignore[method-assign]
            run_in_process(spec, data(cache), folder / "run", checkpoint_every=1)
        finally:
            Checkpoints.discard = original  # type: ignore[method-assign]
        (folder / "file").write_bytes(kept[0])

    return (once(cache, "checkpoint", make) / "file").read_bytes()


def tuning(cache: Path) -> Path:
    """An Optuna storage with the finished search of `TUNED`."""
    from pipeline.design.names import RESULT_ATTRIBUTE
    from pipeline.tuning.setup import prepare_tuning
    from pipeline.tuning.storage import open_study
    from tests.support.tuning import Device, make_ledger, search

    def make(folder: Path) -> None:
        from pipeline.commands.tune import _tuning_of
        from pipeline.design.options import GridOptions

        database = folder / "optuna.db"
        options = GridOptions(
            models="test_resnet", datasets="digits", study="quickstart", device="cpu", storage=f"sqlite:///{database}"
        )
        setup = prepare_tuning(_tuning_of(options, "test_resnet", "digits"))
        directions = setup.objective.directions
        study = open_study(setup.storage, setup.name, setup.identity, directions, None, lock=folder / "lock")
        ledger = make_ledger(setup.space, folder, 4, study=study)
        search(Device(), ledger)
        study.set_user_attr(
            RESULT_ATTRIBUTE, {"recommended": {"batch_size": 64, "accumulation_steps": 2}, "verdict": "better"}
        )
        (folder / "name").write_text(setup.name)

    return once(cache, "tuning", make)


def images() -> dict[str, bytes]:
    """One small picture in each of the formats, by ending."""
    from PIL import Image

    found: dict[str, bytes] = {}
    picture = Image.linear_gradient("L").resize((12, 12)).convert("RGB")
    for kind in (
        "JPEG",
        "PNG",
        "BMP",
        "WEBP",
        "GIF",
        "TIFF",
        "PPM",
        "EPS",
        "ICO",
        "TGA",
        "PDF",
        "JPEG2000",
        "DDS",
        "SGI",
        "PCX",
        "XBM",
    ):
        stream = io.BytesIO()
        try:
            (picture.convert("1") if kind == "XBM" else picture).save(stream, kind)
        except (OSError, KeyError, ValueError):  # this Pillow has no such writer
            continue
        found[kind.lower()] = stream.getvalue()
    return found


def fresh(template: Path, place: Path) -> Path:
    """A copy of a folder, in place of what was there."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template, place, symlinks=True)
    return place


def emptied(place: Path) -> None:
    """Removes a folder that an input has filled, if it has."""
    shutil.rmtree(place, ignore_errors=True)
