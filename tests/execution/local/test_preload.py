"""What the fork server imports before the first run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRESS_BAR = """
import multiprocessing.synchronize
import pipeline.execution.local.preload
def refused(*_arguments, **_settings):
    raise AssertionError("a semaphore")
multiprocessing.synchronize.SemLock.__init__ = refused
from tqdm.auto import tqdm
for _ in tqdm(range(3), disable=False):
    pass
print(type(tqdm.get_lock()).__name__)
"""
CODE = """
import gc, sys
import pipeline.execution.local.preload
import torch
print("pipeline.training.worker" in sys.modules, "sklearn.metrics" in sys.modules, torch.cuda.is_initialized(),
      gc.isenabled(), gc.get_freeze_count() > 0)
"""


@pytest.mark.slow
def test_the_worker_is_imported_cuda_is_not_touched_and_only_a_server_freezes() -> None:
    root = str(Path(__file__).parents[3])
    code = f"import sys; sys.path.insert(0, {root!r})" + CODE
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.split() == ["True", "True", "False", "True", "False"]


def test_a_progress_bar_of_torch_compile_makes_no_semaphore_that_would_be_left_behind() -> None:
    root = str(Path(__file__).parents[3])
    code = f"import sys; sys.path.insert(0, {root!r})" + PROGRESS_BAR
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert found.stdout.split() == ["RLock"], found.stderr
