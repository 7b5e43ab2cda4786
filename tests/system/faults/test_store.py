"""Disks that are full or read-only, stores that are away, secrets, names and study files that mean harm."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pipeline.design.study import load_study
from pipeline.errors import InputError
from tests.support.ablate import ablate_in_process, ended
from tests.support.processes import (
    STUDY,
    Workspace,
    assert_once,
    journal_entries,
    kill,
    lines_of,
    until,
)
from tests.support.servers import Proxy, free_port

ROOT = os.geteuid() == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = ROOT and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", place], check=False)
    if not done or done.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield place
    until(lambda: subprocess.run(["umount", place], check=False).returncode == 0, 20, "the unmounting")


@pytest.mark.slow
def test_a_full_disk_ends_the_grid_in_one_line_and_nothing_is_lost(tmp_path: Path, small_disk: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    workspace.state.mkdir()
    (workspace.state / "journal").symlink_to(small_disk)
    process = workspace.grid("--set", "epochs=30", "--data-dir", str(tmp_path / "data"))
    lines_of(process, "^finished")
    ballast = small_disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
    call = ended(process, 60)
    assert call.code == 3
    assert len(call.lines) == 1, call.err
    assert "No space left" in call.lines[0]
    assert "go on with: ablate grid" in call.lines[0]
    rows = workspace.rows()
    assert not [row.name for row in [*rows, *workspace.rows("grid")] if row.status == "RUNNING"]
    done = {row.digest for row in rows if row.status == "FINISHED"}
    assert done
    still = workspace.call_grid("--set", "epochs=30", "--data-dir", str(tmp_path / "data"))
    assert (still.code, len(still.lines)) == (3, 1)

    ballast.unlink()
    again = workspace.call_grid("--set", "epochs=30", "--data-dir", str(tmp_path / "data"))
    assert again.code == 0, again.err
    assert_once(workspace.rows(), 4)
    assert [row.status for row in workspace.rows("grid")] == ["FINISHED"]
    finished = {row.digest for row in rows if row.status == "FINISHED"}
    assert finished == done


@pytest.mark.slow
def test_a_read_only_folder_is_told_in_one_line(tmp_path: Path, small_disk: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    workspace.state.symlink_to(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    call = workspace.call_grid("--data-dir", str(tmp_path / "data"))
    assert call.code == 3, call.err
    assert len(call.lines) == 1, call.err
    assert "ead-only" in call.lines[0]


@pytest.mark.slow
def test_a_kill_while_the_store_is_made_breaks_nothing(workspace: Workspace) -> None:
    """MLflow's migrations take seconds; cut off in the middle they leave a file that nobody can open."""
    for pause in (0.0, 0.15, 0.4):
        process = workspace.grid()
        until(lambda: list(workspace.state.glob("mlflow.db*[!k]")), 60, "the store's first bytes")
        time.sleep(pause)
        kill(process)
    call = workspace.call_grid("--techniques", "none")
    assert call.code == 0, call.err
    assert_once(workspace.rows(), 1)
    assert not list(workspace.state.glob("*.new-*"))


def test_a_store_that_is_no_database_is_told_in_one_line(workspace: Workspace) -> None:
    bad = workspace.folder / "bad.db"
    bad.write_bytes(b"this is no database" * 100)
    call = workspace.call_grid("--tracking-uri", "sqlite:///bad.db")
    assert (call.code, len(call.lines)) == (3, 1), call.err
    assert bad.read_bytes() == b"this is no database" * 100
    away = workspace.call_grid("--tracking-uri", f"http://user:hunter2@127.0.0.1:{free_port()}")
    assert (away.code, len(away.lines)) == (3, 1), away.err
    assert "hunter2" not in away.err + away.out


