"""Journals of a real grid, changed and sealed again, delivered into a store."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import cast

from pipeline.tracking.journal import read_entries, valid_end
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.mlflow_writer import MlflowWriter
from pipeline.tracking.replay import replay
from tests.fuzz import templates
from tests.fuzz.checks import Guard, Violation, command, preload
from tests.support.stores import MemoryStore

WORDS = r"""
    "kind" "open" "close" "metrics" "tags" "artifact" "withdraw" "key" "path":"../secret" "time":1e30 1e400
    NaN "\ud800" "status":"X" "uri" "step":-1 null [] {} 9223372036854775808 "parent" "orphan":true
"""
WHOLE = b"!"  # what begins so goes through the whole command, which is slow
_URI, _SECRET = "@URI@", "@SECRET@"


def seeds(cache: Path) -> list[bytes]:
    """The lines of a grid's journal, without their checksums; a file for each kind of entry and one for all."""
    folder = templates.grid(cache)
    (path,) = (folder / "mlruns" / "journal").glob("*.journal")
    entries = [entry for entry, _ in read_entries(path)]
    for entry in entries:
        entry.pop("crc", None)
    uri = entries[0]["uri"]
    lines = [json.dumps(entry).replace(uri, _URI).encode() for entry in entries]
    keys = {str(entry["kind"]): line for entry, line in zip(entries, lines, strict=True)}
    parent = next(line for entry, line in zip(entries, lines, strict=True) if entry["kind"] == "open")
    head = [lines[0], parent, keys["open"]]
    few = [b"\n".join([*head, line]) for kind, line in keys.items() if kind != "journal"]
    stolen = {"kind": "artifact", "key": json.loads(parent)["key"], "path": _SECRET, "folder": "x"}
    plain = [*few, b"\n".join(lines), b"\n".join([*head, json.dumps(stolen).encode()])]
    return [*plain, *(WHOLE + text for text in plain)]


def sealed(data: bytes, uri: str, secret: str) -> bytes:
    """A journal of these lines."""
    lines = []
    for line in data.replace(_URI.encode(), uri.encode()).replace(_SECRET.encode(), secret.encode()).split(b"\n"):
        rest = b"," + line.strip().removeprefix(b"{") + b"\n"
        lines.append(b'{"crc":"%08x"' % zlib.crc32(rest) + rest)
    return b"".join(lines)


class Target:
    """Delivers.

    Args:
        folder: to work in.
        cache: what targets share.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        from pipeline.tracking.mlflow_connection import set_environment
        from pipeline.tracking.mlflow_database import migrate

        self._folder = folder
        self._secret = folder.parent / "secret"
        self._secret.write_text("secret")
        set_environment()
        preload("mlflow.store.tracking.sqlalchemy_store", ".tracking.mlflow_store")
        self._tables = templates.once(
            cache, "tables", lambda place: migrate(place / "mlflow.db", f"sqlite:///{place}/mlflow.db")
        )
        self._guard = Guard(folder, (self._secret,))
        self._number = 0

    def __call__(self, data: bytes) -> None:
        """Tries one journal."""
        if data.startswith(WHOLE):
            self._whole(data.removeprefix(WHOLE))
            return
        path = self._folder / "one.journal"
        path.write_bytes(sealed(data, "http://store", str(self._secret)))
        path.with_suffix(".delivered").unlink(missing_ok=True)
        with self._guard.watching():
            store = MemoryStore()
            replay(path, MlflowWriter(cast(MlflowStore, store)))
        if valid_end(path) and self._folder.joinpath("one.delivered").exists() is False:
            raise Violation("not delivered", "no offset was kept")

    def _whole(self, data: bytes) -> None:
        self._number += 1
        work = self._folder / f"work-{self._number}"  # MLflow keeps connections by the name of the file
        state = work / "mlruns"
        (state / "journal").mkdir(parents=True)
        (work / "data").mkdir()
        shutil.copyfile(self._tables / "mlflow.db", state / "mlflow.db")
        uri = f"sqlite:///{state.resolve()}/mlflow.db"
        (state / "journal" / "one.journal").write_bytes(sealed(data, uri, str(self._secret)))
        try:
            with self._guard.watching():
                command("sync", cwd=work)
        finally:
            shutil.rmtree(work)
