"""The view of a study in MLflow's interface; tests/system/grid/test_ui.py looks at it in a browser."""

from __future__ import annotations

import json
import re

from pipeline.tracking.mlflow_view import opening_script, page_of, view_of

MOST_CHARACTERS = 5000  # of a tag of an experiment, in MLflow's tables


def test_the_view_has_the_cells_with_time_rate_and_accuracy() -> None:
    view = json.loads(view_of("run"))
    assert (
        view["searchFilter"] == "tags.`ablate.kind` = 'run'"
        and "'turns'" in json.loads(view_of("turns"))["searchFilter"]
    )
    assert view["selectedColumns"][:4] == [
        "params.`techniques`",
        "metrics.`time/train_seconds`",
        "metrics.`throughput/images_per_second`",
        "metrics.`test/accuracy`",
    ]
    assert set(view["columnOrder"]) == set(view["columnWidths"])
    charts = view["compareRunCharts"]
    assert view["compareRunSections"][0]["name"] < "amp", "before MLflow's own sections, which are named for metrics"
    assert len({chart["uuid"] for chart in charts}) == len(charts) == 4
    assert {chart["metricSectionId"] for chart in charts} == {view["compareRunSections"][0]["uuid"]}
    assert len(view_of("turns")) < MOST_CHARACTERS


def test_the_page_names_the_view_and_no_other_setting() -> None:
    """MLflow takes no view where its address has a filter or an order of its own."""
    assert page_of("7") == "#/experiments/7/runs?viewStateShareKey=ablate&workflowType=machine_learning"
    assert page_of("7", charts=True) == page_of("7") + "&compareRunsMode=CHART"
    script = opening_script(page_of("7"))
    assert script.startswith("<script>") and json.dumps(page_of("7")) in script
    assert len(re.findall("</script>", script)) == 1
