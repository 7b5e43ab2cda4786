"""From options to a grid: study, device, plan, launcher, recorder and controller, put together for the commands."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.design import requirements
from pipeline.design.names import CELLS_TAG, COMMAND_TAG, FACTORS_TAG, STUDY_TAG, TARGET_TAG, TECHNIQUES_TAG
from pipeline.design.options import GridOptions
from pipeline.design.plan import Plan, build_plan
from pipeline.design.selection import SelectedPlan, in_processes, study_settings
from pipeline.design.spec import RunSpec, content_digest
from pipeline.execution import summary
from pipeline.execution.controller import DELIVERY_PATIENCE, Controller
from pipeline.execution.done_grid import DoneGrid, find_done_grid
from pipeline.execution.forecast import Forecast, sample
from pipeline.execution.interference import MachineWatch
from pipeline.execution.interrupt import interruptible
from pipeline.execution.launcher_factory import make_launcher
from pipeline.execution.listener import GridOutcome, Listener
from pipeline.execution.threads import Background, told_if_long
from pipeline.paths import STATE_DIR, own_state_dir
from pipeline.shown import redacted
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.round_data import RunSource
from pipeline.tracking.uri import resolve_uri

if TYPE_CHECKING:
    from pipeline.tracking.mlflow_store import MlflowStore


class EffectPrecision(Protocol):
    """How precise a main effect is; as text, which one, how wide its interval is and how many blocks are to come."""

    @property
    def model(self) -> str:
        """Model of its group."""
        ...

    @property
    def dataset(self) -> str:
        """Data set of its group."""
        ...

    @property
    def at_least(self) -> int:
        """Fewest further blocks after which it can be precise; 0 if it is."""
        ...


class FindsPrecision(Protocol):
    """Says how precise the main effects on the training time are, widest interval first."""

    def __call__(self, store: MlflowStore, plan: Plan, width: float, /) -> Sequence[EffectPrecision]:
        """Looks at the runs of the plan alone; `width` is the largest width of a precise interval, as a fraction."""
        ...


class Session:
    """One grid call with all that it holds open.

    Args:
        options: from the command line.
        choice: the plan.
        listener: shows what happens.
        state_dir: `mlruns`.
        precision: says how precise the effects are; for `--until-decided`.

    Raises:
        OutsideError: the folder cannot be made.
        InputError: it is not only ours, or the options of launcher or store are not allowed.
    """

    def __init__(
        self,
        options: GridOptions,
        choice: SelectedPlan,
        listener: Listener,
        state_dir: Path = STATE_DIR,
        *,
        precision: FindsPrecision | None = None,
    ) -> None:
        from pipeline.tracking.mlflow_store import MlflowStore

        self.plan = choice.plan
        self.options = options
        self.listener = listener
        self._precision = precision
        self._state_dir = state_dir
        own_state_dir(state_dir)
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self.plan.study.name
        self.store = MlflowStore(resolve_uri(options.tracking_uri), experiment, state_dir / "artifacts")
        scope = content_digest([without_credentials(self.store.uri), experiment])
        self.launcher = make_launcher(
            options,
            self.plan.device,
            state_dir,
            scope,
            listener.note,
            timeout=options.timeout,
            checkpoint_every=options.checkpoint_every,
            nproc=options.nproc,
        )
        self.grid: Controller | None = None
        self.done: DoneGrid | None = None
        self.began = time.time()

    def run(self, alone: bool = False) -> GridOutcome:
        """Preflight, resume, run, close.

        Args:
            alone: a single run with a parent of its own.

        Raises:
            InputError, OutsideError: before any run.
            KeyboardInterrupt: interrupted before the first run.
        """
        study = self.plan.study
        tags = {STUDY_TAG: study.name, TECHNIQUES_TAG: ",".join(study.techniques)}
        if self.options.target_accuracy is not None:  # what `ablate report` takes it from
            tags[TARGET_TAG] = str(self.options.target_accuracy)
        if not alone and self._is_done(tags):
            assert self.done is not None
            return self.done.outcome
        with interruptible(self.launcher, self.listener, lambda: self.grid):
            self._prepare()
            self.grid = grid = self._controller()
            name = f"{study.name} {time.strftime('%Y-%m-%d %H:%M:%S')}"
            grid.resume(name, tags, fresh=self.options.fresh, alone=alone, rerun_tainted=self.options.rerun_tainted)
            self.plan = grid.plan
            outcome = self._until_precise(grid, grid.run())
            grid.close(outcome, grid.results, time.time() - self.began)
            return outcome

    def _is_done(self, tags: Mapping[str, str]) -> bool:
        """Whether nothing is left to do, which the tables of a local store tell without the launcher and MLflow."""
        options, cells = self.options, len(self.plan.runs)
        if options.fresh or options.rerun_tainted or options.until_decided or options.launcher != "local":
            return False
        tags = {**tags, COMMAND_TAG: "grid", CELLS_TAG: str(len(self.plan.cells)), FACTORS_TAG: self.plan.factors}
        store = self.store
        self.done = find_done_grid(self.plan, store.uri, store.experiment, self._state_dir, tags, options.retries)
        if self.done is not None:
            self.listener.begin(cells, cells)
        return self.done is not None

    @property
    def source(self) -> RunSource:
        """Where the study's runs are read."""
        return self.store if self.done is None else self.done.source

    @property
    def parent_key(self) -> str:
        """Key of the parent run; empty before there is one."""
        if self.done is not None:
            return self.done.parent_key
        return self.grid.recorder.parent.key if self.grid is not None else ""

    @property
    def error(self) -> str | None:
        """Why the store has not everything, as far as it is known."""
        return self.grid.recorder.error if self.grid is not None else None

    def results(self) -> list[summary.CellResult]:
        """All cells with outcome and values."""
        if self.grid is not None:
            return self.grid.results()
        if self.done is None:
            return []
        return summary.cell_results(self.plan, self.done.outcomes, self.done.source.values_by_digest())

    def sample(self, forecast: Forecast) -> None:
        """Has a cell of each model and data set that the forecast knows nothing of train for a moment; stores nothing.

        Raises:
            InputError, OutsideError: as for a grid.
            KeyboardInterrupt: interrupted.
        """
        runs = sorted(self.plan.runs, key=lambda run: len(run.spec.techniques))  # the baseline before all others
        with interruptible(self.launcher, self.listener, lambda: None):
            self._start_launcher()
            self._preflight()
            specs = [run.spec for run in runs]
            for problem in sample(forecast, specs, self.launcher, self.listener.note):
                self.listener.note(problem)

    def _start_launcher(self) -> None:
        with told_if_long(self.listener.preparing, f"the {self.options.launcher} launcher to start"):
            self.launcher.start()

    def _preflight(self) -> None:
        tell = self.listener.preparing
        with told_if_long(tell, "torch and timm to be imported, and the check of data, models and devices"):
            self.launcher.preflight(distinct(self.plan), tell)

    def _prepare(self) -> None:
        """Starts the launcher, has it check what will run, and connects to the store."""
        tell = self.listener.preparing
        self._start_launcher()
        imported = Background(self.store.load_library)
        self._preflight()
        imported.result()
        with told_if_long(tell, f"the tracking store to answer ({redacted(self.store.uri)})"):
            self.store.connect()  # only now: bad input leaves no store behind

    def _controller(self) -> Controller:
        """Makes recorder and controller, and delivers what dead controllers left."""
        from pipeline.tracking.recorder import Recorder

        recorder = Recorder(self.store, self._state_dir)
        here = self.options.launcher == "local"  # the nodes of a cluster look for themselves
        grid = Controller(
            self.plan,
            self.launcher,
            recorder,
            self.listener,
            retries=self.options.retries,
            state_dir=self._state_dir,
            watch=MachineWatch(self.plan.device) if here else None,
            target_accuracy=self.options.target_accuracy,
        )
        with told_if_long(self.listener.preparing, "earlier journals to be delivered"):
            recorder.start()
        return grid

    def _until_precise(self, grid: Controller, outcome: GridOutcome) -> GridOutcome:
        """Adds blocks to each (model, data set) with a main effect that is not precise to `--interval-width` yet."""
        study, options, note = self.plan.study, self.options, self.listener.note
        blocks, limit = study.seeds, options.max_blocks
        wanted = f"precise to {100 * options.interval_width:g} %"
        while self._precision and options.until_decided and not outcome.interrupted and outcome.broken is None:
            if not grid.recorder.outbox.wait(DELIVERY_PATIENCE):
                note(f"the tracking store does not answer ({grid.recorder.error}): no further blocks; call again later")
                break
            effects = self._precision(self.store, grid.plan, options.interval_width)
            left = [effect for effect in effects if effect.at_least]
            if not effects:
                note("--until-decided: no main effect on the training time has an estimate")
            elif not left:
                note(f"{wanted} after {blocks} blocks: every main effect on the training time")
            elif blocks >= limit:
                note(f"not {wanted} after {blocks} blocks (--max-blocks): {'; '.join(map(str, left))}")
            if not left or blocks >= limit:
                break
            needs = _groups(left)
            until = min(blocks + min(needs.values()), limit)  # no group can be done before
            note(
                f"block {blocks}: {len(left)} of {len(effects)} effects not {wanted}, widest: {left[0]}; "
                f"on to block {until} with {len(needs)} of {len(_groups(effects))} groups"
            )
            more = build_plan(study, self.plan.device, study_settings(options), range(blocks, until))
            # effects of variants have theirs behind the model's name
            left_over = {(model.partition(" [")[0], dataset) for model, dataset in needs}
            kept = tuple(run for run in more.runs if (run.spec.model, run.spec.dataset) in left_over)
            grid.extend(in_processes(replace(more, runs=kept), options))
            blocks = until
            outcome = grid.run()
        self.plan = grid.plan
        return outcome


