"""What all tests share: a quiet environment, no use of the user's home, data prepared once."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support.ablate import SETTINGS, Result, ablate_in_process, python_path

# the same examples in every run, and no limit on a slow machine's time: a red build means that a change broke something
# (`--hypothesis-profile default` looks for new examples)
settings.register_profile("ablate", derandomize=True, deadline=None)
settings.load_profile("ablate")

_HOME = tempfile.mkdtemp(prefix="ablate-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
_OURS = ("ABLATE_FUZZ_SECONDS", "ABLATE_KILLS")  # say how long tests look
for _name in [name for name in os.environ if name.startswith(SETTINGS) and name not in _OURS]:
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
        "PYTHONPATH": python_path(),
    }
)


def scope_of(nodeid: str) -> str:
    """What has to run in one process: a file's tests, and those of the one whole grid, share something expensive."""
    path = Path(nodeid.partition("::")[0])
    # each of these makes its own workspace, and some take minutes; those of a GPU wait for imports and first uses
    if path.parent.name == "faults" or path.name in ("test_fuzz.py", "test_gpu.py"):
        return nodeid
    return str(path.parent if path.parent.name == "grid" else path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Groups tests by `scope_of`.

    xdist's own groups (`xdist_group`) are lost with pytest 9.2, which no longer reads the attribute that xdist sets:
    every expensive fixture was made twice, and nothing told so. The fixture of the whole grid now does.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scopes(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    return Scopes(config, log)


@pytest.fixture(autouse=True)
def _safe_path_is_the_programs() -> Iterator[None]:
    """What the program sets for the processes that it starts is not for those that tests start."""
    before = os.environ.get("PYTHONSAFEPATH")
    yield
    if before is None:
        os.environ.pop("PYTHONSAFEPATH", None)


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory in which the embedded `digits` are ready."""
    from pipeline.training.data.store import prepare_dataset

    data_dir = tmp_path_factory.mktemp("data")
    prepare_dataset("digits", data_dir, image_size=16)
    return data_dir


@pytest.fixture
def ablate(tmp_path: Path) -> Callable[..., Result]:
    """Runs a command in this process, in the test's own folder."""
    return partial(ablate_in_process, cwd=tmp_path)


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's empty tables, to be copied: MLflow takes seconds to make one."""
    from pipeline.tracking.mlflow_connection import set_environment
    from pipeline.tracking.mlflow_database import migrate

    set_environment()
    file = tmp_path_factory.mktemp("tables") / "mlflow.db"
    migrate(file, f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def migrated_store(migrated_database: Path) -> Callable[[Path], str]:
    """Puts a SQLite store with MLflow's tables at a path and returns its URI."""

    def put(database: Path) -> str:
        database.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(migrated_database, database)
        return f"sqlite:///{database}"

    return put
