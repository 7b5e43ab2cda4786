"""Standard output and standard error: harmless to terminals, and no end of a run."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.streams import READER_ENDED, Screen, Sink, Streams, controls, guarded
from tests.support.ablate import command_line, environment
from tests.support.processes import default_signal

BOTH = "\x1b[31m\u202e"


class Failing(io.StringIO):
    """A stream that takes nothing from the second line on."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number
        self.times = 0

    def write(self, text: str, /) -> int:
        if "\n" in self.getvalue():
            self.times += 1
            raise OSError(self._number, os.strerror(self._number))
        return super().write(text)


def streams(monkeypatch: pytest.MonkeyPatch, number: int, *, works: bool, document: bool) -> tuple[Streams, Any, Any]:
    """Streams of a command whose standard output fails."""
    out, err = Failing(number), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    made = Streams()
    made.works, made.document = works, document
    return made, out, err


@pytest.mark.parametrize(
    ("number", "works", "document", "code", "words"),
    [
        (errno.EPIPE, True, False, 0, "its reader has ended; the work goes on, unseen"),
        (errno.EPIPE, True, True, 3, "its reader has ended; the document is not whole"),
        (errno.EPIPE, False, False, READER_ENDED, None),
        (errno.EPIPE, False, True, READER_ENDED, None),
        (errno.ENOSPC, True, False, 0, "No space left on device; the work goes on, unseen"),
        (errno.ENOSPC, True, True, 3, "No space left on device; the document is not whole"),
        (errno.EIO, False, False, 3, "Input/output error; the output is not whole"),
        (errno.EBADF, False, True, 3, "Bad file descriptor; the document is not whole"),
    ],
)
def test_lost_output_is_told_once_and_in_the_exit_code(
    number: int, works: bool, document: bool, code: int, words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, out, err = streams(monkeypatch, number, works=works, document=document)
    for line in ("one", "two", "three"):
        print(line, file=made.out, flush=True)
    assert out.getvalue() == "one\n" and out.times == 1, "a lost stream is left alone"
    assert made.settled(0) == code
    assert err.getvalue() == (f"ablate: standard output: {words}\n" if words else "")
    assert made.settled(2) == 2, "what failed before says more"


def test_text_is_made_harmless_and_control_sequences_have_a_way_of_their_own() -> None:
    stream = io.StringIO()
    screen = Screen(Sink(stream, 1))
    print(f"a {BOTH} b\nhttp://me:secret@host/x", file=screen)
    print("\x1b[1mbold", file=controls(screen))
    assert stream.getvalue() == "a \\x1b[31m\\u202e b\nhttp://host/x\n\x1b[1mbold\n"
    assert controls(stream) is stream
    with pytest.raises(TypeError):
        screen.write(b"bytes")


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", "- x u > ... \\u2603 \\udcff"), ("latin-1", "- × µ > ... \\u2603 \\udcff"), ("utf-8", None)],
)
def test_what_an_encoding_lacks_is_written_plainer(encoding: str, shown: str | None) -> None:
    raw = io.BytesIO()
    text = "– × µ ▶ … ☃ \udcff"
    screen = Screen(Sink(io.TextIOWrapper(raw, encoding=encoding), 1))
    screen.write(text)
    screen.flush()
    assert raw.getvalue().decode(encoding) == (shown or "– × µ ▶ … ☃ \\udcff")


def test_a_signals_handler_may_print_in_the_midst_of_a_line() -> None:
    class Interrupted(io.StringIO):
        def write(self, text: str, /) -> int:
            if text == "line":
                screen.write("handler")
            return super().write(text)

    stream = Interrupted()
    screen = Screen(Sink(stream, 1))
    screen.write("line")
    assert stream.getvalue() == "linehandler"


def test_the_streams_are_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with guarded():
        assert isinstance(sys.stdout, Screen) and isinstance(sys.stderr, Screen)
        print(BOTH)
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "\\x1b[31m\\u202e\n"


# streams that the shell makes, and how `ablate techniques` and `grid --dry-run --json` end on them
FULL = "ablate: standard output: No space left on device; the {} is not whole\n"
SHELL = [
    ("{} techniques >/dev/full", 3, FULL.format("output")),
    ("{} techniques >&-", 3, "ablate: standard output: closed; the output is not whole\n"),
    ("{} techniques 2>&-", 0, ""),
    ("{} nonsense 2>&-", 2, ""),
    ("{} nonsense 2>/dev/full", 2, ""),
    ("{} techniques --json >/dev/full", 3, FULL.format("document")),
    ("{{ {} grid --study quickstart --seeds 40 --dry-run --json; echo $? >&2; }} | head -c1 >/dev/null", 0, "141\n"),
    ("PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 LC_ALL=C {} techniques <&-", 0, ""),
]  # fmt: skip


@pytest.mark.parametrize(("line", "code", "said"), SHELL)
def test_no_stream_breaks_a_command(line: str, code: int, said: str, tmp_path: Path) -> None:
    words = line.format(" ".join(command_line()))
    done = subprocess.run(["bash", "-c", words], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    err = "\n".join(text for text in done.stderr.splitlines() if not text.startswith(("study ", "Quickstart"))) + "\n"
    assert (done.returncode, err if err != "\n" else "") == (code, said)


def test_a_command_line_that_would_act_on_a_terminal_is_quoted_harmlessly(ablate: Any) -> None:
    for words in ((BOTH,), ("grid", f"--{BOTH}"), ("grid", "--study", BOTH), ("grid", "--seeds", BOTH)):
        found = ablate(*words)
        assert found.code == 2 and "\x1b" not in found.err and "\u202e" not in found.err and "\\x1b" in found.line


def test_nothing_goes_around_the_streams() -> None:
    """`print` and what libraries write is filtered; these would not be."""
    around = re.compile(
        r"sys\.__std|\.buffer\.write|std(out|err)\.buffer|os\.write\([12],|/dev/tty|rich import print|[^\w]Console\("
    )
    root = Path(pipeline.__file__).parent
    for path in root.rglob("*.py"):
        code = ast.unparse(ast.parse(path.read_text()))  # without comments
        found = [match.group() for match in around.finditer(code)]
        assert not found or path == root / "console.py", f"{path}: {found}"


def test_a_document_stays_one_when_its_text_is_odd(ablate: Any, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text(
        json.dumps(
            {"name": "odd", "title": f"{BOTH} \x85 \U000e0001", "models": ["test_resnet"], "datasets": ["digits"]}
        )
    )
    found = ablate("grid", "--study", "odd.yaml", "--dry-run", "--json", "--device", "cpu")
    assert found.json()["study"] == "odd" and "\x1b" not in found.err


def test_signals_are_handled_while_a_command_runs(ablate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def hung_up(_options: Any) -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        return 0

    monkeypatch.setattr("pipeline.commands.status.show_status", hung_up)
    monkeypatch.setattr(sys, "argv", ["ablate", "status", "x"])
    with default_signal(signal.SIGHUP):
        found = ablate("status", "x")
    assert (found.code, found.err) == (130, "ablate: interrupted; go on with: ablate status x\n")
