"""`ablate doctor`: the checks of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import doctor
from tests.support.ablate import ablate_in_process


def test_doctor(tmp_path: Path, digits_dir: Path) -> None:
    found = ablate_in_process("doctor", "--json", cwd=tmp_path, data_dir=digits_dir)
    checks = {check["name"]: check for check in found.json(found.code)["checks"]}
    assert {"python", "torch", "cuda", "locked memory", "disk", "data", "tracking store"} <= set(checks)
    assert all(check["status"] in ("ok", "warn", "fail") for check in checks.values())
    assert all(check["remedy"] for check in checks.values() if check["status"] != "ok")
    assert found.code == (1 if any(check["status"] == "fail" for check in checks.values()) else 0)


def test_a_failed_check_is_exit_code_1_with_its_remedy(ablate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [doctor.Check("python", "ok", "3.11"), doctor.Check("disk", "fail", "is full", "free some")]

    def given(_data_dir: str | None, _uri: str | None, show: Callable[[doctor.Check], None]) -> list[doctor.Check]:
        for check in checks:
            show(check)
        return checks

    monkeypatch.setattr(doctor, "checks", given)
    found = ablate("doctor")
    assert (found.code, found.err) == (1, "")
    assert found.out.splitlines() == ["ok    python           3.11", "fail  disk             is full  -> free some"]
    assert ablate("doctor", "--json").json(code=1)["checks"][0] == vars(checks[0])
    checks.pop()
    assert ablate("doctor").code == 0


def test_a_check_that_breaks_is_a_failed_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks() -> list[doctor.Check]:
        raise RuntimeError("no such thing")

    for name in ("_torch", "_compiler", "_gpus"):
        monkeypatch.setattr(doctor, name, list)
    monkeypatch.setattr(doctor, "_cpu_load", breaks)
    monkeypatch.chdir(tmp_path)
    found = {check.status: check for check in doctor.checks(str(tmp_path), None)}
    assert found["fail"].detail == "RuntimeError: no such thing"


def test_a_store_that_does_not_answer_is_a_failed_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("_torch", "_compiler", "_gpus"):
        monkeypatch.setattr(doctor, name, list)
    checks = {check.name: check for check in doctor.checks(str(tmp_path), "file:/nowhere")}
    assert checks["tracking store"].status == "fail" and "--tracking-uri" in checks["tracking store"].remedy
    assert checks["data"].status == "ok" and checks["disk"].status in ("ok", "warn")


def test_a_check_that_cannot_be_made_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("ABLATE_DATA_DIR", raising=False)
    monkeypatch.setattr(doctor, "_torch", list)
    found = {check.name: check for check in doctor.checks(None, None)}
    assert found["data"].status == "fail" and "--data-dir DIR" in found["data"].detail
    assert not any("lambda" in name for name in found)


def test_each_check_is_shown_when_it_is_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shown: list[str] = []

    def slow() -> list[doctor.Check]:
        assert shown == ["python"], "what was found is shown while the next one is looked for"
        return [doctor.Check("torch", "ok", "here")]

    monkeypatch.setattr(doctor, "_torch", slow)
    found = doctor.checks(None, None, lambda check: shown.append(check.name))
    assert shown == [check.name for check in found] and "torch" in shown
