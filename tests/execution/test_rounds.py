"""Rounds with cells that live as the test says."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from pipeline.design.plan import Plan, PlannedRun
from pipeline.design.selection import GridOptions, select_plan
from pipeline.design.turns import TurnGroup, turn_groups
from pipeline.execution import rounds
from pipeline.execution.counters import Counters
from pipeline.execution.interference import MachineWatch, Stretch
from pipeline.execution.rounds import Judgement, Rates, RoundRules, Rounds
from pipeline.execution.turn_cell import TurnCall
from tests.support.launchers import ListenerLog
from tests.support.standing import FakeStandingLauncher, Life, RoundLog

LABELS = ["baseline", "ga", "pm", "ga+pm"]


@pytest.fixture(scope="module")
def plan() -> Plan:
    options = GridOptions(models="test_resnet", datasets="digits", techniques="ga,pm", study="quickstart", device="cpu")
    return select_plan(options, "cpu").plan


@pytest.fixture(scope="module")
def group(plan: Plan) -> TurnGroup:
    (found,) = turn_groups(plan)
    return found


class Case:
    """One group, and what came of it."""

    def __init__(self, plan: Plan, group: TurnGroup, folder: Path, lives: Mapping[str, Sequence[Life]]) -> None:
        self.plan, self.group = plan, group
        self.launcher = FakeStandingLauncher(folder, lives)
        self.log = RoundLog()
        self.listener = ListenerLog()
        self.judged: list[tuple[list[str], int]] = []
        self.stop = False
        self.watch: MachineWatch | None = None

    def run(
        self,
        *,
        enough: int = 5,
        least: int = 4,
        before: Rates | None = None,
        seconds: float | None = None,
        watch: Callable[[], None] = lambda: None,
    ) -> rounds.Course:
        """Makes rounds until there are `enough`."""

        def judge(runs: Sequence[PlannedRun], rates: Rates) -> Judgement:
            shared = len(set.intersection(*(set(rates[run.spec.digest]) for run in runs)))
            self.judged.append(([run.spec.label for run in runs], shared))
            watch()
            return Judgement(shared >= enough, f"{shared} rounds")

        call = TurnCall(self.plan, self.launcher, self.log, self.listener, 10.0, lambda: self.stop, self.watch)
        made = Rounds(call, self.group, RoundRules(judge, least, 7), before or {})
        deadline = None if seconds is None else time.monotonic() + seconds
        return made.course if made.is_enough() else made.run(None, deadline)

    def ends(self) -> dict[str, list[str]]:
        """Outcomes of each cell's rows."""
        found: dict[str, list[str]] = {}
        for label, end in self.log.closed:
            found.setdefault(label, []).append(end.outcome)
        return found


@pytest.fixture
def case(plan: Plan, group: TurnGroup, tmp_path: Path) -> Callable[..., Case]:
    """Cases by what becomes of some cells; `_` stands for + in their labels."""
    return lambda **lives: Case(plan, group, tmp_path, {label.replace("_", "+"): each for label, each in lives.items()})


def test_every_cell_has_a_turn_in_each_round_in_an_order_shuffled_anew(case: Callable[..., Case]) -> None:
    found = case()
    course = found.run()
    assert [number for number, _ in found.log.rounds] == [1, 2, 3, 4, 5]
    orders = [tuple(label for label, order in found.launcher.turns if order.number == number) for number in range(1, 6)]
    assert all(sorted(order) == sorted(LABELS) for order in orders) and len(set(orders)) > 2
    assert orders[1] == orders[0][::-1] and orders[3] == orders[2][::-1], "nobody is first more often than last"
    for number, cells in found.log.rounds:
        places = {label: int(values["round/place"]) for label, values in cells.items()}
        assert [label for label, _ in sorted(places.items(), key=lambda item: item[1])] == list(orders[number - 1])
        assert all(values["round/images_per_second"] == pytest.approx(1e4) for values in cells.values())
    assert found.ends() == {label: ["finished"] for label in LABELS}
    assert set(course.outcomes.values()) == {"finished"} and course.rounds == 5 and course.judgement.decided
    lengths = {(order.images, order.head) for _, order in found.launcher.turns if order.number}
    assert len(lengths) == 1 and next(iter(lengths))[0] % found.group.multiple == 0


