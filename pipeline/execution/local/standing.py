"""A worker that stands still between its turns, as the process sees it that tells it when to train."""

from __future__ import annotations

import time
from collections.abc import Generator

from pipeline import host, nvml
from pipeline.design.records import NO_TURN, End, Record, TurnOrder
from pipeline.execution.local.process import Child


def free_mib(gpus: str | None) -> tuple[float, float]:
    """Free memory of this machine in MiB: the host's, and the least of the GPUs'.

    Args:
        gpus: by UUID or index, as CUDA_VISIBLE_DEVICES takes them; None for none.
    """
    used = set(gpus.split(",")) if gpus else set[str]()
    free = [gpu.memory_mib - gpu.used_mib for gpu in nvml.gpus() if not used.isdisjoint((gpu.uuid, str(gpu.index)))]
    return host.available_memory_mib(), min(free, default=float("inf"))


class Patience:
    """How long a worker is waited for.

    Args:
        seconds: from now on; None for ever.

    Attributes:
        seconds: see above.
    """

    def __init__(self, seconds: float | None) -> None:
        self.renew(seconds)

    def renew(self, seconds: float | None) -> None:
        """Begins to wait anew.

        Args:
            seconds: from now on; None for ever.
        """
        self.seconds = seconds or 0.0
        self._until = None if seconds is None else time.monotonic() + seconds

    def is_over(self) -> bool:
        """Whether that time has passed."""
        return self._until is not None and time.monotonic() > self._until


class StandingWorker:
    """A worker of `LocalLauncher.stand`.

    Args:
        child: its process.
        records: what it tells, an `End` last.
        patience: of whoever reads them.
    """

    def __init__(self, child: Child, records: Generator[Record, None, None], patience: Patience) -> None:
        self._child = child
        self._records = records
        self._patience = patience

    @property
    def pid(self) -> int:
        """Number of its process."""
        return self._child.pid

    def until(self, kind: type[Record], seconds: float | None) -> Generator[Record, None, None]:
        """What it tells up to a record of a kind, or else to its `End`.

        Args:
            kind: of the last record.
            seconds: after which it is stopped, with the outcome `timeout`; None for never.
        """
        self._patience.renew(seconds)
        for record in self._records:
            yield record
            if isinstance(record, (kind, End)):
                if isinstance(record, End):
                    self._records.close()
                return

    def order(self, turn: TurnOrder) -> None:
        """Lets it take a turn."""
        self._child.send_start(turn.model_dump_json().encode())

    def dismiss(self) -> None:
        """Lets it end."""
        self._child.send_start(NO_TURN)

    def kill(self) -> None:
        """Ends it at once, whatever it does."""
        self._records.close()
