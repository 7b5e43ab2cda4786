"""The page in headless Chromium: no console message, no request, both colour schemes, phone width."""

import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.planted import planted
from tests.support.reports import written_report

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


def browse(profile: Path, *flags: str, url: str) -> subprocess.CompletedProcess:
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("page")
    study = planted(models=("m1", "m2"), datasets=("d1", "d2"), blocks=3)
    written_report(study, out, paper=True)
    return out / "report.html"


def console(result):
    return [line for line in result.stderr.splitlines() if "CONSOLE" in line]


def requests(log: Path):
    import json

    text = log.read_text()
    data = json.loads(text if text.rstrip().endswith("}") else text.rstrip().rstrip(",") + "]}")
    urls = [e["params"]["url"] for e in data["events"] if "url" in e.get("params", {})]
    outside = [u for u in urls if not u.startswith(("file:", "data:", "chrome", "about:"))]
    # The browser's own traffic (clock, updates); that the page names none of these hosts is tested elsewhere.
    own = ("google.com", "googleapis.com", "gvt1.com", "gstatic.com")
    return [u for u in outside if not (urlsplit(u).hostname or "").endswith(own)]


def test_no_console_message_and_no_request(page, tmp_path):
    log = tmp_path / "net.json"
    flags = ("--enable-logging=stderr", "--v=0", f"--log-net-log={log}", f"--screenshot={tmp_path / 'a.png'}")
    result = browse(tmp_path / "profile", *flags, url=page.as_uri())
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert console(result) == []
    assert requests(log) == []


def test_the_checks_above_can_fail(tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://127.0.0.1:9/x.png'><script>console.error('seen')</script>")
    log = tmp_path / "net.json"
    flags = ("--enable-logging=stderr", "--v=0", f"--log-net-log={log}", f"--screenshot={tmp_path / 'a.png'}")
    result = browse(tmp_path / "profile", *flags, url=bad.as_uri())
    assert console(result)
    assert any("127.0.0.1:9" in u for u in requests(log))


def test_light_and_dark_differ(page, tmp_path):
    from PIL import Image

    shades = {}
    for name, scheme in (("dark", 0), ("light", 1)):
        shot = tmp_path / f"{name}.png"
        flags = (
            f"--screenshot={shot}",
            "--window-size=1000,900",
            f"--blink-settings=preferredColorScheme={scheme}",
        )
        browse(tmp_path / f"profile-{name}", *flags, url=page.as_uri())
        shades[name] = Image.open(shot).convert("L").resize((1, 1)).getpixel((0, 0))
    assert shades["dark"] < 80 < 180 < shades["light"]


def test_at_phone_width_the_page_does_not_scroll_sideways(page, tmp_path):
    # A frame of 390 px, because a headless window has a least width of its own.
    frame = tmp_path / "frame.html"
    probe = page.with_name("probe.html")
    script = "<script>document.title='w'+document.documentElement.scrollWidth</script></body>"
    text = page.read_text().replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    probe.write_text(text.replace("</body>", script))
    frame.write_text(
        f"<iframe id=f src='{probe.as_uri()}' width=390 height=800></iframe><p id=o></p><script>f.onload=()=>"
        "{o.textContent='width '+f.contentDocument.title}</script>"
    )
    result = browse(tmp_path / "p", "--allow-file-access-from-files", "--dump-dom", url=frame.as_uri())
    assert "width w390" in result.stdout
