"""What a command loads before it answers: the libraries that take seconds are imported by those that need them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "torchvision", "timm", "mlflow", "sklearn", "statsmodels", "matplotlib", "optuna", "ray"}

LOADED = """
import sys
from pipeline.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
print()
print("loaded:", code, *sorted({name.split(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize(
    ("arguments", "code", "never"),
    [
        ("--help", "0", HEAVY | {"numpy", "pandas", "scipy", "pydantic", "yaml", "rich"}),
        ("grid --help", "0", HEAVY | {"numpy", "pandas", "scipy", "pydantic", "yaml"}),
        ("grid --study quickstart --dry-run", "0", HEAVY | {"numpy", "pandas", "scipy"}),
        ("grid --study quickstart --dry-run --json", "0", HEAVY | {"numpy", "pandas", "scipy"}),
        ("run --model test_vit --dataset digits --study quickstart --dry-run", "0", HEAVY | {"numpy"}),
        ("grid --models nonsense", "2", HEAVY | {"numpy"}),
        ("status quickstart", "2", {"torch", "torchvision", "timm", "optuna", "ray"}),
        ("sync", "0", {"torch", "torchvision", "timm", "mlflow"}),
        ("doctor --help", "0", HEAVY),
        ("ui --help", "0", HEAVY),
        ("bench --help", "0", HEAVY | {"numpy", "pydantic"}),
        ("bench --only nonsense", "2", HEAVY | {"numpy"}),
        ("data --help", "0", HEAVY),
        ("techniques", "0", HEAVY | {"numpy", "pandas", "scipy", "rich"}),
        ("techniques --json", "0", HEAVY | {"numpy", "pandas", "scipy", "rich"}),
        ("tune --help", "0", HEAVY | {"numpy", "pydantic"}),
        ("tune --model test_vit --dataset digits --study quickstart --dry-run", "0", HEAVY | {"pandas", "scipy"}),
        ("tune --model test_vit --dataset nonsense", "2", HEAVY | {"numpy"}),
    ],
)
def test_modules_of_a_command(arguments: str, code: str, never: set[str], tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments.split()],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    last = found.stdout.splitlines()[-1].split()
    assert last[:2] == ["loaded:", code], found.stderr
    assert not set(last[2:]) & never
