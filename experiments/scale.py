"""Costs of the controller and the tracking store per run, without any training: the numbers of docs/scale.md.

A launcher that yields the records of a run of 30 epochs at once; everything behind it is real: grid, claims, journal,
delivery, tracking store. Usage: python experiments/scale.py [--tracking-uri URI] [--cells N] [--jobs N] [--seconds S]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.design.plan import build_plan
from pipeline.design.records import Artifact, End, Metrics, Progress, Record, Tags
from pipeline.design.spec import RunSpec
from pipeline.design.study import Study
from pipeline.execution.controller import Controller
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.recorder import Recorder
from pipeline.tracking.uri import resolve_uri

EPOCHS = 30
SUMMARY = 32  # summary metrics of a run on a GPU
PER_EPOCH = ("train/loss", "train/epoch_seconds", "train/images_per_second", "val/loss", "val/accuracy", "val/f1_macro")
FIGURE_BYTES = 20_000  # a confusion matrix of 10 classes


class Instant:
    """Yields what a run of 30 epochs yields; waits `seconds` in all, spread over its epochs."""

    def __init__(self, folder: Path, jobs: int, seconds: float) -> None:
        self.jobs = jobs
        self._folder = folder
        self._seconds = seconds
        self._cancelled = False
        self.records = 0

    def work_dir(self, spec: RunSpec) -> Path:
        """The run's folder."""
        return self._folder / spec.digest

    def start(self) -> None:
        """Nothing is needed."""

    def preflight(self, specs: Sequence[RunSpec], note: Callable[[str], None]) -> None:
        """Nothing can be wrong."""

    def cancel(self) -> None:
        """Interrupts whatever has not ended yet."""
        self._cancelled = True

    def kill(self) -> None:
        """Nothing runs for long."""

    def launch(self, spec: RunSpec) -> Generator[Record, None, None]:
        """Yields the records of a run."""
        folder = self.work_dir(spec)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "confusion.png").write_bytes(bytes(FIGURE_BYTES))
        for record in self._records():
            self.records += 1
            yield record

    def _records(self) -> Iterator[Record]:
        yield Tags(time=time.time(), values={f"env.fact{index}": "x" * 24 for index in range(24)})
        for epoch in range(1, EPOCHS + 1):
            time.sleep(self._seconds / EPOCHS)
            yield Progress(
                time=time.time(), epoch=epoch, epochs=EPOCHS, update=1, updates=2, images_per_second=1.0, loss=1.0
            )
            yield Metrics(time=time.time(), step=epoch, values=dict.fromkeys(PER_EPOCH, epoch + 0.123456789))
        yield Metrics(
            time=time.time(), values={f"summary/figure{index}": index + 0.123456789 for index in range(SUMMARY)}
        )
        yield Artifact(time=time.time(), path="confusion.png", folder="figures")
        yield End(time=time.time(), outcome="interrupted" if self._cancelled else "finished")


class Silent:
    """Shows nothing."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_: None


def main() -> None:
    """Prints one JSON document."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tracking-uri")
    parser.add_argument("--cells", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.0, help="that each run lasts")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(measure(Path(name), given.tracking_uri, given.cells, given.jobs, given.seconds), indent=1))


def measure(folder: Path, uri: str | None, cells: int, jobs: int, seconds: float) -> dict[str, float]:
    """Runs a grid of `cells` cells and measures its controller."""
    study = Study.model_validate(
        {"name": f"scale-{time.time_ns()}", "models": ["test_resnet"], "datasets": ["digits"], "seeds": cells}
    )
    tracker = MlflowStore(resolve_uri(uri or f"sqlite:///{folder}/mlflow.db"), study.name, folder / "artifacts")
    tracker.connect()
    launcher = Instant(folder / "work", jobs, seconds)
    book = Recorder(tracker, folder)
    grid = Controller(build_plan(study, "cpu"), launcher, book, Silent(), retries=0, state_dir=folder)
    book.start()
    grid.resume(study.name, {"ablate.study": study.name}, fresh=True)
    began, cpu = time.perf_counter(), time.process_time()
    tally = grid.run()
    ran = time.perf_counter() - began
    book.drain(3600.0)
    delivered = time.perf_counter() - began
    used = time.process_time() - cpu
    assert tally.finished == cells, tally
    journal = sum(path.stat().st_size for path in (folder / "journal").glob("*.journal"))
    database = folder / "mlflow.db"
    return {
        "cells": cells,
        "jobs": jobs,
        "records_per_run": launcher.records / cells,
        "wall_seconds": ran,
        "delivered_seconds": delivered,
        "runs_per_second": cells / delivered,
        "controller_cpu_ms_per_run": 1e3 * used / cells,
        "controller_threads": threading.active_count(),
        "journal_bytes_per_run": journal / cells,
        "sqlite_bytes_per_run": database.stat().st_size / cells if database.is_file() else float("nan"),
    }


if __name__ == "__main__":
    main()
