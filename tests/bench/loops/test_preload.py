"""What the fork server of a benchmark imports."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_fork_finds_everything_imported_and_no_thread() -> None:
    code = (
        "import sys, threading, pipeline.bench.loops.preload\n"
        "import torch\n"
        "print('pipeline.bench.loops.race' in sys.modules, threading.active_count(), torch.cuda.is_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    assert done.stdout.splitlines()[-1] == "True 1 False"
