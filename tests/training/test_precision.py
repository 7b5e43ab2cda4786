"""TensorFloat-32: one setting that everybody who asks gets an answer from, and that leaves the CPU alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch

from pipeline.design.spec import Recipe
from pipeline.training.precision import Precision, set_matmul_precision

CUDNN = cast(Any, torch.backends.cudnn)


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    """Leaves the process as PyTorch starts it."""
    yield
    torch.backends.cuda.matmul.allow_tf32 = False
    CUDNN.allow_tf32 = True


def in_a_context() -> bool:
    """What `torch.backends.cudnn.flags()` does with the setting, as its users get it."""
    with CUDNN.flags(enabled=True, allow_tf32=CUDNN.allow_tf32):
        return bool(CUDNN.allow_tf32)


# TorchInductor asks the first one, in its cache and where it chooses kernels
ASKED: dict[str, Callable[[], Any]] = {
    "get_float32_matmul_precision": lambda: torch.get_float32_matmul_precision() == "high",
    "cuda.matmul.allow_tf32": lambda: torch.backends.cuda.matmul.allow_tf32,
    "cudnn.allow_tf32": lambda: CUDNN.allow_tf32,
    "cudnn.flags": in_a_context,
    "cuda.matmul.fp32_precision": lambda: torch.backends.cuda.matmul.fp32_precision == "tf32",
    "cudnn.conv.fp32_precision": lambda: CUDNN.conv.fp32_precision == "tf32",
    "cudnn.rnn.fp32_precision": lambda: CUDNN.rnn.fp32_precision == "tf32",
}


@pytest.mark.parametrize("asked", list(ASKED))
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("tf32", [False, True])
def test_everybody_who_asks_gets_the_same_answer(tf32: bool, before: bool, asked: str) -> None:
    set_matmul_precision(tf32=before)
    set_matmul_precision(tf32=tf32)
    assert ASKED[asked]() is tf32


def test_training_has_it_and_evaluation_has_not() -> None:
    precision = Precision(Recipe(precision="tf32"), torch.device("cpu"))
    precision.training()
    assert torch.backends.cuda.matmul.allow_tf32 and CUDNN.allow_tf32
    precision.evaluating()
    assert not torch.backends.cuda.matmul.allow_tf32 and not CUDNN.allow_tf32
    Precision(Recipe(precision="bf16"), torch.device("cpu")).training()
    assert not torch.backends.cuda.matmul.allow_tf32 and not CUDNN.allow_tf32


def test_the_cpu_does_not_notice() -> None:
    """There it is an A/A control; oneDNN would obey `set_float32_matmul_precision`."""
    onednn = cast(Any, torch.backends.mkldnn)
    before = onednn.matmul.fp32_precision, onednn.conv.fp32_precision
    set_matmul_precision(tf32=True)
    assert (onednn.matmul.fp32_precision, onednn.conv.fp32_precision) == before


CPU = torch.device("cpu")


def test_only_fp16_has_a_scaler() -> None:
    for precision in ("fp32", "tf32", "bf16"):
        made = Precision(Recipe(precision=precision), CPU)
        assert made.scaler is None and made.metrics() == {}
    assert Precision(Recipe(precision="fp16"), CPU).scaler is not None
