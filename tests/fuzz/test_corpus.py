"""Inputs that broke something once, found by `python -m tests.fuzz`; and what the checks can see."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.checks import Guard, Violation, tried
from tests.support.ablate import environment

CORPUS = Path(__file__).parent / "corpus"
FINDINGS = sorted(path.relative_to(CORPUS).as_posix() for path in CORPUS.glob("*/*"))
NEED_A_GRID = {"stores"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def target_of(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Gives the target of a name, made once."""
    made: dict[str, Any] = {}

    def give(name: str) -> Any:
        if name not in made:
            module = importlib.import_module(f"tests.fuzz.targets.{name}")
            folder = tmp_path_factory.mktemp(name) / "work"
            folder.mkdir()
            made[name] = module.Target(folder, cache)
        return made[name]

    return give


@pytest.mark.parametrize(
    "finding",
    [pytest.param(one, marks=pytest.mark.slow if one.split("/")[0] in NEED_A_GRID else ()) for one in FINDINGS],
)
def test_what_was_found_is_mended(finding: str, target_of: Any) -> None:
    found = tried(target_of(Path(finding).parent.name), (CORPUS / finding).read_bytes())
    assert found is None, found


def test_a_target_sees_what_is_forbidden(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    (tmp_path / "secret").write_text("x")
    guard = Guard(inside, (tmp_path / "secret",))

    def harm(data: bytes) -> None:
        with guard.watching():
            try:
                if data == b"write":
                    outside.write_text("x")
                elif data == b"mkdir":
                    outside.mkdir()
                elif data == b"rename":
                    (tmp_path / "secret").rename(inside / "secret")
                elif data == b"read":
                    (tmp_path / "secret").read_text()
                elif data == b"start":
                    os.system("true")
                else:
                    (inside / "file").write_text("x")
            except OSError:
                pass  # as a program that passes over what it may not

    for kind in (b"write", b"mkdir", b"rename", b"read", b"start"):
        assert isinstance(tried(harm, kind), Violation), kind
    assert tried(harm, b"fine") is None
    assert not outside.exists()
    assert tried(lambda _data: [][1], b"").key == "IndexError outside"


def test_a_library_that_is_first_imported_while_it_looks_is_no_fault(tmp_path: Path) -> None:
    """The delivery's thread imports MLflow's errors when something is refused, and that import tries a socket."""
    code = (
        "import sys; from pathlib import Path; from tests.fuzz.checks import Guard; guard = Guard(Path(sys.argv[1]))\n"
        "with guard.watching(): import mlflow.exceptions\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
