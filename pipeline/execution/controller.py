"""The controller: takes a plan through launcher and book, cell by cell, and knows what is left.

The same call again runs exactly what is not finished. Several controllers may work on one study: each cell is
claimed before it starts.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

from pipeline.design.plan import Plan, PlannedRun
from pipeline.design.records import End, Metrics, Outcome, Phase, Progress
from pipeline.errors import AblateError
from pipeline.execution import summary
from pipeline.execution.interference import InterferenceCheck
from pipeline.execution.launcher import ChoosesNext, Launcher, PreparesNext
from pipeline.execution.listener import GridOutcome, Listener
from pipeline.tracking.attempts import Attempt
from pipeline.tracking.recorder import OpenRun, Recorder

DELIVERY_PATIENCE = 20.0
LOST_TRIES = 5  # of a cell whose machine is lost, in one call


class Controller:
    """One grid call.

    Args:
        plan: what to run.
        launcher: runs it.
        book: keeps it.
        listener: shows it.
        retries: how often, over all calls, a failed or timed-out cell is tried again.
        state_dir: `mlruns`; the plan's list of cells is kept there.
        gate: looks for reasons to doubt a run before it starts, or None.
    """

    def __init__(
        self,
        plan: Plan,
        launcher: Launcher,
        book: Recorder,
        listener: Listener,
        *,
        retries: int,
        state_dir: Path,
        gate: InterferenceCheck | None = None,
    ) -> None:
        self.plan = plan
        self.launcher = launcher
        self.book = book
        self.listener = listener
        self.retries = retries
        self._state_dir = state_dir
        self._gate = gate
        self._running = 0
        self._threads = 0
        self._lock = threading.Lock()
        self._freed = threading.Condition(self._lock)
        self._placer = cast(ChoosesNext, launcher) if hasattr(launcher, "choose") else None
        self._lost: dict[str, int] = {}
        self._queue: deque[PlannedRun] = deque()
        self._elsewhere: list[PlannedRun] = []
        self._outcomes: dict[str, str] = {}
        self._values: dict[str, dict[str, float]] = {}
        self._fresh = False
        self._warned: set[int] = set()
        self._stop = threading.Event()
        self.broken: str | None = None

    def resume(self, name: str, tags: dict[str, str], *, fresh: bool, alone: bool = False) -> None:
        """Finds what is finished, closes what died, and opens the parent run.

        Args:
            name: of the parent run, if a new one is made.
            tags: of the parent run.
            fresh: start a new parent and run everything.
            alone: a parent of its own (a single run), never shared with a grid.
        """
        tags = {
            **tags,
            "ablate.command": "run" if alone else "grid",
            "ablate.cells": str(len(self.plan.cells)),
        }
        attempts = self.book.join(name, tags, new=fresh or alone)
        self._fresh = fresh
        key, total = self.book.parent, len(self.plan.runs)
        tried = _by_digest(a for a in attempts if self.book.under_parent(a))
        for run in self.plan.runs:
            self._sort(run, tried.get(run.spec.digest, []))
        self._write_plan(key)
        self.listener.begin(total, total - len(self._queue))

    def _sort(self, run: PlannedRun, tries: list[Attempt]) -> None:
        """Queues a cell, or takes its outcome over from an earlier call."""
        outcomes = [attempt.outcome for attempt in tries]
        for final in ("finished", "oom"):
            if final in outcomes:
                self._outcomes[run.spec.digest] = final
                return
        failures = [outcome for outcome in outcomes if outcome in ("failed", "timeout")]
        if len(failures) > self.retries:
            self._outcomes[run.spec.digest] = failures[-1]
            return
        self._queue.append(run)

    def _write_plan(self, key: str) -> None:
        """The list of cells, so that `ablate status` knows what is pending."""
        folder = self._state_dir / "plans"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{key}.json"
        cells = [{"digest": run.spec.digest, "name": run.spec.name, "block": run.block} for run in self.plan.cells]
        content = {"study": self.plan.study.name, "techniques": list(self.plan.study.techniques), "cells": cells}
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({**content, "alias": list(self.plan.alias)}))
        temporary.replace(path)
        self.book.parent_artifact(path, "plan")

    def run(self) -> GridOutcome:
        """Runs what is queued; returns when nothing is left, here or with another controller."""
        self._threads = self.launcher.jobs
        threads = [threading.Thread(target=self._work, name=f"run-{n}", daemon=True) for n in range(self._threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # a join without time-out would keep signals waiting
                thread.join(0.2)
        return self._tally()

    def stop(self) -> None:
        """Ends the grid: running cells are cancelled and closed as interrupted."""
        self._stop.set()
        self.launcher.cancel()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def _work(self) -> None:
        try:
            opened: OpenRun | None = None
            while opened is not None or not self._stop.is_set():
                if opened is None:
                    run = self._next()
                    if run is None:
                        return
                    opened = self._claimed(run)
                if opened is not None:
                    opened = self._follow(opened)
                    if opened is None and self._surplus():
                        return
        except OSError as error:  # the journal refuses: without it nothing more may be run
            self.broken = f"journal: {error.strerror or error}"
            self.stop()
        except AblateError as error:  # the launcher cannot go on
            self.broken = str(error)
            self.stop()
        except Exception as error:
            self.broken = f"{type(error).__name__}: {error}"
            self.stop()
            raise

    def _surplus(self) -> bool:
        """Whether there are more threads than places, since a device was lost: the one that asks is to end."""
        with self._lock:
            surplus = self._threads > self.launcher.jobs
            self._threads -= surplus
            return surplus

    def _claimed(self, run: PlannedRun) -> OpenRun | None:
        """Claims a cell; None, and it is kept in mind, when another controller has it."""
        opened = self.book.claim(self._looked_at(run), self.plan, self.launcher.work_dir(run.spec))
        if opened is None:
            with self._lock:
                self._elsewhere.append(run)
            if self._placer is not None:
                self._placer.release(run)
        elif self._fresh:  # a checkpoint of an earlier grid's try would save the work that is asked for
            (opened.work_dir / "checkpoint.pt").unlink(missing_ok=True)
        return opened

    def _claimed_ahead(self, run: PlannedRun) -> OpenRun | None:
        """Claims the next cell while `run`, which has been trained, is tested.

        Not across blocks, before each of which the machine is watched while nothing runs.
        """
        if not isinstance(self.launcher, PreparesNext) or self._placer is not None or self._stop.is_set():
            return None
        with self._lock:
            if not self._queue or self._queue[0].block != run.block:
                return None
            following = self._queue.popleft()
        return self._claimed(following)

    def _prepare(self, following: OpenRun, run: PlannedRun) -> None:
        """Has the next cell's worker set up while `run`, of which all is measured, still ends."""
        if isinstance(self.launcher, PreparesNext):
            with suppress(OSError):  # no room for another process: it is started when its turn comes
                self.launcher.prepare(following.run.spec, run.spec)

    def _looked_at(self, run: PlannedRun) -> PlannedRun:
        """The run with the reasons to doubt it, if the machine is not quiet."""
        if self._gate is None:
            return run
        with self._lock:
            reasons = self._gate.look(run.block, alone=self._running == 0)
        if reasons and run.block not in self._warned:
            self._warned.add(run.block)
            self.listener.note(f"block {run.block} is tainted: {'; '.join(reasons)}")
        return replace(run, tainted="; ".join(reasons))

    def extend(self, more: Plan) -> None:
        """Adds the runs of a further block (or of a rerun), behind those there are."""
        first = len(self.plan.runs)
        runs = [replace(run, position=first + index) for index, run in enumerate(more.runs)]
        tried = _by_digest(a for a in self.book.attempts() if self.book.under_parent(a))
        self.plan = replace(self.plan, runs=(*self.plan.runs, *runs))
        done = len(self._outcomes)
        for run in runs:
            self._sort(run, tried.get(run.spec.digest, []))
        self._write_plan(self.book.parent)
        self.listener.begin(len(self.plan.runs), done)

    def _next(self) -> PlannedRun | None:
        """The next cell: first unclaimed ones, then those that another controller has taken and may drop."""
        while not self._stop.is_set():
            with self._lock:
                if self._queue:
                    run = self._placed()
                    if run is None:
                        self._freed.wait(1.0)
                        continue
                    return run
                if not self._elsewhere:
                    return None
            began = time.monotonic()
            self._look_elsewhere()
            with self._lock:
                if not self._queue and not self._elsewhere:
                    return None
            # a look reads the whole study: on a large one it must not be all that the store does
            self._stop.wait(max(1.0, 5 * (time.monotonic() - began)))
        return None

    def _placed(self) -> PlannedRun | None:
        """Takes the first queued run that has a place; None when all have to wait. Called under the lock."""
        if self._placer is None:
            return self._queue.popleft()
        index = self._placer.choose(self._queue)
        if index is None:
            return None
        run = self._queue[index]
        del self._queue[index]
        return run

    def _look_elsewhere(self) -> None:
        """Takes outcomes of other controllers over, and queues the cells of those that died."""
        attempts = self.book.attempts()
        self.book.close_dead(attempts)
        by_digest = _by_digest(attempts)
        with self._lock:
            waiting, self._elsewhere = self._elsewhere, []
        for run in waiting:
            tries = by_digest.get(run.spec.digest, [])
            final = [a.outcome for a in tries if a.outcome in ("finished", "oom")]
            with self._lock:
                if final:
                    self._outcomes[run.spec.digest] = final[0]
                elif any(self.book.living(a) for a in tries):
                    self._elsewhere.append(run)
                else:
                    self._sort(run, tries)

    def _follow(self, opened: OpenRun) -> OpenRun | None:
        """Takes a claimed cell to its end; returns the cell that was prepared meanwhile, if one was."""
        run = opened.run
        following: OpenRun | None = None
        with self._lock:
            self._running += 1
        self.listener.started(run)
        end = End(time=time.time(), outcome="failed", error="the launcher ended without a last record")
        for record in self.launcher.launch(run.spec):
            if isinstance(record, End):
                end = record
                continue
            if isinstance(record, Progress | Metrics):
                self.listener.progress(run, record)
            self.book.record(opened, record)
            if isinstance(record, Phase) and record.name == "evaluate":
                following = self._claimed_ahead(run)
            elif isinstance(record, Phase) and record.name == "done" and following is not None:
                self._prepare(following, run)
        self.book.close(opened, end)
        with self._lock:
            self._running -= 1
            self._freed.notify()
            again = self._again(run, end)
            if not again:
                self._outcomes[run.spec.digest] = end.outcome
                self._values[run.spec.digest] = opened.values
        self.listener.ended(run, end, opened.values)
        if again and self.launcher.jobs == 0:
            self.broken = self.broken or end.error or "no device is left"
            self.stop()
        return following

    def _again(self, run: PlannedRun, end: End) -> bool:
        """Queues a cell again whose machine was lost: nobody has asked for an interruption. Called under the lock."""
        asked = self._stop.is_set() and self.broken is None  # two devices may go at once: the first one ends the grid
        if end.outcome != "interrupted" or asked:
            return False
        lost = self._lost[run.spec.digest] = self._lost.get(run.spec.digest, 0) + 1
        if lost >= LOST_TRIES:
            return False
        self._queue.appendleft(run)
        return True

    def _tally(self) -> GridOutcome:
        tally = GridOutcome(
            cells=len(self.plan.runs), interrupted=self._stop.is_set() and self.broken is None, broken=self.broken
        )
        for run in self.plan.runs:
            outcome = self._outcomes.get(run.spec.digest, "interrupted" if tally.interrupted else "pending")
            tally.outcomes[outcome] = tally.outcomes.get(outcome, 0) + 1
        return tally

    def close(self, tally: GridOutcome, results_of: Callable[[], list[summary.CellResult]], seconds: float) -> None:
        """Puts tables and aggregates on the parent run, closes it, and delivers everything."""
        found = summary.tables(results_of())
        values = {f"cells/{outcome}": float(count) for outcome, count in tally.outcomes.items()}
        values |= {"cells/total": float(tally.cells), "grid/wall_seconds": seconds, **summary.aggregates(found)}
        outcome: Outcome = "interrupted" if tally.interrupted else "finished" if tally.complete else "failed"
        try:
            self.book.parent_values(values, {"mlflow.note.content": summary.summary_markdown(found)})
            self.book.close_parent(outcome)
        except OSError as error:  # the disk is full, or gone
            tally.broken = tally.broken or f"journal: {error.strerror or error}"
            tally.delivered = False
            self.book.abandon()
        else:
            tally.delivered = self.book.finish(DELIVERY_PATIENCE)

    def results(self) -> list[summary.CellResult]:
        """All cells' values: the store's for earlier calls and other controllers, this call's own on top."""
        values, found = self.values(), []
        for run in self.plan.cells:
            spec, outcome = run.spec, self._outcomes.get(run.spec.digest, "pending")
            found.append(summary.CellResult(spec.model, spec.dataset, spec.label, outcome, values.get(spec.digest, {})))
        return found

    def values(self) -> dict[str, dict[str, float]]:
        """Metrics by the digest of the cell: the store's for earlier calls and others, this call's own on top."""
        return self._stored() | {digest: values for digest, values in self._values.items() if values}

    def _stored(self) -> dict[str, dict[str, float]]:
        missing = [d for d, outcome in self._outcomes.items() if outcome == "finished" and d not in self._values]
        if not missing:
            return {}
        try:
            return self.book.tracker.values_by_digest()
        except Exception:  # the store is away: the table shows what this call knows
            return {}


def _by_digest(attempts: Iterator[Attempt] | list[Attempt]) -> dict[str, list[Attempt]]:
    found: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        found.setdefault(attempt.digest, []).append(attempt)
    return found
