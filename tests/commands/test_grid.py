"""Whole commands against a real store: what they print, and that bad input leaves the store as it was."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import cli

SMALL = (
    "--study", "quickstart", "--device", "cpu", "--set", "max_train_samples=64", "--set", "max_test_samples=50",
    "--set", "epochs=1", "--set", "batch_size=32",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def run(place: Path, data_dir: Path, *arguments: str) -> Outcome:
    """Runs a command in this process (its runs have processes of their own) and in a folder."""
    out, err = io.StringIO(), io.StringIO()
    environment = dict(os.environ)
    os.environ["ABLATE_DATA_DIR"] = str(data_dir)
    try:
        with contextlib.chdir(place), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main(list(arguments))
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        return Outcome(stop.code, out.getvalue(), err.getvalue())
    finally:
        os.environ.clear()
        os.environ.update(environment)
    raise AssertionError("a command ends with an exit code")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, digits_dir: Path) -> tuple[Path, dict[str, Any]]:
    """A folder with a finished grid of two cells, and what the grid printed with --json."""
    place = tmp_path_factory.mktemp("grid")
    found = run(
        place, digits_dir, "grid", *SMALL, "--models", "test_resnet", "--datasets", "digits", "--techniques", "ga",
        "--json",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return place, json.loads(found.stdout)


def store(place: Path) -> list[str]:
    """Everything in the tracking store."""
    with sqlite3.connect(f"file:{place / 'mlruns/mlflow.db'}?mode=ro", uri=True) as database:
        return list(database.iterdump())


def files(place: Path) -> set[str]:
    """Names of all artifacts and journals."""
    mlruns = place / "mlruns"
    return {str(path.relative_to(mlruns)) for name in ("artifacts", "journal") for path in (mlruns / name).rglob("*")}


def test_json_is_one_document(finished: tuple[Path, dict[str, Any]]) -> None:
    _, document = finished
    assert (document["study"], document["cells"], document["finished"]) == ("quickstart", 2, 2)
    assert all(document[name] == 0 for name in ("failed", "oom", "timeout", "interrupted", "pending"))
    rows = {row["label"]: row for row in document["results"]}
    assert set(rows) == {"baseline", "ga"} and rows["ga"]["runs"] == 1
    assert rows["baseline"]["time_ratio"] == 1.0 and rows["ga"]["seconds"] > 0


def test_status_of_a_finished_grid(finished: tuple[Path, dict[str, Any]], digits_dir: Path) -> None:
    place, _ = finished
    found = run(place, digits_dir, "status", "quickstart", "--json")
    assert found.returncode == 0 and found.stderr == ""
    assert json.loads(found.stdout) == {
        "study": "quickstart",
        "cells": 2,
        "finished": 2,
        **dict.fromkeys(("failed", "oom", "timeout", "interrupted", "running", "pending"), 0),
    }


def test_sync_after_delivery_changes_nothing(finished: tuple[Path, dict[str, Any]], digits_dir: Path) -> None:
    place, _ = finished
    before = store(place)
    found = run(place, digits_dir, "sync", "--json")
    assert found.returncode == 0 and json.loads(found.stdout)["entries"] == 0
    assert store(place) == before


def picture_folder(root: Path) -> Path:
    random = np.random.default_rng(1)
    for part, count in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


def truncated(root: Path) -> Path:
    file = root / "test" / "dog" / "1.png"
    file.write_bytes(file.read_bytes()[:60])
    return file


def no_image(root: Path) -> Path:
    file = root / "train" / "cat" / "2.png"
    file.write_text("no image")
    return file


@pytest.mark.parametrize("damage", [truncated, no_image])
def test_an_unreadable_image_is_found_before_any_run(
    damage: Any, finished: tuple[Path, dict[str, Any]], digits_dir: Path, tmp_path: Path
) -> None:
    place, _ = finished
    root = picture_folder(tmp_path / "pictures")
    bad = damage(root)
    before, names = store(place), files(place)
    found = run(
        place, digits_dir, "grid", *SMALL, "--models", "test_resnet", "--datasets", f"imagefolder:{root}",
        "--techniques", "none",
    )  # fmt: skip
    assert found.returncode == 2, found.stderr
    assert len(found.stderr.splitlines()) == 1 and str(bad.relative_to(root)) in found.stderr
    assert "started" not in found.stdout
    assert store(place) == before and files(place) == names


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--tracking-uri", "file:/nowhere"), 2, ("--tracking-uri", "'file:/nowhere'", "sqlite:///FILE")),
        (("--tracking-uri", "nonsense"), 2, ("--tracking-uri", "'nonsense'", "sqlite:///FILE")),
        (("--set", "pretrained=true", "--models", "resnet50"), 3, ("resnet50", "pretrained", "weights=FILE")),
        (("--set", "max_train_samples=5"), 2, ("5 of 1347 images", "allowed")),
    ],
)
def test_refusals_leave_the_store_as_it_was(
    arguments: tuple[str, ...],
    code: int,
    words: tuple[str, ...],
    finished: tuple[Path, dict[str, Any]],
    digits_dir: Path,
) -> None:
    place, _ = finished
    before, names = store(place), files(place)
    flags = ("--models", "test_resnet", "--datasets", "digits", "--techniques", "none")
    found = run(place, digits_dir, "grid", *SMALL, *flags, *arguments)
    assert found.returncode == code, found.stderr
    assert len(found.stderr.splitlines()) == 1
    for word in words:
        assert word in found.stderr
    assert store(place) == before and files(place) == names


def test_a_failed_run_is_exit_code_1(finished: tuple[Path, dict[str, Any]], digits_dir: Path) -> None:
    place, _ = finished
    found = run(
        place, digits_dir, "run", *SMALL, "--model", "test_resnet", "--dataset", "digits", "--retries", "0",
        "--set", "optimizer=sgd", "--set", "learning_rate=1e38", "--set", "epochs=3", "--json",
    )  # fmt: skip
    assert found.returncode == 1, found.stderr
    document = json.loads(found.stdout)
    assert (document["cells"], document["failed"], document["finished"]) == (1, 1, 0)
    assert "loss is" in found.stderr


def test_doctor(tmp_path: Path, digits_dir: Path) -> None:
    found = run(tmp_path, digits_dir, "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(found.stdout)["checks"]}
    assert {"python", "torch", "cuda", "locked memory", "disk", "data", "tracking store"} <= set(checks)
    assert all(check["status"] in ("ok", "warn", "fail") for check in checks.values())
    assert all(check["remedy"] for check in checks.values() if check["status"] != "ok")
    assert found.returncode == (1 if any(check["status"] == "fail" for check in checks.values()) else 0)
