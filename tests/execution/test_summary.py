"""The table that people see first: means over finished blocks, ratios to the baseline, dashes for what is unknown."""

from __future__ import annotations

import math

import pytest

from pipeline.execution import summary
from pipeline.execution.summary import ACCURACY, GPU_MEMORY, HOST_MEMORY, RATE, TIME, CellResult


def result(label: str, outcome: str = "finished", **values: float) -> CellResult:
    names = {"seconds": TIME, "rate": RATE, "gpu": GPU_MEMORY, "host": HOST_MEMORY, "accuracy": ACCURACY}
    return CellResult("m|1", "digits", label, outcome, {names[name]: value for name, value in values.items()})


RESULTS = [
    result("amp+pm", seconds=1.0, rate=40.0),
    result("amp", seconds=1.0, accuracy=0.5),
    result("amp", seconds=4.0, accuracy=0.7),
    result("amp", "oom"),
    result("baseline", seconds=4.0, rate=10.0, host=100.0),
]


def test_rows_come_by_number_of_techniques_with_means_and_ratios() -> None:
    ((pair, rows),) = summary.tables(RESULTS).items()
    assert pair == ("m|1", "digits")
    assert [row.label for row in rows] == ["baseline", "amp", "amp+pm"]
    base, amp, both = rows
    assert (amp.runs, amp.outcome) == (2, "oom")
    assert amp.seconds == pytest.approx(2.0), "geometric"
    assert amp.accuracy == pytest.approx(0.6), "arithmetic"
    assert (base.time_ratio, amp.time_ratio, both.rate_ratio) == pytest.approx((1.0, 0.5, 4.0))
    assert amp.rate_ratio is None and base.memory_mib == pytest.approx(100.0)


def test_memory_is_the_gpu_s_where_it_is_known() -> None:
    (rows,) = summary.tables([result("baseline", host=100.0, gpu=7.0)]).values()
    assert rows[0].memory_mib == pytest.approx(7.0)


def test_what_is_not_finite_is_no_value() -> None:
    (rows,) = summary.tables([result("baseline", seconds=math.nan, rate=math.inf)]).values()
    assert (rows[0].seconds, rows[0].rate) == (None, None)


def test_markdown_escapes_names_and_shows_dashes() -> None:
    text = summary.summary_markdown(summary.tables(RESULTS))
    assert "### m\\|1 on digits" in text
    assert "| amp (oom) | 2 | 2.00 | – | – | 0.6000 | – | 0.500 | – |" in text


def test_aggregates_go_over_all_pairs() -> None:
    other = [CellResult("m2", "digits", one.label, one.outcome, one.values) for one in RESULTS if one.label != "amp"]
    other[0] = CellResult("m2", "digits", "amp+pm", "finished", {TIME: 4.0})
    values = summary.aggregates(summary.tables([*RESULTS, *other]))
    assert values["time_ratio/amp.pm"] == pytest.approx(0.5), "of 1/4 and 1"
    assert values["time_ratio/amp"] == pytest.approx(0.5)
    assert "rate_ratio/amp" not in values


def test_levels_by_which_grids_are_compared() -> None:
    other = [CellResult("m2", "digits", "baseline", "finished", {TIME: 16.0, RATE: 40.0, ACCURACY: 0.9})]
    values = summary.aggregates(summary.tables([*RESULTS, *other]))
    assert values["grid/median_train_seconds"] == pytest.approx(3.0), "of 1, 2, 4 and 16"
    assert values["grid/baseline_images_per_second"] == pytest.approx(20.0), "geometric"
    assert values["grid/baseline_accuracy"] == pytest.approx(0.9), "absent values are no zeros"
    assert not any(name.startswith("grid/") for name in summary.aggregates(summary.tables([result("amp", "oom")])))


def test_the_description_ends_with_the_command() -> None:
    text = summary.summary_markdown(summary.tables(RESULTS), "ablate grid --set 'a=```'")
    assert text.startswith("### m") and text.endswith("\n\n````\nablate grid --set 'a=```'\n````")
    assert "`" not in summary.summary_markdown(summary.tables(RESULTS))
