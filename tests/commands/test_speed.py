"""`ablate speed` as people run it: real cells that take turns, what is in the store, the answer, and bad input."""

from __future__ import annotations

import json
import re
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.support.ablate import ablate_in_process, ended, run_ablate, start_ablate
from tests.support.processes import Row, default_signal, lines_of, rows_of, until, working_in

SMALL = (
    "speed", "--study", "quickstart", "--device", "cpu", "--models", "test_resnet", "--datasets", "digits",
    "--techniques", "ga,pm", "--set", "batch_size=16", "--set", "max_train_samples=128",
)  # fmt: skip
QUICK = (*SMALL, "--min-rounds", "8", "--precision", "0.9")


def rows(folder: Path, kind: str = "turns") -> list[Row]:
    return rows_of(folder / "mlruns" / "mlflow.db", kind)


def rounds_of(row: Row, name: str = "round/images_per_second") -> dict[int, float]:
    return {step: value for key, step, _, value in row.points if key == name}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, digits_dir: Path) -> tuple[Path, dict[str, Any]]:
    """A folder in which cells have taken turns, and the document."""
    folder = tmp_path_factory.mktemp("speed")
    done = run_ablate(*QUICK, "--json", cwd=folder, data_dir=digits_dir)
    return folder, done.json()


def test_the_document_has_every_cell_s_rounds_and_the_effects(measured: tuple[Path, dict[str, Any]]) -> None:
    _, found = measured
    (group,) = found["groups"]
    assert (group["model"], group["dataset"], group["decided"]) == ("test_resnet", "digits", True)
    assert next(cell["techniques"] for cell in group["cells"]) == "baseline" and len(group["cells"]) == 4
    assert all(len(cell["images_per_second"]) == group["rounds"] >= 8 for cell in group["cells"])
    assert {cell["outcome"] for cell in group["cells"]} == {"finished"}
    effects = {(row["kind"], row["term"]): row for row in found["effects"]}
    assert {("main", "ga"), ("main", "pm"), ("simple", "ga"), ("combined", "ga+pm")} <= set(effects)
    assert all(row["low"] < row["estimate"] < row["high"] for row in effects.values())


def test_the_store_has_a_parent_of_its_own_and_a_row_for_each_cell(measured: tuple[Path, dict[str, Any]]) -> None:
    folder, found = measured
    (parent,) = rows(folder, "speed")
    assert parent.status == "FINISHED" and parent.tags["ablate.key"] == found["parent"]
    note = parent.tags["mlflow.note.content"]
    assert note.startswith("## The answer (times from rounds") and "- pm (pinned" in note
    assert "ablate speed --study" in note.splitlines()[-2]
    assert parent.metrics["speed/rounds"] == found["groups"][0]["rounds"] and parent.metrics["speed/wall_seconds"] > 0
    cells = rows(folder)
    assert len(cells) == 4 and {row.status for row in cells} == {"FINISHED"}
    rounds = [rounds_of(row) for row in cells]
    assert all(set(each) == set(range(1, found["groups"][0]["rounds"] + 1)) for each in rounds)
    for number in rounds[0]:
        places = [rounds_of(row, "round/place")[number] for row in cells]
        assert sorted(places) == [1, 2, 3, 4], "each cell has its place in the round"
    for row, rates in zip(cells, rounds, strict=True):
        assert row.tags["mlflow.parentRunId"] == parent.run_id
        seconds = rounds_of(row, "round/seconds")
        assert all(rates[n] * seconds[n] == pytest.approx(row.metrics["turns/images"]) for n in rates)
        assert row.metrics["throughput/images_per_second"] == pytest.approx(statistics.median(rates.values()))
        assert row.params["recipe.batch_size"] == "16" and row.metrics["memory/host_peak_rss_mib"] > 10
        assert {"time/setup_seconds", "time/warmup_seconds", "budget/forward_seconds"} <= set(row.metrics)
        assert not any(name.startswith(("test/", "val/")) for name in row.metrics), "nothing is evaluated"
        assert json.loads(row.tags["ablate.engagement"])["update_norm"] > 0
        idle = {"pin_memory", "non_blocking"} if "pm" in row.params["techniques"] else set()
        assert set(json.loads(row.tags["ablate.not_engaged"])) == idle, "a CPU copies nothing"
        assert {name for name in row.tags if name.startswith("env.")} >= {"env.torch", "env.hostname"}


def test_the_same_call_again_has_nothing_to_do_and_answers(
    measured: tuple[Path, dict[str, Any]], digits_dir: Path
) -> None:
    folder, found = measured
    again = ablate_in_process(*QUICK, cwd=folder, data_dir=digits_dir)
    assert again.code == 0, again.err
    assert len(rows(folder)) == 4 and len(rows(folder, "speed")) == 1
    assert re.search(r"test_resnet/digits: \d+ rounds, 4 of 4 effects known to 90 %", again.out)
    assert re.search(r"  ga .* images/s  \d\.\d{3}x \[\d\.\d{3}, \d\.\d{3}\]", again.out)
    assert (
        re.search(r"  ga \(gradient accumulation.*\) alone: \d\.\d{3}x as fast \[", again.out)
        and "set-up" not in again.out
    )
    status = ablate_in_process("status", "quickstart", cwd=folder, data_dir=digits_dir).out
    assert "  in turns (ablate speed): 4 cells, 4 finished\n" in status
    (group,) = json.loads(ablate_in_process(*QUICK, "--json", cwd=folder, data_dir=digits_dir).out)["groups"]
    assert group == found["groups"][0]


