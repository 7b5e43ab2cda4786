"""What people see while a grid runs."""

from __future__ import annotations

import io
import re
import time

import pytest

from pipeline.commands.display import LiveDisplay, PlainDisplay, QuietDisplay, print_tables
from pipeline.design.plan import PlannedRun
from pipeline.design.records import End, Metrics, Phase, Progress
from pipeline.design.spec import Recipe, RunSpec
from pipeline.execution import summary

RUN = PlannedRun(RunSpec(model="test_resnet", dataset="digits", device="cpu", recipe=Recipe(epochs=3)), 0, 0)
VALUES = {summary.TIME: 12.345, summary.RATE: 9876.4, summary.ACCURACY: 0.91234}
FINISHED = End(time=0.0, outcome="finished")


def test_a_line_per_event() -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream)
    display.begin(4, 1)
    display.started(RUN)
    display.progress(RUN, Progress(time=0.0, epoch=1, epochs=3, update=1, updates=9, images_per_second=5.0))
    display.ended(RUN, FINISHED, VALUES)
    display.ended(RUN, End(time=0.0, outcome="failed", error="loss is nan"), {})
    display.note("something")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "resuming: 1 of 4 cells are done already, 3 to go"
    assert lines[1] == f"started   {RUN.name}"
    assert lines[2].startswith(f"finished  {RUN.name}  [2/4]  12.35 s, 9,876 images/s, 0.9123 accuracy  ETA 0:00:")
    assert lines[3].startswith(f"failed    {RUN.name}  [3/4]  loss is nan  ETA ")
    assert lines[4:] == ["something"], "progress inside a run has no line"


def test_nothing_is_resumed_by_a_first_call_and_its_end_has_no_eta() -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream)
    display.begin(1, 0)
    display.ended(RUN, FINISHED, {})
    assert "resuming" not in stream.getvalue() and "ETA" not in stream.getvalue()


def test_the_time_to_go_is_the_mean_of_this_calls_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    display = PlainDisplay(stream)
    display.begin(12, 2)  # those two tell nothing about the time of a run
    now[0] += 600
    display.ended(RUN, FINISHED, {})
    assert stream.getvalue().endswith("[3/12]    ETA 1:30:00\n")


def test_the_time_of_all_cells_is_told_as_soon_as_each_kind_has_run() -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream)
    vit = RunSpec(model="test_vit", dataset="digits", device="cpu", recipe=Recipe(epochs=3))
    more = [RUN.spec.model_copy(update={"seed": seed}) for seed in (1, 2)]
    display.begin(4, 0, [RUN.spec, vit, *more])
    assert stream.getvalue() == "", "nothing is known"
    display.ended(RUN, FINISHED, {"time/total_seconds": 120.0})
    assert stream.getvalue().splitlines()[-1].partition("ETA")[2].startswith(" over 0:"), "not that of the other model"
    display.ended(PlannedRun(vit, 0, 1), FINISHED, {"time/total_seconds": 60.0})
    assert stream.getvalue().splitlines()[-1] == "time for 2 cells: about 4 min, from earlier runs of the same cells"


def test_the_rate_of_a_run_that_trains_tells_before_its_end() -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream)
    display.begin(3, 0, [RUN.spec, RUN.spec.model_copy(update={"seed": 1})])
    display.started(RUN)
    record = Progress(time=time.time(), epoch=1, epochs=3, update=1, updates=10, images_per_second=128.0)
    display.progress(RUN, record)
    assert 28 < (display._forecast.seconds(RUN.spec) or 0) < 31, "29 updates of 128 images"


def test_another_step_of_preparation_is_told_unless_it_is_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    display = PlainDisplay(stream)
    for text in (
        "importing torch",
        "decoding images 1/9",
        "decoding images 2/9",
        "checking models",
        "checking weights",
    ):
        display.preparing(text)
        now[0] += 2.5 if "decoding" in text else 1
    assert stream.getvalue().splitlines() == ["importing torch", "decoding images 2/9", "checking models"]


def test_preparation_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    display = PlainDisplay(stream)
    for percent in range(0, 100, 10):
        display.preparing(f"digits {percent} %")
        now[0] += 4
    assert stream.getvalue().splitlines() == ["digits 0 %", "digits 30 %", "digits 60 %", "digits 90 %"]


