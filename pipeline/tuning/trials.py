"""An Optuna study that several processes share: who measures which configuration, and what came out.

A trial belongs to the process that asked for it, which writes its name and a heartbeat into the trial. A trial whose
process is dead is told to have failed, and its configuration is queued again. No configuration is measured twice and
none is lost: of two trials with the same configuration the later one gives way.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from pipeline.design.names import (
    ERROR_TAG,
    FINAL_ATTRIBUTE,
    HEARTBEAT_ATTRIBUTE,
    OUTCOME_TAG,
    OWNER_TAG,
    RETRIES_ATTRIBUTE,
    TOO_LARGE_ATTRIBUTE,
    VALUES_ATTRIBUTE,
    WITHDRAWN_ATTRIBUTE,
)
from pipeline.locks import exclusive
from pipeline.tracking.liveness import Liveness, owner
from pipeline.tuning.heartbeats import beat_now, newest_beats
from pipeline.tuning.reading import legible, trials_of
from pipeline.tuning.sampler import DistinctSampler, distributions
from pipeline.tuning.space import Config, Space

NAMELESS_SECONDS = 30.0  # a trial gets its owner's name within milliseconds; without one its process has died
CHOOSING_SECONDS = 5.0  # within which a living process writes its trial's parameters behind its number
TRIALS_LOCK_PATIENCE = 120.0


class SharedStudy:
    """One process's view of a study.

    Args:
        study: of Optuna.
        space: its configurations.
        budget: trials of the whole study, over all processes and calls.
        retries: how often a failed or timed-out configuration is measured again.
        seed: of the sampler.
        lock: a file that processes of this host lock while they ask.
    """

    def __init__(self, study: optuna.Study, space: Space, *, budget: int, retries: int, seed: int, lock: Path) -> None:
        self.study = study
        self.space = space
        self.budget = budget
        self.owner = owner()
        self._retries = retries
        self._lock = lock
        self._liveness = Liveness()
        self._nameless: dict[int, float] = {}
        self._mine: set[int] = set()
        self._distributions: dict[str, BaseDistribution] = distributions(space)
        self.sampler = DistinctSampler(space, budget, seed, self._claimed, self._too_large, self._best)
        study.sampler = self.sampler

    # -- asking --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Queues the baseline as the first trial of an empty study, where it is in the space."""
        with exclusive(self._lock, TRIALS_LOCK_PATIENCE):
            if self.space.baseline in self.space.configs and not self._trials():
                self.study.enqueue_trial(dict(self.space.baseline.params))

    def ask(self) -> optuna.Trial | None:
        """The next trial of this process; None when the study has as many as it may, or no configuration is left."""
        with exclusive(self._lock, TRIALS_LOCK_PATIENCE):
            for _ in range(20):  # a withdrawn trial makes room at once; others may be asking from other hosts
                waiting = self._trials(TrialState.WAITING)
                if not waiting and (len(self._counted()) >= self.budget or not self.sampler.free()):
                    return None
                trial = self.study.ask(self._distributions)
                trial.set_user_attr(OWNER_TAG, self.owner)
                trial.set_user_attr(HEARTBEAT_ATTRIBUTE, beat_now())
                if self._is_mine(trial):
                    self._mine.add(trial.number)
                    return trial
                trial.set_user_attr(WITHDRAWN_ATTRIBUTE, True)
                self.study.tell(trial, state=TrialState.FAIL)
        return None

    def _is_mine(self, trial: optuna.Trial) -> bool:
        """Whether no earlier trial has this configuration, nor the study enough trials without it.

        Every process writes its trial before it reads the others', so of two that ask at the same time at least
        the later one sees the other. Number and parameters are written one after the other: an earlier trial that
        has a number alone may become any configuration, and is waited for unless its process has died of it.
        """
        config = self.space.config(trial.params)
        patience = time.monotonic() + CHOOSING_SECONDS
        while True:
            earlier = [t for t in self._counted() if t.number < trial.number]
            choosing = any(t.state == TrialState.RUNNING and self._config(t) is None for t in earlier)
            if not choosing or time.monotonic() > patience:
                break
            time.sleep(0.05)
        return config not in {self._config(t) for t in earlier} and len(earlier) < self.budget

    def config_of(self, trial: optuna.Trial) -> Config:
        """The configuration of a trial."""
        return self.space.config(trial.params)

    # -- telling -------------------------------------------------------------------------------------------------

    def tell_measured(
        self,
        trial: optuna.Trial,
        objectives: Sequence[float],
        constraints: Mapping[str, float],
        values: Any,
        *,
        too_large: bool = False,
    ) -> None:
        """Keeps a measurement; a positive constraint makes it infeasible."""
        if too_large:
            trial.set_user_attr(TOO_LARGE_ATTRIBUTE, True)
        self._keep(trial, "finished", constraints, values)
        self._tell(trial, objectives, TrialState.COMPLETE)

    def tell_unmeasured(
        self, trial: optuna.Trial, outcome: str, constraints: Mapping[str, float], values: Any, *, too_large: bool
    ) -> None:
        """Keeps that there is no value: out of memory, target not reached, or pruned."""
        if too_large:
            trial.set_user_attr(TOO_LARGE_ATTRIBUTE, True)
        self._keep(trial, outcome, constraints, values)
        self._tell(trial, None, TrialState.PRUNED)

    def tell_failed(self, trial: optuna.Trial, outcome: str, error: str | None) -> bool:
        """Keeps a failure, and queues the configuration again unless it has failed too often.

        Returns:
            Whether it will be tried again.
        """
        with exclusive(self._lock, TRIALS_LOCK_PATIENCE):
            trial.set_user_attr(OUTCOME_TAG, outcome)
            if error:
                trial.set_user_attr(ERROR_TAG, error[:500])
            frozen = self.study.trials[trial.number]
            counts = outcome != "interrupted"  # an interruption is nobody's fault
            return self._fail(frozen, counts=counts)

    def _keep(self, trial: optuna.Trial, outcome: str, constraints: Mapping[str, float], values: Any) -> None:
        trial.set_user_attr(OUTCOME_TAG, outcome)
        trial.set_user_attr(VALUES_ATTRIBUTE, dict(values))
        for name, value in constraints.items():
            trial.set_constraint(name, value)

    def _tell(self, trial: optuna.Trial, values: Sequence[float] | None, state: TrialState) -> None:
        self.study.tell(trial.number, values, state=state, skip_if_finished=True)
        self._mine.discard(trial.number)

    def _fail(self, trial: FrozenTrial, *, counts: bool) -> bool:
        """Fails a trial and queues its configuration, in this order.

        Whoever is killed in between leaves a trial that `reap` finds unsettled.
        """
        retries = int(trial.user_attrs.get(RETRIES_ATTRIBUTE, 0)) + counts
        again = retries <= self._retries
        if not again:
            self._set(trial, FINAL_ATTRIBUTE, True)
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        self._mine.discard(trial.number)
        if again:
            self._queue_again(trial, retries)
        return again

    def _queue_again(self, trial: FrozenTrial, retries: int) -> None:
        config = self._config(trial)
        if config is not None and config not in self._claimed():
            self.study.enqueue_trial(dict(config.params), user_attrs={RETRIES_ATTRIBUTE: retries})

    # -- the living and the dead -----------------------------------------------------------------------------------

    def beat(self) -> None:
        """Shows that this process lives, in each of its running trials."""
        for trial in self._trials(TrialState.RUNNING):
            if trial.number in self._mine:
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                    self._set(trial, HEARTBEAT_ATTRIBUTE, beat_now())

    def reap(self) -> int:
        """Fails running trials of dead processes and queues them again; returns how many.

        Also queues configurations whose trial failed in a process that died before it could do so.
        """
        with exclusive(self._lock, TRIALS_LOCK_PATIENCE) as got:
            if not got:
                return 0
            running = self._trials(TrialState.RUNNING)
            self._liveness.observe(newest_beats(running))
            dead = [trial for trial in running if self._dead(trial)]
            for trial in dead:
                self._set(trial, OUTCOME_TAG, "interrupted")
                self._fail(trial, counts=False)
            for trial in self._unsettled():
                self._queue_again(trial, int(trial.user_attrs.get(RETRIES_ATTRIBUTE, 0)))
            return len(dead)

    def _dead(self, trial: FrozenTrial) -> bool:
        name = trial.user_attrs.get(OWNER_TAG)
        if name == self.owner:
            return False
        if name is not None:
            return not self._liveness.is_alive(str(name))
        since = self._nameless.setdefault(trial.number, time.monotonic())
        return time.monotonic() - since > NAMELESS_SECONDS

    def _unsettled(self) -> list[FrozenTrial]:
        """Failed trials whose configuration nobody has taken up, one for each configuration."""
        claimed, found = self._claimed(), {}
        for trial in self._trials(TrialState.FAIL):
            config = self._config(trial)
            if config is not None and config not in claimed and not trial.user_attrs.get(WITHDRAWN_ATTRIBUTE):
                found[config] = trial
        return list(found.values())

    def open_trials(self) -> int:
        """Trials that somebody runs or that wait to be run."""
        return len(self._trials(TrialState.RUNNING, TrialState.WAITING))

    # -- what is known ---------------------------------------------------------------------------------------------

    def findings(self) -> list[TrialResult]:
        """Everything that has been measured or has finally failed, in the order of the trials."""
        found = []
        for trial in self._trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL):
            config = self._config(trial)
            if config is None or (trial.state == TrialState.FAIL and not trial.user_attrs.get(FINAL_ATTRIBUTE)):
                continue
            with legible(self.study):
                complete = trial.state == TrialState.COMPLETE
                feasible = all(value <= 0 for value in trial.constraints.values())
                outcome = str(trial.user_attrs.get(OUTCOME_TAG, "failed"))
                values = dict(trial.user_attrs.get(VALUES_ATTRIBUTE, {}))
                objectives = tuple(trial.values) if complete else None
                found.append(TrialResult(trial.number, config, outcome, feasible, objectives, values))
        return found

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return trials_of(self.study, *states)

    def _counted(self) -> list[FrozenTrial]:
        """Trials that use the budget up: all but withdrawn ones and failures that were or will be tried again."""
        return [t for t in self._trials() if t.state != TrialState.FAIL or t.user_attrs.get(FINAL_ATTRIBUTE)]

    def _config(self, trial: FrozenTrial) -> Config | None:
        """A trial's configuration; a waiting one has it in its queue entry. None: it died before it had one."""
        with legible(self.study):
            params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            return self.space.config(params) if params.keys() >= self._distributions.keys() else None

    def _claimed(self) -> set[Config]:
        return {config for trial in self._counted() if (config := self._config(trial)) is not None}

    def _too_large(self) -> list[Config]:
        marked = [
            t for t in self._trials(TrialState.PRUNED, TrialState.COMPLETE) if t.user_attrs.get(TOO_LARGE_ATTRIBUTE)
        ]
        return [config for trial in marked if (config := self._config(trial)) is not None]

    def _best(self) -> Config | None:
        if len(self.study.directions) > 1:
            return None
        try:
            return self._config(self.study.best_trial)
        except ValueError:  # nothing feasible yet
            return None

    def _set(self, trial: FrozenTrial, name: str, value: Any) -> None:
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.study._storage.set_trial_user_attr(trial._trial_id, name, value)


@dataclass(frozen=True)
class TrialResult:
    """What one trial came to.

    Attributes:
        number: of the trial.
        config: what was measured.
        outcome: of its run (`spec.Outcome`), or `pruned`.
        feasible: whether it met all constraints.
        objectives: the values of the objectives; None without a measurement.
        values: all metrics.
    """

    number: int
    config: Config
    outcome: str
    feasible: bool
    objectives: tuple[float, ...] | None
    values: Mapping[str, float]
