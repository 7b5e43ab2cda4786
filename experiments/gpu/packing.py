"""What comes back: everything that was measured in one gzip stream, cut into parts. Standard library only.

A host that lends its GPU takes back few and small files, and may end the command at any moment. So everything is packed
anew after every stage, and each file replaces the one before it in one step.
"""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

PART_BYTES = 15 * 2**20
MOST_PARTS = 6
STEM = "results.tar.gz"
LOG_TAIL = 200_000
# what goes first when everything together is too large
STEPS = (
    f"logs: all but the last {LOG_TAIL // 1000} kB of each",
    "mlruns/journal",
    "mlruns/artifacts",
    "mlruns/mlflow.db",
)


def pack(
    out: Path,
    document: dict[str, Any],
    evidence: Path,
    state: Path,
    summary: str,
    *,
    part_bytes: int = PART_BYTES,
    most_parts: int = MOST_PARTS,
) -> dict[str, Any]:
    """Packs everything that there is by now into `out`.

    Args:
        out: takes `run.json`, `summary.txt` and the parts; nothing else is put there.
        document: of `run.json`; its `left_out` is filled in.
        evidence: folder whose files are packed as they lie.
        state: `mlruns`.
        summary: text of `summary.txt`.
        part_bytes: size of a part at most.
        most_parts: number of parts at most.

    Returns:
        The document of `out`'s run.json: with `left_out`, and name, size and SHA-256 of each part.

    Raises:
        OSError: `out` cannot be written, or what remains after all steps is still too large.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ablate-pack-") as folder:
        stream = Path(folder, STEM)
        for steps in range(len(STEPS) + 1):
            left_out = list(STEPS[:steps])
            copy, problem = _database(state / "mlflow.db", Path(folder), wanted=steps < len(STEPS))
            left_out += [problem] if problem else []
            inside = {**document, "left_out": left_out}
            _write(stream, inside, _entries(evidence, state, copy, steps))
            if stream.stat().st_size <= part_bytes * most_parts:
                break
        else:
            raise OSError(f"{stream.stat().st_size} bytes to bring back, of {part_bytes * most_parts} allowed")
        parts = _cut(stream, out, part_bytes)
    whole = {**inside, "parts": parts}
    put(out / "run.json", json.dumps(whole, indent=1).encode())
    put(out / "summary.txt", summary.encode())
    return whole


def put(path: Path, content: bytes) -> None:
    """Writes a file in one step: whoever is killed meanwhile leaves the old one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _entries(evidence: Path, state: Path, database: Path | None, steps: int) -> Iterator[tuple[str, Path | bytes]]:
    """(name, file or content) of everything that is packed after so many steps."""
    for path in sorted(evidence.rglob("*")):
        if path.is_file():
            name = path.relative_to(evidence).as_posix()
            cut = steps >= 1 and name.startswith("logs/") and path.stat().st_size > LOG_TAIL
            yield name, path.read_bytes()[-LOG_TAIL:] if cut else path
    if database is not None:
        yield "mlruns/mlflow.db", database
    for part, kept in (("journal", steps < 2), ("artifacts", steps < 3)):
        for path in sorted((state / part).rglob("*")) if kept else ():
            if path.is_file():
                yield f"mlruns/{part}/{path.relative_to(state / part).as_posix()}", path


def _database(path: Path, folder: Path, *, wanted: bool) -> tuple[Path | None, str]:
    """A consistent copy of the tracking store, write-ahead log included; or why there is none."""
    if not wanted or not path.is_file():
        return None, ""
    copy = folder / "mlflow.db"
    if copy.is_file():
        return copy, ""
    try:
        with closing(sqlite3.connect(path, timeout=5)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    except sqlite3.Error as error:
        copy.unlink(missing_ok=True)
        return None, f"mlruns/mlflow.db: {error}"
    return copy, ""


def _write(stream: Path, document: dict[str, Any], entries: Iterator[tuple[str, Path | bytes]]) -> None:
    with tarfile.open(stream, "w:gz", compresslevel=6) as tar:
        _add(tar, "run.json", json.dumps(document, indent=1).encode())
        for name, content in entries:
            if isinstance(content, Path):
                tar.add(content, arcname=name, recursive=False)
            else:
                _add(tar, name, content)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _cut(stream: Path, out: Path, part_bytes: int) -> list[dict[str, Any]]:
    """Cuts the stream into parts; the old ones go only when all new ones are written."""
    parts: list[dict[str, Any]] = []
    with stream.open("rb") as source:
        while content := source.read(part_bytes):
            name = f"{STEM}.{len(parts) + 1}"
            (out / f".{name}.tmp").write_bytes(content)
            parts.append({"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    for part in parts:
        (out / f".{part['name']}.tmp").replace(out / part["name"])
    for old in out.glob(f"{STEM}.*"):
        if old.name not in {part["name"] for part in parts}:
            old.unlink()
    return parts
