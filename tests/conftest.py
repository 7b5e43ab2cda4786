"""What all tests share: a quiet environment, no use of the user's home, data prepared once."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

_HOME = tempfile.mkdtemp(prefix="ablate-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
for _name in [name for name in os.environ if name.startswith(("ABLATE_", "MLFLOW_"))]:
    del os.environ[_name]
# before torch, huggingface_hub and matplotlib are imported: each reads its variables once
os.environ.update(
    {
        "HOME": _HOME,
        "XDG_CACHE_HOME": f"{_HOME}/cache",
        "XDG_CONFIG_HOME": f"{_HOME}/config",
        "MPLCONFIGDIR": f"{_HOME}/matplotlib",
        "HF_HOME": f"{_HOME}/huggingface",
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps tests that share something expensive in one worker: a file's, and those of the one whole grid."""
    for item in items:
        folder = item.path.parent.name
        if folder != "faults":  # each of these makes its own workspace
            item.add_marker(pytest.mark.xdist_group("grid" if folder == "grid" else item.path.stem))


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory in which the embedded `digits` are ready."""
    from pipeline.data.store import prepare

    data_dir = tmp_path_factory.mktemp("data")
    prepare("digits", data_dir, image_size=16)
    return data_dir
