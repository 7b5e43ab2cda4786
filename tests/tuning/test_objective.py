"""What is tuned for: how long a trial is measured, and what makes it infeasible."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.design.records import End
from pipeline.design.spec import Probe
from pipeline.errors import InputError
from pipeline.tuning.objective import MEMORY, OBJECTIVES, Limits, constraints, probe

GPU, HOST = "memory/gpu_peak_allocated_mib", "memory/host_peak_rss_mib"


def limits(**changes: Any) -> Limits:
    return Limits(**{"seconds": 5.0, "interval": 0.01, **changes})


def ended(outcome: Any = "finished") -> End:
    return End(time=0.0, outcome=outcome)


def test_memory_is_the_gpus_where_there_is_one() -> None:
    assert MEMORY.value({GPU: 10.0, HOST: 900.0}) == 10.0
    assert MEMORY.value({HOST: 900.0}) == 900.0
    assert MEMORY.value({}) is None


def test_values_are_all_there_or_none() -> None:
    metrics = {"throughput/images_per_second": 5.0, GPU: 10.0, "val/accuracy": 0.5}
    assert OBJECTIVES["pareto"].values(metrics) == (5.0, 10.0, 0.5)
    del metrics["val/accuracy"]
    assert OBJECTIVES["pareto"].values(metrics) is None
    assert OBJECTIVES["pareto"].directions == ("maximize", "minimize", "maximize")


@pytest.mark.parametrize(
    ("name", "given", "field"),
    [
        ("time", limits(), "--target-accuracy"),
        ("throughput", limits(target_accuracy=0.9), "--target-accuracy"),
        ("throughput", limits(budget_samples=9), "--budget-samples"),
        ("memory", limits(budget_seconds=9.0), "--budget-seconds"),
    ],
)
def test_a_limit_that_does_not_belong_to_the_objective_is_refused(name: str, given: Limits, field: str) -> None:
    with pytest.raises(InputError, match=field):
        probe(OBJECTIVES[name], given)


def test_a_throughput_trial_ends_when_its_interval_is_narrow_or_its_time_over() -> None:
    made = probe(OBJECTIVES["throughput"], limits(seconds=3.0, interval=0.02))
    assert (made.interval, made.max_seconds, made.validate_epochs) == (0.02, 3.0, False)
    assert probe(OBJECTIVES["accuracy"], limits(budget_samples=100)).max_samples == 100
    assert probe(OBJECTIVES["accuracy"], limits()).validate_epochs


def test_constraints_are_met_at_zero_and_below() -> None:
    plain, target = Probe(max_windows=1), Probe(target_accuracy=0.9, validate_epochs=True)
    assert constraints({GPU: 90.0}, ended(), plain, 100.0) == {"memory": pytest.approx(-0.1)}
    assert constraints({GPU: 120.0}, ended(), plain, 100.0) == {"memory": pytest.approx(0.2)}
    assert constraints({}, ended("oom"), plain, None)["memory"] > 0
    assert constraints({"val/accuracy": 0.8}, ended(), target, None)["target"] == pytest.approx(0.1)
    assert constraints({"val/accuracy": 0.95}, ended(), target, None)["target"] > 0, "it was never reached in training"
    assert constraints({"time/target_seconds": 2.0}, ended(), target, None)["target"] == 0.0
