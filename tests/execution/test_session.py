"""A session's order of things: launcher first, store last, nothing left behind by bad input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.design.plan import Plan
from pipeline.design.selection import GridOptions, SelectedPlan, select_plan
from pipeline.errors import InputError, OutsideError
from pipeline.execution import session
from pipeline.execution.listener import GridOutcome
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
    recipe = runs[0].spec.recipe.model_copy(update={"batch_size": 17})
    other = runs[0].spec.model_copy(update={"recipe": recipe})
    assert other in distinct(replace(choice.plan, runs=(*runs, replace(runs[0], spec=other)))), (
        "its last batch is other"
    )


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


Group = tuple[str, str]


class StubGrid:
    """A controller whose runs take no time; keeps the blocks of each group that were run."""

    def __init__(self, plan: Plan, delivers: bool = True) -> None:
        self.plan = plan
        self.recorder = SimpleNamespace(error="refused", outbox=SimpleNamespace(wait=lambda _: delivers))
        self.calls = 0

    def extend(self, more: Plan) -> None:
        self.plan = replace(self.plan, runs=(*self.plan.runs, *more.runs))

    def run(self) -> GridOutcome:
        self.calls += 1
        return GridOutcome()

    def blocks(self) -> dict[Group, list[int]]:
        found: dict[Group, list[int]] = {}
        for run in self.plan.runs:
            found.setdefault((run.spec.model, run.spec.dataset), []).append(run.block)
        return {group: sorted(set(blocks)) for group, blocks in found.items()}


@dataclass
class Effect:
    """How precise an effect is, as a test says."""

    model: str
    dataset: str
    at_least: int

    def __str__(self) -> str:
        return f"pm on {self.model}/{self.dataset}"


class Stops:
    """Finds a group's effect precise after a number of blocks, and says at most `bound` blocks ahead how many."""

    def __init__(self, stops: dict[Group, int], bound: int = 1) -> None:
        self.stops = stops
        self.bound = bound
        self.plans: list[Plan] = []

    def __call__(self, store: Any, plan: Plan, width: float) -> Sequence[Effect]:
        assert store and width == OPTIONS.interval_width
        self.plans.append(plan)
        ran = StubGrid(plan).blocks()
        left = {group: max(min(stop - len(ran[group]), self.bound), 0) for group, stop in self.stops.items()}
        return [Effect(*group, least) for group, least in left.items()]


def until_precise(
    precision: session.FindsPrecision, folder: Path, monkeypatch: pytest.MonkeyPatch, delivers: bool = True, **more: Any
) -> tuple[StubGrid, list[str]]:
    options = replace(OPTIONS, models="test_resnet,test_vit", until_decided=True, **more)
    monkeypatch.setattr(session, "make_launcher", lambda *_, **__: FakeLauncher(folder))
    listener = ListenerLog()
    held = Session(options, select_plan(options, "cpu"), listener, folder / "mlruns", precision=precision)
    grid = StubGrid(held.plan, delivers)
    held._until_precise(grid, GridOutcome())
    assert held.plan is grid.plan
    return grid, listener.notes


RESNET, VIT = ("test_resnet", "digits"), ("test_vit", "digits")


@pytest.mark.parametrize("bound", [1, 3])
def test_a_group_that_is_precise_gets_no_further_runs(
    bound: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = Stops({RESNET: 4, VIT: 9}, bound)
    grid, notes = until_precise(stops, tmp_path, monkeypatch)
    assert grid.blocks() == {RESNET: [*range(4)], VIT: [*range(9)]}, "one block more only while it is needed"
    assert len(grid.plan.runs) == 2 * (4 + 9)
    assert notes[0] == (
        f"block 1: 2 of 2 effects not precise to 2 %, widest: pm on test_resnet/digits; on to block {1 + bound} "
        "with 2 of 2 groups"
    )
    assert notes[-2].endswith("on to block 9 with 1 of 2 groups")
    assert notes[-1] == "precise to 2 % after 9 blocks: every main effect on the training time"
    whole = select_plan(replace(OPTIONS, models="test_resnet,test_vit", seeds=9), "cpu").plan
    order = [run.spec for run in whole.runs if run.block < 4 or run.spec.model == "test_vit"]
    assert [run.spec for run in grid.plan.runs] == order, "a block's order does not depend on who is left"


def test_variants_get_their_further_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their effects have them behind the model's name."""
    variant = ("test_resnet [batch_size=32]", "digits")

    def precision(store: Any, plan: Plan, width: float) -> Sequence[Effect]:
        assert store and width == OPTIONS.interval_width
        return [Effect(*variant, max(3 - len(StubGrid(plan).blocks()[RESNET]), 0)), Effect(*VIT, 0)]

    grid, _ = until_precise(precision, tmp_path, monkeypatch)
    assert grid.blocks() == {RESNET: [0, 1, 2], VIT: [0]}


def test_the_last_block_tells_what_is_not_precise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, notes = until_precise(Stops({RESNET: 30, VIT: 2}, 7), tmp_path, monkeypatch, max_blocks=5, seeds=2)
    assert grid.blocks() == {RESNET: [*range(5)], VIT: [0, 1]}
    assert notes[-1] == "not precise to 2 % after 5 blocks (--max-blocks): pm on test_resnet/digits"
    grid, notes = until_precise(Stops({}), tmp_path, monkeypatch)
    assert grid.calls == 0 and notes == ["--until-decided: no main effect on the training time has an estimate"]


def test_what_the_store_does_not_have_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stops = Stops({RESNET: 4, VIT: 4})
    grid, notes = until_precise(stops, tmp_path, monkeypatch, delivers=False)
    assert grid.calls == 0 and not stops.plans
    assert notes == ["the tracking store does not answer (refused): no further blocks; call again later"]


def test_the_preflight_sees_the_images_of_every_seed_of_a_folder_with_a_maximum(choice: SelectedPlan) -> None:
    first = choice.plan.runs[0]
    for most, expected in ((None, 1), (8, 2)):
        recipe = first.spec.recipe.model_copy(update={"max_train_samples": most})
        spec = first.spec.model_copy(update={"recipe": recipe, "data_digest": "0" * 32})
        runs = tuple(replace(first, spec=spec.model_copy(update={"seed": seed})) for seed in (1, 2))
        assert len(distinct(replace(choice.plan, runs=runs))) == expected
