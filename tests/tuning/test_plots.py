"""Importances and plots of a search."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import optuna
import pytest

from pipeline.tuning.objective import OBJECTIVES
from pipeline.tuning.plots import draw_plots, importances

PNG = b"\x89PNG"


def searched(trials: int, name: str = "throughput") -> optuna.Study:
    """A study in which the batch size decides nearly everything."""
    objective = OBJECTIVES[name]
    study = optuna.create_study(
        directions=list(objective.directions), sampler=optuna.samplers.RandomSampler(seed=1), study_name="planted"
    )

    def measure(trial: optuna.Trial) -> list[float]:
        size = trial.suggest_int("batch_size", 8, 512, log=True)
        steps = trial.suggest_int("accumulation_steps", 1, 8)
        return [size + 0.01 * steps, 100.0 + size, 0.9 - size / 1e4][: len(objective.responses)]

    study.optimize(measure, n_trials=trials)
    return study


def test_the_planted_parameter_is_the_important_one() -> None:
    shares = importances(searched(20), OBJECTIVES["throughput"])
    assert shares["batch_size"] > 0.9 and sum(shares.values()) == pytest.approx(1.0)


def test_few_trials_or_equal_values_have_no_importances(tmp_path: Path) -> None:
    few = searched(3)
    assert (
        importances(few, OBJECTIVES["throughput"]) == {} and draw_plots(few, OBJECTIVES["throughput"], tmp_path) == []
    )
    study = optuna.create_study(direction="maximize")
    study.optimize(lambda trial: 0.0 * trial.suggest_float("x", 0, 1), n_trials=6)
    assert importances(study, OBJECTIVES["throughput"]) == {}


@pytest.mark.parametrize(
    ("name", "files"),
    [("throughput", ["history", "slice", "contour"]), ("pareto", ["history", "slice", "contour", "pareto"])],
)
def test_plots_are_drawn(name: str, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    made = draw_plots(searched(6, name), OBJECTIVES[name], tmp_path / "new")
    assert [path.stem for path in made] == files
    assert matplotlib.rcParams["axes.grid"] is False, "Optuna's style ends with its plots"
    assert all(path.read_bytes().startswith(PNG) for path in made)
