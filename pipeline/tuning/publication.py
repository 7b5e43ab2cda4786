"""Where the result of a tuning goes: study file, plots, Optuna study, and the parent run in the tracking store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from pipeline.design.names import (
    NOTE_TAG,
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
from pipeline.errors import AblateError, first_line
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.parent_run import ParentRun
from pipeline.tuning import plots, result, study_file, text
from pipeline.tuning.result import TuningResult
from pipeline.tuning.setup import Setup


@dataclass
class Published:
    """A result and where it could not be put.

    Attributes:
        document: what `ablate tune --json` prints.
        problems: a line for each place that has not got it.
    """

    document: dict[str, Any]
    problems: list[str] = field(default_factory=list)


def publish(
    setup: Setup, found: TuningResult, study: optuna.Study, parent: ParentRun, state_dir: Path, seconds: float
) -> Published:
    """Writes the result of a tuning to all its places; hours of work are not lost where one of them fails.

    Args:
        setup: what was tuned.
        found: the conclusions.
        study: of Optuna; it keeps the document, for later calls of the same tuning.
        parent: takes numbers, description and files.
        state_dir: `mlruns`; plots are drawn into its folder `tuning`.
        seconds: wall-clock time of the call, s.

    """
    problems: list[str] = []
    files: list[Path] = []
    with noting(problems, "study file"):
        files += _study_file(setup, found)
    document = result.document(
        found,
        str(files[0]) if files else None,
        {"name": setup.name, "storage": without_credentials(setup.storage), "parent": parent.key},
    )
    with noting(problems, "Optuna storage"):
        study.set_user_attr(RESULT_ATTRIBUTE, document)
    with noting(problems, "plots"):
        files += plots.draw_plots(study, setup.objective, state_dir / "tuning" / setup.name)
    with noting(problems, "parent run"):
        for path in files:
            parent.log_artifact(path, "tuning")
        tags = {NOTE_TAG: text.tuning_markdown(found), "tune.verdict": found.verdict}
        parent.log_values(numbers(found, seconds), tags)
    return Published(document, problems)


@contextmanager
def noting(problems: list[str], what: str) -> Iterator[None]:
    """Makes a line of whatever goes wrong in the block: Optuna, SQLAlchemy and Matplotlib have errors of their own.

    Args:
        problems: takes the line.
        what: the block is about.
    """
    try:
        yield
    except AblateError as error:  # names itself what it is about
        problems.append(str(error))
    except Exception as error:
        problems.append(f"{what}: {type(error).__name__}: {first_line(error)}")


def _study_file(setup: Setup, found: TuningResult) -> list[Path]:
    if found.best is None:
        return []
    made = study_file.write_study_file(
        setup.name,
        setup.spec.model,
        setup.spec.dataset,
        setup.space.recipe_of(found.recommended),
        setup.base,
        setup.spec.device,
        text.sentences(found),
    )
    return [made]


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