def test_the_live_display_shows_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    display = LiveDisplay()
    try:
        display.begin(2, 0)
        display.started(RUN)
        assert "starting" in drawn(display)
        display.progress(
            RUN, Progress(time=0.0, epoch=1, epochs=3, update=4, updates=9, images_per_second=1234.5, loss=0.5)
        )
        assert re.search(r"epoch 1/3 +step 4/9 +loss 0\.5000 +1,23[45] images/s", drawn(display))
        display.progress(RUN, Metrics(time=0.0, step=2, values={"train/loss": 0.25}))
        assert re.search(r"epoch 2/3 +loss 0\.2500", drawn(display))
        display.ended(RUN, FINISHED, VALUES)
        assert RUN.name not in drawn(display) and "1/2 cells" in drawn(display)
    finally:
        display.close()
    assert f"finished  {RUN.name}" in capsys.readouterr().out, "an ended run scrolls above"


def drawn(display: LiveDisplay, width: int = 150) -> str:
    """What the display shows now, as text."""
    from rich.console import Console

    before, console = display._console, Console(file=io.StringIO(), width=width, record=True, force_terminal=True)
    display._console = console
    console.print(display._render())
    display._console = before
    return console.export_text()


LONG = PlannedRun(
    RunSpec(
        model="timm:mobilenetv3_small_050",
        dataset="imagefolder:photos",
        techniques=("amp", "channels_last"),
        recipe=Recipe(epochs=3, batch_size=100),
    ),
    0,
    0,
)


def test_at_80_columns_no_letter_of_what_runs_is_lost() -> None:
    display = LiveDisplay(io.StringIO())
    try:
        display.begin(60, 0)
        for run in (RUN, LONG):
            display.started(run)
            display.progress(
                run, Progress(time=0.0, epoch=2, epochs=3, update=4, updates=9, images_per_second=1234.5, loss=0.5)
            )
        head, *lines = drawn(display, 80).splitlines()
        assert head.startswith("0/60 cells  ─") and len(head) <= 80, "the bar does not run into what is below"
        assert lines[0] == f"▶ {RUN.name}"
        assert lines[1].strip() == "epoch 2/3  step 4/9  loss 0.5000  1,234 images/s  ETA 0:00:01"
        assert lines[2] == f"▶ {LONG.name}" and "amp+channels_last" in lines[2]
        assert all(len(line) <= 80 for line in lines) and len(lines) == 4
        assert "".join(drawn(display, 40).split()).count(LONG.name) == 1, "folded, not cut"
    finally:
        display.close()


def test_what_is_prepared_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    display = LiveDisplay(io.StringIO())
    try:
        display.preparing("decoding images 1/9")
        now[0] += 7
        display.preparing("decoding images 5/9")
        assert "decoding images 5/9  (7 s)" in drawn(display)
        display.preparing("checking models")
        assert drawn(display).strip() == "checking models"
    finally:
        display.close()


def test_a_table_per_model_and_data_set() -> None:
    results = [
        summary.CellResult("test_resnet", "digits", label, "finished", {summary.TIME: seconds})
        for label, seconds in (("baseline", 10.0), ("ga", 5.0))
    ]
    stream = io.StringIO()
    print_tables(summary.tables(results), stream)
    text = stream.getvalue()
    assert "test_resnet on digits" in text and "\x1b" not in text
    (row,) = [line for line in text.splitlines() if "│ ga " in line]
    assert "5.00" in row and "0.500" in row


def test_a_narrow_table_leaves_columns_out_and_no_letters() -> None:
    label = "amp+channels_last+fused+grad_checkpoint"
    results = [
        summary.CellResult("test_resnet", "digits", each, "finished", {summary.TIME: 10.0, summary.ACCURACY: 0.5})
        for each in ("baseline", label)
    ]
    rows = [summary.cells(row) for row in next(iter(summary.tables(results).values()))]
    assert summary.fitting(rows, 200) == list(range(9)), "all"
    narrow = [summary.HEADINGS[number] for number in summary.fitting(rows, 80)]
    assert narrow == ["techniques", "train s", "accuracy", "time ×"]
    assert summary.fitting(rows, 10) == [0, 7]


def test_quiet_tells_of_nothing_but_failures(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    display = QuietDisplay(stream)
    display.preparing("digits")
    display.begin(2, 0)
    display.started(RUN)
    display.ended(RUN, FINISHED, VALUES)
    display.note("something")
    display.ended(RUN, End(time=0.0, outcome="failed", error="loss is nan"), {})
    assert stream.getvalue() == ""
    assert capsys.readouterr().err == f"failed  {RUN.name}  loss is nan\n"


def test_verbose_tells_of_phases_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream)
    display.progress(RUN, Phase(time=0.0, name="train"))
    assert capsys.readouterr().err == ""
    display.verbose = True
    display.progress(RUN, Phase(time=0.0, name="train"))
    assert f"{RUN.name}: train  ({RUN.spec.digest[:12]})" in capsys.readouterr().err and stream.getvalue() == ""
