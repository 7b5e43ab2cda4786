"""Delivers what journals hold and the store has not got."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import InputError, OutsideError
from pipeline.shown import printable, redacted
from pipeline.tracking import journal
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.entries import Entry
from pipeline.tracking.mlflow_errors import cause
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.mlflow_writer import MlflowWriter
from pipeline.tracking.refused import refused_path
from pipeline.tracking.replay import replay
from pipeline.tracking.uri import resolve_uri

SHOWN = 5  # problems of one journal that are told


@dataclass
class Delivered:
    """What `deliver_journals` did.

    Attributes:
        journals: How many brought something.
        entries: How many entries they brought.
        problems: What was not delivered, and why, in lines.
    """

    journals: int = 0
    entries: int = 0
    problems: list[str] = field(default_factory=list)


def deliver_journals(tracking_uri: str | None, state_dir: Path, *, everything: bool = False) -> Delivered:
    """Replays every journal of this store that is not wholly delivered, or was to another, and has no controller.

    Args:
        tracking_uri: The flag's value.
        state_dir: Folder with the journals (`mlruns`).
        everything: Whether to compare journals that are delivered with the store, row by row.

    Raises:
        OutsideError: The store does not answer; what was delivered before stays.
    """
    uri = resolve_uri(tracking_uri)
    shown = without_credentials(uri)
    done = Delivered()
    stores: dict[str, MlflowStore] = {}
    for path in sorted((state_dir / "journal").glob("*.journal")):
        head = _head(path)
        if head is None and journal.valid_end(path):
            done.problems.append(f"{path}: its first line is damaged, so nobody knows which store it is for")
        if head is None or head.get("uri") != shown:
            continue
        experiment = str(head.get("experiment"))
        store = stores.setdefault(experiment, MlflowStore(uri, experiment, state_dir / "artifacts"))
        _deliver(path, store, state_dir, everything, done)
    return done


def _head(path: Path) -> Entry | None:
    head = next(journal.read_entries(path), None)
    return head[0] if head is not None and head[0].get("kind") == "journal" else None


def _deliver(path: Path, store: MlflowStore, state_dir: Path, everything: bool, done: Delivered) -> None:
    """Delivers one journal; what goes wrong with it keeps no other one from being delivered."""
    told = len(store.problems)
    try:
        store.connect()
        entries = replay(path, MlflowWriter(store, state_dir), everything=everything)
    except InputError as error:
        done.problems.append(f"{path}: {error}")
        return
    except Exception as error:  # MLflow, SQLAlchemy, requests and the drivers each have their own
        why = str(error) if isinstance(error, OutsideError) else cause(error, 200)
        prefix = f"tracking store {without_credentials(store.uri)}: "
        try:
            store.prove()
        except Exception:
            raise OutsideError(f"{prefix}{why.removeprefix(prefix)}; try again later") from None
        done.problems.append(f"{path}: {why}")
        return
    done.entries += entries
    done.journals += entries > 0
    refused = [printable(redacted(problem)) for problem in store.problems[told:]]
    more = f" and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
    if refused:
        done.problems.append(f"{'; '.join(refused[:SHOWN])}{more} (kept in {refused_path(path)})")
    damaged = journal.damage(path) if entries else []
    if damaged:
        places = ", ".join(map(str, damaged[:SHOWN]))
        done.problems.append(f"{path}: {len(damaged)} damaged line(s), at byte {places}, cannot be read")
