"""What text of a store, a journal or a server may be: a name of a file, a file to read, a place to write to.

Anybody who may write into a store or a state folder chooses these texts. None of them becomes a path, nor sends a file
somewhere, that is not allowed here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from pipeline.paths import STATE_DIR
from pipeline.tracking.uri import sqlite_file

_KEY = re.compile(r"[0-9a-f]{32}")
# folders of the state folder that hold what runs, plans and tunings write for the store
_WORK = ("work", "plans", "tuning")
_BUCKETS = ("s3", "gs", "r2", "b2", "wasb", "wasbs", "abfs", "abfss", "hdfs", "viewfs")  # where servers keep artifacts


def is_key(text: object) -> bool:
    """Whether a text is a key as `uuid4().hex` makes them: the only text from outside that names a file.

    Args:
        text: the value of a row's or an entry's key.
    """
    return isinstance(text, str) and _KEY.fullmatch(text) is not None


def plan_file(state_dir: Path, key: str) -> Path | None:
    """Where the plan of a parent run is; None for a key that is none of ours.

    Args:
        state_dir: `mlruns`.
        key: the parent's.
    """
    return state_dir / "plans" / f"{key}.json" if is_key(key) else None


def readable(path: Path, state_dir: Path) -> bool:
    """Whether a file that a journal names may be copied into a store: one that a run of this folder has written.

    Args:
        path: as the journal has it.
        state_dir: `mlruns`.
    """
    try:
        real = path.resolve(strict=True)
        root = state_dir.resolve()
    except (OSError, ValueError, RuntimeError):
        return False
    if not real.is_file() or real != path:  # a link, or a path that was not resolved as ours are
        return False
    tuned = real.parent == root.parent / "experiments" / "tuned" and real.suffix == ".yaml"
    return tuned or any(real.is_relative_to(root / name) for name in _WORK)


def is_folder_name(folder: str) -> bool:
    """Whether a text may be a folder among a run's artifacts: relative, and not above them."""
    parts = PurePosixPath(folder).parts
    return not folder.startswith("/") and ".." not in parts and folder.isprintable() and "\\" not in folder


def writable(artifact_uri: str, tracking_uri: str, artifacts: Path) -> bool:
    """Whether files may be sent to where a row says that its artifacts are.

    That is below this folder's own artifacts or those beside the database, to the tracking server itself, to the bucket
    that a server names, which the user named and which has the runs anyway, or below MLflow's own variable
    MLFLOW_DEFAULT_ARTIFACT_ROOT, which whoever keeps artifacts elsewhere sets. A bucket that a database's row names
    is none of these: it may be somebody else's.

    Args:
        artifact_uri: the row's.
        tracking_uri: the store's, absolute.
        artifacts: folder for the artifacts of a local store.
    """
    own = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT", "").rstrip("/")
    if own and "://" in own and artifact_uri.startswith(f"{own}/") and ".." not in unquote(artifact_uri).split("/"):
        return True
    try:
        place, store = urlsplit(artifact_uri), urlsplit(tracking_uri)
        if place.scheme in ("", "file"):
            path = place.path if place.scheme else artifact_uri
            return place.netloc in ("", "localhost") and _is_ours(unquote(path), tracking_uri, artifacts)
        served = store.scheme in ("http", "https")
        if place.scheme == "mlflow-artifacts":
            return served and (not place.netloc or _host(place.netloc) == _host(store.netloc))
        if place.scheme in ("http", "https"):
            return served and place.scheme == store.scheme and _host(place.netloc) == _host(store.netloc)
        if place.scheme in _BUCKETS:
            return served
        return place.scheme == "dbfs" and not place.netloc and tracking_uri.split(":")[0] == "databricks"
    except ValueError:
        return False


def _host(netloc: str) -> str:
    return netloc.rpartition("@")[2].lower()


def _is_ours(path: str, tracking_uri: str, artifacts: Path) -> bool:
    """Whether a local path is one of this folder's, or beside the database; links are followed before it is said."""
    if "\0" in path or ".." in PurePosixPath(path).parts:
        return False
    real, root = Path(path).resolve(), artifacts.resolve()
    roots = [root]
    named = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT", "")
    if named and urlsplit(named).scheme in ("", "file"):
        roots.append(Path(unquote(urlsplit(named).path)).resolve())
    database = sqlite_file(tracking_uri)
    if database is not None:  # a link among a foreign store's files leads nowhere else
        roots.append(database.resolve().parent / "artifacts")
    # where MLflow itself puts the artifacts of a database server: ./mlruns/EXPERIMENT
    number = real.relative_to(root.parent).parts[:1] if real.is_relative_to(root.parent) else ()
    if "".join(number).isdigit() or any(real.is_relative_to(each) and real != each for each in roots):
        return True
    return any(_is_state_of_ours(each.parent) for each in real.parents if each.name == root.name)


def _is_state_of_ours(folder: Path) -> bool:
    """Whether a folder is the state folder of another controller of this user's, who shares the store."""
    try:
        return folder.name == STATE_DIR.name and folder.stat().st_uid == os.geteuid() and (folder / "journal").is_dir()
    except OSError:
        return False
