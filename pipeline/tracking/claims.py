"""Who holds a cell: claims of controllers on one host and through the store.

Controllers on one host (or one shared folder) exclude each other with file locks, which the kernel drops when a
process dies. Controllers that share only a tracking store exclude each other with its runs, see `settle_claim`.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.locks import open_lock


class LocalClaims:
    """Claims by locked files in one folder, shared by all stores and experiments: a cell has one work folder.

    Args:
        folder: Where the files are; made when absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, int] = {}

    def acquire(self, digest: str) -> bool:
        """Claims a cell; False when another process (or thread) holds it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = open_lock(self._folder / digest)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._held[digest] = file
        return True

    def release(self, digest: str) -> None:
        """Gives a claim back; the file stays, since removing it would let two processes lock two files."""
        file = self._held.pop(digest, None)
        if file is not None:
            os.close(file)


def settle_claim(
    mine: str,
    others: Callable[[], list[tuple[str, str]]],
    hold: Callable[[], None],
    pause: float = 0.2,
    patience: float = 30.0,
) -> bool:
    """Decides which of several controllers gets a cell, through a store that only has create, read and update.

    Every controller first creates its own claim as `pending`, then reads the others'. It yields to one that is
    `held` and to a pending one with a smaller key; it waits for pending ones with a larger key, which yield
    in turn unless they had read before this claim existed. Two can never hold at once: of two claims, the owner of
    the one with the larger key holds only if it read before the other was created; then the other's owner, who
    reads later, sees it, and does not hold while it stands (after Lamport's bakery algorithm, Commun. ACM 17(8),
    1974, with the key as the number). Nobody holds because of a time-out: a rival that is slow may still go on.

    Args:
        mine: Key of this controller's pending claim, already in the store.
        others: Reads the other live claims, as (key, state).
        hold: Marks this claim as held.
        pause: Time between readings while waiting, in s.
        patience: Time after which this claim yields to a live one that does not move, in s.

    Returns:
        Whether this controller holds the cell. If not, it withdraws its claim and may try again later.
    """
    deadline = time.monotonic() + patience
    while True:
        rivals = others()
        if any(state == "held" or key < mine for key, state in rivals):
            return False
        if not rivals:
            hold()
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
