"""The script's real stages on a CPU: a grid with a failing cell, one that is stopped, and the whole rehearsal."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.ablate import environment
from tests.support.gpu_host import FOLDER, make_host, write_archives

import grids  # isort: skip
from host import LateError, StageError  # isort: skip

TINY: dict[str, Any] = {
    "name": "gpu-test",
    "models": {"test_resnet": {}},
    "datasets": ["digits"],
    "techniques": ["ga"],
    "recipe": {"image_size": 16, "batch_size": 32, "max_train_samples": 96, "max_test_samples": 50},
}


def statuses(work: Path) -> dict[str, str]:
    """Run name -> status, of all rows but the parent's."""
    store = sqlite3.connect(work / "mlruns" / "mlflow.db")
    try:
        return {name: status for name, status in store.execute("SELECT name, status FROM runs") if "/" in name}
    finally:
        store.close()


@pytest.mark.slow
def test_a_failed_cell_is_named_and_the_rest_reported(tmp_path: Path) -> None:
    diverging = {"dataset": "digits", "recipe": {"learning_rate": 1e30, "optimizer": "sgd", "epochs": 3}}
    host = make_host(tmp_path / "work", 120)
    with pytest.raises(StageError, match=r"^\d runs failed, first test_resnet/digits/\w+/s0: loss is (nan|inf)"):
        grids.grid(host, "launch", [{**TINY, "overrides": [diverging]}])
    assert set(statuses(host.work).values()) == {"FAILED"}
    assert "exit status 1" in host.log("launch").read_text()


@pytest.mark.slow
def test_a_cell_that_fails_in_its_turns_is_named_and_the_rest_reported(tmp_path: Path) -> None:
    recipe = {**TINY["recipe"], "learning_rate": 1e30, "optimizer": "sgd"}
    with pytest.raises(StageError, match=r"^\d runs failed, first test_resnet/digits/\w+/s0: loss is (nan|inf)"):
        grids.rounds(make_host(tmp_path / "work", 120), "speed", {**TINY, "recipe": recipe}, 0.9)


@pytest.mark.slow
def test_a_grid_that_is_stopped_closes_its_rows_and_is_reported(tmp_path: Path) -> None:
    host = make_host(tmp_path / "work", 45)
    short = {**TINY, "models": {"test_resnet": {}, "test_efficientnet": {}}}
    short["overrides"] = [{"model": "test_efficientnet", "recipe": {"epochs": 1_000_000}}]
    began = time.monotonic()
    with pytest.raises(LateError, match="reported as far as it came"):
        grids.grid(host, "launch", [short])
    assert time.monotonic() - began < 100
    assert "stopped at its limit" in host.log("launch").read_text()
    assert "# stopped at its limit of 33 s, exit status 130" in host.log("launch").read_text(), "it ended by itself"
    assert "RUNNING" not in statuses(host.work).values() and "KILLED" in statuses(host.work).values()


@pytest.mark.slow
def test_the_rehearsal(tmp_path: Path) -> None:
    """All stages at toy sizes: what an hour of a borrowed GPU must not find out.

    Limits are for a GPU's host. Four minutes on two quiet cores can be three times that on others that are shared.
    """
    out = tmp_path / "out"
    words = [sys.executable, str(FOLDER / "run.py"), "--device", "cpu", "--out", str(out)]
    data = write_archives(tmp_path / "archives", train=100, test=30)
    words += ["--work", str(tmp_path / "work"), "--data", str(data)]
    wide = environment(ABLATE_GPU_BUDGET="1800")
    done = subprocess.run(words, env=wide, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((out / "run.json").read_text())
    names = ["setup", "smoke", "probes", "launch", "paper32", "paper224", "oom", "layout32", "bench", "speed"]
    assert [(row["stage"], row["status"]) for row in document["stages"]] == [(name, "ok") for name in names]
    table = done.stdout.rstrip().splitlines()[-len(names) - 1 :]
    assert table[0].split() == ["stage", "seconds", "result"] and [line.split()[0] for line in table[1:]] == names
    details = {row["stage"]: row["detail"] for row in document["stages"]}
    assert details["smoke"].endswith("skipped: no CUDA device")
    assert details["paper32"].startswith("20 runs, 2 of 2 passes")
    assert details["paper224"].startswith("16 runs, 2 of 2 passes")
    assert re.fullmatch(r"4 cells, rounds: test_resnet \d+; 1 of 1 models known to 90 %.*", details["speed"])
    assert details["oom"].startswith("outcome oom")
    files = list(out.iterdir())
    assert len(files) <= 8 and all(file.is_file() and file.stat().st_size <= 16 * 2**20 for file in files)
    check_evidence(out, document)
    check_publication(out, tmp_path / "results")


def check_publication(out: Path, results: Path) -> None:
    """What has been packed becomes a publication, which says that it is a rehearsal's."""
    words = [sys.executable, str(FOLDER / "publish.py"), str(out), "--results", str(results)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder,) = results.iterdir()
    assert folder.name.startswith("cpu-rehearsal-")
    assert (folder / "README.md").read_text().startswith("Rehearsal on a CPU: no figure here is a GPU's\n")
    assert (folder / "turns" / "speed.json").is_file()
    for study in ("launch", "paper32", "layout32", "paper224", "turns"):
        assert {path.name for path in (folder / study).iterdir()} >= {"report.md", "effects.csv", "runs.csv"}
    assert {"provenance.json", "probes.json", "smoke.txt", "bench"} <= {path.name for path in folder.iterdir()}


def check_evidence(out: Path, document: dict[str, Any]) -> None:
    """What a publication is made from is there, and says what was done."""
    parts = sorted(out.glob("results.tar.gz.*"))
    with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts)), mode="r:gz") as tar:
        inside = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    studies = ("launch", "paper32", "layout32", "paper224", "turns")
    reports = ("report.json", "report.md", "report.html", "runs.csv", "effects.csv")
    expected = {f"studies/{study}/{file}" for study in studies for file in reports}
    expected |= {f"logs/{row['stage']}.txt" for row in document["stages"]}
    expected |= {"run.json", "doctor.json", "smoke.txt", "smoke.xml", "probes.json", "mlruns/mlflow.db"}
    expected |= {"bench/bench.json", "bench/bench.md"}
    assert expected <= set(inside)
    assert any(name.startswith("mlruns/journal/") and name.endswith(".journal") for name in inside)
    assert json.loads(inside["run.json"]) == {k: v for k, v in document.items() if k != "parts"}
    assert document["left_out"] == [] and document["device"] == "cpu" and document["gpu"] == ""
    for study, runs in zip(studies, (4, 20, 4, 16, 4 * 8), strict=True):
        listed = inside[f"studies/{study}/runs.csv"].decode().splitlines()
        assert len(listed) >= runs, study
        assert json.loads(inside[f"studies/{study}/report.json"])
    probes = json.loads(inside["probes.json"])
    assert set(probes) == {"syncs", "peer_syncs", "elastic", "first_use", "matmul", "resnet50_224", "nvml"}
    assert probes["elastic"]["ok"] is True
    cases = probes["syncs"]
    assert cases["ours_fp32"]["waits"] == cases["plain_fp32"]["waits"] == 0
    assert cases["plain_fp16"]["waits"] == cases["plain_fp16"]["updates"], "GradScaler asks once per update"
    assert cases["ours_fp16"]["waits"] == cases["plain_fp16"]["waits"]
    assert cases["ours_fp16_fused"]["waits"] == cases["plain_fp16_fused"]["waits"] == 0
    assert min(probes["first_use"]["cold"]["seconds"]) > 0 and probes["matmul"]["fp32_tflops"] > 0