class Neighbour(MachineWatch):
    """Others use 1.5 cores in the third round."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.rounds = 0

    def since(self, before: Counters) -> Stretch:
        del before
        self.rounds += 1
        return Stretch(seconds=0.5, cores=2, others=1.5 if self.rounds == 3 else 0.125)


def test_a_round_that_was_disturbed_is_marked_and_kept(case: Callable[..., Case]) -> None:
    found = case()
    found.watch = Neighbour()
    course = found.run()
    for number, cells in found.log.rounds:
        others = {values["round/others_cores"] for values in cells.values()}
        assert others == {1.5 if number == 3 else 0.125}
    assert all(len(rates) == 5 for rates in course.rates.values())
    reason = "other processes used 1.5 of 2 cores during 1 of 5 rounds"
    assert sorted(found.log.doubts) == sorted(LABELS)
    assert all(text.startswith(reason) for text in found.log.doubts.values())
    assert any(line.startswith(f"test_resnet/digits: {reason}") for line in found.listener.notes)


def test_where_nobody_watches_nothing_is_said_of_others(case: Callable[..., Case]) -> None:
    found = case()
    found.run()
    assert not found.log.doubts
    assert not any("round/others_cores" in values for _, cells in found.log.rounds for values in cells.values())


def test_the_order_is_the_seed_s(case: Callable[..., Case]) -> None:
    first, second = case(), case()
    first.run(), second.run()
    assert [label for label, _ in first.launcher.turns] == [label for label, _ in second.launcher.turns]


def test_not_fewer_rounds_than_asked_for(case: Callable[..., Case]) -> None:
    found = case()
    assert found.run(enough=1, least=6).rounds == 6


def test_a_cell_that_dies_spoils_its_round_and_is_started_once_more(case: Callable[..., Case]) -> None:
    found = case(ga=[Life(dies_in=3), Life()])
    course = found.run()
    assert [number for number, _ in found.log.rounds] == [1, 2, 3, 4, 5] and course.rounds == 5
    assert all(len(cells) == 4 for _, cells in found.log.rounds), "no half rounds"
    assert found.ends() == {label: ["finished"] for label in LABELS}
    assert sum(label == "ga" for label, _ in found.launcher.stood) == 2
    assert any("it failed; started again" in note for note in found.listener.notes)


@pytest.mark.parametrize("how", ["failed", "timeout"])
def test_one_that_dies_again_is_left_out_and_the_others_go_on(case: Callable[..., Case], how: str) -> None:
    found = case(ga=[Life(dies_in=4, how=how), Life(dies_in=2, how=how)])
    course = found.run()
    assert found.ends() == {"baseline": ["finished"], "pm": ["finished"], "ga+pm": ["finished"], "ga": [how]}
    assert sorted(course.outcomes.values()) == sorted(["finished"] * 3 + [how])
    assert sum(label == "ga" for label, _ in found.launcher.stood) == 2
    assert sorted(found.log.rounds[-1][1]) == ["baseline", "ga+pm", "pm"] and course.judgement.decided
    assert found.judged[-1][0] == ["baseline", "pm", "ga+pm"], "the lost cell's rounds are not asked for"


def test_one_that_cannot_be_set_up_is_left_out(case: Callable[..., Case]) -> None:
    found = case(pm=[Life(dies_in=0)])
    found.run()
    assert found.ends()["pm"] == ["failed"] and found.ends()["ga"] == ["finished"]
    assert all(sorted(cells) == ["baseline", "ga", "ga+pm"] for _, cells in found.log.rounds)


def baseline_at(place: int) -> Callable[[Sequence[PlannedRun], str], list[PlannedRun]]:
    """An order of start with the baseline at a place among the others."""
    return lambda runs, _drawn: [*runs[1 : 1 + place], runs[0], *runs[1 + place :]]


@pytest.fixture
def as_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are started in the order in which the group has them."""
    monkeypatch.setattr(rounds, "start_order", lambda runs, _drawn: list(runs))


def test_cells_are_started_in_an_order_drawn_anew(case: Callable[..., Case]) -> None:
    starts = []
    for number in range(40):
        found = case()
        found.log.parent.key = f"parent {number}"
        found.run()
        starts.append([label for label, _ in found.launcher.stood])
    assert all(sorted(each) == sorted(LABELS) for each in starts)
    for place in range(4):
        assert len({each[place] for each in starts}) == 4, "each cell comes at each place"
    first, again = case(), case()
    first.run()
    again.run(before={digest: dict(rates) for digest, rates in first.run(enough=6).rates.items()}, enough=12)
    assert [label for label, _ in first.launcher.stood][:4] != [label for label, _ in again.launcher.stood]
    assert {tuple(labels) for labels, _ in first.judged} == {tuple(run.spec.label for run in first.group.runs)}


