"""Aggregates of a grid's finished cells: the table that people see first. Plain Python, no statistics library.

Intervals and verdicts are the report's business (`pipeline.analysis`); here are means and ratios to the baseline.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from pipeline.design.names import (
    BASELINE_ACCURACY,
    BASELINE_RATE,
    GPU_PEAK_ALLOCATED,
    HOST_PEAK_RSS,
    IMAGES_PER_SECOND,
    MEDIAN_TRAIN_SECONDS,
    TEST_ACCURACY,
    TEST_F1,
    TRAIN_SECONDS,
)
from pipeline.design.plan import Plan
from pipeline.shown import markdown_cell

TIME = TRAIN_SECONDS
RATE = IMAGES_PER_SECOND
GPU_MEMORY = GPU_PEAK_ALLOCATED
HOST_MEMORY = HOST_PEAK_RSS
ACCURACY = TEST_ACCURACY
F1 = TEST_F1


@dataclass(frozen=True)
class CellResult:
    """One finished (or not finished) run, as the tables need it.

    Attributes:
        model: name of the model.
        dataset: name of the data set.
        label: its techniques, joined by `+`; `baseline` for none.
        outcome: of the run; `pending` where there is none yet.
        values: metric -> value.
    """

    model: str
    dataset: str
    label: str
    outcome: str
    values: Mapping[str, float]


def cell_results(
    plan: Plan, outcomes: Mapping[str, str], values: Mapping[str, Mapping[str, float]]
) -> list[CellResult]:
    """All cells of a plan with what came of them.

    Args:
        plan: the plan.
        outcomes: by digest; a cell without one is pending.
        values: metrics by digest.
    """
    return [
        CellResult(
            run.model,
            run.spec.dataset,
            run.spec.label,
            outcomes.get(run.spec.digest, "pending"),
            values.get(run.spec.digest, {}),
        )
        for run in plan.cells
    ]


@dataclass(frozen=True)
class CellRow:
    """A line of the table: one setting of one (model, data set), averaged over its finished blocks.

    Times, rates and memory are geometric means, scores arithmetic ones; None where nothing was measured.

    Attributes:
        label: its techniques, joined by `+`.
        runs: finished blocks.
        outcome: what else came of its blocks, joined by commas.
        seconds: training time, in s.
        rate: throughput, in images/s.
        memory_mib: peak of the GPU's memory, or else of the host's, in MiB.
        accuracy: on the test set, as a fraction.
        f1: macro average on the test set, as a fraction.
        time_ratio: training time over the baseline's.
        rate_ratio: throughput over the baseline's.
    """

    label: str
    runs: int
    outcome: str
    seconds: float | None
    rate: float | None
    memory_mib: float | None
    accuracy: float | None
    f1: float | None
    time_ratio: float | None = None
    rate_ratio: float | None = None


def tables(results: Iterable[CellResult]) -> dict[tuple[str, str], list[CellRow]]:
    """Groups results by (model, data set), settings ordered by their number of techniques."""
    grouped: dict[tuple[str, str], dict[str, list[CellResult]]] = {}
    for result in results:
        grouped.setdefault((result.model, result.dataset), {}).setdefault(result.label, []).append(result)
    return {pair: _with_ratios(settings) for pair, settings in sorted(grouped.items())}


def _with_ratios(settings: Mapping[str, list[CellResult]]) -> list[CellRow]:
    rows = {label: _row(label, results) for label, results in settings.items()}
    base = rows.get("baseline")
    complete = []
    for label in sorted(rows, key=lambda name: (name != "baseline", name.count("+"), name)):
        row = rows[label]
        ratios = (_ratio(row.seconds, base.seconds), _ratio(row.rate, base.rate)) if base else (None, None)
        complete.append(CellRow(**{**vars(row), "time_ratio": ratios[0], "rate_ratio": ratios[1]}))
    return complete


def _row(label: str, results: Sequence[CellResult]) -> CellRow:
    done = [result.values for result in results if result.outcome == "finished"]
    others = sorted({result.outcome for result in results if result.outcome != "finished"})
    memory = GPU_MEMORY if any(GPU_MEMORY in values for values in done) else HOST_MEMORY
    return CellRow(
        label=label,
        runs=len(done),
        outcome=", ".join(others),
        seconds=_geometric(done, TIME),
        rate=_geometric(done, RATE),
        memory_mib=_geometric(done, memory),
        accuracy=_mean(done, ACCURACY),
        f1=_mean(done, F1),
    )


def _finite(done: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [values[name] for values in done if name in values and math.isfinite(values[name])]


def _geometric(done: Sequence[Mapping[str, float]], name: str) -> float | None:
    values = [value for value in _finite(done, name) if value > 0]
    return math.exp(fmean(map(math.log, values))) if values else None


def _mean(done: Sequence[Mapping[str, float]], name: str) -> float | None:
    values = _finite(done, name)
    return fmean(values) if values else None


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value and base else None


HEADINGS = ("techniques", "runs", "train s", "images/s", "memory MiB", "accuracy", "F1", "time ×", "rate ×")


# columns that are left out where there is no room for all, the first one first
_DISPENSABLE = ("rate ×", "F1", "runs", "memory MiB", "images/s", "train s", "accuracy")


def fitting(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Which columns of drawn tables have room side by side, as indexes of `HEADINGS`; the first one always has.

    Args:
        rows: of all tables, in the order of `HEADINGS`.
        width: columns of the terminal.
    """
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    shown = list(range(len(HEADINGS)))
    for name in _DISPENSABLE:
        if sum(widths[number] + 3 for number in shown) + 1 <= width:  # a space at each side, and the line between
            break
        shown.remove(HEADINGS.index(name))
    return shown


