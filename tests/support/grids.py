"""A finished small grid, as a value that tests share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.ablate import Result, run_ablate

SMALL = ["--set", "epochs=2", "--set", "max_train_samples=128", "--set", "max_test_samples=100"]


@dataclass(frozen=True)
class FinishedGrid:
    """A finished grid: its folder and its standard output; data sets are in the folder's `data`."""

    folder: Path
    output: str

    @property
    def uri(self) -> str:
        """Its tracking store."""
        return f"sqlite:///{self.folder}/mlruns/mlflow.db"

    @property
    def data_dir(self) -> Path:
        """Where its data sets are."""
        return self.folder / "data"

    def call(self, *words: str) -> Result:
        """Runs a command in the grid's folder."""
        return run_ablate(*words, cwd=self.folder, data_dir=self.data_dir)

    def json(self, *words: str) -> Any:
        """Runs a command with `--json` and reads its document."""
        return self.call(*words, "--json").json()
