"""What commands share: the default study, the display, and how a call ends."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import output
from pipeline.commands.display import LiveDisplay
from pipeline.design.options import CallOptions
from pipeline.errors import OutsideError

WORDS = ["ablate", "grid", "--fresh", "--tracking-uri", "postgresql://me:secret@db.example/runs", "--models", "all"]
GOES_ON = "ablate grid --tracking-uri postgresql://db.example/runs --models all"


def ending(**changes: Any) -> int:
    """The exit code of a call that went well but for the changes."""
    well: dict[str, Any] = {
        "broken": None, "was_interrupted": False, "delivered": True, "cause": None, "complete": True,
    }  # fmt: skip
    return output.exit_code(**{**well, **changes})


def test_the_exit_code_of_a_whole_and_of_a_part() -> None:
    assert ending() == 0
    assert ending(complete=False) == 1


def test_an_interrupted_call_says_how_to_go_on_without_a_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", WORDS)
    assert ending(was_interrupted=True, complete=False) == 130
    assert capsys.readouterr().err == f"ablate: interrupted; go on with: {GOES_ON}\n"


def test_what_failed_outside_is_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", WORDS)
    with pytest.raises(OutsideError, match="disk full; what was journaled is kept, go on with: ablate grid") as caught:
        ending(broken="disk full", was_interrupted=True, delivered=False)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("cause", "words"), [("no route to host", "no route to host"), (None, "does not answer")])
def test_a_store_that_is_away_is_told_with_the_remedy(cause: str | None, words: str) -> None:
    with pytest.raises(OutsideError, match=rf"{words}.*`ablate sync` will deliver it"):
        ending(delivered=False, cause=cause)


def test_progress_leaves_standard_output_to_the_document() -> None:
    assert output.stream_for_progress(True) is sys.stderr
    assert output.stream_for_progress(False) is sys.stdout


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "term", "live"),
    [(Terminal(), "xterm", True), (Terminal(), "dumb", False), (io.StringIO(), "xterm", False)],
)
def test_a_display_is_redrawn_on_a_terminal_alone(
    stream: io.StringIO, term: str, live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    with output.shown_on(stream, CallOptions()) as display:
        assert isinstance(display, LiveDisplay) == live


def test_a_display_is_closed_when_the_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    monkeypatch.setattr("pipeline.commands.output.PlainDisplay.close", lambda _self: closed.append(True))
    with pytest.raises(OutsideError), output.shown_on(io.StringIO(), CallOptions()):
        raise OutsideError("away")
    assert closed == [True]


def test_the_default_study_is_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.nvml.gpus", list)
    assert output.default_study() == "quickstart"
    monkeypatch.setattr("pipeline.nvml.gpus", lambda: [object()])
    assert output.default_study() == "paper"
    monkeypatch.setenv("ABLATE_STUDY", "mine")
    assert output.default_study() == "mine"


def test_the_experiment_is_the_study_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "some.yaml"
    file.write_text("name: inside\nmodels: [test_resnet]\ndatasets: [digits]\n")
    assert output.experiment_of(str(file)) == "inside"
    assert output.experiment_of("paper") == "paper"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
    assert output.experiment_of("paper") == "elsewhere"


def test_a_study_is_asked_for_by_its_name_in_whatever_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert output.asked_study("paper", None) == ("paper", "paper")
    monkeypatch.setenv("ABLATE_NAME", "mine")
    assert output.asked_study(None, None) == ("mine", "mine")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
    assert output.asked_study("paper", None) == ("paper", "elsewhere") and output.asked_study(None, None)[0] == "mine"
    monkeypatch.delenv("ABLATE_NAME")
    assert output.asked_study(None, None) == ("elsewhere", "elsewhere")
