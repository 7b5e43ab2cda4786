"""Where the result of a tuning goes."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import optuna
import pytest

from pipeline.design.names import RESULT_ATTRIBUTE
from pipeline.design.options import TuneOptions
from pipeline.design.study import load_study
from pipeline.tuning import confirmation, result
from pipeline.tuning.objective import OBJECTIVES
from pipeline.tuning.publication import numbers, publish
from pipeline.tuning.result import TuningResult
from pipeline.tuning.setup import Setup, prepare_tuning
from pipeline.tuning.trials import TrialResult
from tests.support.confirmed import RATE


class Parent:
    """A parent run that keeps what it is given."""

    key = "parent-key"

    def __init__(self) -> None:
        self.files: list[str] = []
        self.values: dict[str, float] = {}
        self.tags: dict[str, str] = {}

    def log_artifact(self, path: Path, folder: str = "") -> None:
        assert path.is_file()
        self.files.append(f"{folder}/{path.name}")

    def log_values(self, values: dict[str, float], tags: dict[str, str]) -> None:
        self.values |= values
        self.tags |= tags


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    monkeypatch.chdir(tmp_path)
    storage = "postgresql://user:secret@host/db"
    return prepare_tuning(
        TuneOptions(model="test_resnet", dataset="digits", study="quickstart", device="cpu", name="x", storage=storage)
    )


def concluded(setup: Setup, searched: int) -> TuningResult:
    """The first `searched` configurations, the later the faster, each confirmed as it was found."""
    space, objective = setup.space, OBJECTIVES["throughput"]
    configs = [space.baseline, *(config for config in space.configs if config != space.baseline)][:searched]
    rates = {config: 100.0 * (number + 1) for number, config in enumerate(configs)}
    findings = [TrialResult(n, c, "finished", True, (rates[c],), {RATE: rates[c]}) for n, c in enumerate(configs)]
    values = {c: {block: {RATE: rate * (1 + block / 1000)} for block in range(3)} for c, rate in rates.items()}
    chosen = confirmation.candidates(objective, space, result.measured(findings), 1)
    return result.conclude("test_resnet", "digits", objective, space, findings, chosen, values, {"batch_size": 0.9})


def test_every_place_has_the_result(setup: Setup, tmp_path: Path) -> None:
    study, parent = optuna.create_study(direction="maximize"), Parent()
    fixed: Any = parent
    published = publish(setup, concluded(setup, 3), study, fixed, tmp_path / "mlruns", 12.5)
    document = published.document
    assert published.problems == []
    assert study.user_attrs[RESULT_ATTRIBUTE] == document and document["verdict"] == "better"
    assert "secret" not in str(document)
    assert parent.files == ["tuning/x.yaml"], "there are no plots of a study with so few trials"
    assert load_study("x").name == "x"
    assert parent.tags["tune.verdict"] == "better" and "winner" in parent.tags["mlflow.note.content"]
    assert parent.values["tune/wall_seconds"] == 12.5 and parent.values["tune/importance.batch_size"] == 0.9


def test_what_is_not_known_is_absent(setup: Setup, tmp_path: Path) -> None:
    nothing = concluded(setup, 0)
    assert numbers(nothing, 1.0).keys() == {
        "tune/trials",
        "tune/infeasible",
        "tune/wall_seconds",
        "tune/importance.batch_size",
    }
    fixed: Any = Parent()
    document = publish(setup, nothing, optuna.create_study(), fixed, tmp_path / "mlruns", 1.0).document
    assert document["best"] is None and fixed.files == []


def test_no_place_that_fails_loses_the_answer(setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    class AwayError(Exception):
        """An error of a library."""

    def away(*_: Any) -> None:
        raise AwayError("the database\nis away")

    study, fixed = optuna.create_study(direction="maximize"), Parent()
    parent: Any = fixed
    monkeypatch.setattr(study, "set_user_attr", away)
    monkeypatch.setattr("pipeline.tuning.plots.draw_plots", away)
    monkeypatch.setattr(fixed, "log_values", full)
    (tmp_path / "experiments").write_text("a file where the folder of study files goes")
    published = publish(setup, concluded(setup, 3), study, parent, tmp_path / "mlruns", 12.5)
    assert published.document["verdict"] == "better" and published.document["study_file"] is None
    assert [problem.partition(":")[0].split(" ")[0] for problem in published.problems] == [
        *("study", "Optuna", "plots", "parent"),
    ]
    assert all("\n" not in problem for problem in published.problems)
