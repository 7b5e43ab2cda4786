"""What a benchmark runs: cases and contenders by name. No torch: the parent half reads this."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from pipeline.design import catalog
from pipeline.design.spec import Device

SELF = "ablate"
# contender -> the distribution that it needs (empty: what ablate itself needs)
CONTENDERS: dict[str, str] = {
    SELF: "",
    "bare": "",
    "accelerate": "accelerate",
    "lightning": "lightning",
    "fabric": "lightning",
    "timm": "",
}
DEFAULT_MODEL = "test_resnet"


@dataclass(frozen=True)
class Case:
    """The same work for all contenders.

    Attributes:
        model: catalog name or `timm:NAME`.
        batch: images per optimizer step.
        windows: optimizer steps of an epoch, which is timed.
        rounds: timed epochs of each contender in one block.
        threads: compute threads.
        device: where it trains.
        precision: arithmetic of the forward pass.
        image_size: px; the images have this size in memory.
        classes: of the classifier.
        seed: of weights, data and their order.
    """

    model: str
    batch: int
    windows: int
    rounds: int
    threads: int
    device: Device = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    image_size: int = 32
    classes: int = 10
    seed: int = 7

    @property
    def images(self) -> int:
        """Images of an epoch."""
        return self.batch * self.windows

    def document(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self)


# Batch 32 on the smallest model is the worst case for overhead: nothing hides it. resnet50 on CIFAR is the other end;
# there a step on a CPU takes a good second, so epochs are short.
_CPU = {
    DEFAULT_MODEL: Case(DEFAULT_MODEL, batch=32, windows=16, rounds=8, threads=1),
    "resnet50": Case("resnet50", batch=8, windows=2, rounds=8, threads=2),
}
# An epoch of ablate's has calls of NVML in it, however short it is, and those of the others have none.
_CUDA_WINDOWS = 200
_CUDA = {
    DEFAULT_MODEL: Case(DEFAULT_MODEL, batch=32, windows=_CUDA_WINDOWS, rounds=9, threads=1, device="cuda"),
    "resnet50": Case("resnet50", batch=128, windows=_CUDA_WINDOWS, rounds=3, threads=1, device="cuda"),
}
DEFAULT_MODELS = tuple(_CPU)


def case_of(model: str, device: Device, cores: int, windows: int | None = None, batch: int | None = None) -> Case:
    """The case of a model: its row in the tables, or for other models one of a middling size.

    Args:
        model: catalog name or `timm:NAME`.
        device: where it trains.
        cores: of this machine; bounds the compute threads.
        windows: optimizer steps of an epoch, in place of the row's.
        batch: images per step, in place of the row's.

    Raises:
        InputError: there is no such model.
    """
    catalog.model(model)
    table = _CPU if device == "cpu" else _CUDA
    other = replace(table[DEFAULT_MODEL], model=model)
    found = table.get(model) or (replace(other, windows=other.windows // 4) if device == "cpu" else other)
    return replace(
        found, threads=min(found.threads, cores), windows=windows or found.windows, batch=batch or found.batch
    )


def missing(name: str) -> str | None:
    """How to install a contender that is not here; None when it is."""
    distribution = CONTENDERS[name]
    if not distribution or _installed(distribution):
        return None
    return f"{name}: not installed; pip install -r experiments/benchmarks/requirements.txt"


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def versions() -> dict[str, str]:
    """Versions of the contenders that are installed."""
    names = sorted({name for name in CONTENDERS.values() if name} | {"torch", "timm"})
    return {name: version(name) for name in names if _installed(name)}
