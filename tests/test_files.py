"""How files are opened."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

import pipeline
from pipeline.files import PRIVATE, open_own, reading, writing


def test_a_new_file_has_its_mode_less_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        os.close(open_own(tmp_path / "log", os.O_WRONLY))
        os.close(open_own(tmp_path / "lock", os.O_RDWR, mode=PRIVATE))
    finally:
        os.umask(before)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "log").symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match="log"):
        open_own(tmp_path / "log", os.O_WRONLY | os.O_TRUNC)
    assert (tmp_path / "theirs").read_text() == "theirs"


@pytest.mark.timeout(20)
def test_a_fifo_holds_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError):
        open_own(tmp_path / "fifo", os.O_WRONLY)
    with pytest.raises(OSError, match="not a regular file"):
        open_own(tmp_path / "fifo", os.O_RDWR)
    with pytest.raises(OSError, match="not a regular file"), reading(tmp_path / "fifo"):
        pass
    with pytest.raises(OSError, match="not a regular file"), reading(Path("/dev/zero")):
        pass


def test_a_link_may_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with reading(tmp_path / "link") as stream:
        assert stream.read() == b"text"


def test_what_is_written_is_written_from_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old and longer")
    with writing(tmp_path / "file") as stream:
        stream.write(b"new")
    assert (tmp_path / "file").read_text() == "new"
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="link"), writing(tmp_path / "link"):
        pass
    assert (tmp_path / "file").read_text() == "new"


WRITERS = {"write_text", "write_bytes", "touch", "savefig", "save"}
OPENERS = {"open", "fdopen", "NamedTemporaryFile", "TemporaryFile", "mkstemp"}
MAY = {  # the ways around, each with its reason
    ("files.py", "os.open"),  # this is it
    ("files.py", "os.fdopen"),  # of its own descriptor
    ("paths.py", "tempfile.mkstemp"),  # a new file, never a link
    ("paths.py", "os.fdopen"),  # of that one
    ("commands/crash_log.py", "tempfile.mkstemp"),  # likewise
    ("execution/local/child.py", "open"),  # of descriptors 1 and 2
    ("training/meter.py", "Path.write_text"),  # the kernel's own file
    ("training/checkpoint.py", "torch.save"),  # into memory
    ("training/trainer.py", "checkpoints.save"),  # our own
    ("training/confusion_plot.py", "picture.save"),  # into memory
    ("tuning/plots.py", "plt.savefig"),  # into memory
    ("analysis/report/figure_files.py", "fig.savefig"),  # into memory
}


def ways_around(tree: ast.AST) -> list[str]:
    """Calls that create or change a file by themselves."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        last = name.rpartition(".")[2]
        name = f"Path.{last}" if name.startswith("Path(") else name
        texts = " ".join(ast.unparse(given) for given in [*node.args, *(word.value for word in node.keywords)])
        writes = re.search(r"""^['"]?[rwaxb+]*[wax+][rwaxb+]*['"]|[ ]['"][rwaxb+]*[wax+][rwaxb+]*['"]""", texts)
        if name in ("os.open", "os.fdopen", "open") or last in OPENERS:
            if writes or "O_CREAT" in texts or "O_TRUNC" in texts or last in ("NamedTemporaryFile", "mkstemp"):
                found.append(name)
        elif last in WRITERS or (name.startswith("shutil.copy") and last != "copyfileobj"):
            found.append(name)
    return found


def test_the_reader_sees_the_ways_around() -> None:
    calls: tuple[str, ...] = (
        "open(a, 'w')",
        "path.open('ab')",
        "a.open(mode='x')",
        "os.open(a, os.O_RDWR | os.O_CREAT)",
    )
    calls += ("a.write_text(b)", "shutil.copyfile(a, b)", "np.save(a)", "tempfile.NamedTemporaryFile()")
    for call in calls:
        assert ways_around(ast.parse(call)), call
    for call in ("open(a)", "path.open('rb')", "os.open(a, os.O_RDONLY)", "writing(a)", "open_own(a, os.O_TRUNC)"):
        assert not ways_around(ast.parse(call)), call


def test_files_are_opened_for_writing_in_one_place() -> None:
    package = Path(pipeline.__file__).parent
    found = {
        (path.relative_to(package).as_posix(), call)
        for path in sorted(package.rglob("*.py"))
        for call in ways_around(ast.parse(path.read_text()))
    }
    assert found == MAY
