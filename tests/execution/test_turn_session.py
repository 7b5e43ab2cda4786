"""A call of `ablate speed`: the order of things, nothing left behind by bad input, time for every group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.design.options import SpeedOptions
from pipeline.design.plan import Plan, PlannedRun
from pipeline.design.selection import select_plan
from pipeline.design.spec import Device, RunSpec
from pipeline.design.turns import turn_groups
from pipeline.errors import InputError, OutsideError, not_allowed
from pipeline.execution import turn_session
from pipeline.execution.interference import MachineWatch
from pipeline.execution.rounds import Judgement, Rates
from pipeline.execution.turn_session import TurnSession
from pipeline.tracking.mlflow_store import MlflowStore
from tests.support.launchers import FakeLauncher, ListenerLog
from tests.support.standing import FakeStandingLauncher, Life

OPTIONS = SpeedOptions(
    models="test_resnet,test_vit", datasets="digits", techniques="pm", study="quickstart", device="cpu"
)


class StandingLauncher(FakeStandingLauncher):
    """A launcher whose cells stand, and which refuses some."""

    jobs = 1
    refuses = False
    cancelled = False

    def start(self) -> None:
        """Nothing."""

    def preflight(self, specs: Sequence[RunSpec], note: Callable[[str], None]) -> None:
        note(f"checking {len(specs)} runs")
        if self.refuses:
            raise not_allowed("model", "this", "another one")

    def cancel(self) -> None:
        self.cancelled = True

    def kill(self) -> None:
        self.cancelled = True


@pytest.fixture
def plan() -> Plan:
    return select_plan(replace(OPTIONS, seeds=1), "cpu").plan


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandingLauncher:
    made = StandingLauncher(tmp_path / "work")
    monkeypatch.setattr(turn_session, "make_launcher", lambda *_, **__: made)
    return made


def session_of(plan: Plan, folder: Path, **changed: Any) -> tuple[TurnSession, ListenerLog]:
    def judge(runs: Sequence[PlannedRun], rates: Rates) -> Judgement:
        return Judgement(all(len(rates[run.spec.digest]) >= 5 for run in runs), "")

    listener = ListenerLog()
    options = replace(OPTIONS, tracking_uri=f"sqlite:///{folder}/store.db", min_rounds=5, **changed)
    return TurnSession(options, plan, turn_groups(plan), listener, judge, folder / "mlruns"), listener


def test_all_groups_are_measured_and_their_rows_closed(plan: Plan, launcher: StandingLauncher, tmp_path: Path) -> None:
    session, _ = session_of(plan, tmp_path)
    outcome = session.run()
    assert list(outcome.courses) == ["test_resnet/digits", "test_vit/digits"]
    assert [course.rounds for course in outcome.courses.values()] == [5, 5]
    assert outcome.delivered and outcome.broken is None and not outcome.interrupted and launcher.turns
    runs = session.store.frame()
    assert set(runs["status"]) == {"FINISHED"} and sorted(runs["tags.ablate.kind"]) == ["speed"] + ["turns"] * 4


def test_bad_input_leaves_no_store_behind(plan: Plan, launcher: StandingLauncher, tmp_path: Path) -> None:
    launcher.refuses = True
    session, listener = session_of(plan, tmp_path)
    with pytest.raises(InputError, match="model: "):
        session.run()
    assert not launcher.stood and listener.notes[0].startswith("checking ") and not (tmp_path / "store.db").exists()


def test_a_launcher_whose_cells_cannot_stand_is_refused(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_session, "make_launcher", lambda *_, **__: FakeLauncher(tmp_path))
    with pytest.raises(InputError, match="--launcher"):
        session_of(plan, tmp_path)


def test_on_a_cpu_one_group_has_the_machine(plan: Plan, launcher: StandingLauncher, tmp_path: Path) -> None:
    assert launcher.jobs == 1
    with pytest.raises(InputError, match=r"--jobs.*1 on a CPU"):
        session_of(plan, tmp_path, jobs=2)


def test_a_store_that_goes_away_keeps_the_rounds_in_the_journal(
    plan: Plan, launcher: StandingLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, _ = session_of(plan, tmp_path)
    monkeypatch.setattr(turn_session, "DELIVERY_PATIENCE", 0.2)

    log = MlflowStore.log

    def away(*given: Any, **named: Any) -> Any:
        if launcher.turns:
            raise ConnectionError("away")
        return log(*given, **named)

    monkeypatch.setattr(MlflowStore, "log", away)
    outcome = session.run()
    assert not outcome.delivered and len(outcome.courses) == 2 and launcher.turns
    monkeypatch.undo()
    monkeypatch.setattr(turn_session, "make_launcher", lambda *_, **__: launcher)
    again, _ = session_of(plan, tmp_path)
    stood = len(launcher.stood)
    assert again.run().delivered and len(launcher.stood) == stood, "what the first call measured was enough"


@pytest.mark.parametrize("stopped", [False, True], ids=["lost", "stopped"])
def test_no_place_to_stand_is_an_error_unless_the_call_is_ended(
    stopped: bool, plan: Plan, launcher: StandingLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, _ = session_of(plan, tmp_path)

    def no_slot(_spec: RunSpec) -> Any:
        if stopped:
            session.stop()
        raise OutsideError("Ray: no node")

    monkeypatch.setattr(launcher, "slot", no_slot)
    outcome = session.run()
    assert (outcome.broken, outcome.interrupted) == ((None, True) if stopped else ("Ray: no node", False))


@pytest.mark.usefixtures("launcher")
@pytest.mark.parametrize(("where", "looks"), [("local", True), ("ray", False)])
def test_only_this_machine_is_watched_from_here(
    where: str,
    looks: bool,
    plan: Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What else runs on the controller's machine says nothing of a cluster's nodes, which look for themselves."""
    watches: list[str] = []

    class Watch(MachineWatch):
        def __init__(self, device: Device) -> None:
            super().__init__(device)
            watches.append(device)

    monkeypatch.setattr(turn_session, "MachineWatch", Watch)
    session, _ = session_of(plan, tmp_path, launcher=where)
    assert len(session.run().courses) == 2
    assert watches == (["cpu"] if looks else [])


def test_a_group_that_fails_is_told_and_the_others_go_on(
    plan: Plan, tmp_path: Path, launcher: StandingLauncher
) -> None:
    launcher._lives = {"pm": [Life(dies_in=0)]}
    session, listener = session_of(plan, tmp_path)
    outcome = session.run()
    assert len(outcome.courses) == 2 and any("failed: it failed" in note for note in listener.notes)
    parent = session.store.frame()
    assert parent.loc[parent["tags.ablate.kind"].eq("speed"), "status"].tolist() == ["FAILED"]
