"""The search: ask -> launch -> tell, with as many trials at once as the launcher has slots."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass

import optuna

from pipeline.design.names import DIGEST_TAG
from pipeline.design.plan import Plan, PlannedRun
from pipeline.design.records import End, Metrics, Progress
from pipeline.design.spec import Probe, RunSpec
from pipeline.execution.interference import MachineWatch
from pipeline.execution.launcher import Launcher
from pipeline.execution.listener import Listener
from pipeline.execution.pool import RunPool
from pipeline.execution.threads import LongWait
from pipeline.tracking.recorder import OpenRun, Recorder
from pipeline.tuning.objective import Objective, constraints
from pipeline.tuning.space import Config
from pipeline.tuning.trials import SharedStudy

BEAT_SECONDS = 10.0  # between signs of life in the shared study
POLL_SECONDS = 1.0  # between looks at other processes' trials


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
    shared: SharedStudy,
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
        shared: the study that all processes of a search share.
        config: the configuration.
        seed: of the run.
        number: of the trial; None for a configuration without one.
        phase: `search` or `confirm`.
        block: of the confirmation; 0 in the search.
        position: of the run in its phase, from 0.
    """
    setting = shared.space.setting(config)
    update = {"recipe": shared.space.recipe_of(config), "techniques": setting, "seed": seed, "probe": task.probe}
    spec = task.spec.model_copy(update=update)
    tags = {"tune.phase": phase, "tune.config": config.label, "tune.study": shared.study.study_name}
    if number is not None:
        tags["tune.trial"] = str(number)
    title = f"{spec.model}/{spec.dataset}/{config.label}/s{seed}"
    return PlannedRun(spec, block, position, title=title, tags=tuple(tags.items()))


class Search:
    """One process's part of a search.

    Args:
        task: what is measured.
        shared: the shared study.
        launcher: runs trials.
        recorder: keeps them.
        listener: shows them.
        deadline: `time.monotonic()` after which no trial is started, in s; None for none.
        watch: looks for reasons to doubt a trial while it is trained; None where the machine that trains it looks.
    """

    def __init__(
        self,
        task: TrialTemplate,
        shared: SharedStudy,
        launcher: Launcher,
        recorder: Recorder,
        listener: Listener,
        *,
        deadline: float | None = None,
        watch: MachineWatch | None = None,
    ) -> None:
        self._task = task
        self._shared = shared
        self._launcher = launcher
        self._recorder = recorder
        self._listener = listener
        self._deadline = deadline
        self._watch = watch
        self._pool = RunPool(launcher)
        self._over = threading.Event()
        self._others = LongWait(listener.note, "trials of other processes")

    def stop(self) -> None:
        """Cancels running trials; their configurations go back into the queue."""
        self._pool.stop()

    @property
    def broken(self) -> str | None:
        """Why the search ended before it was done, in one line; None while nothing is wrong."""
        return self._pool.broken

    @property
    def late(self) -> bool:
        """Whether the time for the search is over."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def run(self) -> None:
        """Runs trials until the study has enough; waits for those of other processes, and takes over dead ones."""
        self._shared.start()
        done = len(self._shared.findings())
        self._listener.begin(min(self._shared.budget, len(self._shared.space.configs)), done)
        heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        heart.start()
        self._pool.run(self._work, "trial")
        self._over.set()
        heart.join(5.0)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):  # the next beat may get through; without any, others take over
                self._shared.beat()

    def _work(self) -> None:
        while not (self._pool.stopped or self.late):
            if self._shared.reap():
                self._recorder.replay_abandoned()
                self._recorder.close_orphans(self._recorder.attempts())
            trial = self._shared.ask()
            if trial is not None:
                self._others.is_over()
                self._trial(trial)
                if self._pool.surplus():
                    if self._launcher.jobs == 0 and not self._pool.stopped:
                        self._pool.give_up("no device is left")
                    return
            elif not self._shared.open_trials():
                return
            else:  # of this process's other threads, or of other processes, which may die
                if self._pool.idle:
                    self._others.goes_on()
                self._pool.pause(POLL_SECONDS)

    def _trial(self, trial: optuna.Trial) -> None:
        run = planned(
            self._task,
            self._shared,
            self._shared.config_of(trial),
            seed=self._task.spec.seed,
            number=trial.number,
            phase="search",
            block=0,
            position=trial.number,
        )
        opened = self._recorder.open(run, self._task.plan, self._launcher.work_dir(run.spec))
        trial.set_user_attr(DIGEST_TAG, run.spec.digest)  # a trial that names its run has one, whoever dies now
        with self._pool.running():
            end, pruned = self._run_opened(opened, trial)
        outcome = "pruned" if pruned else end.outcome
        self._recorder.close(opened, end, {"tune.outcome": outcome})
        self._listener.ended(run, end, opened.values)
        self._tell(trial, end, pruned, opened.values)

    def _run_opened(self, opened: OpenRun, trial: optuna.Trial) -> tuple[End, bool]:
        """Follows a run to its end, or stops it where the pruner says so."""
        run = opened.run
        self._listener.started(run)
        end = End(time=time.time(), outcome="failed", error="the launcher ended without a last record")
        launched = self._launcher.launch(run.spec)
        records = launched if self._watch is None else self._watch.watched(launched)
        for record in records:
            if isinstance(record, End):
                end = record
                continue
            if isinstance(record, Progress | Metrics):
                self._listener.progress(run, record)
            self._recorder.record(opened, record)
            if isinstance(record, Metrics) and record.step is not None and self._hopeless(trial, record):
                records.close()  # ends the run
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
            self._shared.tell_unmeasured(trial, "pruned", limits, values, too_large=too_large)
        elif end.outcome == "oom":
            self._shared.tell_unmeasured(trial, "oom", limits, values, too_large=True)
        elif end.outcome != "finished":
            again = self._shared.tell_failed(trial, end.outcome, end.error)
            if not again:
                self._listener.note(f"trial {trial.number} has failed too often: {end.error}")
        else:
            found = task.objective.values(values)
            if found is not None:
                self._shared.tell_measured(trial, found, limits, values, too_large=too_large)
            elif limits.get("target", 0.0) > 0:
                self._shared.tell_unmeasured(trial, "finished", limits, values, too_large=too_large)
            else:
                self._shared.tell_failed(trial, "failed", "a metric of the objective is missing")
