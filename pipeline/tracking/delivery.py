"""Background delivery: follows the journal and applies it to the tracking store, away from training.

Memory is bounded because the journal itself is the queue. While the store is away the journal grows and nothing
else happens; delivery goes on where it stopped, in this process or later with `ablate sync`.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pipeline.errors import first_line
from pipeline.paths import write_atomically
from pipeline.tracking import journal
from pipeline.tracking.entries import Entry, note_row, orphan_entries

BATCH = 500
HEARTBEAT_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0  # s, after the store was found away


class EntrySink(Protocol):
    """What delivery needs of a store."""

    def apply(self, entries: list[Entry]) -> None:
        """Applies entries; raises when the store is away."""
        ...


def delivered_path(path: Path) -> Path:
    """Where the delivered offset of a journal is kept."""
    return path.with_suffix(".delivered")


def delivered_offset(path: Path) -> int:
    """Offset up to which a journal is in the store; 0 when unknown (entries may be applied again safely)."""
    try:
        return int(json.loads(delivered_path(path).read_text())["offset"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def save_offset(path: Path, offset: int) -> None:
    """Remembers the offset; losing it only costs a replay."""
    with contextlib.suppress(OSError):
        write_atomically(delivered_path(path), json.dumps({"offset": offset}))


class Delivery:
    """The background thread of one journal.

    Args:
        path: The journal.
        store: Where entries go.
        heartbeat: Called about every ten seconds while the store answers.

    Attributes:
        error: Why it does not get on at the moment; None while it does.
    """

    def __init__(self, path: Path, store: EntrySink, heartbeat: Callable[[], None] | None = None) -> None:
        self._path = path
        self._store = store
        self._heartbeat = heartbeat
        self._offset = delivered_offset(path)
        self._target = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._next_beat = 0.0
        self.error: str | None = None
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def notify(self, end: int) -> None:
        """Tells that the journal has grown to `end`."""
        with self._changed:
            self._target = max(self._target, end)
            self._changed.notify_all()

    def wait(self, offset: int, timeout: float) -> bool:
        """Waits until everything before an offset is in the store; at once False while the store is away.

        Args:
            offset: Offset in bytes.
            timeout: The longest wait in s.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._offset < offset:
                left = deadline - time.monotonic()
                if left <= 0 or (self.error is not None and timeout < LONGEST_PAUSE * 2):
                    return False
                self._changed.wait(min(left, 0.5))
        return True

    def stop(self, timeout: float) -> bool:
        """Delivers what is left, for at most `timeout` s, and ends the thread.

        Returns:
            Whether everything is in the store.
        """
        complete = self.wait(self._target, timeout)
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(1.0)
        save_offset(self._path, self._offset)
        return complete

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            with self._changed:
                while self._offset >= self._target and not self._stopping and time.monotonic() < self._next_beat:
                    self._changed.wait(max(self._next_beat - time.monotonic(), 0.01))
                if self._stopping:
                    return
            try:
                self._deliver()
                self._beat()
            except Exception as error:  # the store is away: MLflow, drivers and sockets each have their own errors
                self.error = first_line(error)
                with self._changed:
                    self._changed.notify_all()
                    if not self._stopping:
                        self._changed.wait(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                self.error = None
                pause = FIRST_PAUSE

    def _deliver(self) -> None:
        entries: list[Entry] = []
        end = self._offset
        target = self._target
        for entry, offset in journal.read_entries(self._path, self._offset):
            if offset > target:
                break  # still being written: a group that the disk refuses half-way is taken back
            entries.append(entry)
            end = offset
            if len(entries) >= BATCH:
                break
        if entries:
            self._store.apply(entries)
            with self._changed:
                self._offset = end
                self._changed.notify_all()
            save_offset(self._path, end)
        elif self._offset < target:
            with self._changed:
                self._offset = target  # damaged on the disk: nothing more can come from it

    def _beat(self) -> None:
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + HEARTBEAT_SECONDS
            if self._heartbeat is not None and self._offset >= self._target:
                # only with everything delivered: a fresh heartbeat tells others that they see all claims
                self._heartbeat()


def replay(path: Path, store: EntrySink) -> int:
    """Applies everything of a dead controller's journal that is not delivered yet (`ablate sync`).

    Rows that it had left open are closed as interrupted, where nobody has done so yet.

    Returns:
        How many entries were applied; 0 when the journal's writer lives or another process replays it.

    Raises:
        Exception: As the store does when it is away; what was applied before is remembered.
    """
    with journal.abandoned(path) as free:
        if not free or delivered_offset(path) >= journal.valid_end(path):
            return 0
        count = 0
        start = delivered_offset(path)
        rows: dict[str, bool] = {}
        entries: list[Entry] = []
        for entry, end in journal.read_entries(path):
            note_row(entry, rows)
            if end <= start:
                continue
            entries.append(entry)
            if len(entries) >= BATCH:
                store.apply(entries)
                save_offset(path, end)
                count += len(entries)
                entries = []
        store.apply([*entries, *orphan_entries(rows)])
        save_offset(path, journal.valid_end(path))
        return count + len(entries)
