"""Whole commands against a real store: what they print, and that bad input leaves the store as it was."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.ablate import ablate_in_process

SMALL = (
    "--study", "quickstart", "--device", "cpu", "--set", "max_train_samples=64", "--set", "max_test_samples=50",
    "--set", "epochs=1", "--set", "batch_size=32",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, digits_dir: Path) -> tuple[Path, dict[str, Any]]:
    """A folder with a finished grid of two cells, and what the grid printed with --json."""
    place = tmp_path_factory.mktemp("grid")
    found = ablate_in_process(
        "grid", *SMALL, "--models", "test_resnet", "--datasets", "digits", "--techniques", "ga",
        "--json",
        cwd=place, data_dir=digits_dir,
    )  # fmt: skip
    assert found.code == 0, found.err
    return place, json.loads(found.out)


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
    found = ablate_in_process("status", "quickstart", "--json", cwd=place, data_dir=digits_dir)
    assert found.code == 0 and found.err == ""
    assert json.loads(found.out) == {
        "study": "quickstart",
        "cells": 2,
        "finished": 2,
        **dict.fromkeys(("failed", "oom", "timeout", "interrupted", "running", "pending"), 0),
    }


def test_sync_after_delivery_changes_nothing(finished: tuple[Path, dict[str, Any]], digits_dir: Path) -> None:
    place, _ = finished
    before = store(place)
    found = ablate_in_process("sync", "--json", cwd=place, data_dir=digits_dir)
    assert found.code == 0 and json.loads(found.out)["entries"] == 0
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
    found = ablate_in_process(
        "grid", *SMALL, "--models", "test_resnet", "--datasets", f"imagefolder:{root}",
        "--techniques", "none",
        cwd=place, data_dir=digits_dir,
    )  # fmt: skip
    assert found.code == 2, found.err
    assert len(found.err.splitlines()) == 1 and str(bad.relative_to(root)) in found.err
    assert "started" not in found.out
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
    found = ablate_in_process("grid", *SMALL, *flags, *arguments, cwd=place, data_dir=digits_dir)
    assert found.code == code, found.err
    assert len(found.err.splitlines()) == 1
    for word in words:
        assert word in found.err
    assert store(place) == before and files(place) == names


def test_a_failed_run_is_exit_code_1(finished: tuple[Path, dict[str, Any]], digits_dir: Path) -> None:
    place, _ = finished
    found = ablate_in_process(
        "run", *SMALL, "--model", "test_resnet", "--dataset", "digits", "--retries", "0",
        "--set", "optimizer=sgd", "--set", "learning_rate=1e38", "--set", "epochs=3", "--json",
        cwd=place, data_dir=digits_dir,
    )  # fmt: skip
    assert found.code == 1, found.err
    document = json.loads(found.out)
    assert (document["cells"], document["failed"], document["finished"]) == (1, 1, 0)
    assert "loss is" in found.err


def test_doctor(tmp_path: Path, digits_dir: Path) -> None:
    found = ablate_in_process("doctor", "--json", cwd=tmp_path, data_dir=digits_dir)
    checks = {check["name"]: check for check in json.loads(found.out)["checks"]}
    assert {"python", "torch", "cuda", "locked memory", "disk", "data", "tracking store"} <= set(checks)
    assert all(check["status"] in ("ok", "warn", "fail") for check in checks.values())
    assert all(check["remedy"] for check in checks.values() if check["status"] != "ok")
    assert found.code == (1 if any(check["status"] == "fail" for check in checks.values()) else 0)