def _groups(effects: Sequence[EffectPrecision]) -> dict[tuple[str, str], int]:
    """Returns (model, data set) -> fewest further blocks after which all its effects can be precise."""
    needs: dict[tuple[str, str], int] = {}
    for effect in effects:
        group = effect.model, effect.dataset
        needs[group] = max(needs.get(group, 0), effect.at_least)
    return needs


def _own_part(spec: RunSpec) -> int | None:
    """The seed, where it decides which images of a folder are looked at."""
    bounded = spec.recipe.max_train_samples is not None or spec.recipe.max_test_samples is not None
    return spec.seed if bounded and spec.data_digest else None


def distinct(plan: Plan) -> list[RunSpec]:
    """Returns one specification per thing that the preflight can find wrong."""
    by_need: dict[tuple[Any, ...], RunSpec] = {}
    for run in plan.runs:
        spec, recipe = run.spec, run.spec.recipe
        need = (
            spec.model,
            spec.dataset,
            recipe.image_size,
            recipe.resize,
            recipe.patch_size,
            recipe.pretrained,
            recipe.weights,
            recipe.input_pipeline,
            recipe.validation_fraction,
            recipe.max_train_samples,
            recipe.max_test_samples,
            _own_part(spec),
            recipe.batch_size,
            requirements.key(recipe),
        )
        by_need.setdefault(need, spec)
    return list(by_need.values())
