"""The time to a target accuracy, made of the records that pass by."""

from __future__ import annotations

import math

import pytest

from pipeline.design.records import End, Metrics, Phase, Record, Tags
from pipeline.execution.target import timed_to_target


def epochs(*values: tuple[float | None, float | None]) -> list[Record]:
    """Records of epochs with a training time in s and a validation accuracy, where there are such."""
    names = ("train/epoch_seconds", "val/accuracy")
    return [
        Phase(time=0.0, name="train"),
        *(
            Metrics(
                time=float(step),
                step=step,
                values={name: v for name, v in zip(names, value, strict=True) if v is not None},
            )
            for step, value in enumerate(values, start=1)
        ),
        Metrics(time=99.0, values={"time/train_seconds": 99.0, "val/accuracy": 1.0}),
        End(time=100.0, outcome="finished"),
    ]


def time_of(records: list[Record], target: float) -> tuple[float, float] | None:
    """When, and after which training time, the records say that the target was reached; they all pass."""
    found = list(timed_to_target(records, target))
    tag, *rest = found
    assert isinstance(tag, Tags) and tag.values == {"ablate.target_accuracy": str(target)}
    made = [one for one in rest if one not in records]
    assert [one for one in rest if one in records] == records and len(made) <= 1
    if not made:
        return None
    (metric,) = made
    assert isinstance(metric, Metrics) and metric.step is None and list(metric.values) == ["time/target_seconds"]
    place = rest.index(metric)
    assert rest[place - 1].time == metric.time, "behind the epoch that it is of"
    return metric.time, metric.values["time/target_seconds"]


CURVE = ((2.0, 0.5), (3.0, 0.8), (4.0, 0.7), (5.0, 0.9))


@pytest.mark.parametrize(
    ("curve", "target", "expected"),
    [
        (CURVE, 0.5, (1.0, 2.0)),
        (CURVE, 0.6, (2.0, 5.0)),
        (CURVE, 0.9, (4.0, 14.0)),
        (CURVE, 0.95, None),
        (((2.0, None), (3.0, None), (4.0, 0.7)), 0.6, (3.0, 9.0)),
        (((2.0, None), (3.0, math.nan)), 0.6, None),
        (((None, 0.5), (3.0, 0.7)), 0.6, None),
    ],
    ids=[
        "first",
        "a later one",
        "last",
        "missed",
        "not every epoch is validated",
        "no number",
        "an epoch without time",
    ],
)
def test_the_time_is_that_of_all_epochs_up_to_the_first_that_reaches_the_target(
    curve: tuple[tuple[float | None, float | None], ...], target: float, expected: tuple[float, float] | None
) -> None:
    assert time_of(epochs(*curve), target) == expected


def test_without_a_target_nothing_is_added() -> None:
    records = epochs(*CURVE)
    assert list(timed_to_target(records, None)) == records
