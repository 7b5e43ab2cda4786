"""Delivers what journals hold and the store has not got."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import OutsideError, first_line
from pipeline.tracking import journal
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.delivery import delivered_offset, replay
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.mlflow_writer import MlflowWriter
from pipeline.tracking.uri import resolve_uri


def deliver_journals(tracking_uri: str | None, state_dir: Path) -> tuple[int, int, list[str]]:
    """Replays every journal of this store that is not wholly delivered and whose controller is gone.

    Args:
        tracking_uri: The flag's value.
        state_dir: Folder with the journals (`mlruns`).

    Returns:
        Journals and entries delivered, and what the store refused for good.

    Raises:
        OutsideError: The store does not answer; what was delivered before stays.
    """
    uri = resolve_uri(tracking_uri)
    shown = without_credentials(uri)
    journals = entries = 0
    problems: list[str] = []
    stores: dict[str, MlflowStore] = {}
    for path in sorted((state_dir / "journal").glob("*.journal")):
        head = next(journal.read_entries(path), None)
        if head is None or head[0].get("uri") != shown or delivered_offset(path) >= journal.valid_end(path):
            continue
        with journal.abandoned(path) as free:
            if not free:  # its controller lives and delivers itself
                continue
        experiment = str(head[0].get("experiment"))
        try:
            if experiment not in stores:
                stores[experiment] = MlflowStore(uri, experiment, state_dir / "artifacts")
                stores[experiment].connect()
            entries += replay(path, MlflowWriter(stores[experiment]))
        except OutsideError:
            raise
        except Exception as error:
            raise OutsideError(f"tracking store {shown}: {first_line(error, 200)}; try again later") from None
        journals += 1
    for store in stores.values():
        problems += store.problems
    return journals, entries, problems
