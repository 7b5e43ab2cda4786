"""A session's order of things: launcher first, store last, nothing left behind by bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.design.selection import GridOptions, SelectedPlan, select_plan
from pipeline.errors import InputError, OutsideError
from pipeline.execution import session
from pipeline.execution.session import Session, distinct
from tests.support.launchers import FakeLauncher, ListenerLog

OPTIONS = GridOptions(models="test_resnet", datasets="digits", techniques="pm", study="quickstart", device="cpu")


@pytest.fixture
def choice() -> SelectedPlan:
    return select_plan(OPTIONS, "cpu")


def test_the_preflight_sees_each_thing_once(choice: SelectedPlan) -> None:
    runs = choice.plan.runs
    assert len(runs) == 2
    again = tuple(replace(run, spec=run.spec.model_copy(update={"seed": 99})) for run in runs)
    specs = distinct(replace(choice.plan, runs=(*runs, *again)))
    assert specs == distinct(choice.plan), "a seed is nothing that can be wrong"
    larger = runs[0].spec.model_copy(update={"model": "test_vit"})
    assert larger in distinct(replace(choice.plan, runs=(*runs, replace(runs[0], spec=larger))))


def test_bad_input_leaves_no_store_behind(
    choice: SelectedPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = [run.spec.seed for run in choice.plan.runs]
    launcher = FakeLauncher(tmp_path, refused=seeds)
    monkeypatch.setattr(session, "make_launcher", lambda *_, **__: launcher)
    listener = ListenerLog()
    options = replace(OPTIONS, tracking_uri=f"sqlite:///{tmp_path}/store.db")
    held = Session(options, choice, listener, tmp_path / "mlruns")
    with pytest.raises(InputError, match="seed: "):
        held.run()
    assert launcher.calls == ["start", "preflight"] and launcher.launched == []
    assert listener.notes[0].startswith("checking ")
    assert not (tmp_path / "store.db").exists() and held.grid is None


def test_a_folder_that_cannot_be_made_is_told(choice: SelectedPlan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutsideError, match="cannot be made"):
        Session(OPTIONS, choice, ListenerLog(), tmp_path / "file" / "mlruns")
