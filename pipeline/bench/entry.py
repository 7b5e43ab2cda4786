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
    """Images per second that the input pipelines deliver; see `feeding.rates`."""
    from pipeline.bench.loops.input_rates import rates

    return rates(device, rounds, augmentation)


def record_cost(records: int) -> float:
    """Seconds that one record costs the training process; see `feeding.record_seconds`."""
    from pipeline.bench.record_cost import record_seconds

    return record_seconds(records)


def plan_cost(cells: int) -> dict[str, float]:
    """See `scaling.plan_cost`."""
    from pipeline.bench.scaling import plan_cost as measure

    return measure(cells)


def report_cost(cells: int) -> dict[str, float]:
    """See `scaling.report_cost`."""
    from pipeline.bench.scaling import report_cost as measure

    return measure(cells)


def orchestration(runs: int, folder: str) -> dict[str, Any]:
    """See `orchestration.measure`."""
    from pipeline.bench.orchestration import measure

    return measure(runs, folder)
