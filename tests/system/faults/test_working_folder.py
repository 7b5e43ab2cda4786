"""Commands in a folder that holds a file named after every module there is: none of them is run."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import urllib.request
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.ablate import ROOT, Result, ended, environment, start_ablate
from tests.support.processes import STUDY, until
from tests.support.servers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ONE = STUDY.replace("[ga, pm]", "[ga]")
GRID = ("grid", "--study", "small.yaml", "--device", "cpu", "--seeds", "1", "--data-dir", "data")
TUNE = (
    *("tune", "--model", "test_resnet", "--dataset", "digits", "--study", "small.yaml", "--device", "cpu"),
    *("--batch-sizes", "16,32", "--accumulation", "1", "--trial-seconds", "0.2", "--trials", "2"),
    *("--confirm-blocks", "1", "--top", "1"),
)
FOLDERS = {"pipeline", "numpy", "click"}  # a project's own packages
SPEED = (
    *("speed", "--study", "small.yaml", "--device", "cpu", "--data-dir", "data"),
    *("--max-seconds", "5"),
)
SITE = {"sitecustomize", "usercustomize"}
START = "import sys; print(*sys.modules)"
WORKER = "import sys, pipeline.execution.local.preload, pipeline.training.preflight; print(*sys.modules)"


def loaded(code: str) -> set[str]:
    """Top-level modules that an interpreter has after some code."""
    command = [sys.executable, "-P", "-c", code]
    found = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=True)
    return {name.partition(".")[0] for name in found.stdout.split()}


@pytest.fixture(scope="module", name="names")
def all_names() -> set[str]:
    """What a worker has loaded, and whatever else it, the command and Python could ask for."""
    names = {*sys.stdlib_module_names, *importlib.metadata.packages_distributions(), "pipeline", "sitecustomize"}
    names |= loaded(WORKER)
    assert {"torch", "multiprocessing", "selectors", "__future__", "click", "mlflow"} <= names
    return names


class HostileFolder:
    """A folder of modules; whichever is imported leaves a mark and fails.

    Args:
        folder: the folder.
        names: of the modules.
    """

    def __init__(self, folder: Path, names: set[str]) -> None:
        self.folder = folder
        self.mark = folder.parent / "mark"
        code = (
            f"open({str(self.mark)!r}, 'a').write(__file__ + chr(10))\nraise SystemExit(__file__ + ' was imported')\n"
        )
        for place in (folder, folder / "relative"):
            place.mkdir()
            for name in names:
                if name in FOLDERS:
                    (place / name).mkdir()
                    (place / name / "__init__.py").write_text(code)
                elif name.isidentifier():
                    (place / f"{name}.py").write_text(code)
        (folder / "small.yaml").write_text(ONE)

    def start(self, *words: str, python: tuple[str, ...] = (), **variables: str) -> subprocess.Popen[str]:
        return start_ablate(*words, cwd=self.folder, env=variables, python=python)

    def call(self, *words: str, **settings: Any) -> Result:
        found = ended(self.start(*words, **settings), 280)
        assert not self.mark.exists(), f"{self.mark.read_text()}\n{found.err}"
        return found


def test_an_installed_command_imports_nothing_from_the_folder(tmp_path: Path, names: set[str]) -> None:
    """As the installed program is started: its own folder stands on the import path, not the working one."""
    folder = HostileFolder(tmp_path / "work", names)
    safe: Any = {"python": ("-P",)}
    assert folder.call(*GRID, **safe).code == 0
    assert (folder.folder / "data").is_dir(), "a relative path still means the working folder"
    assert folder.call("doctor", **safe).code == 0
    assert folder.call("report", "small", **safe).code == 0
    assert folder.call(*SPEED, **safe).code == 0
    assert (folder.folder / "mlruns" / "reports" / "small" / "report.html").is_file()
    port = free_port()
    process = folder.start("ui", "--port", str(port), **safe)

    def up() -> bool:
        with suppress(OSError):
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).read() == b"OK")
        return process.poll() is not None

    until(up, 90, "the server's start")
    process.terminate()
    assert ended(process).code == 0 and not folder.mark.exists()


def test_a_python_path_that_means_the_folder_is_no_way_in_for_children(tmp_path: Path, names: set[str]) -> None:
    """What Python looks for before the program's first line cannot be kept out: it is not there, nor the package."""
    absent = {name for name in sys.stdlib_module_names if find_spec(name) is None}
    folder = HostileFolder(tmp_path / "work", names - loaded(START) - absent - {"pipeline", *SITE})
    for given in (f":{ROOT}:relative", f"{ROOT}:.:"):
        found = folder.call("doctor", PYTHONPATH=given)
        assert found.code == 0, found.err
    assert folder.call(*GRID, PYTHONPATH=f"relative::{ROOT}").code == 0


def test_python_dash_m_leaves_the_folder_at_once(tmp_path: Path, names: set[str]) -> None:
    """All that a folder can hide from `python -m pipeline` is the package itself."""
    folder = HostileFolder(tmp_path / "work", names - {"pipeline"})
    found = folder.call(*TUNE)
    assert found.code == 0, found.err


def test_the_test_sees_what_is_imported(tmp_path: Path) -> None:
    folder = HostileFolder(tmp_path / "work", {"torch"})
    command = [sys.executable, "-c", "import torch"]
    subprocess.run(command, cwd=folder.folder, env=environment(), capture_output=True, timeout=60, check=False)
    assert "torch.py" in folder.mark.read_text()
