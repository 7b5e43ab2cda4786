"""Records that come from a worker: from its pipe into the journal, and out of it again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import cast

from pipeline.design.names import COMMAND_TAG
from pipeline.design.records import Artifact, End, Metrics, Phase, Progress, Tags, parse_record
from pipeline.tracking.journal import valid_end
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.recorder import Recorder
from tests.fuzz.checks import Guard, Violation
from tests.support.stores import MemoryStore, small_plan

WORDS = r"""
    "type" "metrics" "tags" "artifact" "end" "phase" "progress" "values" "path" "time" "step" "outcome" NaN
    Infinity 1e400 "\ud800" ../ null [[[[ {"a":
"""
ROTATE = 200  # records of one journal


def seeds(_cache: Path) -> list[bytes]:
    """One record of each kind."""
    records = (
        Phase(time=1.0, name="train"),
        Progress(time=1.0, epoch=1, epochs=2, update=3, updates=4, images_per_second=5.0, loss=float("nan")),
        Metrics(time=2.5, step=3, values={"train/loss": 0.5, "val/accuracy": float("inf")}),
        Tags(time=4.0, values={"env.device": "cpu"}),
        Artifact(time=4.0, path="a.txt", folder="logs"),
        End(time=5.0, outcome="failed", error="why"),
    )
    return [record.model_dump_json().encode() for record in records]


class Target:
    """Parses and journals.

    Args:
        folder: to work in.
        _cache: what targets share.
    """

    def __init__(self, folder: Path, _cache: Path) -> None:
        self._folder = folder
        self._secret = folder.parent / "secret"
        self._secret.write_text("secret")
        self._guard = Guard(folder, (self._secret,))
        self._plan = small_plan(1)
        self._count = 0
        self._open()

    def _open(self) -> None:
        shutil.rmtree(self._folder / "mlruns", ignore_errors=True)
        self._recorder = Recorder(cast(MlflowStore, MemoryStore()), self._folder / "mlruns")
        self._recorder.start()
        self._recorder.parent.join("grid", {COMMAND_TAG: "grid"}, new=True)
        self._opened = self._recorder.open(self._plan.runs[0], self._plan, self._folder)

    def __call__(self, data: bytes) -> None:
        """Tries one record."""
        try:
            record = parse_record(data)
        except ValueError:
            return
        with self._guard.watching():
            self._count += 1
            if self._count % ROTATE == 0:
                self._again()
            if isinstance(record, End):
                record.model_dump_json()
                return
            self._recorder.record(self._opened, record)
        outbox = self._recorder.outbox
        if valid_end(outbox.path) != outbox.end:
            self._again()
            raise Violation("unreadable journal", repr(record))

    def _again(self) -> None:
        """Delivers what there is, and takes a new journal."""
        error = "" if self._recorder.drain(5.0) else f"{self._recorder.error}"
        self._open()
        if error and "refused" not in error:  # a file that no worker has written is no artifact
            raise Violation("not delivered", error)
