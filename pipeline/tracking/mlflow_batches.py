"""Logs within MLflow's limits, and finds out what of it the store refuses for good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import first_line
from pipeline.tracking.mlflow_connection import is_permanent

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow takes 1,000 entities, 100 params and 100 tags a call
METRICS, PARAMS, TAGS = 800, 100, 100
PARAM_CHARACTERS, TAG_CHARACTERS = 6000, 8000


def log_in_batches(
    client: MlflowClient,
    run_id: str,
    metrics: Sequence[tuple[str, float, int, int]] = (),
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> list[str]:
    """Logs to a run, in few calls; values that are too long are cut.

    Args:
        client: MLflow's client.
        run_id: MLflow's id of the run.
        metrics: Name, value, time in ms since the epoch and step of each.
        params: Values by name.
        tags: Values by name.

    Returns:
        What the store refused for good, one line each.

    Raises:
        Exception: What MLflow raises when the store is away.
    """
    from mlflow.entities import Metric, Param, RunTag

    values = [Metric(name, value, time, step) for name, value, time, step in metrics]
    named = [Param(str(name), str(value)[:PARAM_CHARACTERS]) for name, value in (params or {}).items()]
    marks = [RunTag(str(name), str(value)[:TAG_CHARACTERS]) for name, value in (tags or {}).items()]
    problems: list[str] = []
    while values or named or marks:
        problems += _log(client, run_id, (values[:METRICS], named[:PARAMS], marks[:TAGS]))
        values, named, marks = values[METRICS:], named[PARAMS:], marks[TAGS:]
    return problems


def _log(client: MlflowClient, run_id: str, batch: tuple[list[Any], list[Any], list[Any]]) -> list[str]:
    """Logs a batch; if the store refuses it for good, all of it but what is refused alone."""
    try:
        client.log_batch(run_id, *batch, synchronous=True)
    except Exception as error:
        if not is_permanent(error):
            raise
        if sum(map(len, batch)) == 1 or client.get_run(run_id).info.lifecycle_stage != "active":
            return [first_line(error)]
    else:
        return []
    problems: list[str] = []
    for kind, items in enumerate(batch):
        half = (len(items) + 1) // 2
        for some in (items[:half], items[half:]):
            if some:
                part: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
                part[kind].extend(some)
                problems += _log(client, run_id, part)
    return problems
