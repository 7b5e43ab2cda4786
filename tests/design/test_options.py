"""The options classes: what a command offers, in which order, and that a default stands once."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pytest

from pipeline.design.options import GridOptions, RunOptions, TuneOptions, argument, offered, option
from pipeline.tuning.objective import OBJECTIVES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shared:
    first: str | None = option(None, "Of the base.")
    second: int = option(2, "Of the base, too.")
    third: bool = option(False, "Not everywhere.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made(Shared):
    omitted: ClassVar = ("third",)
    reworded: ClassVar = {"second": "In other words."}

    name: str = argument()
    second_name: str = option(help="Has to be given.", name="--other")
    first: str | None = option("x", "Of the class.")
    hidden: int = 7


def test_own_options_come_before_those_of_the_bases() -> None:
    assert list(offered(Made)) == ["name", "second_name", "first", "second"]
    assert list(offered(Shared)) == ["first", "second", "third"]


def test_a_class_speaks_of_an_inherited_option_in_its_own_words() -> None:
    assert offered(Made)["second"].help == "In other words." and offered(Shared)["second"].help == "Of the base, too."
    assert offered(Made)["first"].help == "Of the class." and offered(Made)["second_name"].name == "--other"
    assert offered(Made)["name"].argument and not offered(Made)["first"].argument


def test_what_has_no_default_has_to_be_given() -> None:
    with pytest.raises(TypeError, match="second_name"):
        Made(name="a")
    made = Made(name="a", second_name="b")
    assert (made.first, made.second, made.hidden) == ("x", 2, 7)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.second = 3  # type: ignore[misc]


def test_a_run_is_a_grid_of_one_cell() -> None:
    run = RunOptions(models="test_vit", datasets="digits")
    assert run.single and not GridOptions().single
    assert run.techniques == "none" and GridOptions().techniques is None
    left_out = set(offered(GridOptions)) - set(offered(RunOptions))
    assert left_out == set(RunOptions.omitted), "nothing is left out that is not there"


@pytest.mark.parametrize(("grid", "tune"), [("tune_trials", "trials"), ("tune_seconds", "trial_seconds")])
def test_a_grid_tunes_as_long_as_tune_does(grid: str, tune: str) -> None:
    assert getattr(GridOptions(), grid) == getattr(TuneOptions, tune)


def test_every_objective_can_be_chosen() -> None:
    assert offered(TuneOptions)["objective"].choices == tuple(OBJECTIVES)


def test_numbers_are_bounded() -> None:
    numbers: list[Any] = [offered(GridOptions)[name].allowed for name in ("seeds", "jobs", "timeout", "interval_width")]
    assert [(bounds.low, bounds.high, bounds.low_open) for bounds in numbers] == [
        (1, 100_000, False),
        (1, 1024, False),
        (0, 10**9, True),
        (0, 1, True),
    ]
