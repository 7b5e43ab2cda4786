"""What the tests of raced loops share: a small workload, and torch's settings put back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pipeline.bench.loops.workload import Work, build_workload
from tests.support.bench import CASE


@pytest.fixture(autouse=True)
def _torch_settings() -> Iterator[None]:
    """A block has its process to itself; here its settings are put back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def work() -> Work:
    return build_workload(CASE)
