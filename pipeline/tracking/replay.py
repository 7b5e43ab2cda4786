"""Delivers what a dead controller's journal holds, once, or again to a store that has lost it."""

from __future__ import annotations

from pathlib import Path

from pipeline.tracking import journal
from pipeline.tracking.delivery import BATCH, DeliveredState, EntrySink, delivered_state, save_offset
from pipeline.tracking.entries import Entry, note_row, orphan_entries
from pipeline.tracking.mlflow_errors import StoreChangedError
from pipeline.tracking.refused import keep_refused, remove_refused


def replay(path: Path, store: EntrySink, *, everything: bool = False) -> int:
    """Applies what the store has not got of a dead controller's journal (`ablate sync`).

    Rows that it had left open are closed as interrupted, where nobody has done so yet. A journal that was delivered to
    another store than the one that is there now, or to a later state of it, is delivered whole.

    Args:
        path: The journal.
        store: Where its entries go.
        everything: Deliver the whole journal, whatever was delivered before.

    Returns:
        How many entries were applied; 0 when the journal's writer lives or another process replays it.

    Raises:
        Exception: As the store does when it is away; what was applied before is remembered.
    """
    with journal.abandoned(path) as free:
        if not free:
            return 0
        known = delivered_state(path)
        start = known.offset
        anew = everything or (start > 0 and not _has(path, store, known))
        if anew:
            start = 0
        elif start >= journal.valid_end(path):
            if not known.token:
                save_offset(path, start, store.token)
            return 0
        try:
            return _apply(path, store, start, again=anew)
        except StoreChangedError:
            store.open_again()
            return _apply(path, store, 0, again=True)


def _apply(path: Path, store: EntrySink, start: int, *, again: bool) -> int:
    token = store.token
    count = 0
    rows: dict[str, bool] = {}
    entries: list[Entry] = []

    def hand_over(end: int) -> None:
        nonlocal entries, count
        keep_refused(path, store.apply(entries, again=again, rest=start > 0))
        store.check()  # only what answers with sense, and is still the same, has got anything
        save_offset(path, end, token)
        count += sum(not entry.get("orphan") for entry in entries)
        entries = []

    if start == 0:
        remove_refused(path)
    for entry, end in journal.read_entries(path):
        note_row(entry, rows)
        if end <= start:
            continue
        entries.append(entry)
        if len(entries) >= BATCH:
            hand_over(end)
    entries += orphan_entries(rows)
    end = journal.valid_end(path)
    hand_over(end)
    save_offset(path, end, token, store.sign())
    return count


def _has(path: Path, store: EntrySink, known: DeliveredState) -> bool:
    """Whether the store that is there is the one that a journal was delivered to, and no older state of it.

    Args:
        path: The journal.
        store: The store.
        known: Of its delivery; earlier versions kept no token, and the journal's first row tells.
    """
    if known.token:
        return known.token == store.token and known.stamp <= store.stamp
    opened = (str(entry.get("key", "")) for entry, _ in journal.read_entries(path) if entry.get("kind") == "open")
    first = next(opened, None)
    return first is None or store.has(first)


def earlier_journals(path: Path, uri: str, experiment: str) -> list[Path]:
    """Journals of one store and experiment beside a controller's own, oldest first.

    Args:
        path: The controller's own.
        uri: The store, without credentials.
        experiment: Its experiment's name.
    """
    found = []
    for other in sorted(path.parent.glob("*.journal")):
        head = next(journal.read_entries(other), None) if other != path else None
        if head and (head[0].get("uri"), head[0].get("experiment")) == (uri, experiment):
            found.append(other)
    return found


def is_left(path: Path, store: EntrySink) -> bool:
    """Whether a journal, whose controller is gone, is not in the store that is there now."""
    known = delivered_state(path)
    with journal.abandoned(path) as free:
        behind = known.offset < journal.valid_end(path) or bool(known.token and not _has(path, store, known))
    return free and behind
