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
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.errors import OutsideError
from pipeline.files import reading
from pipeline.paths import write_atomically
from pipeline.tracking import journal
from pipeline.tracking.entries import Entry, Refused
from pipeline.tracking.mlflow_errors import StoreChangedError, cause
from pipeline.tracking.refused import keep_refused, remove_refused

BATCH = 500
HEARTBEAT_SECONDS = 10.0
MOST_CHANGES = 3  # of the store within a call that are taken at once
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0  # s, after the store was found away


class EntrySink(Protocol):
    """What delivery needs of a store."""

    @property
    def token(self) -> str:
        """What tells this store from another one at its address; raises when the store is away."""
        ...

    @property
    def stamp(self) -> int:
        """The latest one that it was given, 0 for none; raises when the store is away."""
        ...

    def sign(self) -> int:
        """Gives it a stamp that is later than all before, and returns it; raises when the store is away."""
        ...

    def apply(self, entries: list[Entry], *, again: bool = False, rest: bool = False) -> list[Refused]:
        """Applies entries, and returns what is refused for good.

        Raises when the store is away, and `StoreChangedError` when it is another one.

        Args:
            entries: What is to happen.
            again: They may have been delivered before.
            rest: What is before them in the journal was delivered by another process.
        """
        ...

    def has(self, key: str) -> bool:
        """Whether the store has, or had, the row of this key; raises when it is away."""
        ...

    def check(self) -> None:
        """Raises `StoreChangedError` when the store is another one by now, and others when it is away."""
        ...

    def open_again(self) -> None:
        """Opens what is at the store's address now; raises when it is away."""
        ...


def delivered_path(path: Path) -> Path:
    """Where the delivered offset of a journal is kept."""
    return path.with_suffix(".delivered")


@dataclass(frozen=True)
class DeliveredState:
    """What is known of a journal's delivery. Losing it only costs a replay: entries may be applied again.

    Attributes:
        offset: Up to which it is in the store; 0 when unknown.
        token: Of the store that it was delivered to; empty when unknown, as of earlier versions.
        stamp: That the store got when all was delivered; 0 when it was not, or unknown.
    """

    offset: int = 0
    token: str = ""
    stamp: int = 0


def delivered_state(path: Path) -> DeliveredState:
    """What is known of a journal's delivery."""
    try:
        with reading(delivered_path(path)) as stream:
            found = json.loads(stream.read(4096))
        return DeliveredState(int(found["offset"]), str(found.get("store", "")), int(found.get("stamp", 0)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return DeliveredState()


def save_offset(path: Path, offset: int, token: str = "", stamp: int = 0) -> None:
    """Remembers how far a journal was delivered, see `DeliveredState`."""
    with contextlib.suppress(OSError):
        write_atomically(delivered_path(path), json.dumps({"offset": offset, "store": token, "stamp": stamp}))


class Delivery:
    """The background thread of one journal.

    Args:
        path: The journal.
        store: Where entries go.
        heartbeat: Called about every ten seconds while the store answers.

    Attributes:
        error: Why it does not get on at the moment; None while it does.
        changes: How often another store was found at the address; everything was then delivered anew.
    """

    def __init__(self, path: Path, store: EntrySink, heartbeat: Callable[[], None] | None = None) -> None:
        self._path = path
        self._store = store
        self._heartbeat = heartbeat
        self._offset = delivered_state(path).offset
        self._target = 0
        self._changed = threading.Condition()
        self._stopping = self._closing = self._start_over = False
        self._safe = self._offset  # delivered, and the store was asked after it
        self._checked = True
        self._token = ""
        self._stamp = 0
        self.changes = 0
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
            Whether everything is in the store, which was asked again at the end.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            self._closing, self._checked = True, not self._thread.is_alive()
            self._changed.notify_all()
        complete = self.wait(self._target, timeout)
        with self._changed:
            while complete and not (self._checked and self._offset >= self._target):
                left = deadline - time.monotonic()
                if left <= 0 or (self.error is not None and timeout < LONGEST_PAUSE * 2):
                    complete = False
                    break
                self._changed.wait(min(left, 0.5))
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(1.0)
        if self._token:
            save_offset(self._path, self._offset, self._token, self._stamp if complete else 0)
        return complete

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            with self._changed:
                while not self._due():
                    self._changed.wait(max(self._next_beat - time.monotonic(), 0.01))
                if self._stopping:
                    return
            try:
                if self._start_over:
                    self._begin_again()
                self._deliver()
                self._beat()
            except StoreChangedError as change:
                self._note_change(str(change))
            except Exception as error:  # the store is away: MLflow, drivers and sockets each have their own errors
                self.error = cause(error)
                with self._changed:
                    self._changed.notify_all()
                    if not self._stopping:
                        self._changed.wait(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                self.error = None
                pause = FIRST_PAUSE

    def _due(self) -> bool:
        """Whether there is something to do."""
        behind = self._offset < self._target or self._start_over
        unchecked = self._closing and not self._checked
        return behind or unchecked or self._stopping or time.monotonic() >= self._next_beat

    def _note_change(self, what: str) -> None:
        """The store is another one: what was delivered to the former counts no more."""
        with self._changed:
            self._offset = self._safe = 0
            self._checked = False
            self._start_over = True
        self.changes += 1
        self.error = what
        if self.changes > MOST_CHANGES:  # somebody plays with it: not faster than it can be watched
            with self._changed:
                self._changed.wait(LONGEST_PAUSE)

    def _begin_again(self) -> None:
        self._store.open_again()
        self._token = ""
        remove_refused(self._path)
        self._start_over = False

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
            if not self._token:
                self._token = self._store.token
            keep_refused(self._path, self._store.apply(entries, again=self.changes > 0))
            with self._changed:
                self._offset = end
                self._checked = False
                self._changed.notify_all()
            save_offset(self._path, end, self._token)
        elif self._offset < target:
            with self._changed:
                self._offset = target  # damaged on the disk: nothing more can come from it

    def _check(self) -> None:
        """Asks whether the store is still the same, and gives sensible answers; if not, takes back what it got."""
        try:
            self._store.check()
        except OutsideError:  # it says yes to everything: nobody knows what it has got
            with self._changed:
                self._offset = self._safe
            if self._token:
                save_offset(self._path, self._safe, self._token)
            raise
        if self._closing and self._token and self._offset >= self._target:
            self._stamp = self._store.sign()
        with self._changed:
            self._safe = self._offset
            self._checked = True
            self._changed.notify_all()

    def _beat(self) -> None:
        now = time.monotonic()
        if now >= self._next_beat or (self._closing and not self._checked and self._offset >= self._target):
            self._check()
        if now >= self._next_beat:
            self._next_beat = now + HEARTBEAT_SECONDS
            if self._heartbeat is not None and self._offset >= self._target:
                # only with everything delivered: a fresh heartbeat tells others that they see all claims
                self._heartbeat()
