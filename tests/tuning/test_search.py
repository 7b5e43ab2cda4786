"""The search on a simulated device: near the optimum, cheaply, whatever the seed; every configuration at most once."""

from __future__ import annotations

import threading
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from pipeline.design.plan import Plan, PlannedRun
from pipeline.design.spec import RunSpec
from pipeline.tracking.recorder import OpenRun
from pipeline.tuning.confirmation import ranked
from pipeline.tuning.objective import OBJECTIVES
from pipeline.tuning.result import measured
from pipeline.tuning.space import Config
from tests.support.fakes import FakeRecorder, NullListener
from tests.support.tuning import (
    Device,
    best_of,
    cliff,
    feasible,
    make_ledger,
    make_space,
    make_task,
    peak,
    saturating,
    search,
)

SURFACES = {"saturating": (saturating, 1100), "cliff": (cliff, 1500), "peak": (peak, 700)}


def found_within(name: str, seed: int, folder: Path) -> tuple[float, int, int]:
    """How near the best of the three that would be confirmed is to the optimum, at what cost in runs."""
    surface, largest = SURFACES[name]
    space = make_space()
    device = Device(surface=surface, largest=largest, seed=seed)
    ledger = make_ledger(space, folder, budget=len(space.configs) // 4, seed=seed)
    search(device, ledger)
    top = ranked(OBJECTIVES["throughput"], measured(ledger.findings()))[:3]
    true = max(surface(one.config.batch_size, one.config.accumulation_steps) for one in top)
    return true / best_of(space, device), len(device.launched), len(space.configs)


@pytest.mark.parametrize("name", SURFACES)
@pytest.mark.slow
def test_the_optimum_is_found_at_a_quarter_of_the_cost_in_19_of_20_seeds(name: str, tmp_path: Path) -> None:
    runs = [found_within(name, seed, tmp_path) for seed in range(20)]
    assert all(cost <= 0.25 * whole for _, cost, whole in runs)
    assert sum(ratio >= 0.98 for ratio, _, _ in runs) >= 19, sorted(runs)


def test_the_optimum_of_a_narrow_peak_is_found(tmp_path: Path) -> None:
    ratio, cost, whole = found_within("peak", 3, tmp_path)
    assert ratio >= 0.98 and cost <= 0.25 * whole
    space, device = make_space(), Device(surface=peak)
    good = [
        c for c in feasible(space, device) if peak(c.batch_size, c.accumulation_steps) >= 0.98 * best_of(space, device)
    ]
    assert len(good) <= 4, "the target must be small for the test to mean anything"


def test_a_small_space_is_enumerated_each_configuration_once(tmp_path: Path) -> None:
    space = make_space(batches=[16, 64, 256], accumulations=[1, 2])
    device = Device()
    ledger = make_ledger(space, tmp_path, budget=50)
    search(device, ledger)
    sizes = [(spec.recipe.batch_size, spec.recipe.accumulation_steps) for spec in device.launched]
    assert sizes[0] == (64, 1), "the baseline comes first"
    assert sorted(sizes) == sorted((c.batch_size, c.accumulation_steps) for c in space.configs)


def test_what_needs_more_memory_than_what_did_not_fit_is_never_run(tmp_path: Path) -> None:
    space = make_space(batches=[64, 256, 1024, 2048], accumulations=[1, 2, 4])
    device = Device(surface=saturating, largest=300)
    ledger = make_ledger(space, tmp_path, budget=100)
    search(device, ledger)
    tried = [f for f in ledger.findings() if f.outcome == "oom"]
    assert tried and all(not f.feasible and f.objectives is None for f in tried)
    for index, finding in enumerate(tried):
        assert not any(finding.config.at_least(earlier.config) for earlier in tried[:index])
    assert {f.config for f in ledger.findings() if f.feasible} == set(feasible(space, device))


def test_a_memory_limit_is_a_constraint_and_the_value_is_kept(tmp_path: Path) -> None:
    space = make_space(batches=[64, 128, 256], accumulations=[1])
    ledger = make_ledger(space, tmp_path, budget=10)
    search(Device(), ledger, make_task(memory_limit=300.0))
    by_size = {f.config.batch_size: f for f in ledger.findings()}
    assert by_size[128].feasible and not by_size[256].feasible and by_size[256].objectives is not None
    assert by_size[256].values["memory/gpu_peak_allocated_mib"] == 356.0


def test_a_failure_is_tried_again_and_then_given_up(tmp_path: Path) -> None:
    space = make_space(batches=[64, 128], accumulations=[1])
    device = Device(fails={64: 1, 128: 99})
    ledger = make_ledger(space, tmp_path, budget=10, retries=2)
    shelf = search(device, ledger)
    assert [spec.recipe.batch_size for spec in device.launched].count(64) == 2
    assert [spec.recipe.batch_size for spec in device.launched].count(128) == 3
    outcomes = {f.config.batch_size: f.outcome for f in ledger.findings()}
    assert outcomes == {64: "finished", 128: "failed"}
    assert [outcome for _, outcome, _ in shelf.rows].count("failed") == 4


def test_a_trial_names_its_run_when_the_run_has_a_row(tmp_path: Path) -> None:
    """Whoever is killed in between must not leave a trial that names a run which nobody can find."""
    ledger = make_ledger(make_space(batches=[64, 128], accumulations=[1]), tmp_path, budget=10)
    named: list[bool] = []

    class Watching(FakeRecorder):
        def open(self, run: PlannedRun, plan: Plan, work_dir: Path) -> OpenRun:
            (trial,) = ledger.study.get_trials(states=(TrialState.RUNNING,))
            named.append("ablate.digest" in trial.user_attrs)
            return super().open(run, plan, work_dir)

    shelf = search(Device(), ledger, recorder=Watching())
    assert named == [False, False]
    rows = [run.spec.digest for run, _, _ in shelf.rows]
    assert [trial.user_attrs["ablate.digest"] for trial in ledger.study.trials] == rows


def test_the_same_seed_makes_the_same_search(tmp_path: Path) -> None:
    def order(seed: int) -> list[Config]:
        ledger = make_ledger(make_space(), tmp_path, budget=16, seed=seed)
        search(Device(), ledger)
        return [finding.config for finding in ledger.findings()]

    assert order(5) == order(5) != order(6)


def test_hopeless_trials_are_pruned_and_their_processes_ended(tmp_path: Path) -> None:
    space = make_space(batches=[16, 32, 64, 128, 256, 512], accumulations=[1, 2])

    def accuracy(epoch: int, spec: RunSpec) -> float:
        return epoch / 27 * (0.9 if spec.recipe.batch_size == 64 else 0.2)

    device = Device(accuracy=accuracy)
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=27)
    ledger = make_ledger(space, tmp_path, budget=12, objective="accuracy", pruner=pruner)
    shelf = search(device, ledger, make_task("accuracy", epochs=27))
    pruned = [f for f in ledger.findings() if f.outcome == "pruned"]
    assert pruned and device.closed == len(pruned)
    assert all(f.objectives is None and f.feasible for f in pruned)
    assert [more["tune.outcome"] for _, outcome, more in shelf.rows if outcome == "interrupted"] == ["pruned"] * len(
        pruned
    )
    best = ranked(OBJECTIVES["accuracy"], measured(ledger.findings()))[0]
    assert best.config.batch_size == 64


