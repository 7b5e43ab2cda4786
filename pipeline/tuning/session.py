"""One `ablate tune` call with all that it holds open: search, confirmation, conclusions, and where they are kept."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from pipeline.design.names import (
    COMMAND_LINE_TAG,
    COMMAND_TAG,
    KIND_TAG,
    STUDY_TAG,
    TECHNIQUES_TAG,
)
from pipeline.design.options import TuneOptions
from pipeline.design.plan import Plan, PlannedRun
from pipeline.design.records import Outcome as RunOutcome
from pipeline.design.spec import RunSpec, content_digest
from pipeline.errors import AblateError, InputError, OutsideError, first_line
from pipeline.execution import interrupt, launcher_factory
from pipeline.execution.controller import DELIVERY_PATIENCE, Controller
from pipeline.execution.interference import MachineWatch
from pipeline.execution.listener import Listener
from pipeline.execution.threads import Background, LongWait, told_if_long
from pipeline.locks import exclusive
from pipeline.paths import STATE_DIR, own_state_dir
from pipeline.shown import redacted
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.recorder import Recorder
from pipeline.tracking.uri import resolve_uri
from pipeline.tuning import confirmation, plots, study_file
from pipeline.tuning import result as outcome
from pipeline.tuning.heartbeats import working_processes
from pipeline.tuning.publication import noting, publish
from pipeline.tuning.result import TuningResult
from pipeline.tuning.search import Search, TrialTemplate, planned
from pipeline.tuning.setup import Setup
from pipeline.tuning.space import Config
from pipeline.tuning.storage import check_ours, check_same, existing, open_study
from pipeline.tuning.trials import SharedStudy


@dataclass
class CallStatus:
    """How a call ended.

    Attributes:
        outcome: the conclusions; None where it did not come to any.
        document: the same for `--json`.
        problems: a line for each place in which the result could not be kept.
        interrupted: whether it was interrupted.
        broken: what stopped it from outside, in one line.
        delivered: whether the tracking store has everything.
    """

    outcome: TuningResult | None = None
    document: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)
    interrupted: bool = False
    broken: str | None = None
    delivered: bool = True


class Tuning:
    """One call.

    Args:
        options: from the command line.
        setup: what is tuned.
        listener: shows what happens.
        state_dir: `mlruns`.
    """

    def __init__(self, options: TuneOptions, setup: Setup, listener: Listener, state_dir: Path = STATE_DIR) -> None:
        self.options = options
        self.setup = setup
        self.listener = listener
        self._state_dir = state_dir
        self._locks = state_dir / "tuning" / "locks"
        own_state_dir(state_dir)
        try:
            self._locks.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutsideError(f"{self._locks}: cannot be made ({error.strerror})") from None
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or setup.plan.study.name
        self.store = MlflowStore(resolve_uri(options.tracking_uri), experiment, state_dir / "artifacts")
        scope = content_digest([without_credentials(self.store.uri), experiment])
        device = setup.spec.device
        self.launcher = launcher_factory.make_launcher(
            options,
            device,
            state_dir,
            scope,
            listener.note,
            timeout=options.run_timeout,
            checkpoint_every=0,
            nproc=1,
        )
        here = options.launcher == "local"  # the nodes of a cluster look for themselves
        self._watch = MachineWatch(device) if here else None
        self._search: Search | None = None
        self._grid: Controller | None = None
        self._stopped = False
        self._recorder: Recorder | None = None

    @property
    def recorder(self) -> Recorder:
        """The recorder, once the call has begun."""
        assert self._recorder is not None
        return self._recorder

    def stop(self) -> None:
        """Ends the call: running trials are cancelled, their configurations go back into the queue."""
        self._stopped = True
        if self._search is not None:
            self._search.stop()
        if self._grid is not None:
            self._grid.stop()

    def run(self) -> CallStatus:
        """Preflight, search, confirmation, conclusions.

        Raises:
            InputError, OutsideError: before any trial.
            KeyboardInterrupt: interrupted before the first trial.
        """
        began = time.time()
        self._check_known()
        with interrupt.interruptible(self.launcher, self.listener, lambda: self if self._search else None):
            tell = self.listener.preparing
            with told_if_long(tell, f"the {self.options.launcher} launcher to start"):
                self.launcher.start()
            imported = Background(self.store.load_library)
            with told_if_long(tell, "the check of data, models and devices"):
                self.launcher.preflight(self._distinct(), tell)
            imported.result()
            with told_if_long(tell, f"the Optuna storage to answer ({redacted(self.setup.storage)})"):
                shared = self._ledger()
            with told_if_long(tell, f"the tracking store to answer ({redacted(self.store.uri)})"):
                self.store.connect()
            self._recorder = Recorder(self.store, self._state_dir)
            self._recorder.start()
            self._open_parent()
            result = CallStatus()
            try:
                self._work(shared, result, began)
            except OSError as error:  # the journal refuses
                result.broken = f"journal: {error.strerror or error}"
            except AblateError as error:
                result.broken = str(error)
            except Exception as error:  # Optuna's, SQLAlchemy's and each driver's own: the storage went away
                result.broken = f"tuning: {type(error).__name__}: {first_line(error)}"
            finally:  # whatever it is: no row stays open
                self._close(result)
            return result

    def _distinct(self) -> list[RunSpec]:
        """What the preflight can find wrong: with a combination of techniques, or with a batch size."""
        setup = self.setup
        recipe = setup.spec.recipe
        recipes = [setup.space.recipe_of(config) for config in setup.space.settings()]
        recipes += [recipe.model_copy(update={"batch_size": int(size)}) for size in setup.space.values("batch_size")]
        return [setup.spec.model_copy(update={"recipe": found}) for found in [recipe, *recipes]]

    def _ledger(self) -> SharedStudy:
        setup, options = self.setup, self.options
        pruner = None
        if setup.objective.prunes:
            pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max(setup.spec.recipe.epochs, 1))
        study = open_study(
            setup.storage,
            setup.name,
            setup.identity,
            setup.objective.directions,
            pruner,
            lock=self._locks / "storage",
            fresh=options.fresh,
        )
        lock = self._locks / f"{setup.name}.ask"
        return SharedStudy(
            study, setup.space, budget=options.trials, retries=options.retries, seed=options.seed, lock=lock
        )

    def _check_known(self) -> None:
        """Looks at what there is under the study's name, before anything heavy starts.

        Raises:
            InputError: not ours, another search, or one that other processes are at work on; a study file that is not
                ours.
        """
        setup, options = self.setup, self.options
        study_file.check_free(setup.name)
        study = existing(setup.storage, setup.name)
        if study is None:
            return
        if options.fresh:
            check_ours(study)
        else:
            check_same(study, setup.identity)
        others = working_processes(study)
        if others and (options.fresh or not options.join):
            what = "to wait" if options.fresh else "--join to work on it together, or to wait"
            raise InputError(f"study {setup.name} is being tuned by process {', '.join(others)}; allowed: {what}")

    def _open_parent(self) -> None:
        setup = self.setup
        tags = {
            KIND_TAG: "tune",
            COMMAND_TAG: f"tune {setup.name}",
            COMMAND_LINE_TAG: interrupt.command_line(),
            STUDY_TAG: setup.plan.study.name,
            TECHNIQUES_TAG: ",".join(setup.plan.study.techniques),
            "tune.study": setup.name,
            "tune.objective": setup.objective.name,
            "tune.storage": without_credentials(setup.storage),
            "tune.model": setup.spec.model,
            "tune.dataset": setup.spec.dataset,
        }
        self.recorder.parent.join(f"tune {setup.name}", tags, new=self.options.fresh)

    def _work(self, shared: SharedStudy, result: CallStatus, began: float) -> None:
        setup = self.setup
        task = TrialTemplate(setup.spec, setup.probe, setup.objective, self.options.memory_limit, setup.plan)
        deadline = None if self.options.timeout is None else time.monotonic() + self.options.timeout
        self._search = Search(
            task,
            shared,
            self.launcher,
            self.recorder,
            self.listener,
            deadline=deadline,
            watch=self._watch,
        )
        self._search.run()
        if self._search.late:
            self.listener.note(f"the time for the search is over after {len(shared.findings())} trials (--timeout)")
        result.broken = self._search.broken
        if self._stopped or result.broken:
            return
        findings = shared.findings()
        chosen = confirmation.candidates(setup.objective, setup.space, outcome.measured(findings), self.options.top)
        values = self._confirmed(task, shared, chosen, result)
        if self._stopped or result.broken:
            return
        shares: dict[str, float] = {}
        with noting(result.problems, "importances"):
            shares = plots.importances(shared.study, setup.objective)
        spec = setup.spec
        result.outcome = outcome.conclude(
            spec.model, spec.dataset, setup.objective, setup.space, findings, chosen, values, shares
        )
        published = publish(
            setup, result.outcome, shared.study, self.recorder.parent, self._state_dir, time.time() - began
        )
        result.document = published.document
        result.problems += published.problems

    def _confirmed(
        self, task: TrialTemplate, shared: SharedStudy, chosen: Sequence[confirmation.Measurement], result: CallStatus
    ) -> confirmation.Values:
        """Runs the confirmation's blocks; one process of this host at a time, so that none disturbs another."""
        configs = [one.config for one in chosen] + [self.setup.space.baseline]
        runs: list[PlannedRun] = []
        numbers = {one.config: one.number for one in chosen}
        orders = confirmation.blocks_of(configs, self.options.confirm_blocks, self.options.seed)
        for block, order in enumerate(orders):
            for config in order:
                place = {"seed": (self.options.seed + 1 + block) % 2**31, "block": block, "position": len(runs)}
                number = numbers.get(config)
                runs.append(planned(task, shared, config, number=number, phase="confirm", **place))
        self.listener.note(f"confirming {len(configs)} configurations in {self.options.confirm_blocks} blocks")
        plan = self.setup.plan
        grid = Controller(
            plan,
            self.launcher,
            self.recorder,
            self.listener,
            retries=self.options.retries,
            state_dir=self._state_dir,
            watch=self._watch,
        )
        self._grid = grid
        others = LongWait(self.listener.note, "another process, which confirms its winner on this host")
        while not self._stopped:
            with exclusive(self._locks / f"{self.setup.name}.confirm", 1.0) as got:
                if not got:
                    others.goes_on()
                    continue
                grid.extend(Plan(plan.study, plan.device, tuple(runs)))
                grid.run()
                break
        result.broken = grid.broken
        found = grid.values()
        values: dict[Config, dict[int, dict[str, float]]] = {}
        for run, config in zip(runs, (config for order in orders for config in order), strict=True):
            metrics = found.get(run.spec.digest)
            if metrics is not None:
                values.setdefault(config, {})[run.block] = metrics
        return values

    def _close(self, result: CallStatus) -> None:
        result.interrupted = self._stopped and result.broken is None
        ended: RunOutcome = "failed" if result.broken or not result.outcome else "finished"
        try:
            self.recorder.close_parent("interrupted" if result.interrupted else ended)
        except (OSError, AblateError) as error:
            result.broken = result.broken or f"journal: {getattr(error, 'strerror', None) or error}"
            result.delivered = False
            self.recorder.emergency_close()
        else:
            result.delivered = self.recorder.drain(DELIVERY_PATIENCE)
