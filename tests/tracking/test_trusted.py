"""Text from a store, a journal or a server: what may be a name, a file to read, a place to write to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.tracking.trusted import is_folder_name, is_key, plan_file, readable, writable
from tests.support.stores import key_of


def test_only_a_key_of_ours_names_a_file(tmp_path: Path) -> None:
    key = key_of("a")
    assert is_key(key) and plan_file(tmp_path, key) == tmp_path / "plans" / f"{key}.json"
    for text in ("", "../x", "/etc/passwd", f"../{key}", key.upper(), key + "\n", key[:-1], key + "0", None, 17):
        assert not is_key(text)
    assert plan_file(tmp_path, "../../settings") is None


def test_only_files_of_runs_are_read(tmp_path: Path) -> None:
    state = tmp_path / "mlruns"
    work = state / "work" / "scope"
    work.mkdir(parents=True)
    (state / "journal").mkdir()
    tuned = tmp_path / "experiments" / "tuned"
    tuned.mkdir(parents=True)
    secret = tmp_path / "id_rsa"
    for path in (work / "log.txt", state / "journal" / "a.journal", secret, tuned / "a.yaml", tuned / "a.key"):
        path.write_text("x")
    (work / "link.txt").symlink_to(secret)
    (work / "within.txt").symlink_to(work / "log.txt")
    (work / "folder").symlink_to(tmp_path)
    os.mkfifo(work / "fifo")
    assert readable(work / "log.txt", state) and readable(tuned / "a.yaml", state)
    for path in (
        secret,
        state / "journal" / "a.journal",
        tuned / "a.key",
        work / "link.txt",
        work / "within.txt",
        work / "folder" / "id_rsa",
        work / ".." / ".." / ".." / "id_rsa",
        work / "gone",
        work / "fifo",
        work,
        Path("/etc/passwd"),
        Path("\0"),
    ):
        assert not readable(path, state), path
    moved = tmp_path / "linked"
    moved.symlink_to(state)
    assert readable(work / "log.txt", moved), "the state folder itself may be a link"


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [("", True), ("logs", True), ("a/b", True), ("../x", False), ("/x", False), ("a\\b", False), ("a\0", False)],
)
def test_a_folder_of_artifacts_is_below_them(folder: str, allowed: bool) -> None:
    assert is_folder_name(folder) is allowed


SERVER = "http://user:pw@server:5000"


@pytest.mark.parametrize(
    ("artifact_uri", "tracking_uri", "allowed"),
    [
        ("file://{state}/artifacts/1/a/artifacts", "sqlite:///{state}/mlflow.db", True),
        ("{state}/artifacts/1/a/artifacts", "sqlite:///{state}/mlflow.db", True),
        ("file://{base}/other/artifacts/1", "sqlite:///{base}/other/runs.db", True),
        ("file://{state}/7/a/artifacts", "postgresql://db/mlflow", True),
        ("file://{state}/artifacts", "sqlite:///{state}/mlflow.db", False),
        ("file://{state}/journal", "sqlite:///{state}/mlflow.db", False),
        ("file://{state}/artifacts/../../secret", "sqlite:///{state}/mlflow.db", False),
        ("file://{state}/artifacts/%2e%2e/%2e%2e/secret", "sqlite:///{state}/mlflow.db", False),
        ("file://{base}/home", "sqlite:///{base}/other/runs.db", False),
        ("file://{base}/linked/artifacts/1", "sqlite:///{base}/linked/runs.db", False),
        ("file://host/{state}/artifacts/1", "sqlite:///{state}/mlflow.db", False),
        ("http://evil/artifacts", "sqlite:///{state}/mlflow.db", False),
        ("s3://evil/artifacts", "sqlite:///{state}/mlflow.db", False),
        ("mlflow-artifacts:/1/a", "sqlite:///{state}/mlflow.db", False),
        ("mlflow-artifacts:/1/a", SERVER, True),
        ("mlflow-artifacts://server:5000/1/a", SERVER, True),
        ("http://server:5000/api/2.0/mlflow-artifacts/artifacts/1", SERVER, True),
        ("mlflow-artifacts://evil:5000/1/a", SERVER, False),
        ("http://server:5001/1", SERVER, False),
        ("http://server:5000@evil/1", SERVER, False),
        ("ftp://server:5000/1", SERVER, False),
        ("file://{base}/home/x", SERVER, False),
        ("s3://bucket/1", SERVER, True),
        ("http://[::1/x", SERVER, False),
    ],
)
def test_files_go_to_our_folder_or_the_tracking_server(
    artifact_uri: str, tracking_uri: str, allowed: bool, tmp_path: Path
) -> None:
    state = tmp_path / "mlruns"
    for name in ("mlruns/artifacts", "other/artifacts", "linked", "home"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "linked" / "artifacts").symlink_to(tmp_path / "home")
    places = {"state": state, "base": tmp_path}
    assert writable(artifact_uri.format(**places), tracking_uri.format(**places), state / "artifacts") is allowed


def test_controllers_with_folders_of_their_own_share_a_store(tmp_path: Path) -> None:
    first = tmp_path / "first" / "mlruns" / "artifacts"
    first.mkdir(parents=True)
    store, place = f"sqlite:///{tmp_path}/shared.db", f"file://{first}/1/a/artifacts"
    own = tmp_path / "second/artifacts"
    assert not writable(place, store, own), "no controller has worked there"
    (first.parent / "journal").mkdir()
    assert writable(place, store, own)


def test_whoever_keeps_artifacts_elsewhere_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "s3://bucket/ours")
    database = f"sqlite:///{tmp_path}/mlflow.db"
    assert writable("s3://bucket/ours/1/a", database, tmp_path)
    assert not writable("s3://bucket/ours/../theirs", database, tmp_path)
    assert not writable("s3://bucket/ours2/1", database, tmp_path)
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", str(tmp_path / "kept"))
    assert writable(f"file://{tmp_path}/kept/1", SERVER, tmp_path / "artifacts")
    assert not writable(f"file://{tmp_path}/other/1", SERVER, tmp_path / "artifacts")
