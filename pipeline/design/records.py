"""What a run tells while it trains: jobs go in as JSON, these records come out."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from pipeline.design.spec import Frozen, Natural, RunSpec

Outcome = Literal["finished", "oom", "failed", "timeout", "interrupted"]

OUTCOMES: tuple[Outcome, ...] = ("finished", "oom", "failed", "timeout", "interrupted")


# up to the year 9999, in whole milliseconds: what journal and store can hold
Time = Annotated[float, Field(ge=0, lt=253_402_300_800, allow_inf_nan=False)]


class Job(Frozen):
    """What a worker gets: the run and where on this host it happens (no part of the run's identity).

    Attributes:
        spec: the run.
        data_dir: folder of the data sets.
        work_dir: folder of this run alone: log, figures, checkpoints.
        gpu: index or UUID for CUDA_VISIBLE_DEVICES; None leaves the environment as it is.
        checkpoint_every: epochs between checkpoints; 0 for none.
        flops_per_image: as counted by an earlier run of the same model on the same images; None to count.
    """

    spec: RunSpec
    data_dir: str
    work_dir: str
    gpu: str | None = None
    checkpoint_every: Natural = 0
    flops_per_image: float | None = None


NO_TURN = b"end"  # what it is sent instead when there is no further one


class TurnOrder(Frozen):
    """What a worker that stands still is sent: its next turn.

    Attributes:
        number: of the turn, which its record repeats.
        images: that the clock sees; a multiple of the cells' windows.
        head: images before them that it does not see, likewise.
    """

    number: Natural
    images: Natural
    head: Natural


class Phase(Frozen):
    """How far a worker is in its life, for the live display.

    Attributes:
        time: seconds since the epoch.
        name: `setup`, `train`, `evaluate` or `done`.
    """

    type: Literal["phase"] = "phase"
    time: Time
    name: str


class Ready(Frozen):
    """A worker that takes turns is set up and warm, and stands still.

    Attributes:
        time: seconds since the epoch.
        epoch_images: images of an epoch.
        ahead_images: that its input pipeline reads ahead while it stands.
        edge_seconds: duration of a turn of no images.
    """

    type: Literal["ready"] = "ready"
    time: Time
    epoch_images: Natural
    ahead_images: Natural
    edge_seconds: float


class Turn(Frozen):
    """A turn is over.

    Attributes:
        time: seconds since the epoch.
        number: the order's.
        seconds: between two waits for the device.
        images: that were trained on meanwhile.
        updates: that were made meanwhile.
        joules: energy of the GPU meanwhile; None where its counter cannot tell.
    """

    type: Literal["turn"] = "turn"
    time: Time
    number: Natural
    seconds: float
    images: Natural
    updates: Natural
    joules: float | None = None


class Progress(Frozen):
    """Where training stands, sent about once a second.

    Attributes:
        time: seconds since the epoch.
        epoch: the running epoch, from 1 up.
        epochs: how many the recipe has.
        update: optimizer updates made in this epoch.
        updates: how many an epoch has.
        images_per_second: images/s by the host clock.
        loss: mean training loss of the epoch before; None in the first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True, ser_json_inf_nan="constants")

    type: Literal["progress"] = "progress"
    time: Time
    epoch: int
    epochs: int
    update: int
    updates: int
    images_per_second: float
    loss: float | None = None


class Metrics(Frozen):
    """Measured values.

    Attributes:
        time: seconds since the epoch.
        step: the epoch, from 1 up, of per-epoch metrics; None for the run's summary.
        values: metric -> value, under the names of `names`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True, ser_json_inf_nan="constants")

    type: Literal["metrics"] = "metrics"
    time: Time
    step: Natural | None = None
    values: dict[str, float]


class Tags(Frozen):
    """Provenance and facts about the run, as text.

    Attributes:
        time: seconds since the epoch.
        values: tag -> text.
    """

    type: Literal["tags"] = "tags"
    time: Time
    values: dict[str, str]


class Artifact(Frozen):
    """A file that the worker wrote into the run's work folder.

    Attributes:
        time: seconds since the epoch.
        path: the file, relative to the work folder.
        folder: the folder among the run's artifacts; empty for their top.
    """

    type: Literal["artifact"] = "artifact"
    time: Time
    path: str
    folder: str = ""


class End(Frozen):
    """The last record of every run, exactly one.

    Attributes:
        time: seconds since the epoch.
        outcome: how the run ended.
        error: why it did not finish; None where it did.
    """

    type: Literal["end"] = "end"
    time: Time
    outcome: Outcome
    error: str | None = None


Record = Phase | Progress | Ready | Turn | Metrics | Tags | Artifact | End

_RECORDS: dict[str, type[Phase | Progress | Ready | Turn | Metrics | Tags | Artifact | End]] = {
    "phase": Phase,
    "ready": Ready,
    "turn": Turn,
    "progress": Progress,
    "metrics": Metrics,
    "tags": Tags,
    "artifact": Artifact,
    "end": End,
}


def parse_record(text: str | bytes) -> Record:
    """Reads one record from its JSON text.

    Raises:
        ValueError: the text is no record.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    kind = _RECORDS.get(str(value.get("type"))) if isinstance(value, dict) else None
    if kind is None:
        raise ValueError("not a record")
    return kind.model_validate(value)
