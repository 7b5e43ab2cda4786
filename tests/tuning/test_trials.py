"""One study, several processes: nothing is measured twice, nothing is lost, the dead do not hold anything."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from pipeline.design.names import WITHDRAWN_ATTRIBUTE
from pipeline.tuning import heartbeats, trials
from pipeline.tuning.storage import open_study
from pipeline.tuning.trials import SharedStudy
from tests.support.tuning import Device, make_ledger, make_space, search

SPACE = make_space(batches=[16, 32, 64, 128], accumulations=[1, 2, 4])


def shared(folder: Path) -> optuna.Study:
    return open_study(
        f"sqlite:///{folder}/optuna.db", "shared", "identity", ["maximize"], None, lock=folder / "storage"
    )


def dead_owner() -> str:
    """A process of this host that has ended."""
    script = "from pipeline.tracking.liveness import owner; print(owner())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    return done.stdout.strip()


def test_a_dead_process_loses_its_trial_to_the_living(tmp_path: Path) -> None:
    ledger = make_ledger(SPACE, tmp_path, 12, study=shared(tmp_path))
    other = make_ledger(SPACE, tmp_path, 12, study=shared(tmp_path))
    other.owner = dead_owner()
    trial = other.ask()
    assert trial is not None
    config = other.config_of(trial)
    assert ledger.reap() == 1 and ledger.reap() == 0
    assert ledger.study.trials[trial.number].state == TrialState.FAIL
    search(Device(), ledger)
    assert [f.config for f in ledger.findings()].count(config) == 1
    assert {f.config for f in ledger.findings()} == set(SPACE.configs) and ledger.open_trials() == 0


def test_the_living_keep_theirs(tmp_path: Path) -> None:
    ledger = make_ledger(SPACE, tmp_path, 12, study=shared(tmp_path))
    assert ledger.ask() is not None and ledger.reap() == 0
    assert heartbeats.working_processes(shared(tmp_path)) == [ledger.owner]
    living, ledger.owner = ledger.owner, dead_owner()
    assert ledger.ask() is not None
    assert heartbeats.working_processes(shared(tmp_path)) == [living]


def test_a_process_that_dies_before_it_has_signed_its_trial_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = shared(tmp_path)
    study.ask()  # no owner, no parameters
    ledger = make_ledger(SPACE, tmp_path, 12, study=study)
    assert ledger.reap() == 0, "it may just be signing"
    monkeypatch.setattr(trials, "NAMELESS_SECONDS", 0.0)
    assert ledger.reap() == 1 and ledger.open_trials() == 0


def test_a_configuration_that_was_failed_but_not_queued_again_is_found(tmp_path: Path) -> None:
    ledger = make_ledger(SPACE, tmp_path, 12, study=shared(tmp_path))
    trial = ledger.ask()
    assert trial is not None
    ledger.study.tell(trial, state=TrialState.FAIL)  # as if killed before queueing
    ledger.reap()
    waiting = ledger.study.get_trials(states=(TrialState.WAITING,))
    assert [SPACE.config(t.system_attrs["fixed_params"]) for t in waiting] == [ledger.config_of(trial)]
    ledger.reap()
    assert len(ledger.study.get_trials(states=(TrialState.WAITING,))) == 1


def test_the_later_of_two_equal_trials_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hosts share no lock file: both may choose the same configuration at the same time."""
    one = make_ledger(SPACE, tmp_path, 12, study=shared(tmp_path))
    other = make_ledger(SPACE, tmp_path, 12, study=shared(tmp_path))
    first = one.ask()
    assert first is not None
    sampled = other.sampler.sample_relative
    chosen = [dict(first.params)]  # what it would choose if it had looked before the first was written
    monkeypatch.setattr(other.sampler, "sample_relative", lambda *a: chosen.pop() if chosen else sampled(*a))
    second = other.ask()
    assert second is not None and second.params != first.params and not chosen
    withdrawn = [t for t in other.study.trials if t.user_attrs.get(WITHDRAWN_ATTRIBUTE)]
    assert [t.params for t in withdrawn] == [first.params] and withdrawn[0].state == TrialState.FAIL


def test_no_budget_is_exceeded_by_trials_that_start_together(tmp_path: Path) -> None:
    ledgers_ = [make_ledger(SPACE, tmp_path / str(n), 3, study=shared(tmp_path)) for n in range(4)]
    asked: list[optuna.Trial | None] = []

    def work(ledger: SharedStudy) -> None:
        asked.append(ledger.ask())
        asked.append(ledger.ask())

    threads = [threading.Thread(target=work, args=(ledger,)) for ledger in ledgers_]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    mine = [trial for trial in asked if trial is not None]
    assert len(asked) == 8 and len(mine) <= 3
    assert len({tuple(sorted(trial.params.items())) for trial in mine}) == len(mine)


@pytest.mark.parametrize("dies", [False, True])
def test_a_trial_that_has_a_number_and_no_parameters_yet_is_waited_for(
    dies: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna writes them one after the other: two hosts took the same configuration."""
    monkeypatch.setattr(trials, "CHOOSING_SECONDS", 0.5 if dies else 30.0, raising=False)
    one = make_ledger(SPACE, tmp_path / "one", 12, study=shared(tmp_path))
    other = make_ledger(SPACE, tmp_path / "other", 12, study=shared(tmp_path))
    numbered = one.study.ask()
    sampled = other.sampler.sample_relative
    chosen = [dict(SPACE.baseline.params)]
    monkeypatch.setattr(other.sampler, "sample_relative", lambda *a: chosen.pop() if chosen else sampled(*a))
    found: list[optuna.Trial | None] = []
    asking = threading.Thread(target=lambda: found.append(other.ask()))
    asking.start()
    asking.join(0.3)
    assert asking.is_alive()
    if not dies:
        for name, distribution in one._distributions.items():
            one.study._storage.set_trial_param(
                numbered._trial_id,
                name,
                distribution.to_internal_repr(SPACE.baseline.params[name]),
                distribution,
            )
    asking.join(60)
    (trial,) = found
    assert trial is not None and (trial.params == SPACE.baseline.params) is dies


ACTIONS = st.lists(st.sampled_from(["ask", "measure", "fail", "interrupt", "die", "reap"]), max_size=40)


@given(ACTIONS)
@settings(max_examples=40, deadline=None)
def test_whatever_happens_every_configuration_is_measured_once_in_the_end(actions: list[str]) -> None:
    folder = Path(os.environ["HOME"])
    space = make_space(batches=[16, 64], accumulations=[1, 2, 4])
    study = optuna.create_study(direction="maximize")
    ledger = make_ledger(space, folder, 10, study=study, retries=100)
    ghost = make_ledger(space, folder, 10, study=study, retries=100)
    ghost.owner = "other-host.1.1"
    ledger._liveness.is_alive = lambda name: name == ""  # type: ignore[method-assign]
    held: list[Any] = []
    for action in actions:
        if action == "ask":
            held += [trial for trial in [ledger.ask()] if trial is not None]
        elif action == "die":
            ghost.ask()
        elif action == "reap":
            ledger.reap()
        elif held and action == "measure":
            ledger.tell_measured(held.pop(), [1.0], {"memory": -1.0}, {})
        elif held:
            ledger.tell_failed(held.pop(), "failed" if action == "fail" else "interrupted", None)
    for trial in held:
        ledger.tell_measured(trial, [1.0], {"memory": -1.0}, {})
    search(Device(largest=10**6), ledger)
    found = [finding.config for finding in ledger.findings()]
    assert sorted(found) == sorted(space.configs), "none lost, none twice"
    assert ledger.open_trials() == 0
