"""How files are opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.files import PRIVATE, open_own, reading


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
