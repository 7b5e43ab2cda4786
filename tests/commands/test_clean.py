"""`ablate clean`: only what can be made again, and only what nobody has used for some days."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.tracking.journal import Journal
from tests.support.ablate import Result

Ablate = Callable[..., Result]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with old and young caches, work folders, and things that have to stay."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("pipeline.commands.clean.tempfile.gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setattr("pipeline.commands.clean.getpass.getuser", lambda: "me")
    old = time.time() - 30 * 86_400
    for name in (
        *("cache/ablate/data/stores/digits-v1/x.npy", "cache/ablate/data/digests/a.json"),
        *("cache/ablate/data/cifar-10.tar.gz", "tmp/torchinductor_me/fx/code.py"),
        *("mlruns/work/done/run.log", "mlruns/work/goes-on/checkpoint.pt", "mlruns/mlflow.db"),
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x" * 100)
    (tmp_path / "cache/ablate/data/stores/link").symlink_to(tmp_path / "mlruns")
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        os.utime(path, (old, old), follow_symlinks=False)
    return tmp_path


def found(ablate: Ablate, *words: str) -> list[str]:
    """Names of what would go, or has gone."""
    return [Path(each["path"]).name for each in ablate("clean", *words, "--json").json()["files"]]


def test_what_can_be_made_again_goes_and_nothing_else(ablate: Ablate, place: Path) -> None:
    text = ablate("clean", "--dry-run").out
    assert text.splitlines()[-1] == "4 to remove, 0.4 KiB, unused for 7 days" and "(prepared images)" in text
    assert (place / "mlruns/work/done").is_dir(), "a dry run removes nothing"
    assert found(ablate, "--yes") == ["digits-v1", "a.json", "done", "fx"]
    left = sorted(path.name for path in place.rglob("*") if path.is_file())
    assert left == ["checkpoint.pt", "cifar-10.tar.gz", "mlflow.db"], "downloads, checkpoints and the store stay"
    assert found(ablate, "--dry-run") == []


def test_what_was_used_lately_stays(ablate: Ablate, place: Path) -> None:
    now = time.time()
    os.utime(place / "cache/ablate/data/stores/digits-v1/x.npy", (now, now - 30 * 86_400))  # read, not written
    assert found(ablate, "--dry-run") == ["a.json", "done", "fx"]
    assert "digits-v1" in found(ablate, "--dry-run", "--days", "0") and found(ablate, "--dry-run", "--days", "60") == []


def test_work_folders_stay_while_a_journal_is_written_or_not_delivered(ablate: Ablate, place: Path) -> None:
    journal = Journal(place / "mlruns/journal/a.journal")
    assert "done" not in found(ablate, "--dry-run"), "a controller is at work"
    journal.append({"kind": "journal"})
    journal.close()
    assert "done" not in found(ablate, "--dry-run"), "the store may still want files of it"


def test_where_nobody_can_be_asked_yes_is_needed_and_nothing_goes(ablate: Ablate, place: Path) -> None:
    refused = ablate("clean")
    assert refused.code == 2 and "--yes" in refused.line and (place / "mlruns/work/done").is_dir()
