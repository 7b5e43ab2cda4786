"""From options to a grid: study, device, plan, launcher, recorder and controller, put together for the commands."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.design import requirements
from pipeline.design.names import STUDY_TAG, TARGET_TAG, TECHNIQUES_TAG
from pipeline.design.options import GridOptions
from pipeline.design.plan import Plan, build_plan
from pipeline.design.selection import SelectedPlan, in_processes, study_settings, with_reruns
from pipeline.design.spec import RunSpec, content_digest
from pipeline.errors import OutsideError
from pipeline.execution.controller import Controller
from pipeline.execution.interference import InterferenceCheck
from pipeline.execution.interrupt import interruptible
from pipeline.execution.launcher_factory import make_launcher
from pipeline.execution.listener import GridOutcome, Listener
from pipeline.execution.threads import Background
from pipeline.paths import STATE_DIR
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.uri import resolve_uri

if TYPE_CHECKING:
    from pipeline.tracking.mlflow_store import MlflowStore


class FindsUndecided(Protocol):
    """Says in words which effects are not known well enough yet, widest interval first."""

    def __call__(self, store: MlflowStore, study: str, techniques: tuple[str, ...], width: float, /) -> list[str]:
        """Returns one sentence an effect; `width` is the largest allowed width of an interval, as a fraction."""
        ...


class Session:
    """One grid call with all that it holds open.

    Args:
        options: from the command line.
        choice: the plan.
        listener: shows what happens.
        state_dir: `mlruns`.
        undecided: says what is not known well enough yet; for `--until-decided`.

    Raises:
        OutsideError: the folder cannot be made.
        InputError: the options of launcher or store are not allowed.
    """

    def __init__(
        self,
        options: GridOptions,
        choice: SelectedPlan,
        listener: Listener,
        state_dir: Path = STATE_DIR,
        *,
        undecided: FindsUndecided | None = None,
    ) -> None:
        from pipeline.tracking.mlflow_store import MlflowStore

        self.plan = choice.plan
        self.options = options
        self.listener = listener
        self._undecided = undecided
        self._state_dir = state_dir
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutsideError(f"{state_dir}: cannot be made ({error.strerror})") from None
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
        self.began = time.time()

    def run(self, alone: bool = False) -> GridOutcome:
        """Preflight, resume, run, close.

        Args:
            alone: a single run with a parent of its own.

        Raises:
            InputError, OutsideError: before any run.
            KeyboardInterrupt: interrupted before the first run.
        """
        with interruptible(self.launcher, self.listener, lambda: self.grid):
            self._prepare()
            self.grid = grid = self._controller()
            study = self.plan.study
            tags = {STUDY_TAG: study.name, TECHNIQUES_TAG: ",".join(study.techniques)}
            if self.options.target_accuracy is not None:  # what `ablate report` takes it from
                tags[TARGET_TAG] = str(self.options.target_accuracy)
            name = f"{study.name} {time.strftime('%Y-%m-%d %H:%M:%S')}"
            grid.resume(name, tags, fresh=self.options.fresh, alone=alone)
            outcome = self._until_decided(grid, grid.run())
            grid.close(outcome, grid.results, time.time() - self.began)
            return outcome

    def _prepare(self) -> None:
        """Starts the launcher, has it check what will run, and connects to the store."""
        self.launcher.start()
        imported = Background(self.store.load_library)
        self.launcher.preflight(distinct(self.plan), self.listener.preparing)
        imported.result()
        self.store.connect()  # only now: bad input leaves no store behind

    def _controller(self) -> Controller:
        """Makes recorder and controller, and delivers what dead controllers left."""
        from pipeline.tracking.recorder import Recorder

        recorder = Recorder(self.store, self._state_dir)
        if self.options.rerun_tainted:
            self.plan = with_reruns(self.plan, self.store.tainted())
        here = self.options.launcher == "local"  # the nodes of a cluster look for themselves
        grid = Controller(
            self.plan,
            self.launcher,
            recorder,
            self.listener,
            retries=self.options.retries,
            state_dir=self._state_dir,
            interference=InterferenceCheck(self.plan.device) if here else None,
            target_accuracy=self.options.target_accuracy,
        )
        recorder.start()
        return grid

    def _until_decided(self, grid: Controller, outcome: GridOutcome) -> GridOutcome:
        """Adds blocks until every main effect on the training time is known to `--interval-width`."""
        study = self.plan.study
        blocks = study.seeds
        while self._undecided and self.options.until_decided and not outcome.interrupted and outcome.broken is None:
            left = self._undecided(self.store, study.name, tuple(study.techniques), self.options.interval_width)
            if not left:
                self.listener.note(
                    f"decided after {blocks} blocks: every interval is within {self.options.interval_width:.1%}"
                )
                break
            if blocks >= self.options.max_blocks:
                self.listener.note(f"not decided after {blocks} blocks (--max-blocks): {'; '.join(left[:3])}")
                break
            self.listener.note(f"block {blocks}: {len(left)} effects undecided, widest: {left[0]}")
            more = build_plan(study, self.plan.device, study_settings(self.options), range(blocks, blocks + 1))
            grid.extend(in_processes(more, self.options))
            blocks += 1
            outcome = grid.run()
        self.plan = grid.plan
        return outcome


def distinct(plan: Plan) -> list[RunSpec]:
    """Returns one specification per thing that the preflight can find wrong."""
    by_need: dict[tuple[Any, ...], RunSpec] = {}
    for run in plan.runs:
        spec, recipe = run.spec, run.spec.recipe
        need = (
            spec.model,
            spec.dataset,
            recipe.image_size,
            recipe.patch_size,
            recipe.pretrained,
            recipe.weights,
            recipe.input_pipeline,
            recipe.validation_fraction,
            recipe.max_train_samples,
            recipe.max_test_samples,
            requirements.key(recipe),
        )
        by_need.setdefault(need, spec)
    return list(by_need.values())
