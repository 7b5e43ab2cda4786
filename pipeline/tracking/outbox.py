"""What goes out: a controller's journal and its delivery in one (the transactional outbox of message brokers)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.tracking.delivery import Delivery, EntrySink
from pipeline.tracking.entries import Entry
from pipeline.tracking.journal import Journal


class Outbox:
    """A new journal that is delivered in the background; safe to use from several threads.

    Args:
        path: The journal's file.
        sink: Where its entries go.
        heartbeat: Called about every ten seconds while the sink answers.

    Raises:
        OSError: The journal cannot be written.
    """

    def __init__(self, path: Path, sink: EntrySink, heartbeat: Callable[[], None]) -> None:
        self.path = path
        self._journal = Journal(path)
        self._delivery = Delivery(path, sink, heartbeat)

    def start(self) -> None:
        """Starts the delivery."""
        self._delivery.start()

    @property
    def end(self) -> int:
        """Offset behind the last entry, in bytes."""
        return self._journal.end

    @property
    def error(self) -> str | None:
        """Why delivery does not get on at the moment."""
        return self._delivery.error

    @property
    def changes(self) -> int:
        """How often another store was found at the address."""
        return self._delivery.changes

    def append(self, *entries: Entry) -> int:
        """Appends a group of entries, and has it delivered.

        Returns:
            The offset behind the group, in bytes.

        Raises:
            OSError: The disk refused.
        """
        end = self._journal.append(*entries)
        self._delivery.notify(end)
        return end

    def keep(self, *entries: Entry) -> None:
        """Appends a group of entries, to be delivered with those that come next: delivery would disturb what is timed.

        Raises:
            OSError: The disk refused.
        """
        self._journal.append(*entries)

    def wait(self, timeout: float, end: int | None = None) -> bool:
        """Waits until everything is delivered; at once False while the sink is away.

        Args:
            timeout: The longest wait in s.
            end: Offset up to which it matters; all of it if not given.
        """
        end = self._journal.end if end is None else end
        self._delivery.notify(end)
        return self._delivery.wait(end, timeout)

    def drain(self, timeout: float) -> bool:
        """Delivers what is left, for at most `timeout` s, and closes the journal.

        Returns:
            Whether everything is delivered.
        """
        complete = self._delivery.stop(timeout)
        self._journal.close()
        return complete
