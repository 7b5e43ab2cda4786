"""One synthetic evidence, analysed once: its studies take most of the time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.packed_evidence import write_rest, write_studies


@pytest.fixture(scope="session")
def gpu_evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evidence")
    write_studies(root)
    write_rest(root)
    return root
