"""What an epoch on a GPU asks of the host, counted without a GPU.

Under PyTorch's FakeTensorMode tensors have a CUDA device and no memory, so a contender's epoch runs as it would there
(less the backward pass, whose engine wants a driver), and each copy and each read back is seen as it is dispatched.
"""

from __future__ import annotations

import contextlib
import importlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.bench.cases import CONTENDERS, Case, missing
from pipeline.bench.loops import workload
from pipeline.bench.loops.contenders import BUILT_IN
from pipeline.bench.loops.libraries import PEERS
from pipeline.bench.loops.workload import InMemory, Work, build_workload
from pipeline.training import environment, models

MADE = {**BUILT_IN, **PEERS}
HERE = tuple(name for name in CONTENDERS if missing(name) is None)
# ablate's own trainer asks NVML and records events, for which there has to be a GPU (tests/core/test_core_gpu.py)
FAKED = tuple(name for name in HERE if name != "ablate")


def case_of(windows: int, device: Any) -> Case:
    return Case("test_resnet", batch=8, windows=windows, rounds=1, threads=1, image_size=16, device=device)


class Traffic(TorchDispatchMode):
    """Notes what crosses between host and device, in the order in which it is asked for."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        come_from = {value.device.type for value in args if isinstance(value, Tensor)}
        if isinstance(made, Tensor) and come_from and come_from != {made.device.type}:
            self._seen.append(f"{'+'.join(sorted(come_from))} to {made.device.type}")
        return made


@contextlib.contextmanager
def imaginary_gpu(seen: list[str]) -> Iterator[None]:
    """Lets models, loaders and libraries believe in a GPU; notes reads, waits and freed memory in `seen`."""

    def read(tensor: Tensor, plain: Any, value: Any) -> Any:
        if not isinstance(tensor, FakeTensor) or tensor.constant is not None:
            return plain(tensor)
        if tensor.device.type == "cuda":
            seen.append("read")
        return value

    def model(work: Work) -> nn.Module:
        with work.device:
            return models.build_model(work.case.model, work.spec.recipe, work.case.classes)

    item, truth = Tensor.item, Tensor.__bool__
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=True):
        patch.setattr(environment, "prepare_process", lambda _spec: None)
        patch.setattr(environment, "open_device", lambda _spec: torch.device("cuda", 0))
        patch.setattr(Work, "model", model)
        patch.setattr(Tensor, "backward", lambda *_args, **_options: None)
        patch.setattr(Tensor, "item", lambda tensor: read(tensor, item, 1))
        patch.setattr(Tensor, "__bool__", lambda tensor: read(tensor, truth, False))
        patch.setattr(nn.Module, "_apply", lambda module, *_args, **_options: module)  # `to`: it is there
        patch.setattr(torch.cuda, "set_device", lambda _device: None)
        patch.setattr(torch.cuda, "synchronize", lambda *_device: seen.append("synchronize"))
        patch.setattr(torch.cuda, "empty_cache", lambda: seen.append("empty_cache"))
        patch.setenv("ACCELERATE_TORCH_DEVICE", "cuda:0")
        for place in ("lightning.fabric.accelerators.cuda", "lightning.pytorch.accelerators.cuda"):
            with contextlib.suppress(ImportError):
                patch.setattr(importlib.import_module(place), "num_cuda_devices", lambda: 1)
        _forget_the_device()
        try:
            yield
        finally:
            _forget_the_device()


def _forget_the_device() -> None:
    """Accelerate keeps its first device for the rest of the process."""
    with contextlib.suppress(ImportError):
        importlib.import_module("accelerate.state").AcceleratorState._reset_state(reset_partial_state=True)


def traffic(name: str, windows: int) -> list[str]:
    """What an epoch of a contender asks for, with what a library does before and after the clock runs."""
    seen: list[str] = []
    with imaginary_gpu(seen):
        contender = MADE[name](build_workload(case_of(windows, "cuda")))
        seen.clear()
        with Traffic(seen):
            assert contender.epoch(1) >= 0
    return seen


def timed(seen: list[str]) -> Counter[str]:
    """What lies between the first and the last wait for the device, which are the clock's."""
    waits = [number for number, what in enumerate(seen) if what == "synchronize"]
    return Counter(seen[waits[0] + 1 : waits[-1]])


@pytest.mark.parametrize("windows", [2, 20])
@pytest.mark.parametrize("name", FAKED)
def test_no_batch_is_copied_to_the_device_or_waits_for_it(name: str, windows: int) -> None:
    found = timed(traffic(name, windows))
    if name == "timm":  # its script reads the loss of every step
        assert found.pop("read") == windows
    assert found == {"cpu to cuda": 1}, "the epoch's order, once, however many batches there are"


@pytest.mark.parametrize("name", FAKED)
def test_no_contender_gives_the_devices_memory_back(name: str) -> None:
    """The allocator's cache is everyone's: who empties it has the next epoch, the own or another's, allocate anew."""
    assert "empty_cache" not in traffic(name, 2)


def test_the_imaginary_gpu_sees_copies_reads_and_waits() -> None:
    seen: list[str] = []
    with imaginary_gpu(seen), Traffic(seen):
        there = torch.tensor([1, 2], device="cuda")
        here = torch.ones(3)
        there.sum().item(), here.sum().item(), here.to("cuda"), there.cpu()
        torch.cuda.synchronize()
    assert seen == ["cpu to cuda", "read", "cpu to cuda", "cuda to cpu", "synchronize"]


@pytest.mark.parametrize("name", sorted({*HERE} - {"ablate", "bare"}))
def test_every_library_hands_the_slices_of_one_order_through(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    plain = InMemory.__getitems__

    def seen(data: InMemory, rows: Any) -> Any:
        asked.append(rows)
        return plain(data, rows)

    monkeypatch.setattr(workload.InMemory, "__getitems__", seen)
    work = build_workload(case_of(5, "cpu"))
    contender = MADE[name](work)
    for epoch in (1, 2, 7):  # the race says which epoch it is, not the library's own count
        asked.clear()
        contender.epoch(epoch)
        assert all(isinstance(rows, Tensor) for rows in asked)
        assert len({rows.untyped_storage().data_ptr() for rows in asked}) == 1
        assert torch.equal(torch.cat(asked), work.order(epoch))
    contender.close()
