"""One call of `ablate tune`: what it refuses before the first trial. Whole calls are in tests/commands/test_tune.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

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
    study = open_study(
        f"sqlite:///{tmp_path}/optuna.db", "taken", "another", ["maximize"], None, lock=tmp_path / "lock"
    )
    with pytest.raises(InputError, match="--name: 'taken' is not allowed; allowed: another name, or --fresh"):
        Tuning(chosen, prepare_tuning(chosen), NullListener(), tmp_path / "state").run()
    assert study.trials == []


def test_the_preflight_sees_every_batch_size(tmp_path: Path) -> None:
    """The smallest micro-batch of an epoch depends on it, and a model may not be trainable on that."""
    chosen = options(tmp_path, batch_sizes="16,32", accumulation="1,2", settings=("batch_size=64",))
    setup = prepare_tuning(chosen)
    seen = [spec.recipe.batch_size for spec in Tuning(chosen, setup, NullListener(), tmp_path / "state")._distinct()]
    assert set(seen) == {16, 32, 64} and len(seen) <= 4


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("content", ["trials", "mark", "nothing"])
def test_a_foreign_study_is_neither_adopted_nor_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, fresh: bool
) -> None:
    monkeypatch.setattr("pipeline.tuning.storage.MARKING_SECONDS", 0.1)
    storage = f"sqlite:///{tmp_path}/optuna.db"
    foreign = optuna.create_study(study_name="mine", storage=storage, direction="minimize")
    if content == "trials":
        foreign.optimize(lambda trial: trial.suggest_float("lr", 0, 1), n_trials=2)
    elif content == "mark":
        foreign.set_user_attr("owner", "somebody")
    chosen = replace(options(tmp_path, name="mine"), fresh=fresh)
    setup = prepare_tuning(chosen)
    with pytest.raises(InputError, match=r"--name: 'mine' is not allowed; allowed: another name \(ablate has not made"):
        Tuning(chosen, setup, NullListener(), tmp_path / "state").run()
    with pytest.raises(InputError, match="--name"):  # it came between the first look and the search
        open_study(storage, "mine", setup.identity, ["maximize"], None, lock=tmp_path / "lock", fresh=fresh)
    found = optuna.load_study(study_name="mine", storage=storage)
    assert [trial.params for trial in found.trials] == [trial.params for trial in foreign.trials]
    assert found.user_attrs == ({"owner": "somebody"} if content == "mark" else {})
    assert found.direction.name == "MINIMIZE"
