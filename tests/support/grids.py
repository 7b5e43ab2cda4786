"""A finished small grid, as a value that the tests of this folder share."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SMALL = ["--set", "epochs=2", "--set", "max_train_samples=128", "--set", "max_test_samples=100"]


@dataclass(frozen=True)
class FinishedGrid:
    """A finished grid: its folder, environment and standard output."""

    folder: Path
    environment: dict[str, str]
    output: str

    @property
    def uri(self) -> str:
        """Its tracking store."""
        return f"sqlite:///{self.folder}/mlruns/mlflow.db"

    def ablate(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs a command in the grid's folder."""
        command = [sys.executable, "-m", "pipeline", *words]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=280, **options
        )

    def json(self, *words: str) -> Any:
        """Runs a command with `--json` and reads its document."""
        done = self.ablate(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
