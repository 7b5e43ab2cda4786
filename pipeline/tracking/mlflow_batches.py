"""Logs within MLflow's limits, and finds out what of it the store refuses for good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.tracking.mlflow_errors import cause, is_missing, is_permanent

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow takes 1,000 entities, 100 params and 100 tags a call
METRICS, PARAMS, TAGS = 800, 100, 100
PARAM_CHARACTERS, TAG_CHARACTERS = 6000, 8000


@dataclass(frozen=True)
class Refusal:
    """What the store refused for good.

    Attributes:
        values: Metrics, params and tags, as they were to be logged.
        why: What it said, in one line.
    """

    values: dict[str, Any]
    why: str


def log_in_batches(
    client: MlflowClient,
    run_id: str,
    metrics: Sequence[tuple[str, float, int, int]] = (),
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> list[Refusal]:
    """Logs to a run, in few calls; values that are too long are cut, and characters that are none escaped.

    Args:
        client: MLflow's client.
        run_id: MLflow's id of the run.
        metrics: Name, value, time in ms since the epoch and step of each.
        params: Values by name.
        tags: Values by name.

    Returns:
        What the store refused for good.

    Raises:
        Exception: What MLflow raises when the store is away.
    """
    from mlflow.entities import Metric, Param, RunTag

    values = [Metric(encodable(name), value, time, step) for name, value, time, step in metrics]
    named = [Param(encodable(name), encodable(value)[:PARAM_CHARACTERS]) for name, value in (params or {}).items()]
    marks = [RunTag(encodable(name), encodable(value)[:TAG_CHARACTERS]) for name, value in (tags or {}).items()]
    refused: list[Refusal] = []
    while values or named or marks:
        refused += _log(client, run_id, (values[:METRICS], named[:PARAMS], marks[:TAGS]))
        values, named, marks = values[METRICS:], named[PARAMS:], marks[TAGS:]
    return refused


def encodable(text: object) -> str:
    """Text that every database takes: half of a surrogate pair and NUL are escaped."""
    return str(text).encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _log(client: MlflowClient, run_id: str, batch: tuple[list[Any], list[Any], list[Any]]) -> list[Refusal]:
    """Logs a batch; if the store refuses it for good, all of it but what is refused alone."""
    try:
        client.log_batch(run_id, *batch, synchronous=True)
    except Exception as error:
        if not is_permanent(error) or is_missing(error):
            raise
        if sum(map(len, batch)) == 1 or client.get_run(run_id).info.lifecycle_stage != "active":
            return [_refusal(batch, error)]
    else:
        return []
    refused: list[Refusal] = []
    for kind, items in enumerate(batch):
        half = (len(items) + 1) // 2
        for some in (items[:half], items[half:]):
            if some:
                part: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
                part[kind].extend(some)
                refused += _log(client, run_id, part)
    return refused


def _refusal(batch: tuple[list[Any], list[Any], list[Any]], error: Exception) -> Refusal:
    metrics, params, tags = batch
    values: dict[str, Any] = {
        "metrics": [[point.key, point.value, point.timestamp, point.step] for point in metrics],
        "params": {param.key: param.value for param in params},
        "tags": {tag.key: tag.value for tag in tags},
    }
    return Refusal({name: part for name, part in values.items() if part}, cause(error))
