"""What is left of a plan: resumed, retried, lost, taken by another controller and dropped by it."""

from __future__ import annotations

import pytest

from pipeline.design.plan import PlannedRun
from pipeline.design.spec import Recipe, RunSpec
from pipeline.execution.cell_queue import LOST_TRIES, CellQueue
from pipeline.tracking.attempts import Attempt


def cell(seed: int, block: int = 0) -> PlannedRun:
    return PlannedRun(RunSpec(model="test_resnet", dataset="digits", seed=seed, recipe=Recipe()), block, seed)


def tries(run: PlannedRun, *outcomes: str) -> list[Attempt]:
    return [Attempt(f"{run.position}-{n}", run.spec.digest, outcome, "owner") for n, outcome in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((), None),
        (("failed", "finished"), "finished"),
        (("oom",), "oom"),
        (("failed",), None),
        (("failed", "timeout"), "timeout"),
        (("interrupted",) * 9, None),
        (("",), None),
    ],
)
def test_earlier_tries_decide_what_is_queued(outcomes: tuple[str, ...], expected: str | None) -> None:
    queue, run = CellQueue(retries=1), cell(1)
    queue.add([run], tries(run, *outcomes))
    assert queue.waiting == (expected is None)
    assert queue.outcomes.get(run.spec.digest) == expected


def test_cells_come_in_their_order_and_one_block_after_the_other() -> None:
    queue = CellQueue(retries=0)
    cells = [cell(1, 0), cell(2, 0), cell(3, 1)]
    queue.add(cells, [])
    assert queue.take() == cells[0]
    assert [queue.take(), queue.take(), queue.take()] == [cells[1], cells[2], None]


def test_a_launcher_s_choice_is_taken_out_of_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.execution.cell_queue._CHOICE_SECONDS", 0.01)
    queue = CellQueue(retries=0)
    cells = [cell(seed) for seed in range(3)]
    queue.add(cells, [])
    assert queue.take(lambda runs: [run.position for run in runs].index(1)) == cells[1]
    assert queue.take(lambda _: None) is None and queue.waiting == 2
    assert queue.take(lambda _: 0) == cells[0]


def test_a_lost_cell_comes_next_but_not_for_ever() -> None:
    queue, run = CellQueue(retries=0), cell(1)
    queue.add([cell(2)], [])
    for _ in range(LOST_TRIES - 1):
        assert queue.requeue_lost(run)
        assert queue.take() == run
    assert not queue.requeue_lost(run)
    assert queue.waiting == 1


def test_what_another_controller_has_is_finished_kept_or_queued() -> None:
    queue = CellQueue(retries=0)
    done, held, dropped = cell(1), cell(2), cell(3)
    for run in (done, held, dropped):
        queue.leave_to_others(run)
    attempts = [*tries(done, "finished"), *tries(held, ""), *tries(dropped, "interrupted", "")]
    queue.check_others(attempts, lambda attempt: attempt.digest == held.spec.digest and not attempt.outcome)
    assert queue.outcomes == {done.spec.digest: "finished"}
    assert (queue.elsewhere, queue.waiting, queue.take()) == (1, 1, dropped)
    queue.finish(dropped, "failed")
    assert queue.outcomes[dropped.spec.digest] == "failed"
