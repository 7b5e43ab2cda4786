"""What the fork server imports before the first run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
