"""The clocks of a run: each window's duration, and how its time divides into phases."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import Any, cast

import torch

from pipeline.design.names import COMPUTE_PHASES, DATA_WAIT, H2D, PHASES

SAMPLE_EVERY = 16  # on CUDA the phases of one window in 16 are measured with events, which keeps their cost under 1 %
KEPT_UP = 0.9  # share of a phase's time on the device from which the host's time for it is as long


class HostClock:
    """Times every phase with `perf_counter`: on the CPU work is done when the call returns.

    Attributes:
        durations: of each window so far, s.
        seconds: time of each phase so far, s.
    """

    def __init__(self) -> None:
        self.durations: list[float] = []
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._now = time.perf_counter
        self._last = self._begin = 0.0

    def start_epoch(self) -> None:
        """Starts the first window."""
        self._last = self._begin = self._now()

    def end_phase(self, phase: str) -> None:
        """Counts the time since the end of the phase before as that of `phase`."""
        now = self._now()
        self.seconds[phase] += now - self._last
        self._last = now

    def end_window(self) -> None:
        """Ends a window; the next one starts here."""
        now = self._now()
        self.durations.append(now - self._begin)
        self._begin = now

    def settle(self) -> None:
        """Nothing is pending on the CPU."""

    def end_epoch(self) -> None:
        """Nothing is pending on the CPU."""


@dataclass(frozen=True, slots=True)
class _PhaseEnd:
    """The end of a phase in a sampled window.

    Attributes:
        phase: name of the phase.
        event: event that was recorded behind the phase's work.
        host: `perf_counter` when the host was through with the phase, s.
        begun: whether the device had begun the phase by then.
    """

    phase: str
    event: torch.cuda.Event
    host: float
    begun: bool


class CudaClock:
    """Times with CUDA events: every window, and the phases of one window in `SAMPLE_EVERY`.

    On a GPU the host runs ahead, so its waiting for data costs only what the device idles meanwhile. The gap on
    the device between a window's end and the next copy, up to the host's waiting time, is `data_wait`.
    Sampled phases are scaled up to all windows.

    Events enclose the gaps between kernels too, so a phase of many small ones is as long on the device as the host
    takes to launch them. Such a phase is told from one of heavy kernels by two signs together: the device had begun
    it before the host was through with it (nothing was queued up), and the host took as long for it as the device.
    Either alone would not do: a full queue holds the host back to the device's pace, and after a wait for the device
    nothing is queued.

    Attributes:
        durations: of each window that has been read, s.
        seconds: time of each phase, scaled up to all windows of the epochs that have ended, s.
        launched_seconds: time on the device of the sampled phases in `COMPUTE_PHASES`, s.
        launch_bound_seconds: the part of it in phases that only kept up with the host, s.
    """

    def __init__(self) -> None:
        self.durations: list[float] = []
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.launched_seconds = self.launch_bound_seconds = 0.0
        self._ends: list[torch.cuda.Event] = []
        self._sampled: list[list[_PhaseEnd]] = []
        self._count = 0
        self._read = 0
        self._current: list[_PhaseEnd] | None = None

    def start_epoch(self) -> None:
        """Starts the first window."""
        self._ends = [self._event()]
        self._sampled = []
        self._count = self._read = 0
        self._open()

    def end_phase(self, phase: str) -> None:
        """Records an event at the end of `phase` if this window is sampled."""
        if self._current is not None:
            begun = bool(cast(Any, self._current[-1].event).query())
            self._current.append(_PhaseEnd(phase, self._event(), time.perf_counter(), begun))

    def end_window(self) -> None:
        """Records the window's end."""
        self._ends.append(self._event())
        self._count += 1
        self._open()

    def settle(self) -> None:
        """Reads durations of the windows that the device has finished; waits for nothing."""
        while self._read < self._count and cast(Any, self._ends[self._read + 1]).query():
            self.durations.append(self._ends[self._read].elapsed_time(self._ends[self._read + 1]) / 1e3)
            self._read += 1

    def end_epoch(self) -> None:
        """Reads the events; the device has been synchronised before."""
        self.settle()
        complete = [window for window in self._sampled if window and window[-1].phase == "optimizer"]
        if complete:
            scale = self._count / len(complete)
            for window in complete:
                self._add_phases(window, scale)
        self._sampled = []

    def _open(self) -> None:
        sampled = self._count % SAMPLE_EVERY == SAMPLE_EVERY // 2 or self._count == 1
        self._current = [_PhaseEnd("start", self._ends[-1], time.perf_counter(), True)] if sampled else None
        if self._current is not None:
            self._sampled.append(self._current)

    def _add_phases(self, window: list[_PhaseEnd], scale: float) -> None:
        previous = ""
        for start, end in itertools.pairwise(window):
            seconds = start.event.elapsed_time(end.event) / 1e3
            host = end.host - start.host
            if end.phase == DATA_WAIT and previous != H2D:
                seconds = min(seconds, host)  # the rest of the gap is idle time
            self.seconds[end.phase] += seconds * scale
            previous = end.phase
            if end.phase in COMPUTE_PHASES:
                self.launched_seconds += seconds
                self.launch_bound_seconds += seconds if end.begun and host >= KEPT_UP * seconds else 0.0

    @staticmethod
    def _event() -> torch.cuda.Event:
        event: torch.cuda.Event = cast(Any, torch.cuda.Event)(enable_timing=True)
        event.record()
        return event
