"""The tests mirror the package: whoever changes a module knows the file of its tests."""

from __future__ import annotations

from pathlib import Path

import pipeline

PACKAGE, TESTS = Path(pipeline.__file__).parent, Path(__file__).parent


def test_every_module_has_a_file_of_tests() -> None:
    modules = [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py")) if not path.stem.startswith("__")]
    assert modules
    missing = [str(module) for module in modules if not (TESTS / module.with_name(f"test_{module.name}")).is_file()]
    assert not missing, f"{len(missing)} of {len(modules)} modules have no tests/<room>/test_<module>.py"
