"""What a command loads before it answers: the libraries that take seconds are imported by those that need them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.ablate import modules_of_ablate

HEAVY = {"torch", "torchvision", "timm", "mlflow", "sklearn", "statsmodels", "matplotlib", "optuna", "ray"}


@pytest.mark.parametrize(
    ("arguments", "code", "never"),
    [
        ("--help", 0, HEAVY | {"numpy", "pandas", "scipy", "pydantic", "yaml", "rich"}),
        ("grid --help", 0, HEAVY | {"numpy", "pandas", "scipy", "pydantic", "yaml"}),
        ("grid --study quickstart --dry-run", 0, HEAVY | {"numpy", "pandas", "scipy"}),
        ("grid --study quickstart --dry-run --json", 0, HEAVY | {"numpy", "pandas", "scipy"}),
        ("run --model test_vit --dataset digits --study quickstart --dry-run", 0, HEAVY | {"numpy"}),
        ("grid --models nonsense", 2, HEAVY | {"numpy"}),
        ("status quickstart", 2, {"torch", "torchvision", "timm", "optuna", "ray"}),
        ("sync", 0, {"torch", "torchvision", "timm", "mlflow"}),
        ("doctor --help", 0, HEAVY),
        ("ui --help", 0, HEAVY),
        ("bench --help", 0, HEAVY | {"numpy", "pydantic"}),
        ("bench --only nonsense", 2, HEAVY | {"numpy"}),
        ("data --help", 0, HEAVY),
        ("list models timm:*convnext*", 0, HEAVY | {"numpy", "pandas", "scipy", "rich"}),
        ("list fields", 0, HEAVY | {"numpy", "pandas", "scipy", "rich"}),
        ("list studies", 0, HEAVY | {"numpy", "pandas", "scipy", "rich"}),
        ("techniques", 0, HEAVY | {"numpy", "pandas", "scipy", "rich"}),
        ("techniques --json", 0, HEAVY | {"numpy", "pandas", "scipy", "rich"}),
        ("tune --help", 0, HEAVY | {"numpy", "pydantic"}),
        ("tune --model test_vit --dataset digits --study quickstart --dry-run", 0, HEAVY | {"pandas", "scipy"}),
        ("tune --model test_vit --dataset nonsense", 2, HEAVY | {"numpy"}),
    ],
)
def test_modules_of_a_command(arguments: str, code: int, never: set[str], tmp_path: Path) -> None:
    found, loaded = modules_of_ablate(*arguments.split(), cwd=tmp_path)
    assert found.code == code and {"pipeline", "click"} <= loaded, found.err
    assert not loaded & never