@pytest.mark.slow
def test_sync_brings_a_lost_tail_and_no_point_twice(workspace: Workspace) -> None:
    """The store loses what was written last (a restored backup): sync delivers from the remembered offset."""
    secret = {"AWS_SECRET_ACCESS_KEY": "verysecretvalue", "MY_TOKEN": "verysecretvalue"}
    workspace.env = secret
    assert workspace.call_grid("--techniques", "pm").code == 0
    points = sorted(point for row in workspace.rows() for point in row.points)
    (offset,) = workspace.state.glob("journal/*.delivered")
    offset.unlink()
    with closing(sqlite3.connect(workspace.database)) as store:
        for table in ("metrics", "latest_metrics"):
            store.execute(f"DELETE FROM {table} WHERE key LIKE 'test/%'")
        store.commit()
    for expected in (1, 0):
        call = workspace.call("sync", "--json")
        assert call.code == 0, call.err
        assert call.json()["journals"] == expected
        assert call.json()["problems"] == []
        assert_once(workspace.rows(), 2)
        assert sorted(point for row in workspace.rows() for point in row.points) == points
        assert [row.status for row in workspace.rows("grid")] == ["FINISHED"]
    offset.unlink()  # everything once more
    assert workspace.call("sync").code == 0
    assert sorted(point for row in workspace.rows() for point in row.points) == points
    everything = workspace.database.read_bytes() + b"".join(path.read_bytes() for path in journal_files(workspace))
    assert b"verysecretvalue" not in everything


def journal_files(workspace: Workspace) -> list[Path]:
    return [path for path in workspace.state.rglob("*") if path.is_file()]


def test_names_from_users_stay_in_their_folder(workspace: Workspace) -> None:
    """The experiment's name comes from the environment: it may not place a file anywhere."""
    workspace.env = {"MLFLOW_EXPERIMENT_NAME": "../../escaped/../x"}
    outside = sorted(workspace.folder.parent.glob("*"))
    call = workspace.call_grid("--techniques", "none")
    assert call.code == 0, call.err
    assert sorted(workspace.folder.parent.glob("*")) == outside
    assert sorted(path.name for path in workspace.folder.iterdir()) == ["mlruns", "small.yaml"]
    assert any(entry.get("experiment") == "../../escaped/../x" for entry in journal_entries(workspace.folder))


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", ".", "..", "a\nb", "", "a" * 101, "-x", "ä"])
def test_a_study_name_that_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(STUDY + f"name: {name!r}\n")
    with pytest.raises(InputError, match="name"):
        load_study(str(path))


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (BOMB.encode(), "alias"),
        (STUDY.encode() + b"datasets: [digits100]\n", "duplicate"),
        (STUDY.encode() + b"#" * 1_000_000, "too large"),
        (os.urandom(4096), "study file"),
        (b"\x7fELF\0\0\0", "study file"),
        (b"", "mapping"),
        (b"- 1\n", "mapping"),
        (b"[" * 100_000, "plain YAML"),
        (b"models: !!python/object/apply:os.system ['touch hacked']\n", "plain YAML"),
        (STUDY.encode() + b"order_seed: 99999999999999999999999\n", "order_seed"),
        (STUDY.encode() + b"seeds: .nan\n", "finite"),
        (STUDY.encode().replace(b"[ga, pm]", b"{ga: [2, 2]}"), "duplicates"),
    ],
)
def test_a_hostile_study_file_is_one_line_and_exit_2(workspace: Workspace, content: bytes, says: str) -> None:
    workspace.file.write_bytes(content)
    began = time.monotonic()
    refused = ablate_in_process("grid", "--study", "small.yaml", "--device", "cpu", "--dry-run", cwd=workspace.folder)
    assert (refused.code, refused.out) == (2, "")
    assert says in refused.line
    assert time.monotonic() - began < 5
    assert sorted(path.name for path in workspace.folder.iterdir()) == ["small.yaml"]


@pytest.mark.slow
def test_ui_listens_on_loopback_and_warns_elsewhere(workspace: Workspace) -> None:
    workspace.state.mkdir()
    sqlite3.connect(workspace.database).close()
    port = free_port()
    process = workspace.start("ui", "--port", str(port))
    try:
        until(lambda: answers(port), 90, "the server")
        assert set(listening(port)) == {"0100007F"}, "loopback only"
    finally:
        process.send_signal(signal.SIGTERM)
        call = ended(process, 30)
    assert "can be reached from other machines" not in call.err
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        call = workspace.call("ui", "--host", "0.0.0.0", "--port", str(port))
    assert call.code == 3
    assert "warning: 0.0.0.0 can be reached from other machines" in call.err


def answers(port: int) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
        return bool(answer.status == 200)
    return False


def listening(port: int) -> list[str]:
    """Addresses (hexadecimal) that a port is open on."""
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        if state == "0A" and int(local.partition(":")[2], 16) == port:
            found.append(local.partition(":")[0])
    return found


def test_the_proxy_misbehaves_as_it_says() -> None:
    proxy = Proxy(free_port())
    proxy.mode = "flaky"
    assert [proxy.bad() for _ in range(6)] == ["", "", "before", "", "", "after"]
    proxy.close()
