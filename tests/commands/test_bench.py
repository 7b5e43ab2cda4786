"""`ablate bench` from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.bench.cases import missing
from pipeline.bench.intervals import block_log, ratio_interval
from tests.support.ablate import Result, run_ablate

STUDY = """
name: tiny
models: {test_resnet: {}}
datasets: [digits]
techniques: [ga]
recipe: {image_size: 16, batch_size: 32, max_train_samples: 96, max_test_samples: 50, num_threads: 1}
"""


def bench(*arguments: str, cwd: Path) -> Result:
    return run_ablate("bench", *arguments, cwd=cwd)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--only over_keras", "--only: 'over_keras' is not allowed; allowed: over_bare, over_accelerate"),
        ("--models nonsense", "model: 'nonsense' is not allowed; allowed: resnet50"),
        ("--models test_resnet,test_resnet", "--models: 'test_resnet,test_resnet' is not allowed"),
        ("--blocks 0", "Invalid value for '--blocks'"),
        ("--batch 1", "Invalid value for '--batch'"),
        ("--only grid_overhead --grid-study nowhere", "study"),
    ],
)
def test_bad_input_is_one_line(arguments: str, message: str, tmp_path: Path) -> None:
    done = bench(*arguments.split(), cwd=tmp_path)
    assert done.code == 2
    assert message in done.err and len(done.err.splitlines()) == 1
    assert done.out == ""


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = bench("--only", "over_bare", "--out", "file/below", cwd=tmp_path)
    assert (done.code, done.out) == (3, "")
    assert "--out file/below" in done.err


def test_json_of_a_small_race(tmp_path: Path) -> None:
    words = (
        "--only over_bare,over_accelerate --models test_resnet --blocks 2 --windows 2 --batch 8 --device cpu --json "
        "--out out"
    )
    done = bench(*words.split(), cwd=tmp_path)
    assert done.code == 0, done.err
    document: dict[str, Any] = json.loads(done.out)
    rows = {row["name"]: row for row in document["rows"]}
    row = rows["over_bare"]
    assert row["unit"] == "ratio" and row["model"] == "test_resnet" and row["blocks"] == 2
    assert row["batch"] == 8 == document["cases"][0]["batch"]
    assert 0.2 < row["low"] <= row["ratio"] <= row["high"] < 5 or row["high"] - row["low"] > 1
    assert document["provenance"]["env.torch"] and document["provenance"]["time"].endswith("Z")
    (case,) = document["cases"]
    assert case["weights_differ_by"]["bare"] == 0.0 and case["weights_differ_by"]["ablate"] < 1e-3
    assert case["images_per_second"]["ablate"] > 0 and case["flops_per_second"] > 0
    again = [block_log(block["bare"], block["ablate"]) for block in case["seconds"]]
    assert ratio_interval(again) == pytest.approx((row["ratio"], row["low"], row["high"]), rel=1e-2), (
        "from what is published"
    )
    if missing("accelerate"):
        assert "over_accelerate" not in rows
        (line,) = document["absent"]
        assert line == "over_accelerate: not installed; pip install -r experiments/benchmarks/requirements.txt"
    stored = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert stored["rows"] == document["rows"]
    assert "over_bare" in (tmp_path / "out" / "bench.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"], "nothing else is left behind"


@pytest.mark.slow
def test_overhead_of_a_small_grid(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(STUDY)
    study = str(tmp_path / "tiny.yaml")
    done = bench("--only", "grid_overhead", "--grid-study", study, "--device", "cpu", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)["rows"]
    assert row["name"] == "grid_overhead" and row["runs"] == 2 and row["low"] is None
    assert row["ratio"] == pytest.approx(row["wall_seconds"] / row["run_seconds"])
    assert row["ratio"] > 1 and row["controller_memory_mib"] > 30
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]


@pytest.mark.slow
@pytest.mark.quiet
def test_ablate_keeps_up_with_a_bare_loop(tmp_path: Path) -> None:
    """A bound for a busy machine; what is promised is measured on a quiet one (experiments/results)."""
    words = "--only over_bare,over_timm --models test_resnet --blocks 2 --windows 6 --device cpu --json"
    done = bench(*words.split(), cwd=tmp_path)
    assert done.code == 0, done.err
    ratios = {row["name"]: row["ratio"] for row in json.loads(done.out)["rows"]}
    assert ratios["over_bare"] > 0.8 and ratios["over_timm"] > 0.8
