"""The study file of a tuned recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.tuning import study_file


def test_a_study_file_holds_the_recipe_and_leaves_out_what_it_contains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.design import plan, study

    monkeypatch.chdir(tmp_path)
    base = study.load_study("quickstart")
    recipe = base.recipe_for("test_resnet", "digits", {"batch_size": 96, "accumulation_steps": 3, "precision": "bf16"})
    path = study_file.write_study_file(
        "tuned-x", "test_resnet", "digits", recipe, base, "cpu", ["a note\nover two lines"]
    )
    again = study.load_study(str(path))
    assert again.recipe_for("test_resnet", "digits") == recipe and study.load_study("tuned-x") == again
    assert list(again.techniques) == ["ga", "pm"], "amp is on already"
    cells = plan.build_plan(again, "cpu").cells
    assert len(cells) == 4 and {cell.spec.recipe.accumulation_steps for cell in cells} == {3, 6}
    assert path.read_text().startswith("# made by `ablate tune`, Optuna study tuned-x\n# a note over two lines\n")
    study_file.check_free("tuned-x")
    study_file.check_free("another")


@pytest.mark.parametrize("kind", ["file", "folder", "link", "empty", "fifo"])
def test_what_tune_has_not_made_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    from pipeline.design import study
    from pipeline.errors import InputError

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "experiments" / "tuned"
    folder.mkdir(parents=True)
    place, other = folder / "mine.yaml", folder / "other"
    other.write_text("# made by `ablate tune`, Optuna study x\n")
    {
        "file": lambda: place.write_text("models: [test_resnet]\n"),
        "folder": place.mkdir,
        "link": lambda: place.symlink_to(other),
        "empty": place.touch,
        "fifo": lambda: os.mkfifo(place),
    }[kind]()
    before = (place.lstat().st_ino, other.read_text())
    base = study.load_study("quickstart")
    arguments: Any = ("mine", "test_resnet", "digits", base.recipe_for("test_resnet", "digits"), base, "cpu", [])
    for call in (lambda: study_file.check_free("mine"), lambda: study_file.write_study_file(*arguments)):
        with pytest.raises(InputError, match="--name: 'mine' is not allowed; allowed: another name"):
            call()
    assert (place.lstat().st_ino, other.read_text()) == before and sorted(folder.iterdir()) == [place, other]


def test_a_study_file_that_cannot_be_written_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.design import study
    from pipeline.errors import OutsideError

    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").write_text("a file")
    base = study.load_study("quickstart")
    arguments: Any = ("x", "test_resnet", "digits", base.recipe_for("test_resnet", "digits"), base, "cpu", [])
    with pytest.raises(OutsideError, match="study file"):
        study_file.write_study_file(*arguments)
