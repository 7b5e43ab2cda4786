"""What the fresh processes run. Light on purpose: the parent imports it to name the functions, not to get torch."""

from __future__ import annotations

from typing import Any

from pipeline.bench.cases import Case
from pipeline.design.spec import Device


def block(case: Case, names: tuple[str, ...], number: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """One block of a race; see `race.run_block`."""
    from pipeline.bench.loops.race import run_block

    found = run_block(case, names, number)
    return found.seconds, found.difference


def flops_per_image(case: Case) -> float | None:
    """Floating-point operations of one image's training step; see `models.training_flops_per_image`."""
    from pipeline.bench.loops.workload import run_spec
    from pipeline.training.models import training_flops_per_image

    return training_flops_per_image(case.model, run_spec(case).recipe, case.classes)


def feeding(device: Device, rounds: int, augmentation: Any) -> dict[str, list[float]]:
    """Images per second that the input pipelines deliver; see `input_rates.rates`."""
    from pipeline.bench.loops.input_rates import rates

    return rates(device, rounds, augmentation)


def record_cost(records: int) -> float:
    """Seconds that one record costs the training process; see `record_cost.record_seconds`."""
    from pipeline.bench.record_cost import record_seconds

    return record_seconds(records)


def plan_cost(cells: int) -> dict[str, float]:
    """See `scaling.measure_plan_cost`."""
    from pipeline.bench.scaling import measure_plan_cost

    return measure_plan_cost(cells)


def report_cost(cells: int) -> dict[str, float]:
    """See `scaling.measure_report_cost`."""
    from pipeline.bench.scaling import measure_report_cost

    return measure_report_cost(cells)


def orchestration(runs: int, folder: str) -> dict[str, Any]:
    """See `orchestration.measure_orchestration`."""
    from pipeline.bench.orchestration import measure_orchestration

    return measure_orchestration(runs, folder)
