"""Trials and results of a storage into which any program may have written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.design.names import IDENTITY_ATTRIBUTE, RESULT_ATTRIBUTE
from pipeline.errors import OutsideError, first_line


@contextlib.contextmanager
def legible(study: optuna.Study) -> Iterator[None]:
    """Within it, rows that make no sense are told as what they are: Optuna raises every kind of error of them.

    Args:
        study: whose trials are looked at.

    Raises:
        OutsideError: they cannot be read.
    """
    try:
        yield
    except (AssertionError, AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise OutsideError(
            f"Optuna study {study.study_name}: it cannot be read ({first_line(error, 120)}); "
            "mend the storage, or take another --name"
        ) from None


def trials_of(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    """Trials in some states, or all; not to be changed.

    Args:
        study: of Optuna.
        states: none for all.

    Raises:
        OutsideError: they cannot be read.
    """
    with legible(study):
        return study.get_trials(deepcopy=False, states=states or None)


def result_of(study: optuna.Study, identity: str) -> dict[str, Any] | None:
    """The document of a tuning that has ended; None where it has not, or was another search.

    Args:
        study: of Optuna.
        identity: of what was searched.

    Returns:
        `recommended` (recipe fields by name) and `verdict` at least.

    Raises:
        OutsideError: it cannot be read.
    """
    with legible(study):
        attributes = study.user_attrs
        found = attributes.get(RESULT_ATTRIBUTE)
        if found is None or attributes.get(IDENTITY_ATTRIBUTE) != identity:
            return None
        return {**found, "recommended": {**found["recommended"]}, "verdict": str(found["verdict"])}
