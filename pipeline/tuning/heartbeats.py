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
from pipeline.tracking.liveness import is_alive, owner
from pipeline.tuning.reading import trials_of


def working_processes(study: optuna.Study) -> list[str]:
    """Processes that seem to be alive and at work on a study.

    Whoever runs a trial is; between two trials, and while the winner is confirmed, a living process of this host is
    known by the trials that it has run. This process, which asks, is not told of those.
    """
    trials = trials_of(study)
    beats = newest_beats([trial for trial in trials if trial.state == TrialState.RUNNING])
    running = {name for name, beat in beats.items() if is_alive(name, int(beat or 0) / 1000)}
    earlier = newest_beats(trials).keys() - beats.keys() - {owner()}
    return sorted(running | {name for name in earlier if is_alive(name, None)})


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
