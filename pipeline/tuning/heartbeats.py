"""Heartbeats that processes leave in the trials of a shared study."""

from __future__ import annotations

import time
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.design.names import (
    HEARTBEAT_ATTRIBUTE,
    OWNER_TAG,
)
from pipeline.tracking.liveness import is_alive
from pipeline.tuning.reading import trials_of


def working_processes(study: optuna.Study) -> list[str]:
    """Processes that seem to be alive and to run trials of a study."""
    beats = newest_beats(trials_of(study, TrialState.RUNNING))
    return sorted(name for name, beat in beats.items() if is_alive(name, int(beat or 0) / 1000))


def beat_now() -> str:
    """The time of a heartbeat: milliseconds since the epoch, as text."""
    return str(int(time.time() * 1000))


def newest_beats(trials: Sequence[FrozenTrial]) -> dict[str, str]:
    """Owner -> its last heartbeat, in milliseconds since the epoch."""
    found: dict[str, str] = {}
    for trial in trials:
        name, beat = trial.user_attrs.get(OWNER_TAG), str(trial.user_attrs.get(HEARTBEAT_ATTRIBUTE, ""))
        beat = beat if beat.isdecimal() else ""  # what any other program wrote is no sign of life
        if name is not None and beat > found.get(str(name), ""):
            found[str(name)] = beat
    return found
