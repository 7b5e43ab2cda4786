"""The controller: takes a plan through launcher and recorder, cell by cell, and knows what is left.

The same call again runs exactly what is not finished. Several controllers may work on one study: each cell is
claimed before it starts.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.design.names import (
    CELLS_METRIC,
    CELLS_TAG,
    COMMAND_LINE_TAG,
    COMMAND_TAG,
    FACTORS_TAG,
    GRID_SECONDS,
    NOTE_TAG,
    TAINTED_TAG,
)
from pipeline.design.plan import Plan, PlannedRun
from pipeline.design.records import End, Metrics, Outcome, Phase, Progress, Record, Tags
from pipeline.design.selection import with_reruns
from pipeline.execution import summary
from pipeline.execution.cell_queue import CellQueue
from pipeline.execution.interference import MachineWatch
from pipeline.execution.interrupt import command_line
from pipeline.execution.launcher import ChoosesNext, Launcher, PreparesNext
from pipeline.execution.listener import GridOutcome, Listener
from pipeline.execution.pool import RunPool
from pipeline.execution.target import timed_to_target
from pipeline.paths import write_atomically
from pipeline.tracking.parent_run import has_finished, has_room_for
from pipeline.tracking.recorder import OpenRun, Recorder
from pipeline.tracking.status import planned_cells
from pipeline.tracking.trusted import plan_file

DELIVERY_PATIENCE = 20.0  # s, for what is not yet in the store when a call ends


class Controller:
    """One grid call.

    Args:
        plan: what to run.
        launcher: runs it.
        recorder: keeps it.
        listener: shows it.
        retries: how often, over all calls, a failed or timed-out cell is tried again.
        state_dir: `mlruns`; the plan's list of cells is kept there.
        watch: looks for reasons to doubt a run while it is trained; None where the machine that trains it looks.
        target_accuracy: validation accuracy, as a fraction, to which training is timed; None for none.

    Attributes:
        nothing_to_do: whether every cell was done with when it came to this call.
    """

    def __init__(
        self,
        plan: Plan,
        launcher: Launcher,
        recorder: Recorder,
        listener: Listener,
        *,
        retries: int,
        state_dir: Path,
        watch: MachineWatch | None = None,
        target_accuracy: float | None = None,
    ) -> None:
        self.plan = plan
        self.launcher = launcher
        self.recorder = recorder
        self.listener = listener
        self._state_dir = state_dir
        self._target = target_accuracy
        self._watch = watch
        self._pool = RunPool(launcher)
        self._queue = CellQueue(retries)
        self._choosing = launcher if isinstance(launcher, ChoosesNext) else None
        # under this controller's own choice alone the next cell's slot is known before the present one's end
        self._preparing = launcher if isinstance(launcher, PreparesNext) and self._choosing is None else None
        self._values: dict[str, dict[str, float]] = {}
        self.nothing_to_do = False
        self._fresh = False
        self._earlier: list[dict[str, Any]] = []
        self._warned: set[int] = set()
        self._lock = threading.Lock()

    def resume(
        self, name: str, tags: dict[str, str], *, fresh: bool, alone: bool = False, rerun_tainted: bool = False
    ) -> None:
        """Finds what is finished, closes what died, and opens the parent run.

        Args:
            name: of the parent run, if a new one is made.
            tags: of the parent run.
            fresh: start a new parent and run everything.
            alone: a parent of its own (a single run), never shared with a grid, unless the cell is finished.
            rerun_tainted: measure what was disturbed under this parent again.

        Raises:
            OutsideError: the store does not answer.
        """
        tags = {
            **tags,
            COMMAND_TAG: "run" if alone else "grid",
            COMMAND_LINE_TAG: command_line(),
            CELLS_TAG: str(len(self.plan.cells)),
            FACTORS_TAG: self.plan.factors,
        }
        fits = has_finished(self.plan) if alone else has_room_for(self.plan)
        attempts = self.recorder.parent.join(name, tags, new=fresh, fits=fits, alone=alone)
        mine = list(filter(self.recorder.parent.contains, attempts))
        if rerun_tainted and mine:
            self.plan = with_reruns(self.plan, self.recorder.store.tainted(self.recorder.parent.key))
        self._fresh = fresh
        self._queue.add(self.plan.runs, mine)
        self._earlier = self._earlier_cells({attempt.digest for attempt in mine})
        self._write_plan()
        self.nothing_to_do = not self._queue.waiting
        self._begin(len(self.plan.runs) - self._queue.waiting)

    def extend(self, more: Plan) -> None:
        """Adds the runs of a further block (or of a rerun), behind those there are."""
        first, done = len(self.plan.runs), len(self._queue.outcomes)
        runs = [replace(run, position=first + index) for index, run in enumerate(more.runs)]
        self.plan = replace(self.plan, runs=(*self.plan.runs, *runs))
        self._queue.add(runs, filter(self.recorder.parent.contains, self.recorder.attempts()))
        self._write_plan()
        self.nothing_to_do = self.nothing_to_do and not self._queue.waiting
        self._begin(done)

    def _begin(self, done: int) -> None:
        left = [run.spec for run in self.plan.runs if run.spec.digest not in self._queue.outcomes]
        self.listener.begin(len(self.plan.runs), done, left, max(1, self.launcher.jobs))

    def _write_plan(self) -> None:
        """Writes the list of cells, so that `ablate status` knows what is pending."""
        folder = self._state_dir / "plans"
        folder.mkdir(parents=True, exist_ok=True)
        path = plan_file(self._state_dir, self.recorder.parent.key)
        assert path is not None  # `ParentRun.join` takes no other key
        cells = [{"digest": run.spec.digest, "name": run.name, "block": run.block} for run in self.plan.cells]
        known = {run.spec.digest for run in self.plan.cells}
        cells += [cell for cell in self._earlier if cell["digest"] not in known]
        content = {"study": self.plan.study.name, "techniques": list(self.plan.study.techniques), "cells": cells}
        write_atomically(path, json.dumps({**content, "alias": list(self.plan.alias)}))
        self.recorder.parent.log_artifact(path, "plan")

    def _earlier_cells(self, tried: set[str]) -> list[dict[str, Any]]:
        """Other cells of earlier calls under this parent: all of other models and data sets, of these what has begun.

        Args:
            tried: digests of the cells that somebody has tried.
        """
        groups = tuple({f"{run.spec.model}/{run.spec.dataset}/" for run in self.plan.cells})
        mine = {run.name for run in self.plan.cells}
        cells = planned_cells(self._state_dir, self.recorder.parent.key) or []
        others = [cell for cell in cells if str(cell.get("name")) not in mine]
        return [cell for cell in others if cell["digest"] in tried or not str(cell.get("name")).startswith(groups)]

    def run(self) -> GridOutcome:
        """Runs what is queued; returns when nothing is left, here or with another controller."""
        self._pool.run(self._work, "run")
        return self._outcome()

    def stop(self) -> None:
        """Ends the grid: running cells are cancelled and closed as interrupted."""
        self._pool.stop()

    @property
    def stopped(self) -> bool:
        """Whether the grid was ended, by `stop` or by an error."""
        return self._pool.stopped

    @property
    def broken(self) -> str | None:
        """Why the grid ended before it was done, in one line; None while nothing is wrong."""
        return self._pool.broken

    def _work(self) -> None:
        """Takes cells to their end, one after the other, until none is left: the life of one thread."""
        opened: OpenRun | None = None
        while opened is not None or not self._pool.stopped:
            if opened is None:
                run = self._next()
                if run is None:
                    return
                opened = self._claimed(run)
            if opened is not None:
                opened = self._run_claimed(opened)
                if opened is None and self._pool.surplus():
                    return

    def _next(self) -> PlannedRun | None:
        """Takes the next cell: first unclaimed ones, then those that another controller has taken and may drop."""
        choose = self._choosing.choose if self._choosing is not None else None
        while not self._pool.stopped:
            run = self._queue.take(choose)
            if run is not None:
                return run
            if self._queue.waiting:  # for a slot
                continue
            if not self._queue.elsewhere:
                return None
            began = time.monotonic()
            self._claimed_elsewhere()
            if not self._queue.waiting and not self._queue.elsewhere:
                return None
            # this has read the whole study: on a large one it must not be all that the store does
            self._pool.pause(max(1.0, 5 * (time.monotonic() - began)))
        return None

    def _claimed_elsewhere(self) -> None:
        """Takes outcomes of other controllers over, and queues the cells of those that died."""
        attempts = self.recorder.attempts()
        self.recorder.close_orphans(attempts)
        self._queue.check_others(attempts, self.recorder.is_alive)

    def _claimed(self, run: PlannedRun) -> OpenRun | None:
        """Claims a cell; None, and it is kept in mind, when another controller has it."""
        opened = self.recorder.claim(run, self.plan, self.launcher.work_dir(run.spec))
        if opened is None:
            self._queue.leave_to_others(run)
            if self._choosing is not None:
                self._choosing.release(run)
        elif self._fresh:  # a checkpoint of an earlier grid's try would save the work that is asked for
            (opened.work_dir / "checkpoint.pt").unlink(missing_ok=True)
        return opened

    def _launched(self, run: PlannedRun) -> Iterator[Record]:
        """What a run tells, and what is added here: reasons to doubt it, and the time to the target."""
        records = self.launcher.launch(run.spec)
        return timed_to_target(records if self._watch is None else self._watch.watched(records), self._target)

    def _warn(self, run: PlannedRun, reasons: str) -> None:
        """Shows the reasons to doubt a run; the first of each block are enough."""
        with self._lock:
            new = run.block not in self._warned
            self._warned.add(run.block)
        if new:
            self.listener.note(f"{run.name} is tainted: {reasons}")

    def _run_claimed(self, opened: OpenRun) -> OpenRun | None:
        """Takes a claimed cell to its end; returns the cell that was prepared meanwhile, if one was."""
        run = opened.run
        following: OpenRun | None = None
        end = End(time=time.time(), outcome="failed", error="the launcher ended without a last record")
        with self._pool.running():
            self.listener.started(run)
            for record in self._launched(run):
                if isinstance(record, End):
                    end = record
                    continue
                if isinstance(record, Progress | Metrics | Phase):
                    self.listener.progress(run, record)
                self.recorder.record(opened, record)
                if isinstance(record, Tags) and TAINTED_TAG in record.values:
                    self._warn(run, record.values[TAINTED_TAG])
                if isinstance(record, Phase) and record.name == "evaluate":
                    following = self._claimed_ahead()
                elif isinstance(record, Phase) and record.name == "done" and following is not None:
                    self._prepare(following, run)
            self.recorder.close(opened, end)
        self._queue.slot_freed()
        # nobody has asked for the interruption: the machine was lost
        lost = end.outcome == "interrupted" and not self._pool.interrupted
        again = lost and self._queue.requeue_lost(run)
        if not again:
            self._values[run.spec.digest] = opened.values
            self._queue.finish(run, end.outcome)
        self.listener.ended(run, end, opened.values)
        if again and self.launcher.jobs == 0:
            self._pool.give_up(end.error or "no device is left")
        return following

    def _claimed_ahead(self) -> OpenRun | None:
        """Claims the next cell while the present one, which has been trained, is tested."""
        if self._preparing is None or self._pool.stopped:
            return None
        following = self._queue.take()
        return None if following is None else self._claimed(following)

    def _prepare(self, following: OpenRun, run: PlannedRun) -> None:
        """Has the next cell's worker set up while `run`, of which all is measured, still ends."""
        if self._preparing is not None:
            with suppress(OSError):  # no room for another process: it is started when its turn comes
                self._preparing.prepare(following.run.spec, run.spec)

    def _outcome(self) -> GridOutcome:
        grid = GridOutcome(cells=len(self.plan.runs), interrupted=self._pool.interrupted, broken=self.broken)
        for run in self.plan.runs:
            outcome = self._queue.outcomes.get(run.spec.digest, "pending")  # an interrupted one has had its end
            grid.outcomes[outcome] = grid.outcomes.get(outcome, 0) + 1
        return grid

    def close(self, grid: GridOutcome, results_of: Callable[[], list[summary.CellResult]], seconds: float) -> None:
        """Puts tables and aggregates on the parent run, closes it, and delivers everything.

        Args:
            grid: how the call ended; `delivered` and, on a full disk, `broken` are set.
            results_of: all cells' values, for the tables.
            seconds: wall-clock time of the call, in s.
        """
        tables = summary.tables(results_of())
        counts = {"finished": 0, "failed": 0, **grid.outcomes, "total": grid.cells}
        values = {CELLS_METRIC + name: float(count) for name, count in counts.items()}
        values |= {GRID_SECONDS: seconds, **summary.aggregates(tables)}
        note = summary.summary_markdown(tables, command_line())
        outcome: Outcome = "interrupted" if grid.interrupted else "finished" if grid.complete else "failed"
        try:
            self.recorder.parent.log_values(values, {NOTE_TAG: note})
            self.recorder.close_parent(outcome)
        except OSError as error:  # the disk is full, or gone
            grid.broken = grid.broken or f"journal: {error.strerror or error}"
            grid.delivered = False
            self.recorder.emergency_close()
        else:
            grid.delivered = self.recorder.drain(DELIVERY_PATIENCE)
            for line in self.recorder.notices():
                self.listener.note(line)

    def results(self) -> list[summary.CellResult]:
        """Returns all cells with outcome and values (see `values`)."""
        return summary.cell_results(self.plan, self._queue.outcomes, self.values())

    def values(self) -> dict[str, dict[str, float]]:
        """Metrics by the digest of the cell: the store's for earlier calls and others, this call's own on top."""
        return self._stored() | {digest: values for digest, values in self._values.items() if values}

    def _stored(self) -> dict[str, dict[str, float]]:
        finished = [digest for digest, outcome in self._queue.outcomes.items() if outcome == "finished"]
        if all(digest in self._values for digest in finished):
            return {}
        try:
            return self.recorder.store.values_by_digest(self.recorder.parent.key)
        except Exception:  # the store is away: the table shows what this call knows
            return {}