def test_other_cells_have_a_parent_of_their_own(measured: tuple[Path, dict[str, Any]], digits_dir: Path) -> None:
    folder, _ = measured
    other = ablate_in_process(*QUICK, "--techniques", "pm", cwd=folder, data_dir=digits_dir)
    assert other.code == 0, other.err
    assert len(rows(folder, "speed")) == 2 and len(rows(folder)) == 6


def test_the_report_of_rounds_alone(measured: tuple[Path, dict[str, Any]], digits_dir: Path) -> None:
    folder, _ = measured
    report = ablate_in_process("report", "quickstart", cwd=folder, data_dir=digits_dir)
    assert report.code == 0, report.err
    assert "rounds of `ablate speed`" in report.out and "as fast [" in report.out
    assert (folder / "mlruns/reports/quickstart/report.html").is_file()


def test_a_report_takes_times_from_rounds_and_accuracy_from_the_grid(
    measured: tuple[Path, dict[str, Any]], digits_dir: Path
) -> None:
    folder, _ = measured
    same = [word for word in SMALL if word != "speed"]
    grid = ablate_in_process("grid", *same, "--set", "epochs=1", "--seeds", "1", cwd=folder, data_dir=digits_dir)
    assert grid.code == 0, grid.err
    report = ablate_in_process("report", "quickstart", "--json", cwd=folder, data_dir=digits_dir)
    text = report.out
    assert report.code == 0 and "times are the grid's, since epochs had other values" in text
    turns = ablate_in_process(*QUICK, "--set", "epochs=1", cwd=folder, data_dir=digits_dir)
    assert turns.code == 0 and "accuracy was not measured" not in turns.out, "the grid has it: one answer"
    assert re.search(r"  ga \(gradient accumulation.*; accuracy ", turns.out)
    report = ablate_in_process("report", "quickstart", "--json", cwd=folder, data_dir=digits_dir)
    assert re.search(r"are from \d+ rounds of `ablate speed`", report.out), report.out[:500]
    responses = {row["response"] for row in json.loads(report.out)["effects"]}
    assert {"train_seconds", "accuracy"} <= responses


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (("--techniques", "none"), ("--techniques", "at least one")),
        (("--techniques", "gaa"), ("gaa", "allowed")),
        (("--precision", "1"), ("--precision", "<1")),
        (("--min-rounds", "7"), ("--min-rounds", "8")),
        (("--max-seconds", "0"), ("--max-seconds",)),
        (("--launcher", "slurm"), ("--launcher", "local")),
        (("--jobs", "2"), ("--jobs", "1 on a CPU")),
        (("--set", "nonsense=1"), ("nonsense",)),
        (("--seeds", "3"), ("--seeds",)),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(
    words: tuple[str, ...], fragments: tuple[str, ...], tmp_path: Path
) -> None:
    refused = ablate_in_process(*SMALL, *words, cwd=tmp_path)
    assert refused.code == 2 and all(fragment in refused.line for fragment in fragments), refused.err
    assert not list(tmp_path.rglob("*.db")) and not list(tmp_path.rglob("log.txt"))


def test_turns_that_do_not_fit_into_an_epoch_are_refused_before_any_cell(tmp_path: Path, digits_dir: Path) -> None:
    words = ("--set", "batch_size=64", "--technique", "ga=4", "--set", "max_train_samples=200")
    refused = ablate_in_process(*SMALL, *words, cwd=tmp_path, data_dir=digits_dir)
    assert refused.code == 2 and "200 training images are not allowed; allowed: at least 256" in refused.line
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


def test_a_dry_run_lists_the_cells(tmp_path: Path) -> None:
    dry = ablate_in_process(*SMALL, "--dry-run", "--json", cwd=tmp_path)
    document = json.loads(dry.out)
    assert next(cell["techniques"] for cell in document["cells"]) == [] and len(document["cells"]) == 4
    assert {cell["turns"]["multiple"] for cell in document["cells"]} == {32}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_interrupted_call_keeps_its_rounds_and_the_same_call_goes_on(tmp_path: Path, digits_dir: Path) -> None:
    endless = (*SMALL, "--precision", "0.0001", "--min-rounds", "30")
    with default_signal(signal.SIGINT):
        process = start_ablate(*endless, cwd=tmp_path, data_dir=digits_dir)
    until(lambda: len(working_in(tmp_path)) >= 6, 60, "the cells")
    lines_of(process, r"round [1-9]\d*:")
    process.send_signal(signal.SIGINT)
    done = ended(process)
    assert done.code == 130 and "go on with: ablate speed" in done.err
    first = rows(tmp_path)
    assert {row.status for row in first} == {"KILLED"} and len(first) == 4
    kept = set(rounds_of(first[0]))
    assert kept and all(set(rounds_of(row)) == kept for row in first)
    again = run_ablate(
        *SMALL, "--precision", "0.9", "--min-rounds", str(len(kept) + 8), "--json", cwd=tmp_path, data_dir=digits_dir
    )
    (group,) = again.json()["groups"]
    assert group["rounds"] == len(kept) + 8 and len(rows(tmp_path)) == 8
    assert all(len(cell["images_per_second"]) == group["rounds"] for cell in group["cells"])


def test_two_calls_do_not_measure_the_same_cells_at_once(tmp_path: Path, digits_dir: Path) -> None:
    process = start_ablate(*SMALL, "--precision", "0.0001", cwd=tmp_path, data_dir=digits_dir)
    try:
        until(lambda: any((tmp_path / "mlruns" / "speed").glob("*.lock")), 60, "the first call")
        second = ablate_in_process(*SMALL, cwd=tmp_path, data_dir=digits_dir)
        assert second.code == 2 and "another process measures the same cells" in second.line
    finally:
        process.send_signal(signal.SIGTERM)
        ended(process)
