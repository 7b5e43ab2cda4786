"""The study file of a tuned recipe."""

from __future__ import annotations

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
    assert path.read_text().startswith("# a note over two lines\n")


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
