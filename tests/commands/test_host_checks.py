"""Folders, limits and settings of the host."""

from __future__ import annotations

import locale
import os
import platform
import resource
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import host_checks as checks
from pipeline.commands.doctor import checks as all_checks
from tests.support.commands import DRY, SMALL, assert_refused


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary folder is looked for anew."""
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_little_shared_memory_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil._ntuple_diskusage
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(64 * 2**20, 0, 64 * 2**20))
    (check,) = checks.shared_memory()
    assert check.status == "warn" and "64 of 64 MiB" in check.detail and "--shm-size" in check.remedy
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**30, 0, 2**30))
    assert checks.shared_memory()[0].status == "ok"
    monkeypatch.setattr(checks.host, "SHARED_MEMORY", tmp_path / "none")
    assert checks.shared_memory()[0].status == "warn"


def test_a_temporary_folder_that_is_too_long_or_closed_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert checks.temporary_folder()[0].status == "ok"
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (check,) = checks.temporary_folder()
    assert check.status == "fail" and "too long" in check.detail and "shorter" in check.remedy
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (check,) = checks.temporary_folder()
    assert check.status == "warn" and "cannot be written" in check.detail


def test_a_grid_with_too_long_a_temporary_folder_is_refused_at_once(
    ablate: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert ablate(*DRY).code == 0, "what starts no process needs no sockets"
    monkeypatch.setattr(tempfile, "tempdir", None)
    found = ablate("grid", *SMALL, "--models", "test_resnet", "--datasets", "digits")
    assert found.code == 2 and found.lines[-1].startswith("ablate: TMPDIR: ") and "at most 75" in found.err


def test_a_low_limit_of_open_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    (check,) = checks.open_files()
    assert check.status == "warn" and "256" in check.detail and "ulimit -n" in check.remedy
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert checks.open_files()[0].status == "ok"


def test_a_state_folder_of_others_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "mlruns"
    assert checks.state_folder(folder)[0].status == "ok"
    folder.mkdir(mode=0o755)
    assert checks.state_folder(folder)[0].status == "ok"
    folder.chmod(0o777)
    (check,) = checks.state_folder(folder)
    assert check.status == "fail" and "chmod o-w" in check.detail
    (tmp_path / "file").touch()
    assert checks.state_folder(tmp_path / "file")[0].status == "fail"
    assert checks.state_folder(tmp_path / "file" / "below")[0].status == "fail"


def test_no_home_and_no_utf8_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    assert checks.home_folder()[0].status == "warn"
    monkeypatch.setattr(Path, "home", homeless)
    assert checks.home_folder()[0].status == "warn"
    monkeypatch.setattr(locale, "getpreferredencoding", lambda _: "ANSI_X3.4-1968")
    assert "escapes" in checks.text_encoding()[0].detail


def test_every_check_that_breaks_has_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no\nsuch thing")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.paths.default_data_dir", broken)
    monkeypatch.setattr("subprocess.run", broken)
    found = {check.name: check for check in all_checks(None, None)}
    assert not [name for name in found if "lambda" in name or "<" in name]
    assert found["data"].status == "fail" and found["data"].detail == "RuntimeError: no" and found["data"].remedy
    assert {"torch", "shared memory", "temporary folder", "open files", "state folder", "home folder"} <= set(found)


def test_bad_usage_is_still_one_line(ablate: Any, tmp_path: Path) -> None:
    assert_refused(ablate("doctor", "--nonsense"), ("--nonsense",), tmp_path)


@pytest.mark.parametrize(
    ("table", "status", "said"),
    [
        (
            "model name\t: Xeon\nflags\t\t: fpu avx2 avx512_bf16 amx_bf16\n\n",
            "ok",
            "Xeon, instructions for bfloat16: avx",
        ),
        ("model name\t: Old\nflags\t\t: fpu avx2 avx512f\n\n", "warn", "Old, no instructions for bfloat16"),
        (
            "processor\t: 0\nFeatures\t: fp asimd bf16\n\n",
            "ok",
            f"{platform.machine()}, instructions for bfloat16: bf16",
        ),
    ],
)
def test_instructions_for_bfloat16_are_told(table: str, status: str, said: str) -> None:
    (check,) = checks.instructions(table * 2)
    assert check.status == status and check.detail.startswith(said)
    assert bool(check.remedy) == (status == "warn")
    assert checks.instructions("") == []


def test_more_threads_than_cores_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert checks.threads(2).status == "ok" and "2 threads on 2 cores" in checks.threads(2).detail
    assert checks.threads(8).status == "warn" and "OMP_NUM_THREADS" in checks.threads(8).remedy
