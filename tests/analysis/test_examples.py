"""The examples in the docstrings are run, and the statistics have some."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import pipeline.analysis

MODULES = [info.name for info in pkgutil.walk_packages(pipeline.analysis.__path__, "pipeline.analysis.")]
WITH_EXAMPLES = {
    "student_t": {"quantile", "upper_tail", "mean_interval"},
    "verdicts": {
        "p_values",
        "half_widths",
        "holm",
        "holm_factors",
        "equivalent",
        "verdicts",
        "further_blocks",
        "blocks_for_width",
    },
    "lenth": {"lenth", "orthonormal_basis"},
    "linear": {"layout", "residuals"},
    "variance": {"fit_design"},
    "contrasts": {"build_contrasts"},
    "pooling": {"pool"},
    "machines": {"component", "next_interval"},
    "stopping": {"precise"},
    "time_to_target": {"times"},
    "ceilings": {"ceiling"},
    "peak_flops": {"peak_flops"},
}


def examples_of(module: str) -> dict[str, doctest.DocTest]:
    """Docstrings with examples, by the name of what they document."""
    tests = doctest.DocTestFinder().find(importlib.import_module(module), module.rpartition(".")[2])
    return {test.name.partition(".")[2]: test for test in tests if test.examples}


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_hold(module: str) -> None:
    runner = doctest.DocTestRunner()
    for test in examples_of(module).values():
        report: list[str] = []
        assert not runner.run(test, out=report.append).failed, "".join(report)


def test_the_example_of_the_documentation_holds() -> None:
    document = Path(__file__).parents[2] / "docs" / "analysis.md"
    found = doctest.testfile(str(document), module_relative=False)
    assert found.attempted > 5 and not found.failed


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_statistics_have_examples(module: str) -> None:
    assert WITH_EXAMPLES[module] <= set(examples_of(f"pipeline.analysis.{module}"))
