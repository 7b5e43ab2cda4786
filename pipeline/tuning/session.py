"""One `ablate tune` call with all that it holds open: search, confirmation, conclusions, and where they are kept."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from pipeline.design.names import (
    COMMAND_TAG,
    IDENTITY_ATTRIBUTE,
    KIND_TAG,
    RESULT_ATTRIBUTE,
    STUDY_TAG,
    TECHNIQUES_TAG,
    TUNE_HIGH,
    TUNE_IMPORTANCE,
    TUNE_INFEASIBLE,
    TUNE_LOW,
    TUNE_RATIO,
    TUNE_SEARCH_RATIO,
    TUNE_SECONDS,
    TUNE_TRIALS,
)
from pipeline.design.options import TuneOptions
from pipeline.design.plan import Plan, PlannedRun
from pipeline.design.records import Outcome as RunOutcome
from pipeline.design.spec import RunSpec, content_digest
from pipeline.errors import AblateError, InputError, OutsideError
from pipeline.execution import interrupt, launcher_factory
from pipeline.execution.controller import DELIVERY_PATIENCE, Controller
from pipeline.execution.interference import InterferenceCheck
from pipeline.execution.listener import Listener
from pipeline.execution.threads import Background
from pipeline.paths import STATE_DIR
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.locks import exclusive
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.recorder import Recorder
from pipeline.tracking.uri import resolve_uri
from pipeline.tuning import confirmation, plots, study_file, text
from pipeline.tuning import result as outcome
from pipeline.tuning.result import TuningResult
from pipeline.tuning.search import Search, TrialTemplate, planned
from pipeline.tuning.setup import Setup
from pipeline.tuning.space import Config
from pipeline.tuning.storage import existing, open_study
from pipeline.tuning.trials import SharedStudy, workers


@dataclass
class CallStatus:
    """How a call ended."""

    outcome: TuningResult | None = None
    document: dict[str, Any] | None = None
    interrupted: bool = False
    broken: str | None = None
    delivered: bool = True


class Tuning:
    """One call.

    Args:
        flags: from the command line.
        setup: what is tuned.
        listener: shows what happens.
        state_dir: `mlruns`.
    """

    def __init__(self, flags: TuneOptions, setup: Setup, listener: Listener, state_dir: Path = STATE_DIR) -> None:
        self.flags = flags
        self.setup = setup
        self.listener = listener
        self._state_dir = state_dir
        self._locks = state_dir / "tuning" / "locks"
        try:
            self._locks.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutsideError(f"{self._locks}: cannot be made ({error.strerror})") from None
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or setup.plan.study.name
        self.tracker = MlflowStore(resolve_uri(flags.tracking_uri), experiment, state_dir / "artifacts")
        scope = content_digest([without_credentials(self.tracker.uri), experiment])
        device = setup.spec.device
        self.launcher = launcher_factory.make_launcher(
            flags,
            device,
            state_dir,
            scope,
            listener.note,
            timeout=flags.run_timeout,
            checkpoint_every=0,
            nproc=1,
        )
        self._interference = InterferenceCheck(device) if flags.launcher == "local" else None  # a node looks for itself
        self._search: Search | None = None
        self._grid: Controller | None = None
        self._stopped = False
        self._book: Recorder | None = None

    @property
    def book(self) -> Recorder:
        """The book, once the call has begun."""
        assert self._book is not None
        return self._book

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
            self.launcher.start()
            imported = Background(self.tracker.load_library)
            self.launcher.preflight(self._distinct(), self.listener.preparing)
            imported.result()
            shared = self._ledger()
            self.tracker.connect()
            self._book = Recorder(self.tracker, self._state_dir)
            self._book.start()
            self._open_parent()
            result = CallStatus()
            try:
                self._work(shared, result, began)
            except OSError as error:  # the journal refuses
                result.broken = f"journal: {error.strerror or error}"
            except AblateError as error:
                result.broken = str(error)
            self._close(result)
            return result

    def _distinct(self) -> list[RunSpec]:
        """One run for each combination of techniques: what the preflight can find wrong depends on those alone."""
        setup = self.setup
        recipes_of = [setup.space.recipe_of(config) for config in setup.space.settings()]
        return [setup.spec.model_copy(update={"recipe": recipe}) for recipe in [setup.spec.recipe, *recipes_of]]

    def _ledger(self) -> SharedStudy:
        setup, flags = self.setup, self.flags
        pruner = None
        if setup.objective.prunes:
            pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max(setup.spec.recipe.epochs, 1))
        study = open_study(
            setup.storage,
            setup.name,
            setup.objective.directions,
            pruner,
            lock=self._locks / "storage",
            fresh=flags.fresh,
        )
        study.set_user_attr(IDENTITY_ATTRIBUTE, setup.identity)
        lock = self._locks / f"{setup.name}.ask"
        return SharedStudy(study, setup.space, budget=flags.trials, retries=flags.retries, seed=flags.seed, lock=lock)

    def _check_known(self) -> None:
        """Looks at what there is under the study's name, before anything heavy starts.

        Raises:
            InputError: another search, or one that other processes are at work on.
        """
        setup, flags = self.setup, self.flags
        study = existing(setup.storage, setup.name)
        if study is None:
            return
        if study.user_attrs.get(IDENTITY_ATTRIBUTE, setup.identity) != setup.identity and not flags.fresh:
            raise InputError(
                f"--name: {setup.name!r} is not allowed; allowed: another name, or --fresh (the study of this name "
                "has another model, data set, recipe, objective, space, seed, limit or device)"
            )
        others = workers(study)
        if others and (flags.fresh or not flags.join):
            what = "to wait" if flags.fresh else "--join to work on it together, or to wait"
            raise InputError(f"study {setup.name} is being tuned by process {', '.join(others)}; allowed: {what}")

    def _open_parent(self) -> None:
        setup = self.setup
        tags = {
            KIND_TAG: "tune",
            COMMAND_TAG: f"tune {setup.name}",
            STUDY_TAG: setup.plan.study.name,
            TECHNIQUES_TAG: ",".join(setup.plan.study.techniques),
            "tune.study": setup.name,
            "tune.objective": setup.objective.name,
            "tune.storage": without_credentials(setup.storage),
            "tune.model": setup.spec.model,
            "tune.dataset": setup.spec.dataset,
        }
        self.book.parent.join(f"tune {setup.name}", tags, new=self.flags.fresh)

    def _work(self, shared: SharedStudy, result: CallStatus, began: float) -> None:
        setup = self.setup
        task = TrialTemplate(setup.spec, setup.probe, setup.objective, self.flags.memory_limit, setup.plan)
        deadline = None if self.flags.timeout is None else time.monotonic() + self.flags.timeout
        self._search = Search(
            task, shared, self.launcher, self.book, self.listener, deadline=deadline, interference=self._interference
        )
        self._search.run()
        if self._search.late:
            self.listener.note(f"the time for the search is over after {len(shared.findings())} trials (--timeout)")
        result.broken = self._search.broken
        if self._stopped or result.broken:
            return
        findings = shared.findings()
        chosen = confirmation.candidates(setup.objective, setup.space, outcome.measured(findings), self.flags.top)
        values = self._confirmed(task, shared, chosen, result)
        if self._stopped or result.broken:
            return
        shares = plots.importances(shared.study, setup.objective)
        spec = setup.spec
        result.outcome = outcome.conclude(
            spec.model, spec.dataset, setup.objective, setup.space, findings, chosen, values, shares
        )
        self._publish(shared, result, result.outcome, time.time() - began)

    def _confirmed(
        self, task: TrialTemplate, shared: SharedStudy, chosen: Sequence[confirmation.Measurement], result: CallStatus
    ) -> confirmation.Values:
        """Runs the confirmation's blocks; one process of this host at a time, so that none disturbs another."""
        configs = [one.config for one in chosen] + [self.setup.space.baseline]
        runs: list[PlannedRun] = []
        numbers = {one.config: one.number for one in chosen}
        orders = confirmation.blocks_of(configs, self.flags.confirm_blocks, self.flags.seed)
        for block, order in enumerate(orders):
            for config in order:
                place = {"seed": (self.flags.seed + 1 + block) % 2**31, "block": block, "position": len(runs)}
                number = numbers.get(config)
                runs.append(planned(task, shared, config, number=number, phase="confirm", **place))
        self.listener.note(f"confirming {len(configs)} configurations in {self.flags.confirm_blocks} blocks")
        plan = self.setup.plan
        grid = Controller(
            plan,
            self.launcher,
            self.book,
            self.listener,
            retries=self.flags.retries,
            state_dir=self._state_dir,
            interference=self._interference,
        )
        self._grid = grid
        while not self._stopped:
            with exclusive(self._locks / f"{self.setup.name}.confirm", 1.0) as got:
                if not got:
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

    def _publish(self, shared: SharedStudy, result: CallStatus, found: TuningResult, seconds: float) -> None:
        """Study file, result, tables, plots and numbers, into files, Optuna and the parent run."""
        setup = self.setup
        file: Path | None = None
        if found.best is not None:
            file = study_file.write_study_file(
                setup.name,
                setup.spec.model,
                setup.spec.dataset,
                setup.space.recipe_of(found.recommended),
                setup.base,
                setup.spec.device,
                [f"made by `ablate tune`, Optuna study {setup.name}", *text.sentences(found)],
            )
        document = outcome.document(
            found,
            str(file) if file else None,
            {"name": setup.name, "storage": without_credentials(setup.storage), "parent": self.book.parent.key},
        )
        result.document = document
        shared.study.set_user_attr(RESULT_ATTRIBUTE, document)
        folder = self._state_dir / "tuning" / setup.name
        for path in plots.draw_plots(shared.study, setup.objective, folder):
            self.book.parent.log_artifact(path, "tuning")
        if file is not None:
            self.book.parent.log_artifact(file, "tuning")
        numbers = {
            TUNE_TRIALS: len(found.findings),
            TUNE_INFEASIBLE: found.infeasible,
            TUNE_SECONDS: seconds,
        }
        numbers |= {f"{TUNE_IMPORTANCE}{name}": share for name, share in found.importances.items()}
        if found.ratio is not None:
            ends = {TUNE_LOW: found.ratio.low, TUNE_HIGH: found.ratio.high, TUNE_SEARCH_RATIO: found.optimistic}
            numbers |= {TUNE_RATIO: found.ratio.ratio, **{k: v for k, v in ends.items() if v is not None}}
        values = {name: float(value) for name, value in numbers.items()}
        tags = {"mlflow.note.content": text.tuning_markdown(found), "tune.verdict": found.verdict}
        self.book.parent.log_values(values, tags)

    def _close(self, result: CallStatus) -> None:
        result.interrupted = self._stopped and result.broken is None
        ended: RunOutcome = "failed" if result.broken or not result.outcome else "finished"
        try:
            self.book.close_parent("interrupted" if result.interrupted else ended)
        except OSError as error:
            result.broken = result.broken or f"journal: {error.strerror or error}"
            result.delivered = False
            self.book.emergency_close()
        else:
            result.delivered = self.book.drain(DELIVERY_PATIENCE)
