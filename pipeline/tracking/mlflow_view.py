"""What MLflow's interface shows of a study first: its runs with the columns that matter, charts, and their address.

MLflow keeps a view of a run list that people share as a tag of the experiment, as JSON, and opens it where an address
names its key. Left to itself it opens a page about traces, two folded rows without a metric, and no chart.
"""

from __future__ import annotations

import json
from typing import Any

from pipeline.design.names import (
    DATASET_PARAM,
    IMAGES_PER_SECOND,
    KIND_TAG,
    MODEL_PARAM,
    TAINTED_TAG,
    TECHNIQUES_PARAM,
    TEST_ACCURACY,
    TRAIN_SECONDS,
)

_KEY = "ablate"
VIEW_TAG = f"mlflow.sharedViewState.{_KEY}"
_NAME = "attributes.`Run Name`"
_COLUMNS = {  # with their widths in pixels
    f"params.`{TECHNIQUES_PARAM}`": 120,
    f"metrics.`{TRAIN_SECONDS}`": 140,
    f"metrics.`{IMAGES_PER_SECOND}`": 190,
    f"metrics.`{TEST_ACCURACY}`": 120,
    f"params.`{MODEL_PARAM}`": 150,
    f"params.`{DATASET_PARAM}`": 110,
    f"tags.`{TAINTED_TAG}`": 200,
}
_SECTION = f"{_KEY}: time and accuracy"  # MLflow puts sections of all other metrics beside it, by their names
_MOST_BARS = 100


def view_of(kind: str) -> str:
    """The view as MLflow keeps it: runs without their parents, in the order of their names.

    Args:
        kind: of the runs: `run`, or `turns` where cells have taken turns alone.
    """
    bars = [_card(number, "BAR", metricKey=key) for number, key in enumerate(_measured())]
    times = {"key": TRAIN_SECONDS, "type": "METRIC"}
    scores = {"key": TEST_ACCURACY, "type": "METRIC"}
    return json.dumps(
        {
            "searchFilter": f"tags.`{KIND_TAG}` = '{kind}'",
            "orderByKey": "tags.`mlflow.runName`",
            "orderByAsc": True,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "modelVersionFilter": "All Runs",
            "datasetsFilter": [],
            "selectedColumns": list(_COLUMNS),
            "columnOrder": [_NAME, *_COLUMNS],
            "columnWidths": {_NAME: 320, **_COLUMNS},
            "runsHiddenMode": "SHOWALL",
            "compareRunSections": [{"uuid": _KEY, "name": _SECTION, "display": True, "isReordered": False}],
            "compareRunCharts": [*bars, _card(len(bars), "SCATTER", xaxis=times, yaxis=scores)],
        }
    )


def _measured() -> tuple[str, ...]:
    return TRAIN_SECONDS, IMAGES_PER_SECOND, TEST_ACCURACY


def _card(number: int, kind: str, **settings: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"{_KEY}-{number}",
        "metricSectionId": _KEY,
        "runsCountToCompare": _MOST_BARS,
        "deleted": False,
        "isGenerated": False,
        **settings,
    }


def page_of(experiment_id: str, *, charts: bool = False) -> str:
    """The part behind the host of the address at which a study's runs are shown.

    Args:
        experiment_id: MLflow's.
        charts: whether as charts beside the list.
    """
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={_KEY}&workflowType=machine_learning{mode}"


def opening_script(page: str) -> str:
    """A script for the page at the root: whoever asks for nothing else gets a study's runs.

    It also says, where the browser has nothing kept about it, that models are trained here, and that the panel of
    MLflow's assistant, which takes a quarter of the screen, has been offered already.

    Args:
        page: as `page_of` gives it.
    """
    kept = {"mlflow.workflowType_v1": "machine_learning", "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True}
    lines = [
        f"const kept = {json.dumps({key: json.dumps(value) for key, value in kept.items()})};",
        "try { for (const key in kept) if (localStorage.getItem(key) === null) localStorage.setItem(key, kept[key]); }",
        "catch {}",
        f"if (['', '#', '#/'].includes(location.hash)) location.replace({json.dumps(page)});",
    ]
    return f"<script>{' '.join(lines)}</script>"
