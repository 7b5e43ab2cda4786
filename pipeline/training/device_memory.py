"""What the caching allocator of a GPU tells of its memory. On a CPU there is no such allocator: zeros, nothing done."""

from __future__ import annotations

import torch


class DeviceMemory:
    """The allocator of one device; all figures are in bytes.

    Args:
        device: where a run trains.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"

    def allocated(self) -> int:
        """Bytes of the tensors that there are now."""
        return torch.cuda.memory_allocated(self._device) if self._cuda else 0

    def peak_allocated(self) -> int:
        """The most bytes of tensors at one time since `reset_peaks`."""
        return torch.cuda.max_memory_allocated(self._device) if self._cuda else 0

    def peak_reserved(self) -> int:
        """The most bytes since `reset_peaks` that the allocator had from the driver, what it keeps unused included."""
        return torch.cuda.max_memory_reserved(self._device) if self._cuda else 0

    def reset_peaks(self) -> None:
        """Lets both peaks start again, from what there is now."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._device)

    def release_unused(self) -> None:
        """Gives what the allocator keeps unused back to the driver."""
        if self._cuda:
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
