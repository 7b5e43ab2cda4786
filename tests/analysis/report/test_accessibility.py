"""The page under axe-core: no serious finding, light and dark.

axe-core is no dependency of ours: `npm install -g axe-core` (.ci/run does), or AXE_CORE names the file axe.min.js.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.analysis.report.test_browser import CHROMIUM
from tests.support.planted import planted
from tests.support.reports import written_report

DRIVER = shutil.which("chromedriver")


def axe_core() -> Path | None:
    """Finds axe.min.js, where npm or the environment says."""
    places = [Path(os.environ["AXE_CORE"])] if "AXE_CORE" in os.environ else []
    npm = shutil.which("npm")
    if npm is not None:
        root = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, timeout=60).stdout.strip()
        places.append(Path(root) / "axe-core" / "axe.min.js")
    return next((place for place in places if place.is_file()), None)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="no Chromium with chromedriver is installed"),
]


@pytest.fixture(scope="module")
def browser():
    axe = axe_core()
    if axe is None:
        pytest.skip("axe-core is not installed: npm install -g axe-core, or set AXE_CORE to its axe.min.js")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver, axe.read_text(encoding="utf-8")
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("page")
    study = planted(models=("m1", "m2"), datasets=("d1", "d2"), blocks=3, device="cpu", gpu=False)
    study.runs.loc[3, "tags.ablate.tainted"] = "neighbour"
    written_report(study, out, paper=True)
    return out / "report.html"


def findings(browser, page, scheme, width):
    driver, axe = browser
    driver.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": features})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.set_script_timeout(120)
    driver.get(page.as_uri())
    driver.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    driver.execute_script(axe)
    done = driver.execute_async_script("axe.run().then(r => arguments[0](JSON.stringify(r.violations)))")
    return [(v["impact"], v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in json.loads(done)]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_axe_finds_nothing_serious(browser, page, scheme, width):
    found = findings(browser, page, scheme, width)
    assert not [each for each in found if each[0] in ("serious", "critical")], found


def test_the_check_above_can_fail(browser, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<html><body><img src='data:,'><p style='color:#ccc;background:#fff'>pale</p></body></html>")
    assert {"image-alt", "color-contrast"} <= {each[1] for each in findings(browser, bad, "light", 1280)}
