"""The search: ask -> launch -> tell, with as many trials at once as the launcher has places."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import optuna

from pipeline.design.plan import Plan, PlannedRun
from pipeline.design.records import End, Metrics, Progress
from pipeline.design.spec import Probe, RunSpec
from pipeline.execution.interference import InterferenceCheck
from pipeline.execution.launcher import Launcher
from pipeline.execution.listener import Listener
from pipeline.tracking.recorder import OpenRun, Recorder
from pipeline.tuning.objective import Objective, constraints
from pipeline.tuning.space import Config
from pipeline.tuning.trials import SharedStudy

BEAT_SECONDS = 10.0
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class TrialTemplate:
    """What every trial of a tuning has in common.

    Attributes:
        spec: the baseline's run; configurations replace its recipe and techniques.
        probe: how a trial is measured.
        objective: what for.
        memory_limit: in MiB, or None.
        plan: study and device, for the rows in the tracking store.
    """

    spec: RunSpec
    probe: Probe
    objective: Objective
    memory_limit: float | None
    plan: Plan


def planned(
    task: TrialTemplate,
    ledger: SharedStudy,
    config: Config,
    *,
    seed: int,
    number: int | None,
    phase: str,
    block: int,
    position: int,
) -> PlannedRun:
    """The run that measures a configuration.

    Args:
        task: what is tuned.
        ledger: of the study.
        config: the configuration.
        seed: of the run.
        number: of the trial; None for a configuration without one.
        phase: `search` or `confirm`.
        block, position: its place.
    """
    setting = ledger.space.setting(config)
    update = {"recipe": ledger.space.recipe_of(config), "techniques": setting, "seed": seed, "probe": task.probe}
    spec = task.spec.model_copy(update=update)
    tags = {"tune.phase": phase, "tune.config": config.label, "tune.study": ledger.study.study_name}
    if number is not None:
        tags["tune.trial"] = str(number)
    title = f"{spec.model}/{spec.dataset}/{config.label}/s{seed}"
    return PlannedRun(spec, block, position, title=title, tags=tuple(tags.items()))


class Search:
    """One process's part of a search.

    Args:
        task: what is measured.
        ledger: the shared study.
        launcher: runs trials.
        book: keeps them.
        listener: shows them.
        deadline: `time.monotonic()` after which no trial is started; None for none.
        gate: looks for reasons to doubt a trial, or None.
    """

    def __init__(
        self,
        task: TrialTemplate,
        ledger: SharedStudy,
        launcher: Launcher,
        book: Recorder,
        listener: Listener,
        *,
        deadline: float | None = None,
        gate: InterferenceCheck | None = None,
    ) -> None:
        self._task = task
        self._ledger = ledger
        self._launcher = launcher
        self._book = book
        self._listener = listener
        self._deadline = deadline
        self._gate = gate
        self._stop = threading.Event()
        self._over = threading.Event()
        self._running = self._threads = 0
        self._lock = threading.Lock()
        self.broken: str | None = None

    def stop(self) -> None:
        """Cancels running trials; their configurations go back into the queue."""
        self._stop.set()
        self._launcher.cancel()

    @property
    def late(self) -> bool:
        """Whether the time for the search is over."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def run(self) -> None:
        """Runs trials until the study has enough; waits for those of other processes, and takes over dead ones."""
        self._ledger.start()
        done = len(self._ledger.findings())
        self._listener.begin(min(self._ledger.budget, len(self._ledger.space.configs)), done)
        heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        heart.start()
        self._threads = self._launcher.jobs
        names = [f"trial-{number}" for number in range(self._threads)]
        threads = [threading.Thread(target=self._guarded, name=name, daemon=True) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # a join without time-out would keep signals waiting
                thread.join(0.2)
        self._over.set()
        heart.join(5.0)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):  # the next beat may get through; without any, others take over
                self._ledger.beat()

    def _guarded(self) -> None:
        try:
            self._work()
        except OSError as error:  # the journal refuses: without it nothing more may be run
            self.broken = f"journal: {error.strerror or error}"
            self.stop()
        except Exception as error:
            self.broken = f"{type(error).__name__}: {error}"
            self.stop()
            raise

    def _work(self) -> None:
        while not (self._stop.is_set() or self.late):
            if self._ledger.reap():
                self._book.take_over()
                self._book.close_dead(self._book.attempts())
            trial = self._ledger.ask()
            if trial is not None:
                self._trial(trial)
                if self._surplus():
                    return
            elif not self._ledger.open_trials():
                return
            else:  # of this process's other threads, or of other processes, which may die
                self._stop.wait(POLL_SECONDS)

    def _surplus(self) -> bool:
        """Whether there are more threads than places, since a device was lost: the one that asks is to end."""
        with self._lock:
            surplus = self._threads > self._launcher.jobs
            self._threads -= surplus
        if surplus and self._launcher.jobs == 0 and not self._stop.is_set():
            self.broken = "no device is left"
            self.stop()
        return surplus

    def _trial(self, trial: optuna.Trial) -> None:
        run = planned(
            self._task,
            self._ledger,
            self._ledger.config_of(trial),
            seed=self._task.spec.seed,
            number=trial.number,
            phase="search",
            block=0,
            position=trial.number,
        )
        run = self._looked_at(run)
        opened = self._book.open(run, self._task.plan, self._launcher.work_dir(run.spec))
        trial.set_user_attr("ablate.digest", run.spec.digest)  # a trial that names its run has one, whoever dies now
        with self._lock:
            self._running += 1
        try:
            end, pruned = self._follow(opened, trial)
        finally:
            with self._lock:
                self._running -= 1
        outcome = "pruned" if pruned else end.outcome
        self._book.close(opened, end, {"tune.outcome": outcome})
        self._listener.ended(run, end, opened.values)
        self._tell(trial, end, pruned, opened.values)

    def _looked_at(self, run: PlannedRun) -> PlannedRun:
        if self._gate is None:
            return run
        with self._lock:
            reasons = self._gate.look(run.block, alone=self._running == 0)
        return replace(run, tainted="; ".join(reasons))

    def _follow(self, opened: OpenRun, trial: optuna.Trial) -> tuple[End, bool]:
        """Follows a run to its end, or stops it where the pruner says so."""
        run = opened.run
        self._listener.started(run)
        end = End(time=time.time(), outcome="failed", error="the launcher ended without a last record")
        records = self._launcher.launch(run.spec)
        for record in records:
            if isinstance(record, End):
                end = record
                continue
            if isinstance(record, Progress | Metrics):
                self._listener.progress(run, record)
            self._book.record(opened, record)
            if isinstance(record, Metrics) and record.step is not None and self._hopeless(trial, record):
                _close(records)  # ends the process
                error = f"pruned after epoch {record.step}"
                return End(time=time.time(), outcome="interrupted", error=error), True
        return end, False

    def _hopeless(self, trial: optuna.Trial, record: Metrics) -> bool:
        objective = self._task.objective
        value = objective.responses[0].value(record.values)
        if not objective.prunes or value is None or record.step is None:
            return False
        trial.report(value, record.step)
        return bool(trial.should_prune())

    def _tell(self, trial: optuna.Trial, end: End, pruned: bool, values: dict[str, float]) -> None:
        task = self._task
        limits = constraints(values, end, task.probe, task.memory_limit)
        too_large = limits["memory"] > 0
        if pruned:
            self._ledger.tell_unmeasured(trial, "pruned", limits, values, too_large=too_large)
        elif end.outcome == "oom":
            self._ledger.tell_unmeasured(trial, "oom", limits, values, too_large=True)
        elif end.outcome != "finished":
            again = self._ledger.tell_failed(trial, end.outcome, end.error)
            if not again:
                self._listener.note(f"trial {trial.number} has failed too often: {end.error}")
        else:
            found = task.objective.values(values)
            if found is not None:
                self._ledger.tell_measured(trial, found, limits, values, too_large=too_large)
            elif limits.get("target", 0.0) > 0:
                self._ledger.tell_unmeasured(trial, "finished", limits, values, too_large=too_large)
            else:
                self._ledger.tell_failed(trial, "failed", "a metric of the objective is missing")


def _close(records: Iterator[Any]) -> None:
    close: Callable[[], None] | None = getattr(records, "close", None)
    if close is not None:
        close()
