"""Heartbeats in the trials of a shared study."""

from __future__ import annotations

import subprocess
import sys
from subprocess import PIPE

import optuna

from pipeline.design.names import HEARTBEAT_ATTRIBUTE, OWNER_TAG
from pipeline.tracking.liveness import owner
from pipeline.tuning.heartbeats import beat_now, newest_beats, working_processes
from tests.support.ablate import environment


def running(*beats: tuple[str | None, str]) -> optuna.Study:
    """A study whose trials run, each with an owner and its beat."""
    study = optuna.create_study()
    for name, beat in beats:
        trial = study.ask()
        if name is not None:
            trial.set_user_attr(OWNER_TAG, name)
            trial.set_user_attr(HEARTBEAT_ATTRIBUTE, beat)
    return study


def test_the_youngest_beat_of_a_process_counts_and_a_nameless_trial_has_none() -> None:
    study = running(("a.1.1", "2000000000001"), ("a.1.1", "2000000000003"), ("b.2.2", "2000000000002"), (None, ""))
    assert newest_beats(study.trials) == {"a.1.1": "2000000000003", "b.2.2": "2000000000002"}


def test_this_process_works_and_a_silent_one_of_another_host_does_not() -> None:
    study = running((owner(), beat_now()), ("elsewhere.1.1", "1000"), ("there.2.2", beat_now()))
    assert working_processes(study) == sorted([owner(), "there.2.2"])
    for trial in study.trials:
        study.tell(trial.number, 1.0)
    assert working_processes(study) == [], "nobody runs a trial that has ended"


def test_between_two_trials_a_process_of_this_host_is_at_work_as_long_as_it_lives() -> None:
    """A second call came in at the end of a trial, and both tuned the study side by side."""
    code = "from pipeline.tracking.liveness import owner; print(owner(), flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True, env=environment())
    assert other.stdin is not None and other.stdout is not None
    with other:
        name = other.stdout.readline().strip()
        study = running((name, beat_now()), ("there.2.2", beat_now()))
        for trial in study.trials:
            study.tell(trial.number, 1.0)
        assert working_processes(study) == [name], "of another host only what runs tells"
        other.stdin.write("\n")
    assert working_processes(study) == []
