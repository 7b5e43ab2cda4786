"""One call of `ablate speed` with all that it holds open: launcher, store, recorder, and the rounds of each group."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.design.names import (
    CELLS_TAG,
    COMMAND_LINE_TAG,
    COMMAND_TAG,
    FACTORS_TAG,
    KIND_TAG,
    SPEED_ROUNDS,
    SPEED_SECONDS,
    STUDY_TAG,
    TECHNIQUES_TAG,
)
from pipeline.design.options import SpeedOptions
from pipeline.design.plan import Plan
from pipeline.design.records import Outcome
from pipeline.design.spec import content_digest
from pipeline.design.turns import TurnGroup, identity
from pipeline.errors import AblateError, InputError, OutsideError, not_allowed
from pipeline.execution.controller import DELIVERY_PATIENCE
from pipeline.execution.interference import MachineWatch
from pipeline.execution.interrupt import command_line, interruptible
from pipeline.execution.launcher import HasCellsStand
from pipeline.execution.launcher_factory import make_launcher
from pipeline.execution.listener import Listener
from pipeline.execution.pool import RunPool
from pipeline.execution.rounds import Course, Judge, Rates, RoundRules, Rounds
from pipeline.execution.session import distinct
from pipeline.execution.threads import Background, told_if_long
from pipeline.execution.turn_cell import TurnCall
from pipeline.locks import exclusive
from pipeline.paths import STATE_DIR, own_state_dir
from pipeline.shown import redacted
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.round_data import rates_under
from pipeline.tracking.uri import resolve_uri

if TYPE_CHECKING:
    from pipeline.tracking.mlflow_store import MlflowStore
    from pipeline.tracking.recorder import Recorder


@dataclass
class SpeedOutcome:
    """How a call ended.

    Attributes:
        courses: what came of each group, in the order of the groups; fewer where the call ended early.
        interrupted: somebody stopped it.
        delivered: the store has everything; otherwise `ablate sync` has work to do.
        broken: why it could not go on, in one line; None while nothing is wrong.
    """

    courses: dict[str, Course] = field(default_factory=dict)
    interrupted: bool = False
    delivered: bool = True
    broken: str | None = None


class TurnSession:
    """One call.

    Args:
        options: from the command line.
        plan: of the study.
        groups: its cells as they take turns.
        listener: shows what happens.
        judge: says when rounds are enough.
        state_dir: `mlruns`.

    Raises:
        OutsideError: the folder cannot be made.
        InputError: it is not only ours, or the options of launcher or store are not allowed.
    """

    def __init__(
        self,
        options: SpeedOptions,
        plan: Plan,
        groups: Sequence[TurnGroup],
        listener: Listener,
        judge: Judge,
        state_dir: Path = STATE_DIR,
    ) -> None:
        from pipeline.tracking.mlflow_store import MlflowStore

        self.plan = plan
        self.groups = groups
        self.options = options
        self.listener = listener
        self._rules = RoundRules(judge, options.min_rounds, plan.study.order_seed)
        self._state_dir = state_dir
        own_state_dir(state_dir)
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or plan.study.name
        self.store: MlflowStore = MlflowStore(resolve_uri(options.tracking_uri), experiment, state_dir / "artifacts")
        self.identity = identity(groups)
        scope = content_digest([without_credentials(self.store.uri), experiment])
        launcher = make_launcher(
            options, plan.device, state_dir, scope, listener.note, timeout=None, checkpoint_every=0, nproc=1
        )
        if plan.device == "cpu" and options.jobs not in (None, 1):
            raise not_allowed("--jobs", options.jobs, "1 on a CPU: while one cell trains, all others stand still")
        if not isinstance(launcher, HasCellsStand):
            raise not_allowed("--launcher", options.launcher, "local, ray")
        self.launcher = launcher
        self._lock = state_dir / "speed" / f"{content_digest([scope, self.identity])[:16]}.lock"
        self._recorder: Recorder | None = None
        self._pool: RunPool | None = None
        self._watch: MachineWatch | None = None
        self._left = list(groups)
        self._choice = threading.Lock()
        self.began = time.time()

    @property
    def recorder(self) -> Recorder:
        """The recorder, once the call has begun."""
        assert self._recorder is not None
        return self._recorder

    def stop(self) -> None:
        """Ends the call: standing cells are cancelled, and their rows closed as interrupted."""
        if self._pool is not None:
            self._pool.stop()

    def run(self) -> SpeedOutcome:
        """Preflight, what earlier calls have measured, rounds, close.

        Raises:
            InputError, OutsideError: before any cell.
            KeyboardInterrupt: interrupted before the first cell.
        """
        with (
            exclusive(self._lock, 0.0) as got,
            interruptible(self.launcher, self.listener, lambda: self if self._pool else None),
        ):
            if not got:
                raise InputError(
                    f"study {self.plan.study.name}: another process measures the same cells; allowed: to wait for it"
                )
            self._prepare()
            outcome = SpeedOutcome()
            # from here on a signal ends the rounds, and not this thread in the midst of opening rows
            here = self.options.launcher == "local"  # the nodes of a cluster look for themselves
            pool = self._pool = RunPool(self.launcher)
            self._watch = MachineWatch(self.plan.device) if here else None
            before = self._open()
            try:
                self._measure(pool, outcome, before)
            except OSError as error:  # the journal refuses
                outcome.broken = f"journal: {error.strerror or error}"
            except AblateError as error:
                outcome.broken = str(error)
            finally:  # whatever it is: no row stays open
                self._close(outcome)
            return outcome

    def _prepare(self) -> None:
        """Starts the launcher, has it check what will run, and connects to the store."""
        tell = self.listener.preparing
        with told_if_long(tell, "the launcher to start"):
            self.launcher.start()
        imported = Background(self.store.load_library)
        runs = tuple(run for group in self.groups for run in group.runs)
        with told_if_long(tell, "the check of data, models and devices"):
            self.launcher.preflight(distinct(Plan(self.plan.study, self.plan.device, runs)), tell)
        imported.result()
        with told_if_long(tell, f"the tracking store to answer ({redacted(self.store.uri)})"):
            self.store.connect()  # only now: bad input leaves no store behind

    def _open(self) -> Rates:
        """Opens the parent run, or that of the same cells again; returns what has been measured under it."""
        from pipeline.tracking.recorder import Recorder

        recorder = self._recorder = Recorder(self.store, self._state_dir)
        recorder.start()
        study = self.plan.study
        tags = {
            KIND_TAG: "speed",
            COMMAND_TAG: f"speed {self.identity[:12]}",
            COMMAND_LINE_TAG: command_line(),
            STUDY_TAG: study.name,
            TECHNIQUES_TAG: ",".join(study.techniques),
            FACTORS_TAG: self.plan.factors,
            CELLS_TAG: str(sum(len(group.runs) for group in self.groups)),
        }
        known = recorder.parent.join(
            f"speed {study.name}",
            tags,
            new=self.options.fresh,
            fits=lambda parent, _: parent.study in ("", study.name),  # another study's rounds are its own
        )
        if not any(attempt.kind == "turns" and recorder.parent.contains(attempt) for attempt in known):
            return {}
        recorder.outbox.wait(DELIVERY_PATIENCE)
        parent = self.store.run_id(recorder.parent.key)
        return rates_under(self.store, self.store.frame(), parent) if parent else {}

    def _measure(self, pool: RunPool, outcome: SpeedOutcome, before: Rates) -> None:
        limit = self.options.max_seconds
        deadline = None if limit is None else time.monotonic() + limit
        jobs = self.launcher.jobs

        def work() -> None:
            while not pool.stopped:
                with self._choice:
                    if not self._left:
                        return
                    until = None
                    if deadline is not None:  # an equal share of what is left for each of the groups that are left
                        now = time.monotonic()
                        at_once = min(jobs, len(self._left))
                        until = now + max(deadline - now, 0.0) * at_once / len(self._left)
                    group = self._left.pop(0)
                self._group(pool, group, until, outcome, before)

        pool.run(work, "group")
        outcome.interrupted, outcome.broken = pool.interrupted, pool.broken

    def _group(
        self,
        pool: RunPool,
        group: TurnGroup,
        until: float | None,
        outcome: SpeedOutcome,
        before: Rates,
    ) -> None:
        """Measures one group, unless earlier calls have."""
        call = TurnCall(
            plan=self.plan,
            launcher=self.launcher,
            recorder=self.recorder,
            listener=self.listener,
            timeout=self.options.timeout,
            stopped=lambda: pool.stopped,
            watch=self._watch,
        )
        rounds = Rounds(call, group, self._rules, before)
        outcome.courses[group.name] = rounds.course
        if rounds.is_enough():
            return
        try:
            with pool.running(), self.launcher.slot(group.runs[0].spec) as slot:
                rounds.run(slot, until)
        except OutsideError:
            if not pool.stopped:  # where all is ended nothing can be had, or started
                raise

    def _close(self, outcome: SpeedOutcome) -> None:
        complete = len(outcome.courses) == len(self.groups) and all(
            set(course.outcomes.values()) == {"finished"} for course in outcome.courses.values()
        )
        ended: Outcome = "interrupted" if outcome.interrupted else "finished" if complete else "failed"
        fewest = min((course.rounds for course in outcome.courses.values()), default=0)
        values = {SPEED_SECONDS: time.time() - self.began, SPEED_ROUNDS: float(fewest)}
        try:
            self.recorder.parent.log_values(values, {})
            self.recorder.close_parent(ended)
        except OSError as error:  # the disk is full, or gone
            outcome.broken = outcome.broken or f"journal: {error.strerror or error}"
            outcome.delivered = False
            self.recorder.emergency_close()
        else:
            outcome.delivered = self.recorder.drain(DELIVERY_PATIENCE)
            for line in self.recorder.notices():
                self.listener.note(line)