@pytest.mark.parametrize("place", range(4))
def test_the_baseline_stands_wherever_it_is_in_the_order(
    case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    monkeypatch.setattr(rounds, "start_order", baseline_at(place))
    found = case()

    def free() -> tuple[float, float]:
        alive = len(found.launcher.stood) - len(found.log.closed)
        return 310.0 - 100.0 * alive, float("inf")

    found.launcher.free = free
    course = found.run()
    together = [sorted(cells) for _, cells in found.log.rounds]
    assert all("baseline" in cells for cells in together) and set(course.outcomes.values()) == {"finished"}
    assert {cell for cells in together for cell in cells} == set(LABELS)
    assert len(course.outcomes) == 4 and len(found.log.closed) == len(found.log.opened)


@pytest.mark.parametrize("late", [2, 3])
def test_out_of_memory_beside_another_than_the_baseline_is_no_outcome(
    case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    monkeypatch.setattr(rounds, "start_order", baseline_at(late))
    second = case().group.runs[2].spec.label
    found = case(**{second: [Life(dies_in=0, how="oom"), Life()]})
    course = found.run()
    assert found.ends()[second] == ["interrupted", "finished"] and set(course.outcomes.values()) == {"finished"}
    found = case(baseline=[Life(dies_in=0, how="oom"), Life()])  # others give way, until there is room
    course = found.run()
    assert found.ends()["baseline"][0] == "interrupted" and set(course.outcomes.values()) == {"finished"}
    assert all("baseline" in cells for _, cells in found.log.rounds) and len(course.outcomes) == 4


@pytest.mark.usefixtures("as_listed")
def test_out_of_memory_beside_others_comes_with_fewer(case: Callable[..., Case]) -> None:
    found = case(ga_pm=[Life(dies_in=0, how="oom"), Life()])
    course = found.run()
    together = [sorted(cells) for _, cells in found.log.rounds]
    assert together == [["baseline", "ga", "pm"]] * 5 + [["baseline", "ga+pm"]] * 5
    assert [number for number, _ in found.log.rounds] == list(range(1, 11)), "rounds have numbers of their own"
    assert found.ends()["ga+pm"] == ["interrupted", "finished"] and found.ends()["baseline"] == ["finished"] * 2
    assert set(course.outcomes.values()) == {"finished"}
    assert any("1 more cells, beside the baseline again" in note for note in found.listener.notes)


@pytest.mark.usefixtures("as_listed")
def test_cells_that_were_apart_are_not_measured_again(case: Callable[..., Case]) -> None:
    found = case(ga_pm=[Life(dies_in=0, how="oom"), Life()])
    course = found.run()
    again = case()
    done = again.run(before=course.rates)
    assert not again.launcher.stood and set(done.outcomes.values()) == {"finished"}
    last = next(run.spec.digest for run in found.group.runs if run.spec.label == "ga+pm")
    rest = case()
    done = rest.run(before={digest: rates for digest, rates in course.rates.items() if digest != last})
    assert [label for label, _ in rest.launcher.stood] == ["baseline", "ga+pm"], "what is missing, beside the baseline"
    assert set(done.outcomes.values()) == {"finished"} and len(done.outcomes) == 4


@pytest.mark.usefixtures("as_listed")
def test_out_of_memory_beside_the_baseline_alone_is_the_cell_s_outcome(case: Callable[..., Case]) -> None:
    found = case(ga_pm=[Life(dies_in=0, how="oom")])
    course = found.run()
    assert found.ends()["ga+pm"] == ["interrupted", "oom"]
    assert sorted(course.outcomes.values()) == ["finished"] * 3 + ["oom"]


@pytest.mark.usefixtures("as_listed")
def test_cells_are_admitted_while_there_is_room(case: Callable[..., Case]) -> None:
    found = case()

    def free() -> tuple[float, float]:
        alive = len(found.launcher.stood) - len(found.log.closed)
        return 310.0 - 100.0 * alive, float("inf")

    found.launcher.free = free
    found.run()
    together = [sorted(cells) for _, cells in found.log.rounds]
    assert [len(cells) for cells in together] == [2] * 15 and all("baseline" in cells for cells in together)
    assert {cell for cells in together for cell in cells} == set(LABELS)


def test_a_call_that_is_stopped_closes_its_rows(case: Callable[..., Case]) -> None:
    found = case()

    def watch() -> None:
        found.stop = len(found.log.rounds) == 2

    course = found.run(watch=watch)
    assert found.ends() == {label: ["interrupted"] for label in LABELS}
    assert all(worker.killed for _, worker in found.launcher.stood) and course.rounds == 2


def test_no_round_begins_after_the_time(case: Callable[..., Case]) -> None:
    found = case()
    course = found.run(enough=10**9, seconds=0.05)
    assert found.ends() == {label: ["finished"] for label in LABELS} and not course.judgement.decided


def test_it_goes_on_with_the_rounds_of_earlier_calls(case: Callable[..., Case], group: TurnGroup) -> None:
    before = {run.spec.digest: dict.fromkeys(range(1, 4), 9e3) for run in group.runs}
    found = case()
    course = found.run(before=before | {"another": {9: 1.0}})
    assert [number for number, _ in found.log.rounds] == [4, 5] and course.rounds == 5
    again = case()
    done = again.run(before=course.rates)
    assert not again.launcher.stood and set(done.outcomes.values()) == {"finished"}, "nothing is left to do"
