"""`ablate doctor`: the checks of this machine."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import doctor
from pipeline.commands.command_options import DoctorOptions
from pipeline.training.data.store import prepare_dataset
from tests.support.ablate import ablate_in_process
from tests.support.data import write_folder


def test_doctor(tmp_path: Path, digits_dir: Path) -> None:
    found = ablate_in_process("doctor", "--json", cwd=tmp_path, data_dir=digits_dir)
    checks = {check["name"]: check for check in found.json(found.code)["checks"]}
    assert {"python", "torch", "threads", "cuda", "locked memory", "disk", "data", "tracking store"} <= set(checks)
    assert "torchvision" in checks["torch"]["detail"] and "timm" in checks["torch"]["detail"]
    assert all(check["status"] in ("ok", "warn", "fail") for check in checks.values())
    assert all(check["remedy"] for check in checks.values() if check["status"] != "ok")
    assert found.code == (1 if any(check["status"] == "fail" for check in checks.values()) else 0)


def test_a_failed_check_is_exit_code_1_with_its_remedy(ablate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [doctor.Check("python", "ok", "3.11"), doctor.Check("disk", "fail", "is full", "free some")]
    monkeypatch.setattr(doctor, "checks", lambda *_arguments: checks)
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


@pytest.fixture
def migrated_folder(tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a store that MLflow has made; what takes long is not looked at."""
    (tmp_path / "mlruns").mkdir()
    shutil.copyfile(migrated_database, tmp_path / "mlruns" / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    for name in ("_torch", "_compiler", "_gpus"):
        monkeypatch.setattr(doctor, name, list)
    return tmp_path


def test_a_local_store_is_looked_at_without_mlflow(migrated_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MlflowStore", None)
    checks = {check.name: check for check in doctor.checks(str(migrated_folder), None)}
    assert (checks["tracking store"].status, checks["tracking store"].detail) == ("ok", "answers, no runs")


def test_tables_of_another_mlflow_are_a_failed_check(migrated_folder: Path) -> None:
    with closing(sqlite3.connect(migrated_folder / "mlruns" / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0a8213491aaa'")
    checks = {check.name: check for check in doctor.checks(str(migrated_folder), None)}
    assert checks["tracking store"].status == "fail" and "mlflow db upgrade" in checks["tracking store"].detail


def test_each_check_is_printed_when_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def slow() -> list[doctor.Check]:
        seen.append(capsys.readouterr())
        return [doctor.Check("torch", "ok", "slow")]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "_torch", slow)
    assert doctor.run_doctor(DoctorOptions(data_dir=str(tmp_path))) == 0
    (before,) = seen
    assert "tracking store" in before.out and "PyTorch" in before.err
    assert capsys.readouterr().out == "ok    torch            slow\n"


def test_the_data_line_says_what_is_prepared(tmp_path: Path) -> None:
    data = tmp_path / "data"
    [empty] = doctor._data(str(data))
    assert (empty.status, empty.detail) == ("ok", f"nothing is prepared in {data} yet; the first run does it")
    prepare_dataset("digits", data, image_size=16)
    prepare_dataset(f"imagefolder:{write_folder(tmp_path / 'set')}", data, image_size=16)
    [found] = doctor._data(str(data))
    assert found.detail == f"prepared in {data} (0.4 MiB): digits, image folders (1 stores)"
