"""Where the result of a tuning goes: study file, plots, Optuna study, and the parent run in the tracking store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna

from pipeline.design.names import (
    RESULT_ATTRIBUTE,
    TUNE_HIGH,
    TUNE_IMPORTANCE,
    TUNE_INFEASIBLE,
    TUNE_LOW,
    TUNE_RATIO,
    TUNE_SEARCH_RATIO,
    TUNE_SECONDS,
    TUNE_TRIALS,
)
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.parent_run import ParentRun
from pipeline.tuning import plots, result, study_file, text
from pipeline.tuning.result import TuningResult
from pipeline.tuning.setup import Setup


def publish(
    setup: Setup, found: TuningResult, study: optuna.Study, parent: ParentRun, state_dir: Path, seconds: float
) -> dict[str, Any]:
    """Writes the result of a tuning to all its places.

    Args:
        setup: what was tuned.
        found: the conclusions.
        study: of Optuna; it keeps the document, for later calls of the same tuning.
        parent: takes numbers, description and files.
        state_dir: `mlruns`; plots are drawn into its folder `tuning`.
        seconds: wall-clock time of the call, s.

    Returns:
        The document that `ablate tune --json` prints.

    Raises:
        OutsideError: the study file cannot be written.
    """
    file = _study_file(setup, found)
    document = result.document(
        found,
        str(file) if file else None,
        {"name": setup.name, "storage": without_credentials(setup.storage), "parent": parent.key},
    )
    study.set_user_attr(RESULT_ATTRIBUTE, document)
    drawn = plots.draw_plots(study, setup.objective, state_dir / "tuning" / setup.name)
    for path in [*drawn, *([file] if file else [])]:
        parent.log_artifact(path, "tuning")
    tags = {"mlflow.note.content": text.tuning_markdown(found), "tune.verdict": found.verdict}
    parent.log_values(numbers(found, seconds), tags)
    return document


def _study_file(setup: Setup, found: TuningResult) -> Path | None:
    if found.best is None:
        return None
    return study_file.write_study_file(
        setup.name,
        setup.spec.model,
        setup.spec.dataset,
        setup.space.recipe_of(found.recommended),
        setup.base,
        setup.spec.device,
        text.sentences(found),
    )


def numbers(found: TuningResult, seconds: float) -> dict[str, float]:
    """The parent run's metrics; what is not known is absent.

    Args:
        found: the conclusions.
        seconds: wall-clock time of the call, s.
    """
    values: dict[str, float | None] = {
        TUNE_TRIALS: len(found.findings),
        TUNE_INFEASIBLE: found.infeasible,
        TUNE_SECONDS: seconds,
        **{f"{TUNE_IMPORTANCE}{name}": share for name, share in found.importances.items()},
    }
    if found.ratio is not None:
        values |= {TUNE_RATIO: found.ratio.ratio, TUNE_LOW: found.ratio.low, TUNE_HIGH: found.ratio.high}
        values[TUNE_SEARCH_RATIO] = found.optimistic
    return {name: float(value) for name, value in values.items() if value is not None}
