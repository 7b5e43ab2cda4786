"""What the processes of a benchmark run, called here in this one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.bench import entry
from pipeline.bench.cases import Case


def test_naming_the_functions_loads_no_torch() -> None:
    code = "import sys, pipeline.bench.entry; print(sorted({'torch', 'timm', 'mlflow', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_block_has_the_times_and_the_difference_of_every_contender() -> None:
    case = Case("test_resnet", batch=4, windows=2, rounds=2, threads=1, image_size=16)
    seconds, difference = entry.block(case, ("ablate", "bare"), 0)
    assert {name: len(times) for name, times in seconds.items()} == {"ablate": 2, "bare": 2}
    assert set(difference) == {"ablate", "bare"}


def test_operations_grow_with_the_images() -> None:
    small, large = (
        entry.flops_per_image(Case("test_resnet", batch=4, windows=2, rounds=1, threads=1, image_size=size))
        for size in (16, 32)
    )
    assert small is not None and large is not None and large / small == pytest.approx(4, rel=0.2)


def test_costs_have_their_numbers() -> None:
    assert 0 < entry.record_cost(500) < 0.1
    assert entry.plan_cost(100)["seconds"] > 0
    assert entry.report_cost(20)["seconds"] > 0
