"""Where a contender's epoch has the host wait for the GPU, as PyTorch itself tells it. In a process of its own."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import torch

from pipeline.bench.cases import Case
from pipeline.bench.contenders import BUILT_IN
from pipeline.bench.peers import PEERS, silence
from pipeline.bench.work import build

_WAIT = "synchronizing CUDA operation"  # in each of PyTorch's warnings about one


def epoch_waits(name: str, case: Case) -> list[str]:
    """Trains two epochs and reports the second one's waits; the first pays for what is done once.

    One is expected: the epoch's order is copied to the device. The clock's own waits are not told by PyTorch. What
    Lightning's Trainer does around an epoch (the model goes to the host and back) is not timed, but told.

    Args:
        name: a contender that is installed.
        case: the work.

    Returns:
        `file:line: count x message`, in the order of their first call; empty on a CPU, which waits for nothing.
    """
    silence()
    contender = {**BUILT_IN, **PEERS}[name](build(case))
    try:
        contender.epoch(1)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")  # each time, not once a line
            if case.device == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            try:
                contender.epoch(2)
            finally:
                if case.device == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
    finally:
        contender.close()
    found = Counter(
        (f"{Path(warning.filename).name}:{warning.lineno}", str(warning.message).splitlines()[0])
        for warning in told
        if _WAIT in str(warning.message)
    )
    return [f"{place}: {count} x {message}" for (place, message), count in found.items()]
