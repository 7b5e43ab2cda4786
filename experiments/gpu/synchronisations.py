"""Counts where the host waits for the device: ablate's step, a plain PyTorch loop, and a peer of `ablate bench`.

On CUDA PyTorch itself warns of each (`torch.cuda.set_sync_debug_mode`). On a CPU nothing waits, but what would is
known: the operation that reads one value from a tensor.
"""

from __future__ import annotations

import importlib.util
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.design.spec import Device, Recipe, RunSpec
from pipeline.training import models
from pipeline.training.data import inputs, store
from pipeline.training.environment import open_device, prepare_process
from pipeline.training.optimizer import build_optimizer, build_schedule
from pipeline.training.precision import Precision
from pipeline.training.step import Learner, optimizer_step, plan_windows

Answer = dict[str, Any]
_WRAPPERS = ("_python_dispatch", "_dynamo", "_contextlib", "_compile.py")
_WARNING = "called a synchronizing"  # another warning says that this mode is a prototype
_Mode: Any = TorchDispatchMode
_READS = torch.ops.aten._local_scalar_dense.default


class _Reads(_Mode):  # type: ignore[misc]
    """Counts reads of single values, by the line of Python that asked."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _READS:
            self._found[_caller()] += 1
        return func(*args, **(kwargs or {}))


def _caller() -> str:
    """The innermost line that is neither of this file nor of PyTorch's wrappers."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename != __file__ and not any(part in frame.filename for part in _WRAPPERS):
            return _place(frame.filename, frame.lineno or 0)
    return "unknown"


def _place(file: str, line: int) -> str:
    return f"{Path(*Path(file).parts[-3:])}:{line}"


@contextmanager
def counted(device: torch.device) -> Iterator[Counter[str]]:
    """Yields a counter that is filled with the lines at which the host waited."""
    found: Counter[str] = Counter()
    if device.type == "cpu":
        with _Reads(found):
            yield found
        return
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    found.update(_place(one.filename, one.lineno) for one in seen if _WARNING in str(one.message))


def steps(device_name: str) -> Answer:
    """Waits per update over one epoch, after another that is not counted: three precisions, and plain loops.

    Returns:
        Case -> updates, waits, and the lines of Python that waited.
    """
    kind: Device = "cuda" if device_name == "cuda" else "cpu"
    cases: dict[str, dict[str, Any]] = {
        "fp32": {"precision": "fp32"},
        "fp16": {"precision": "fp16"},
        "fp16_fused": {"precision": "fp16", "fused_optimizer": True},
    }
    batch, updates = (64, 16) if kind == "cuda" else (8, 2)  # CPUs without fp16 arithmetic are very slow with it
    found: Answer = {}
    with tempfile.TemporaryDirectory(prefix="ablate-probe-") as folder:
        source = store.prepare_dataset("digits", Path(folder), image_size=16)
        for name, fields in cases.items():
            recipe = Recipe(
                batch_size=batch,
                image_size=16,
                input_pipeline="device",
                validation_fraction=0.0,
                max_train_samples=batch * updates,
                scaler_init_scale=1024.0,  # low enough: no update is skipped
                # Adam counts its updates in host tensors, which cannot be told from the device's on a CPU
                optimizer="adam" if kind == "cuda" else "sgd",
                **fields,
            )
            spec = RunSpec(model="test_resnet", dataset="digits", device=kind, recipe=recipe)
            for loop in (_ours, _plain):
                found[f"{loop.__name__.strip('_')}_{name}"] = _count(loop, spec, source)
    return found


def _count(loop: Callable[..., Callable[[int], int]], spec: RunSpec, source: Any) -> Answer:
    prepare_process(spec)
    device = open_device(spec)
    data = inputs.build_inputs(spec, source, device)
    try:
        model = models.build_model(spec.model, spec.recipe, data.num_classes).to(device)
        epoch = loop(spec, model, data, device)
        epoch(1)
        with counted(device) as found:
            updates = epoch(2)
    finally:
        data.close()
    return {"updates": updates, "waits": sum(found.values()), "lines": dict(found.most_common())}


def _ours(spec: RunSpec, model: nn.Module, data: inputs.Inputs, device: torch.device) -> Callable[[int], int]:
    """Epochs of `optimizer_step`, as the trainer makes them."""
    recipe = spec.recipe
    windows = plan_windows(data.train.num_samples, recipe.batch_size, recipe.accumulation_steps)
    optimizer = build_optimizer(model, spec.model, recipe)
    precision = Precision(recipe, device)
    precision.watch(optimizer)
    schedule = build_schedule(optimizer, recipe, len(windows))
    learner = Learner(model, nn.CrossEntropyLoss(), optimizer, schedule, precision, clip_norm=None)

    def epoch(number: int) -> int:
        precision.training()
        model.train()
        batches = data.train.epoch(number, [size for window in windows for size in window.sizes])
        for window in windows:
            optimizer_step(learner, window, batches, data.train, lambda _phase: None)
        precision.settle()
        return len(windows)

    return epoch


def _plain(spec: RunSpec, model: nn.Module, data: inputs.Inputs, device: torch.device) -> Callable[[int], int]:
    """The same epochs as PyTorch's own recipe writes them."""
    recipe = spec.recipe
    sizes = [size for w in plan_windows(data.train.num_samples, recipe.batch_size, 1) for size in w.sizes]
    optimizer = build_optimizer(model, spec.model, recipe)
    half = recipe.precision == "fp16"
    scaler = torch.amp.GradScaler(device.type, init_scale=recipe.scaler_init_scale, enabled=half)
    criterion = nn.CrossEntropyLoss()

    def step(images: Tensor, labels: Tensor) -> None:
        with torch.autocast(device.type, torch.float16, enabled=half):
            loss = criterion(model(images), labels)
        cast(Any, scaler.scale(loss)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def epoch(number: int) -> int:
        model.train()
        for batch in data.train.epoch(number, sizes):
            images, labels = data.train.to_device(batch)
            step(data.train.prepare(images), labels)
        return len(sizes)

    return epoch


def peer_epochs(device_name: str) -> Answer:
    """Waits in one epoch of contenders of `ablate bench`, after another that is not counted.

    One is expected on CUDA, where the epoch's order is copied to the device; timm's loop reads the loss in every step.

    Returns:
        Contender -> as `steps` for one case; `absent` for one that is not installed.
    """
    from pipeline.bench.cases import case_of
    from pipeline.bench.loops import libraries, workload
    from pipeline.bench.loops.contenders import BUILT_IN

    kind: Device = "cuda" if device_name == "cuda" else "cpu"
    case = case_of("test_resnet", kind, cores=1, windows=16 if kind == "cuda" else 4)
    made = workload.build_workload(case)
    found: Answer = {}
    for name in ("bare", "timm", "accelerate"):
        if name == "accelerate" and importlib.util.find_spec(name) is None:
            found[name] = {"absent": "not installed"}
            continue
        peer = {**BUILT_IN, **libraries.PEERS}[name](made)
        try:
            peer.epoch(1)
            with counted(made.device) as waits:
                peer.epoch(2)
        finally:
            peer.close()
        found[name] = {"updates": case.windows, "waits": sum(waits.values()), "lines": dict(waits.most_common())}
    return found
