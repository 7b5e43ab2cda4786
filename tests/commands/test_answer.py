"""The answer at the end of a call: of the plan's runs alone, and of none too many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from pipeline.analysis.answer import answer_of
from pipeline.analysis.effects import estimate
from pipeline.commands import answer
from pipeline.commands.answer import closing_answer, effects_of_plan
from pipeline.design.plan import Plan
from pipeline.design.selection import GridOptions, select_plan
from tests.support.ablate import ablate_in_process
from tests.support.planted import planted


@pytest.fixture(scope="module")
def plan() -> Plan:
    options = GridOptions(study="quickstart", models="test_resnet", datasets="digits", seeds=4, device="cpu")
    return select_plan(options, "cpu").plan


def store_with(plan: Plan, others: int = 0) -> Any:
    """A store with a row for each of the plan's runs, and some that are not its own."""
    runs = planted(blocks=4 + others, device="cpu", gpu=False).runs.assign(**{"tags.ablate.kind": "run"})
    digests = [run.spec.digest for run in plan.cells]
    runs["tags.ablate.digest"] = digests + ["another"] * (len(runs) - len(digests))
    return SimpleNamespace(frame=lambda: runs)


def test_it_is_of_the_plan_s_runs(plan: Plan) -> None:
    effects = effects_of_plan(store_with(plan, others=3), plan)
    assert effects is not None and effects.study.n_blocks == 4
    pd.testing.assert_frame_equal(effects.table, estimate(planted(blocks=4, device="cpu", gpu=False)).table)
    lines = closing_answer(effects)
    assert lines[0] == "the answer:" and lines[1].startswith("  resnet on digits: ")
    assert any(line.startswith("    ga (gradient accumulation") and "as fast [" in line for line in lines)
    assert any(line.startswith("  note: ") for line in lines)


def test_where_there_is_nothing_to_tell_there_is_none(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_with(plan)
    assert effects_of_plan(store, replace(plan, study=plan.study.model_copy(update={"techniques": {}}))) is None
    assert effects_of_plan(SimpleNamespace(frame=lambda: store.frame().iloc[:0]), plan) is None
    others = store.frame().assign(**{"tags.ablate.digest": "another"})
    assert effects_of_plan(SimpleNamespace(frame=lambda: others), plan) is None
    monkeypatch.setattr(answer, "MOST_RUNS", len(plan.runs) - 1)
    assert effects_of_plan(store, plan) is None


def test_it_says_where_times_are_from() -> None:
    study = planted(blocks=9)
    effects = estimate(replace(study, rounds=study.runs))
    assert closing_answer(effects)[0] == "the answer (times from rounds of `ablate speed`):"
    assert not any("from 9 rounds" in line for line in closing_answer(effects)), "said once"
    (advice,) = answer_of(effects).groups
    assert all(part.in_rounds for part in advice.parts) and not answer_of(estimate(study)).groups[0].parts[0].in_rounds
    told = [part for part in (advice.chosen_part, advice.fastest_part) if part is not None]
    assert told and all(part.in_rounds for part in told)
    two = planted(blocks=9, models=("m1", "m2"))
    assert all(part.in_rounds for part in answer_of(estimate(replace(two, rounds=two.runs))).averages)
    one = two.runs[two.runs["params.model"].eq("m1")]
    assert not any(part.in_rounds for part in answer_of(estimate(replace(two, rounds=one))).averages)


def test_a_technique_that_cannot_act_is_said_to_be_not_engaged(tmp_path: Path, digits_dir: Path) -> None:
    """Windows of 64 micro-batches, in epochs of 8."""
    small = ("--set", "batch_size=16", "--set", "max_train_samples=128", "--set", "epochs=1", "--seeds", "1")
    cells = ("--study", "quickstart", "--models", "test_resnet", "--datasets", "digits", "--device", "cpu")
    grid = ("grid", *cells, *small, "--techniques", "ga", "--technique", "ga=64")
    done = ablate_in_process(*grid, cwd=tmp_path, data_dir=digits_dir)
    assert done.code == 0, done.err
    why = "not engaged: an epoch has 8 micro-batches, fewer than 64.\n"
    assert f"  ga (gradient accumulation, micro-batch fixed): {why}" in done.out
    report = ablate_in_process("report", "quickstart", cwd=tmp_path, data_dir=digits_dir)
    assert why in report.out
    table = pd.read_csv(tmp_path / "mlruns/reports/quickstart/effects.csv")
    mine = table[table["term"].eq("ga") & table["kind"].isin(["main", "simple"])]
    assert len(mine) and set(mine["verdict"]) == {"not_engaged"}
    assert set(mine["not_engaged"]) == {"an epoch has 8 micro-batches, fewer than 64"}


def test_of_many_cells_with_a_compiler_it_tells_of_a_few() -> None:
    study = planted(blocks=5, techniques=("compile", "ga", "pm"), truth={"compile": -0.2})
    on = study.runs["params.compile"].eq("on")
    seconds = study.runs["metrics.time/train_seconds"]
    measured = {
        "metrics.time/compile_seconds": on.map({True: 30.0, False: float("nan")}),
        "metrics.train/epoch_seconds": seconds / 5,
        "metrics.train/images_per_second": 1000 / (seconds / 5),
        "metrics.throughput/images_per_second": 5000 / seconds,
    }
    lines = closing_answer(estimate(replace(study, runs=study.runs.assign(**measured))))
    told = [line.split(": ")[1] for line in lines if "before training" in line]
    assert told == ["compile", "compile+ga+pm"], "alone, and all together"


def test_a_description_that_a_store_does_not_take_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def refuses(*_: object) -> None:
        raise OSError("no route\nto it")

    answer.describe(SimpleNamespace(set_tag=refuses), "key", ["the answer:", "  m on d: x"], "")
    told = "ablate: the answer is not in the parent run's description: no route\n"
    assert capsys.readouterr() == ("", told)


def test_a_description_is_a_list_under_the_answers_name() -> None:
    seen: list[tuple[str, str, str]] = []
    store = SimpleNamespace(set_tag=lambda *given: seen.append(given))
    lines = ["the answer (in turns):", "  m on d: use ga", "    ga: 1.1x as fast [1.0, 1.2]"]
    answer.describe(store, "key", lines, "rest")
    text = "## The answer (in turns)\n\n- m on d: use ga\n  - ga: 1.1x as fast \\[1.0, 1.2\\]\n\nrest"
    assert seen == [("key", "mlflow.note.content", text)]
