"""A benchmark's document as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.shown import markdown_cell

_EXPLAINED = {
    "over_bare": "images/s over a bare loop's",
    "over_accelerate": "images/s over Accelerate's",
    "over_lightning": "images/s over Lightning Trainer's",
    "over_fabric": "images/s over Lightning Fabric's",
    "over_timm": "images/s over timm's",
    "gather_over_loader": "images/s delivered, gather over loader",
    "grid_overhead": "wall time of a grid over its runs' train and eval time",
}
_PLAIN = {"name", "ratio", "low", "high", "unit"}


def result_rows(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of the ratios: name, what of, ratio, interval, meaning."""
    return [
        (
            row["name"],
            _subject(row),
            f"{row['ratio']:.3f}",
            "–" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}",
            _EXPLAINED.get(row["name"], ""),
        )
        for row in document["rows"]
    ]


def _subject(row: Mapping[str, Any]) -> str:
    if "model" in row:
        return f"{row['model']}, batch {row['batch']}"
    if "augmentation" in row:
        return f"augmentation {row['augmentation']}"
    return str(row.get("study", ""))


def cost_rows(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of the costs: what, how much."""
    scaling = document["scaling"]
    found: list[tuple[str, str]] = []
    if "training_process_seconds_per_record" in scaling:
        cost = scaling["training_process_seconds_per_record"] * 1e6
        found.append(("a record, in the training process", f"{cost:.1f} µs"))
    grid = scaling.get("orchestration")
    if grid:
        found += [
            ("a metric value, in the writer (batches of 500)", f"{grid['seconds_per_record'] * 1e6:.0f} µs"),
            ("a run that trains nothing", f"{grid['seconds_per_run'] * 1e3:.0f} ms"),
            ("MLflow calls of a run", f"{grid['mlflow_calls_per_run']:.1f}"),
            ("memory of the controller", f"{grid['memory_mib']:.0f} MiB"),
        ]
    for kind in ("plan", "report"):
        for size in scaling.get(kind, ()):
            cost = f"{size['seconds']:.2f} s, {size['memory_mib']:.0f} MiB"
            found.append((f"{kind} of {size['cells']:,.0f} cells", cost))
    return found


def bench_markdown(document: Mapping[str, Any]) -> str:
    """The whole document as Markdown."""
    provenance = document["provenance"]
    parts = ["# Benchmark", "", *_table(("name", "of", "ratio", "95 % interval", "meaning"), result_rows(document))]
    costs = cost_rows(document)
    if costs:
        parts += ["", "## Costs", "", *_table(("what", "cost"), costs)]
    rates = [
        (case["model"], str(case["batch"]), str(case["threads"]), name, f"{rate:,.1f}")
        for case in document["cases"]
        for name, rate in case["images_per_second"].items()
    ]
    if rates:
        heading = ("model", "batch", "threads", "contender", "images/s (median)")
        parts += ["", "## Speeds", "", *_table(heading, rates)]
    if document["absent"]:
        parts += ["", "## Not measured", "", *(f"- {line}" for line in document["absent"])]
    parts += ["", "## Where and with what", "", *(f"- {name}: {value}" for name, value in provenance.items())]
    return "\n".join(parts) + "\n"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heading, ["---"] * len(heading), *rows]
    return ["| " + " | ".join(markdown_cell(cell) for cell in line) + " |" for line in lines]


def show_bench(document: Mapping[str, Any]) -> None:
    """Prints the results as tables."""
    from rich.table import Table

    from pipeline.console import make_console

    console = make_console(width=120)
    table = Table(title="ablate against the others (above 1: ablate is faster)", title_justify="left")
    for number, name in enumerate(("name", "of", "ratio", "95 % interval", "meaning")):
        table.add_column(name, justify="right" if number in (2, 3) else "left")
    for row in result_rows(document):
        table.add_row(*row)
    console.print(table)
    costs = cost_rows(document)
    if costs:
        table = Table("what", "cost", title="costs", title_justify="left")
        for cost in costs:
            table.add_row(*cost)
        console.print(table)
    for line in document["absent"]:
        print(line)
