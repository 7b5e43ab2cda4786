"""MLflow's own web interface on a grid's store: started by `ablate ui`, driven in headless Chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.support.ablate import start_ablate
from tests.support.grids import FinishedGrid
from tests.support.servers import free_port

BROWSER = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="chromium and chromedriver are not installed")
SCROLL = """for (const e of document.querySelectorAll('*'))
  if (e.scrollHeight > e.clientHeight + 4 && e.clientHeight < 800) e.scrollTop = arguments[0];"""
NAME = re.compile(r"test_(?:resnet|vit|efficientnet)/digits(?:100)?/[a-z+]+/s101")


@pytest.fixture(scope="module")
def server(grid: FinishedGrid) -> Iterator[str]:
    port = free_port()
    process = start_ablate("ui", "--port", str(port), cwd=grid.folder)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                    assert answer.read() == b"OK"
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, "the server did not start"
                time.sleep(0.5)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    with pytest.raises(OSError):  # the server and its workers ended with the command
        urllib.request.urlopen(f"{url}/health", timeout=2)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1800,2600",
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def _wait_for(browser: Any, condition: Any, what: str, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.3)
    raise AssertionError(f"{what} did not appear; the page says: {browser.find_element('tag name', 'body').text[:600]}")


def _save(browser: Any, name: str, tmp_path: Path) -> None:
    """Screenshots can be kept for a look: ABLATE_TEST_SCREENSHOTS=folder."""
    folder = Path(os.environ.get("ABLATE_TEST_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(folder / name))
    assert (folder / name).stat().st_size > 20_000, "an empty page"


def _experiment(grid: FinishedGrid) -> tuple[str, list[Any]]:
    client = MlflowClient(tracking_uri=grid.uri)
    experiment = client.get_experiment_by_name("quickstart")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`ablate.kind` = 'run'", max_results=100)
    return experiment.experiment_id, list(runs)


def test_run_list_shows_the_48_named_children(grid: FinishedGrid, server: str, browser: Any, tmp_path: Path) -> None:
    experiment, runs = _experiment(grid)
    browser.get(f"{server}/#/experiments/{experiment}/runs")
    expander = _wait_for(
        browser,
        lambda: browser.find_elements("css selector", ".ag-row button"),
        "the parent's expander",
    )
    expander[0].click()
    names: set[str] = set()

    def seen() -> bool:
        names.update(NAME.findall(browser.find_element("tag name", "body").text))
        return len(names) >= 48

    _wait_for(browser, seen, "48 children")
    assert names == {run.info.run_name for run in runs}
    _save(browser, "runs.png", tmp_path)


def _shown(browser: Any, words: list[str]) -> bool:
    body = browser.find_element("tag name", "body").text
    return all(word in body for word in words)


def test_the_root_leads_to_the_runs_of_the_study(server: str, browser: Any, tmp_path: Path) -> None:
    browser.get(f"{server}/")
    columns = ["techniques", "time/train_seconds", "throughput/images_per_second", "test/accuracy"]
    _wait_for(browser, lambda: _shown(browser, [*columns, "48 matching runs", "ga+amp+pm"]), "the view")
    assert len(set(NAME.findall(browser.find_element("tag name", "body").text))) >= 10, "children without a click"
    assert "MLflow Assistant" not in browser.find_element("tag name", "body").text
    _save(browser, "root.png", tmp_path)


def test_compare_page_shows_params_and_metrics(grid: FinishedGrid, server: str, browser: Any, tmp_path: Path) -> None:
    experiment, runs = _experiment(grid)
    cells = [r for r in runs if (r.data.params["model"], r.data.params["dataset"]) == ("test_vit", "digits")]
    assert len(cells) == 8
    ids = json.dumps([run.info.run_id for run in cells])
    browser.get(f"{server}/#/compare-runs?runs={ids}&experiments={json.dumps([experiment])}")

    _wait_for(browser, lambda: "Show diff only" in browser.find_element("tag name", "body").text, "the page")
    shown = ""
    for step in range(12):  # the tables keep only visible rows in the page
        browser.execute_script(SCROLL, step * 250)
        time.sleep(0.3)
        shown += str(browser.find_element("tag name", "body").text)
    words = ["recipe.precision", "recipe.accumulation_steps", "techniques", "amp", "ga", "pm"]
    words += ["time/train_seconds", "throughput/images_per_second", "test/accuracy", "test/f1_macro", "step/p95_ms"]
    assert [word for word in words if word not in shown] == []
    assert [run.info.run_name for run in cells if run.info.run_name not in shown] == []
    browser.execute_script(SCROLL, 0)
    _save(browser, "compare.png", tmp_path)
