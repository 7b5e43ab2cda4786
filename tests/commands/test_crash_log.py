"""What nobody has foreseen is one line, and its traceback in a file."""

from __future__ import annotations

import re
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import crash_log


def failing(*_: Any) -> int:
    raise KeyError("a fault of ours")


def test_an_unforeseen_error_is_one_line_that_names_its_log(
    ablate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.commands.status.show_status", failing)
    found = ablate("status", "x")
    name = re.fullmatch(r"ablate: KeyError: 'a fault of ours' \(details in (\S+)\)", found.line)
    assert found.code == 1 and name and "in failing" in Path(name.group(1)).read_text()
    assert not (tmp_path / "mlruns").exists(), "a command that only looks makes no folder"
    Path(name.group(1)).unlink()
    (tmp_path / "mlruns").mkdir()
    assert ablate("status", "x").line == "ablate: KeyError: 'a fault of ours' (details in mlruns/errors.log)"
    assert "in failing" in (tmp_path / "mlruns" / "errors.log").read_text()


def test_other_threads_and_warnings_go_to_the_log_and_the_first_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlruns").mkdir()
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with crash_log.kept():
            thread = threading.Thread(target=failing)
            thread.start()
            thread.join()
            warnings.warn("old", stacklevel=1)
    err = capsys.readouterr().err
    assert err == "ablate: KeyError: 'a fault of ours' (details in mlruns/errors.log)\n"
    text = (tmp_path / "mlruns" / "errors.log").read_text()
    assert "in failing" in text and "UserWarning: old" in text


def test_the_log_has_an_end_and_is_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mlruns"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    (folder / "errors.log").write_text("x" * (crash_log.ERROR_LOG_BYTES + 1))
    crash_log.told(ValueError("new"))
    assert (folder / "errors.log").read_text() == "ValueError: new\n"
    (folder / "errors.log").unlink()
    (tmp_path / "mine").write_text("mine")
    (folder / "errors.log").symlink_to(tmp_path / "mine")
    assert "could not be kept" in crash_log.told(ValueError("new"))
    assert (tmp_path / "mine").read_text() == "mine"
