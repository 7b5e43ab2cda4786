"""A benchmark's document as text."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.bench.text import bench_markdown, show_bench

DOCUMENT: dict[str, Any] = {
    "provenance": {"env.torch": "2.15.0"},
    "rows": [
        {"name": "over_bare", "model": "a|b", "batch": 32, "ratio": 1.01, "low": 0.99, "high": 1.03, "unit": "ratio"},
        {"name": "grid_overhead", "study": "quickstart", "ratio": 1.1, "low": None, "high": None, "unit": "ratio"},
    ],
    "cases": [{"model": "a|b", "batch": 32, "threads": 1, "images_per_second": {"ablate": 1234.5}}],
    "scaling": {
        "training_process_seconds_per_record": 1e-5,
        "plan": [{"cells": 1000, "seconds": 0.5, "memory_mib": 90.0}],
        "report": [],
    },
    "absent": ["over_fabric: not installed"],
}


def test_markdown_has_every_part_and_whole_rows() -> None:
    made = bench_markdown(DOCUMENT)
    assert "| over_bare | a\\|b, batch 32 | 1.010 | 0.990 to 1.030 |" in made
    assert "| grid_overhead | quickstart | 1.100 | – |" in made
    assert "10.0 µs" in made and "plan of 1,000 cells | 0.50 s, 90 MiB" in made and "1,234.5" in made
    assert "- over_fabric: not installed" in made and "- env.torch: 2.15.0" in made


def test_parts_without_content_are_left_out() -> None:
    made = bench_markdown({**DOCUMENT, "cases": [], "absent": [], "scaling": {}})
    assert "## Speeds" not in made and "## Costs" not in made and "## Not measured" not in made


def test_a_terminal_sees_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    show_bench(DOCUMENT)
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("1.010", "0.990 to 1.030", "10.0 µs", "over_fabric: not installed"))