def cells(row: CellRow) -> tuple[str, ...]:
    """A row as text, in the order of `HEADINGS`; what is unknown is a dash."""

    def shown(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    return (
        row.label + (f" ({row.outcome})" if row.outcome else ""),
        str(row.runs),
        shown(row.seconds, ".2f"),
        shown(row.rate, ",.0f"),
        shown(row.memory_mib, ",.0f"),
        shown(row.accuracy, ".4f"),
        shown(row.f1, ".4f"),
        shown(row.time_ratio, ".3f"),
        shown(row.rate_ratio, ".3f"),
    )


def summary_markdown(by_pair: Mapping[tuple[str, str], Sequence[CellRow]], command: str = "") -> str:
    """All tables as Markdown, for the parent run's description, and the command that measured them."""
    sections = []
    for (model, dataset), rows in by_pair.items():
        lines = [f"### {markdown_cell(model)} on {markdown_cell(dataset)}", "", "| " + " | ".join(HEADINGS) + " |"]
        lines.append("|" + "|".join([" --- ", *([" ---: "] * (len(HEADINGS) - 1))]) + "|")
        lines += ["| " + " | ".join(map(markdown_cell, cells(row))) + " |" for row in rows]
        sections.append("\n".join(lines))
    fence = "`" * (1 + max(map(len, re.findall("`+", command)), default=2))
    return "\n\n".join([*sections, *([f"{fence}\n{command}\n{fence}"] if command else [])])


def aggregates(by_pair: Mapping[tuple[str, str], Sequence[CellRow]]) -> dict[str, float]:
    """Returns the parent run's metrics, by which grids are compared.

    Per setting the geometric mean over all pairs of the ratios to the baseline; over all settings the median training
    time; of the baseline its rate and accuracy. The best ratio is none of them: the largest of many that scatter is
    larger than the truth.
    """
    values = _levels(by_pair)
    by_label: dict[str, list[CellRow]] = {}
    for rows in by_pair.values():
        for row in rows:
            by_label.setdefault(row.label, []).append(row)
    for label, rows in by_label.items():
        for name in ("time_ratio", "rate_ratio"):
            ratios = [{name: ratio} for row in rows if (ratio := getattr(row, name)) is not None]
            mean = _geometric(ratios, name)
            if mean is not None:
                values[f"{name}/{label.replace('+', '.')}"] = mean
    return values


def _levels(by_pair: Mapping[tuple[str, str], Sequence[CellRow]]) -> dict[str, float]:
    rows = [row for group in by_pair.values() for row in group]
    bases = [row for row in rows if row.label == "baseline"]
    seconds = [row.seconds for row in rows if row.seconds is not None]
    found = {
        MEDIAN_TRAIN_SECONDS: median(seconds) if seconds else None,
        BASELINE_RATE: _geometric([{RATE: row.rate} for row in bases if row.rate is not None], RATE),
        BASELINE_ACCURACY: _mean([{ACCURACY: row.accuracy} for row in bases if row.accuracy is not None], ACCURACY),
    }
    return {name: value for name, value in found.items() if value is not None}
