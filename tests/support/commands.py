"""What the tests of the commands share: small grids, what is in their store, and how a refusal looks."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tests.support.ablate import Result

DRY = ("grid", "--study", "quickstart", "--device", "cpu", "--dry-run")
STUDY = "models: [test_resnet]\ndatasets: [digits]\nrecipe: {image_size: 16}\n"
SMALL = (
    "--study", "quickstart", "--device", "cpu", "--set", "max_train_samples=64", "--set", "max_test_samples=50",
    "--set", "epochs=1", "--set", "batch_size=32",
)  # fmt: skip
TARGET = "0.05"  # a validation accuracy that chance alone mostly reaches


def assert_refused(result: Result, words: tuple[str, ...], folder: Path) -> None:
    """Bad input: exit code 2, one line on standard error that has the words, and nothing else anywhere."""
    assert result.code == 2
    assert result.line.startswith("ablate: ")
    for word in words:
        assert word in result.line
    assert result.out == "" and list(folder.iterdir()) == []


def store_of(folder: Path) -> list[str]:
    """Everything in the tracking store of a folder."""
    with sqlite3.connect(f"file:{folder / 'mlruns/mlflow.db'}?mode=ro", uri=True) as database:
        return list(database.iterdump())


def files_of(folder: Path) -> set[str]:
    """Names of all artifacts and journals of a folder."""
    mlruns = folder / "mlruns"
    return {str(path.relative_to(mlruns)) for name in ("artifacts", "journal") for path in (mlruns / name).rglob("*")}
