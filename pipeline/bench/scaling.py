"""Cost of planning and reporting against the size of a study. Each size is measured in a process of its own."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.design.names import (
    BLOCK_TAG,
    DATASET_PARAM,
    DEVICE_PARAM,
    FINISHED_STATE,
    IMAGES_PER_SECOND,
    KIND_TAG,
    MODEL_PARAM,
    OUTCOME_TAG,
    POSITION_TAG,
    SEED_PARAM,
    TECHNIQUES_PARAM,
    TEST_ACCURACY,
    TEST_F1,
    TRAIN_SECONDS,
)

CELLS_OF_A_BLOCK = 8  # one model, one data set, 2^3 techniques


def measure_plan_cost(cells: int) -> dict[str, float]:
    """Plans a study of about so many cells: ten models' and data sets' worth at most, the rest as blocks.

    Returns:
        `cells`, `seconds`, and `memory_mib`, the peak of the process.
    """
    from pipeline.design import study
    from pipeline.design.plan import build_plan

    began = time.perf_counter()
    base = study.load_study("quickstart")
    blocks = max(1, round(cells / (len(base.models) * len(base.datasets) * CELLS_OF_A_BLOCK)))
    plan = build_plan(study.replace(base, seeds=blocks), "cpu", {})
    digests = len({run.spec.digest for run in plan.runs})
    seconds = time.perf_counter() - began
    if digests != len(plan.runs):
        raise RuntimeError(f"{len(plan.runs)} cells have {digests} identities")
    return {"cells": float(len(plan.runs)), "seconds": seconds, "memory_mib": peak_mib()}


def measure_report_cost(cells: int) -> dict[str, float]:
    """Analyses and writes the report of a simulated study of about so many finished cells.

    Reading the store is not in it: that cost is per run, see `orchestration`.

    Returns:
        `cells`, `seconds` and `memory_mib`, the peak of the process.
    """
    from pipeline.analysis.effects import estimate
    from pipeline.analysis.report.files import write_report
    from pipeline.analysis.report.report import build_report
    from pipeline.tracking.study_data import StudyData

    runs = _simulated(max(2, round(cells / CELLS_OF_A_BLOCK)))
    data = StudyData("simulated", runs, techniques=("ga", "amp", "pm"))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        write_report(build_report(data, estimate(data)), Path(folder))
        seconds = time.perf_counter() - began
    return {"cells": float(len(runs)), "seconds": seconds, "memory_mib": peak_mib()}


def _simulated(blocks: int) -> Any:
    """A study of one model with log-normal times, in the columns of the tracking store."""
    import itertools

    import numpy as np
    import pandas as pd

    random = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    began = pd.Timestamp("2026-01-01", tz="UTC")
    for block, cell in itertools.product(range(blocks), itertools.product((False, True), repeat=3)):
        on = [name for name, is_on in zip(("ga", "amp", "pm"), cell, strict=True) if is_on]
        seconds = float(np.exp(random.normal(4.0 - 0.1 * len(on), 0.02)))
        start = began + pd.Timedelta(minutes=3 * len(rows))
        rows.append(
            {
                "run_id": f"run{len(rows)}",
                "status": FINISHED_STATE,
                "start_time": start,
                "end_time": start + pd.Timedelta(seconds=seconds),
                f"tags.{KIND_TAG}": "run",
                f"tags.{BLOCK_TAG}": str(block),
                f"tags.{POSITION_TAG}": str(len(rows)),
                f"tags.{OUTCOME_TAG}": "finished",
                f"params.{MODEL_PARAM}": "test_resnet",
                f"params.{DATASET_PARAM}": "digits",
                f"params.{SEED_PARAM}": str(block),
                f"params.{TECHNIQUES_PARAM}": "+".join(on) or "baseline",
                f"params.{DEVICE_PARAM}": "cpu",
                **{f"params.{name}": "on" if name in on else "off" for name in ("ga", "amp", "pm")},
                f"metrics.{TRAIN_SECONDS}": seconds,
                f"metrics.{IMAGES_PER_SECOND}": 1e5 / seconds,
                f"metrics.{TEST_ACCURACY}": 0.9 + random.normal(0, 0.002),
                f"metrics.{TEST_F1}": 0.89 + random.normal(0, 0.002),
            }
        )
    return pd.DataFrame(rows)


def peak_mib() -> float:
    """Peak resident memory of this process, in MiB (Linux counts it since the interpreter was started)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
