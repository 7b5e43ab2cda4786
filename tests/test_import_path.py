"""Where Python may import from."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import import_path
from pipeline.import_path import leave_folder, path_environment
from tests.support.ablate import ROOT

LIBRARY = str(Path(os.__file__).parent)


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [LIBRARY, "/packages"])
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.chdir(tmp_path)


def test_the_folder_that_python_puts_first_goes(tmp_path: Path) -> None:
    sys.path[:0] = [str(tmp_path), "", "relative"]
    leave_folder()
    assert sys.path == [LIBRARY, "/packages"] and os.environ["PYTHONSAFEPATH"] == "1"


@pytest.mark.parametrize("given", [":", "", ".", "{there}::sub", "sub:.", "{there}:"])
def test_entries_that_mean_the_folder_go_and_absolute_ones_stay(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python makes them absolute before anybody sees its import path."""
    monkeypatch.setenv("PYTHONPATH", given.format(there="/there"))
    sys.path[:0] = [str(Path(tmp_path, part)) for part in os.environ["PYTHONPATH"].split(":")]
    leave_folder()
    kept = ["/there"] if "there" in given else []
    assert sys.path == [*kept, LIBRARY, "/packages"]
    assert os.environ["PYTHONPATH"].split(":") == (kept or [""])


def test_a_folder_that_was_meant_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    sys.path.insert(0, str(tmp_path))
    leave_folder()
    assert sys.path[0] == str(tmp_path) and os.environ["PYTHONPATH"] == str(tmp_path)


def test_in_the_packages_own_folder_its_other_files_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    leave_folder()
    assert sys.path == [LIBRARY, "/packages", str(ROOT)]


def test_where_the_library_stands_is_not_known_the_path_is_left(tmp_path: Path) -> None:
    sys.path[:] = [str(tmp_path)]
    leave_folder()
    assert sys.path == [str(tmp_path)]


def test_a_folder_that_is_gone_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    leave_folder()
    assert sys.path == [LIBRARY, "/packages"]


def test_a_package_that_is_not_installed_is_named_first_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_name: str) -> None:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/a", str(ROOT), "", "b"]))
    assert path_environment()["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/a"]
    monkeypatch.delenv("PYTHONPATH")
    assert path_environment() == {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("how", ["copied", "editable"])
def test_an_installed_package_is_not_put_first(how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = tmp_path / ("site-packages" if how == "copied" else "a checkout")
    origin = json.dumps({"url": place.as_uri(), "dir_info": {"editable": True}})
    found = SimpleNamespace(read_text=lambda _name: origin if how == "editable" else None)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _name: found)
    monkeypatch.setattr(import_path, "_ROOT", str(place))
    monkeypatch.delenv("PYTHONPATH")
    assert path_environment() == {"PYTHONSAFEPATH": "1"}
    monkeypatch.setenv("PYTHONPATH", ":/a")
    assert path_environment()["PYTHONPATH"] == "/a"


def test_an_editable_installation_of_another_checkout_is_not_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    origin = json.dumps({"url": "file:///elsewhere", "dir_info": {"editable": True}})
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _name: SimpleNamespace(read_text=lambda _: origin))
    assert path_environment()["PYTHONPATH"] == str(ROOT)
