"""Timers, the time budget, peak memory and energy of one run.

Training time is measured between synchronised phase boundaries; evaluation, set-up and compilation are timed
apart. Inside an epoch nothing waits for the device: CUDA events are recorded and read after the epoch.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline import nvml
from pipeline.design.names import (
    COMPILE_SECONDS,
    EVAL_SECONDS,
    GPU_JOULES,
    GPU_PEAK_ALLOCATED,
    GPU_PEAK_RESERVED,
    GPU_PROCESS,
    HOST_PEAK_RSS,
    IDLE,
    IMAGES_PER_SECOND,
    LAUNCH_BOUND,
    STEP_P50_MS,
    STEP_P95_MS,
    TRAIN_SECONDS,
    UPDATES_PER_SECOND,
    WARMUP_SECONDS,
    WARMUP_WINDOWS,
    budget_seconds,
)
from pipeline.training.clocks import CudaClock, HostClock
from pipeline.training.device_memory import DeviceMemory

# NVML's energy counter moves every 20 to 100 ms, so a phase of training is off by as much power at either end
ENERGY_STEP = 0.1  # seconds
ENERGY_ERROR = 0.05  # relative, above which a run was too short for its energy to be known


class Meter:
    """Everything measured about one run.

    Args:
        device: where the run trains.
        discarded_windows: first windows that steady-state figures leave out.
        memory: the device's allocator.

    Attributes:
        clock: durations of windows and phases.
        train_seconds: training time of the epochs that have ended, s.
        eval_seconds: time of all evaluations, s.
        compile_seconds: time of compilers and of the capture of graphs, s.
        warmup_seconds: time of the rest of the warm-up before training, s.
        hidden_bytes: device memory in use that the allocator does not count (the pool of captured graphs), bytes.
    """

    def __init__(self, device: torch.device, discarded_windows: int, memory: DeviceMemory) -> None:
        self._cuda = device.type == "cuda"
        self._device = device
        self._memory = memory
        self.clock: HostClock | CudaClock = CudaClock() if self._cuda else HostClock()
        self._discarded = discarded_windows
        self._window_images: list[int] = []
        self._images = 0
        self.train_seconds = 0.0
        self.eval_seconds = 0.0
        self.compile_seconds = 0.0
        self.warmup_seconds = 0.0
        self.hidden_bytes = 0
        self._evaluated = False
        self._phases = 0
        self._peaks: dict[str, float] = {}
        self._joules = 0.0
        self._phase_joules: float | None = None
        self._handle = nvml.handle_of(str(torch.cuda.get_device_properties(device).uuid)) if self._cuda else None
        self._energy_known = self._handle is not None and nvml.energy_joules(self._handle) is not None
        self._began = 0.0
        self._energy_began: float | None = None

    def synchronize(self) -> None:
        """Waits for the device; called at phase boundaries only."""
        if self._cuda:
            torch.cuda.synchronize(self._device)

    def start_training(self) -> None:
        """Begins a training phase (one epoch)."""
        self.synchronize()
        self._memory.reset_peaks()
        _reset_host_peak()
        self._energy_began = nvml.energy_joules(self._handle) if self._energy_known else None
        self._began = time.perf_counter()
        self.clock.start_epoch()

    def end_window(self, images: int) -> None:
        """Ends a window of `images` samples."""
        self.clock.end_window()
        self._window_images.append(images)

    def end_training(self) -> float:
        """Ends a training phase; reads peaks and events.

        Returns:
            Its duration, s.
        """
        self.synchronize()
        seconds = time.perf_counter() - self._began
        self.train_seconds += seconds
        self.clock.end_epoch()
        self._phase_joules = None
        if self._energy_began is not None:
            joules = (nvml.energy_joules(self._handle) or self._energy_began) - self._energy_began
            self._joules += joules
            self._phase_joules = joules if ENERGY_ERROR * seconds >= ENERGY_STEP else None
        self._phases += 1
        self._read_peaks()
        return seconds

    @property
    def phase_joules(self) -> float | None:
        """Energy of the training phase that ended last, J; None where it was too short for the counter, or has none."""
        return self._phase_joules

    def timed_evaluation(self, evaluate: Callable[[], Any]) -> Any:
        """Runs `evaluate`, counts its time as evaluation, and returns its result."""
        self._evaluated = True
        began = time.perf_counter()
        result = evaluate()
        self.synchronize()
        self.eval_seconds += time.perf_counter() - began
        return result

    def _read_peaks(self) -> None:
        peaks = {HOST_PEAK_RSS: _host_peak_mib()}
        if self._cuda:
            peaks[GPU_PEAK_ALLOCATED] = (self._memory.peak_allocated() + self.hidden_bytes) / 2**20
            if not self._evaluated:  # afterwards the allocator keeps what evaluation needed
                peaks[GPU_PEAK_RESERVED] = self._memory.peak_reserved() / 2**20
            used = nvml.process_memory_mib(self._handle, os.getpid())
            if used is not None:
                peaks[GPU_PROCESS] = used
        for name, value in peaks.items():
            self._peaks[name] = max(value, self._peaks.get(name, 0.0))

    def steady(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], int]:
        """The windows of steady-state figures, as far as the device has finished them.

        Returns:
            (durations in s (n,), images (n,), number of windows that are left out before them).
        """
        self.clock.settle()
        durations = np.asarray(self.clock.durations, dtype=np.float64)
        images = np.asarray(self._window_images, dtype=np.float64)
        discard = min(self._discarded, max(len(durations) - 1, 0))
        return durations[discard:], images[discard : len(durations)], discard

    @property
    def elapsed(self) -> float:
        """Training time so far, s; asked inside an epoch."""
        return self.train_seconds + time.perf_counter() - self._began

    def summary(self) -> dict[str, float]:
        """Summary metrics of the contract that this machine can measure."""
        steady, steady_images, discard = self.steady()
        values = {
            TRAIN_SECONDS: self.train_seconds,
            EVAL_SECONDS: self.eval_seconds,
            WARMUP_SECONDS: self.warmup_seconds,
            **self._peaks,
        }
        if self.compile_seconds:
            values[COMPILE_SECONDS] = self.compile_seconds
        if len(steady) and steady.sum() > 0:
            values[IMAGES_PER_SECOND] = float(steady_images.sum() / steady.sum())
            values[UPDATES_PER_SECOND] = float(len(steady) / steady.sum())
            values[WARMUP_WINDOWS] = float(discard)
            values[STEP_P50_MS] = float(np.percentile(steady, 50) * 1e3)
            values[STEP_P95_MS] = float(np.percentile(steady, 95) * 1e3)
        budget = dict(self.clock.seconds)
        values |= {budget_seconds(phase): seconds for phase, seconds in budget.items()}
        values[budget_seconds(IDLE)] = max(self.train_seconds - sum(budget.values()), 0.0)
        if isinstance(self.clock, CudaClock) and self.clock.launched_seconds:
            values[LAUNCH_BOUND] = self.clock.launch_bound_seconds / self.clock.launched_seconds
        # the errors of the phases' ends are independent of each other
        if self._energy_known and ENERGY_STEP * self._phases**0.5 <= ENERGY_ERROR * self.train_seconds:
            values[GPU_JOULES] = self._joules
        return values

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint: a resumed run's times add up."""
        return {
            "durations": list(self.clock.durations),
            "seconds": dict(self.clock.seconds),
            "window_images": list(self._window_images),
            "train_seconds": self.train_seconds,
            "eval_seconds": self.eval_seconds,
            "compile_seconds": self.compile_seconds,
            "warmup_seconds": self.warmup_seconds,
            "launch": [self.clock.launched_seconds, self.clock.launch_bound_seconds]
            if isinstance(self.clock, CudaClock)
            else [],
            "phases": self._phases,
            "peaks": dict(self._peaks),
            "joules": self._joules,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a checkpoint's state."""
        self.clock.durations = list(state["durations"])
        self.clock.seconds = dict(state["seconds"])
        self._window_images = list(state["window_images"])
        self.train_seconds = float(state["train_seconds"])
        self.eval_seconds = float(state["eval_seconds"])
        self.compile_seconds += float(state["compile_seconds"])
        self.warmup_seconds += float(state["warmup_seconds"])
        self._phases = int(state["phases"])
        if isinstance(self.clock, CudaClock):
            self.clock.launched_seconds, self.clock.launch_bound_seconds = map(float, state["launch"])
        self._peaks = dict(state["peaks"])
        self._joules = float(state["joules"])


def _reset_host_peak() -> None:
    """Resets the kernel's high-water mark of resident memory (Linux; elsewhere the peak is the process's)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _host_peak_mib() -> float:
    """Peak resident memory since the last reset, in MiB."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
