"""One call of `ablate tune`: what it refuses before the first trial. Whole calls are in tests/commands/test_tune.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.design.names import IDENTITY_ATTRIBUTE
from pipeline.errors import InputError, OutsideError
from pipeline.tuning.session import Tuning
from pipeline.tuning.setup import TuneOptions, prepare_tuning
from pipeline.tuning.storage import open_study
from tests.support.fakes import NullListener


def options(folder: Path, **changes: Any) -> TuneOptions:
    fixed = {"model": "test_resnet", "dataset": "digits", "study": "quickstart", "device": "cpu"}
    return TuneOptions(**{**fixed, "storage": f"sqlite:///{folder}/optuna.db", **changes})


def test_a_state_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    chosen = options(tmp_path)
    with pytest.raises(OutsideError, match="cannot be made"):
        Tuning(chosen, prepare_tuning(chosen), NullListener(), tmp_path / "file")


def test_a_name_of_another_search_is_refused_before_any_trial(tmp_path: Path) -> None:
    chosen = options(tmp_path, name="taken")
    study = open_study(f"sqlite:///{tmp_path}/optuna.db", "taken", ["maximize"], None, lock=tmp_path / "lock")
    study.set_user_attr(IDENTITY_ATTRIBUTE, "another")
    with pytest.raises(InputError, match="--name: 'taken' is not allowed; allowed: another name, or --fresh"):
        Tuning(chosen, prepare_tuning(chosen), NullListener(), tmp_path / "state").run()
    assert study.trials == []


def test_the_preflight_sees_every_batch_size(tmp_path: Path) -> None:
    """The smallest micro-batch of an epoch depends on it, and a model may not be trainable on that."""
    chosen = options(tmp_path, batch_sizes="16,32", accumulation="1,2", settings=("batch_size=64",))
    setup = prepare_tuning(chosen)
    seen = [spec.recipe.batch_size for spec in Tuning(chosen, setup, NullListener(), tmp_path / "state")._distinct()]
    assert set(seen) == {16, 32, 64} and len(seen) <= 4