def test_pruning_goes_with_a_search_that_is_not_enumerated(tmp_path: Path) -> None:
    def accuracy(epoch: int, spec: RunSpec) -> float:
        return epoch / 9 * peak(spec.recipe.batch_size, spec.recipe.accumulation_steps) / 10000

    device = Device(accuracy=accuracy)
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=9)
    ledger = make_ledger(make_space(), tmp_path, budget=40, objective="accuracy", pruner=pruner)
    search(device, ledger, make_task("accuracy", epochs=9))
    found = ledger.findings()
    assert len(found) == 40 == len({f.config for f in found}) and any(f.outcome == "pruned" for f in found)
    best = ranked(OBJECTIVES["accuracy"], measured(found))[0].config
    assert peak(best.batch_size, best.accumulation_steps) > 9000


def test_an_unreached_target_is_infeasible_and_has_no_time(tmp_path: Path) -> None:
    space = make_space(batches=[64, 128], accumulations=[1])
    task = make_task("time")
    task = type(task)(task.spec, task.probe.model_copy(update={"target_accuracy": 0.5}), *list(vars(task).values())[2:])
    ledger = make_ledger(space, tmp_path, budget=2, objective="time")
    search(Device(accuracy=lambda *_: 0.3), ledger, task)
    assert len(ledger.findings()) == 2
    assert all(not f.feasible and f.objectives is None for f in ledger.findings())
    trials = ledger.study.trials
    assert all(trial.state == TrialState.PRUNED and trial.constraints["target"] > 0 for trial in trials)


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    space = make_space(batches=[16, 64, 256, 512], accumulations=[1, 4])
    ledger = make_ledger(space, tmp_path, budget=20, objective="pareto")
    search(Device(surface=saturating, accuracy=lambda *_: 0.5, noise=0.0), ledger, make_task("pareto"))
    front = ranked(OBJECTIVES["pareto"], measured(ledger.findings()))
    assert {one.config for one in front} == {c for c in space.configs if c.accumulation_steps == 4}
    rates = [one.values[0] for one in front if one.values]
    assert rates == sorted(rates, reverse=True)


def test_a_front_is_searched_without_enumeration(tmp_path: Path) -> None:
    ledger = make_ledger(make_space(), tmp_path, budget=40, objective="pareto")
    search(Device(surface=saturating, accuracy=lambda *_: 0.5, noise=0.0, largest=1100), ledger, make_task("pareto"))
    front = ranked(OBJECTIVES["pareto"], measured(ledger.findings()))
    steps = [one.config.accumulation_steps for one in front]
    assert len(front) >= 4 and sum(steps) / len(steps) >= 16, "more steps cost no memory here"
    assert len({f.config for f in ledger.findings()}) == 40


def test_several_trials_at_once_use_the_same_budget(tmp_path: Path) -> None:
    space = make_space()
    device = Device(jobs=4)
    ledger = make_ledger(space, tmp_path, budget=24)
    search(device, ledger)
    assert len(ledger.findings()) == 24 == len({f.config for f in ledger.findings()}) == len(device.launched)


def test_whoever_waits_for_another_process_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.execution.threads.LONG_SECONDS", 0.1)
    monkeypatch.setattr("pipeline.tuning.search.POLL_SECONDS", 0.02)
    space = make_space(batches=[16, 32], accumulations=[1, 2])
    ledger = make_ledger(space, tmp_path, budget=3)
    theirs = ledger.ask()
    assert theirs is not None
    notes: list[str] = []

    class Noting(NullListener):
        def note(self, text: str) -> None:
            notes.append(text)

    ends = threading.Timer(1.0, ledger.tell_unmeasured, (theirs, "oom", {}, {}), {"too_large": False})
    ends.start()
    search(Device(), ledger, listener=Noting())
    ends.join()
    assert notes == ["waiting for trials of other processes"]
    assert len(ledger.findings()) == 3
