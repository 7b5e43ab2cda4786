"""The names of the contract stand in one module, and nowhere else in the package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline
from pipeline.design import names
from pipeline.design.records import OUTCOMES

ROOT = Path(pipeline.__file__).parent
SOURCES = [path for path in sorted(ROOT.rglob("*.py")) if path.name != "names.py"]
WORDS = {name: value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
METRICS = {value for value in WORDS.values() if re.fullmatch(r"[a-z]+/(\w+\.?)?", value)}
STATES = {value for name, value in WORDS.items() if name.endswith("_STATE")}


def spelled(text: str) -> Iterator[tuple[int, str]]:
    """Yields (line, text) of every string of a source but the documenting ones; of an f-string, its fixed parts."""
    tree = ast.parse(text)
    documenting = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documenting:
            yield node.lineno, node.value


def is_name(text: str) -> bool:
    bare = re.sub(r"^(tags|metrics)\.", "", text)
    tag = re.search(r"(?<![\w.])(tags\.`?)?ablate\.([a-z_]|$)", text)
    return bool(tag) or bare in METRICS or bare in STATES or bool(re.match(r"(metrics\.)?budget/", text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ablate.digest", True),
        ("tags.ablate.block", True),
        ("tags.`ablate.digest` = '", True),
        ("ablate.", True),
        ("time/train_seconds", True),
        ("metrics.test/accuracy", True),
        ("budget/", True),
        ("KILLED", True),
        ("ablate", False),
        ("pipeline.ablate", False),
        ("tests/accuracy", False),
    ],
)
def test_what_counts_as_a_name(text: str, expected: bool) -> None:
    assert is_name(text) is expected


def test_no_name_is_spelled_elsewhere() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text[:60]}"
        for path in SOURCES
        for line, text in spelled(path.read_text(encoding="utf-8"))
        if is_name(text)
    ]
    assert found == [], "design/names.py has a constant for it"


def test_each_name_has_one_constant() -> None:
    assert len(set(WORDS.values())) == len(WORDS)
    assert set(names.FINAL_OUTCOMES) < set(OUTCOMES)
    assert names.budget_seconds(names.IDLE) == "budget/idle_seconds"


# what stores that were filled by earlier versions have
CONTRACT = """
ablate.batchnorm ablate.block ablate.cells ablate.claim ablate.command ablate.command_line ablate.digest
ablate.data_parts ablate.error ablate.final ablate.left_out ablate.engagement ablate.factors ablate.heartbeat
ablate.heartbeat. ablate.identity ablate.key ablate.kind ablate.moved ablate.opened ablate.outcome ablate.owner
ablate.not_engaged ablate.parameters ablate.position ablate.result ablate.retries ablate.store ablate.delivered
ablate.study ablate.tainted ablate.target_accuracy ablate.techniques ablate.too_large ablate.values ablate.withdrawn
data.classes data.test_images data.train_images data.validation_images amp/final_scale amp/skipped_steps env.cpu_bf16
energy/gpu_joules memory/gpu_peak_allocated_mib memory/gpu_peak_reserved_mib memory/gpu_process_mib
memory/host_peak_rss_mib model/flops_per_image step/launch_bound_fraction round/images_per_second round/joules
round/others_cores round/place round/seconds speed/rounds speed/wall_seconds step/p50_ms step/p95_ms turns/head_images
turns/images turns/recipe_images test/ test/accuracy test/f1_macro test/majority
mlflow.ablate.heartbeat. mlflow.note.content
cells/ grid/baseline_accuracy grid/baseline_images_per_second grid/median_train_seconds
grid/wall_seconds throughput/images_per_second throughput/interval_half_width throughput/updates_per_second
throughput/warmup_windows time/compile_seconds time/eval_seconds time/setup_seconds time/target_seconds
time/total_seconds time/train_seconds time/warmup_seconds train/epoch_seconds train/images_per_second train/loss
tune.verdict tune/high tune/importance. tune/infeasible tune/low tune/ratio tune/search_ratio tune/trials
tune/wall_seconds updates/count val/ val/accuracy val/loss
"""


def test_names_never_change() -> None:
    assert {value for value in WORDS.values() if "." in value or "/" in value} - {"recipe.", "level."} == set(
        CONTRACT.split()
    )
