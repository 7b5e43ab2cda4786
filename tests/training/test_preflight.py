"""What is found wrong with runs before the first of them, and that nothing is looked at twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.design.records import Job
from pipeline.design.spec import RunSpec
from pipeline.errors import InputError, OutsideError
from pipeline.training import preflight
from tests.support.training import small_spec


def jobs(data_dir: Path, work_dir: Path, *specs: RunSpec) -> list[Job]:
    return [Job(spec=spec, data_dir=str(data_dir), work_dir=str(work_dir)) for spec in specs]


def test_each_data_set_is_prepared_and_each_model_built_once(
    digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[tuple[str, int, str]] = []
    original = preflight.models.build_model

    def build(name: str, recipe: Any, classes: int) -> Any:
        built.append((name, classes, torch.get_default_device().type))
        return original(name, recipe, classes)

    monkeypatch.setattr(preflight.models, "build_model", build)
    lines: list[str] = []
    specs = [
        small_spec(learning_rate=0.1),
        small_spec(learning_rate=0.2),
        small_spec(seed=4),
        small_spec("test_vit"),
        small_spec(dataset="digits100", max_train_samples=200, max_test_samples=100),
    ]
    preflight.preflight(jobs(digits_dir, tmp_path, *specs), lines.append)
    assert [line for line in lines if line.startswith("preparing")] == ["preparing digits", "preparing digits100"]
    assert built == [("test_resnet", 10, "cpu"), ("test_vit", 10, "cpu")], "its trial is made with what was built"


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"max_train_samples": 5}, "images are left to train on"),
        ({"weights": "absent.pt"}, r"recipe\.weights"),
        ({"max_train_samples": 97}, r"recipe\.batch_size: 32 is not allowed.*the last of an epoch of 97 images"),
        ({"batch_size": 95}, r"recipe\.batch_size: 95 is not allowed.*allowed: another batch_size"),
    ],
)
def test_the_first_problem_is_one_line(recipe: dict[str, Any], words: str, digits_dir: Path, tmp_path: Path) -> None:
    given = jobs(digits_dir, tmp_path, small_spec(), small_spec(**recipe))
    with pytest.raises(InputError, match=words) as caught:
        preflight.preflight(given, lambda _line: None)
    assert "\n" not in str(caught.value)


def test_a_missing_device_comes_before_all_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(preflight.store, "prepare_dataset", lambda *_, **__: pytest.fail("prepared"))
    spec = small_spec().model_copy(update={"device": "cuda"})
    with pytest.raises(OutsideError, match=r"no CUDA device.*--device cpu"):
        preflight.preflight(jobs(tmp_path, tmp_path, small_spec(), spec), lambda _line: None)
