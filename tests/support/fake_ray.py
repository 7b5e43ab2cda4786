"""What of Ray the launcher's parts use, without a cluster."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """As Ray's: the base of the others."""


class TaskCancelledError(RayError): ...


class OutOfMemoryError(RayError): ...


class RayTaskError(RayError): ...


class FakeRay:
    """The module.

    Attributes:
        cancelled: tasks that were cancelled.
        killed: actors that were killed.
        options: given to actors' classes.
    """

    exceptions = SimpleNamespace(
        RayError=RayError,
        TaskCancelledError=TaskCancelledError,
        OutOfMemoryError=OutOfMemoryError,
        RayTaskError=RayTaskError,
    )

    def __init__(self) -> None:
        self.cancelled: list[Any] = []
        self.killed: list[Any] = []
        self.options: list[dict[str, Any]] = []

    def get(self, reference: Any, timeout: float | None = None) -> Any:
        del timeout
        if isinstance(reference, Exception):
            raise reference
        return reference

    def cancel(self, stream: Any, force: bool = False) -> None:
        del force
        self.cancelled.append(stream)

    def kill(self, actor: Any, *, no_restart: bool) -> None:
        assert no_restart
        self.killed.append(actor)
