"""How long cells will take, from runs that were measured and from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.design.plan import Plan, PlannedRun, build_plan
from pipeline.design.records import End, Phase, Progress, Record
from pipeline.design.spec import Recipe, RunSpec
from pipeline.design.study import load_study
from pipeline.execution import forecast as forecasts
from pipeline.execution.forecast import Expected, Forecast, duration, forecast_of, forecast_text, params_of, sample


def cell(model: str = "test_vit", seed: int = 0, **recipe: object) -> RunSpec:
    """A cell of a model on digits."""
    return RunSpec(model=model, dataset="digits", seed=seed, recipe=Recipe.model_validate(recipe))


def test_of_nothing_nothing_is_said() -> None:
    forecast = Forecast()
    assert forecast.seconds(cell()) is None
    assert forecast.of([cell(), cell(seed=1)]) == Expected(0, 2, unknown=2, alike=0)
    assert forecast_text(forecast.of([cell()]), 1) == "time for 1 cell: not known yet, no run like them is in the store"


def test_the_same_cell_counts_before_others_of_its_model_and_data_set() -> None:
    forecast = Forecast()
    for seconds in (10.0, 12.0, 50.0):
        forecast.learn(params_of(cell(seed=7)), seconds)
    forecast.learn(params_of(cell(precision="bf16")), 40.0)
    assert forecast.seconds(cell()) == 12.0, "the median, whatever the seed"
    assert forecast.seconds(cell(precision="bf16")) == 40.0
    assert forecast.seconds(cell(accumulation_steps=2)) == 26.0, "of all of its model and data set"
    assert forecast.seconds(cell(epochs=9)) is None and forecast.seconds(cell("test_resnet")) is None
    expected = forecast.of([cell(), cell(accumulation_steps=2), cell("test_resnet")])
    assert expected == Expected(38.0, 3, unknown=1, alike=1)


def test_a_run_that_trains_tells_of_others_until_one_has_ended() -> None:
    forecast = Forecast()
    forecast.suppose(cell(), 100.0)
    assert forecast.seconds(cell(precision="bf16")) == 100.0
    forecast.learn(params_of(cell()), 80.0)
    assert forecast.seconds(cell(precision="bf16")) == 80.0


class _Trains:
    """A launcher whose cells tell their rate each second: 10 updates an epoch of 32 images, at 32 images/s."""

    def __init__(self) -> None:
        self.launched: list[str] = []
        self.told = 0
        self.ended = False

    def launch(self, spec: RunSpec) -> Iterator[Record]:
        self.launched.append(spec.model)
        if spec.model == "test_resnet":
            yield End(time=0.0, outcome="oom", error="out of memory")
            return
        began = forecasts.time.time()
        try:
            yield Phase(time=began, name="train")
            for self.told in range(1, spec.recipe.epochs * 10):
                now, epoch = began + 5 + self.told, 1 + self.told // 10
                yield _progress(now, epoch, spec.recipe.epochs, self.told % 10)
            yield End(time=began + 100.0, outcome="finished")
        finally:
            self.ended = True


def _progress(now: float, epoch: int, epochs: int, update: int) -> Progress:
    return Progress(time=now, epoch=epoch, epochs=epochs, update=update, updates=10, images_per_second=32.0)


def test_a_cell_of_each_unknown_model_trains_for_a_moment_to_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "time", type("Clock", (), {"time": staticmethod(lambda: 1000.0)}))
    forecast, launcher, said = Forecast(), _Trains(), list[str]()
    forecast.learn(params_of(cell("test_efficientnet")), 7.0)
    cells = [cell(epochs=5, batch_size=32), cell(epochs=5, precision="bf16", batch_size=32), cell("test_resnet")]
    cells.append(cell("test_resnet", precision="bf16"))  # of those alike none but the first is tried
    given: Any = launcher
    problems = list(sample(forecast, [*cells, cell("test_efficientnet")], given, said.append))
    assert launcher.launched == ["test_vit", "test_resnet"] and len(said) == 2
    assert launcher.told == 1 + forecasts.SAMPLE_SECONDS and launcher.ended, "it is ended when its rate is known"
    assert forecast.seconds(cells[0]) == forecast.seconds(cells[1]) == pytest.approx(5 + 5 * 10), "with its set-up"
    assert forecast.seconds(cells[2]) is None and problems == ["test_resnet on digits: out of memory"]


def test_a_cell_that_ends_before_a_rate_is_known_is_timed_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "time", type("Clock", (), {"time": staticmethod(lambda: 1000.0)}))
    forecast, launcher = Forecast(), _Trains()
    given: Any = launcher
    assert not list(sample(forecast, [cell(epochs=1)], given, lambda _: None))
    assert forecast.seconds(cell(epochs=1)) == 100.0


def test_runs_at_once_share_the_time() -> None:
    text = forecast_text(Expected(7200, 12, unknown=0, alike=0), 4)
    assert text == "time for 12 cells: about 30 min, from earlier runs of the same cells"
    assert "about 2 h 30 min (3 judged" in forecast_text(Expected(9000, 12, unknown=0, alike=3), 1)
    assert forecast_text(Expected(9, 12, unknown=2, alike=0), 1).startswith(
        "time for 10 of 12 cells: about 9 s; nothing"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (99.4, "99 s"), (100, "2 min"), (5400, "90 min"), (12_000, "3 h 20 min"), (10**6, "277 h")],
)
def test_a_time_as_people_say_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_local_store_tells_of_runs_of_any_study(migrated_store: Callable[[Path], str], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = migrated_store(tmp_path / "mlflow.db")
    client = MlflowClient(uri)
    study = load_study("quickstart")
    plan = build_plan(study, "cpu", {})
    assert forecast_of(plan, uri).measured == 0
    experiment = client.create_experiment("another")
    for run in plan.runs[:4]:
        made = client.create_run(experiment).info.run_id
        for name, value in params_of(run.spec).items():
            client.log_param(made, name, value)
        client.log_metric(made, "time/total_seconds", 5.0)
        client.set_terminated(made)
    forecast = forecast_of(plan, uri)
    assert forecast.measured == 4
    assert all(forecast.of([run.spec]) == Expected(5.0, 1, unknown=0, alike=0) for run in plan.runs[:4])
    assert forecast_of(_on(plan, "cuda"), uri).measured == 0, "another device"
    assert forecast_of(plan, "http://127.0.0.1:9").measured == 0, "a server is not asked"


def _on(plan: Plan, device: str) -> Plan:
    runs = tuple(
        PlannedRun(run.spec.model_copy(update={"device": device}), run.block, run.position) for run in plan.runs
    )
    return Plan(plan.study, plan.device, runs)
