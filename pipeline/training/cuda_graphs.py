"""CUDA graphs of the training passes: captured once for every micro-batch size, replayed for every micro-batch.

A graph has fixed shapes and fixed addresses. Hence one pair of graphs (forward with loss, backward) per size that
the planner has foreseen, static input buffers, and gradients that are zeroed in place instead of being dropped.
What changes between replays is read from memory: the micro-batch, its share of the window, the gradient scaler's
scale. Clipping, scaler and optimizer stay outside. See "CUDA semantics, CUDA Graphs" in PyTorch's notes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from pipeline.design.spec import Recipe
from pipeline.training.device_memory import DeviceMemory
from pipeline.training.precision import Precision

# PyTorch asks for a few eager iterations before a capture: libraries initialise, cuDNN chooses its algorithms
EAGER_ITERATIONS = 3
Replay = Callable[[], object]


class GraphRecorder(Protocol):
    """Captures device work; a test may keep closures instead."""

    def side_stream(self) -> AbstractContextManager[Any]:
        """A context in which the eager iterations run, ordered after and before what is outside of it."""
        ...

    def begin(self) -> None:
        """Called once before the first capture."""
        ...

    def capture(self, work: Callable[[], None]) -> Replay:
        """Captures `work`, without running it, and returns what replays it."""
        ...

    def hidden_bytes(self) -> int:
        """Bytes that replays use and that the allocator's statistics do not show as allocated."""
        ...


class CudaRecorder:
    """Captures into CUDA graphs that share one memory pool: only one pair of them is under way at any time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory = DeviceMemory(device)
        # eager iterations and capture on one stream, since autograd accumulates gradients on the stream it first saw
        self._stream: torch.cuda.Stream = cast(Any, torch.cuda.Stream)(device)
        self._pool: Any = None

    def side_stream(self) -> AbstractContextManager[Any]:
        """See `GraphRecorder`."""
        return _SideStream(self._stream, torch.cuda.current_stream(self._device))

    def begin(self) -> None:
        """See `GraphRecorder`."""
        self._memory.release_unused()  # what the search for convolution algorithms needed
        self._pool = torch.cuda.graph_pool_handle()
        self._memory.reset_peaks()

    def capture(self, work: Callable[[], None]) -> Replay:
        """See `GraphRecorder`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            work()
        return graph.replay

    def hidden_bytes(self) -> int:
        """See `GraphRecorder`: activations are freed at the end of a capture, but their memory stays the graphs'."""
        return self._memory.peak_allocated() - self._memory.allocated()


class _SideStream:
    def __init__(self, stream: torch.cuda.Stream, outside: torch.cuda.Stream) -> None:
        self._stream, self._outside = stream, outside
        self._context: Any = torch.cuda.stream(stream)

    def __enter__(self) -> None:
        self._stream.wait_stream(self._outside)
        self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)
        self._outside.wait_stream(self._stream)


class _CapturedStep:
    """Static buffers of one micro-batch size, and the two passes over them."""

    def __init__(
        self, size: int, model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor], precision: Precision
    ) -> None:
        self._model, self._criterion, self._precision = model, criterion, precision
        self.size = size
        self.images = self.labels = self.share = self.loss = torch.empty(0)
        self.replay_forward: Replay = _never
        self.replay_backward: Replay = _never

    def reserve(self, recipe: Recipe, device: torch.device) -> None:
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        shape = (self.size, 3, recipe.image_size, recipe.image_size)
        self.images = torch.zeros(shape, device=device).contiguous(memory_format=layout)
        self.labels = torch.zeros(self.size, dtype=torch.int64, device=device)
        self.share = torch.ones((), device=device)

    def forward(self) -> None:
        with self._precision.autocast():
            self.loss = self._criterion(self._model(self.images), self.labels) * self.share

    def backward(self) -> None:
        self._precision.backward(self.loss)
        # lets go of the autograd graph, keeps the buffer that replays write to
        self.loss = self.loss.detach()


def _never() -> None:
    raise RuntimeError("no graph has been captured")


class CapturedGraphs:
    """Captured steps by micro-batch size; a drop-in for the step's forward and backward.

    Attributes:
        replays: how often a pair has been replayed.
        hidden_bytes: device memory of the graphs' pool that the allocator's peak does not contain, bytes.
        capture_seconds: duration of the capture, s, without the eager iterations before it.
    """

    def __init__(self, steps: Iterable[_CapturedStep], hidden_bytes: int, capture_seconds: float) -> None:
        self._steps = {step.size: step for step in steps}
        self._current: _CapturedStep | None = None
        self.replays = 0
        self.hidden_bytes = hidden_bytes
        self.capture_seconds = capture_seconds

    def forward(self, images: Tensor, labels: Tensor, share: float) -> Tensor:
        """Copies a micro-batch in and replays its forward pass.

        Args:
            images: float32 (B, 3, S, S), on the device; B is one of the captured sizes.
            labels: int64 (B,).
            share: weight of the micro-batch's mean loss.

        Returns:
            The weighted loss, shape (); its own memory, without a gradient.
        """
        step = self._current = self._steps[len(labels)]
        step.images.copy_(images)
        step.labels.copy_(labels)
        step.share.fill_(share)
        step.replay_forward()
        return step.loss.detach().clone()

    def backward(self) -> None:
        """Replays the backward pass of the micro-batch that `forward` took last; adds to the gradients."""
        step, self._current = self._current, None
        if step is None:
            raise RuntimeError("backward() takes each micro-batch once, after forward()")
        step.replay_backward()
        self.replays += 1


def capture(
    model: nn.Module,
    criterion: Callable[[Tensor, Tensor], Tensor],
    precision: Precision,
    recipe: Recipe,
    sizes: Iterable[int],
    device: torch.device,
    recorder: GraphRecorder,
) -> CapturedGraphs:
    """Runs the passes of every size eagerly a few times, then captures them.

    Leaves the gradients zeroed. The eager iterations change buffers and random generators: the caller puts them back.

    Args:
        model: the model in training mode, on the device; compiled or not.
        criterion: mean loss over the samples.
        precision: the run's precision; its `backward` scales the loss.
        recipe: the run's recipe; image size and memory format are read.
        sizes: micro-batch sizes of the plan.
        device: CUDA device of the run.
        recorder: captures the passes.
    """
    made = [_CapturedStep(size, model, criterion, precision) for size in sorted(set(sizes), reverse=True)]
    for step in made:
        step.reserve(recipe, device)
    with recorder.side_stream():
        for step in made:
            for _ in range(EAGER_ITERATIONS):
                step.forward()
                step.backward()
    # they have allocated a gradient for every parameter that gets one; graphs add to these very tensors
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    recorder.begin()
    began = time.perf_counter()
    for step in made:
        step.replay_forward = recorder.capture(step.forward)
        step.replay_backward = recorder.capture(step.backward)
    return CapturedGraphs(made, recorder.hidden_bytes(), time.perf_counter() - began)
