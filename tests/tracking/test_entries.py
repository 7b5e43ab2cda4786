"""What an entry has to have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import entries
from tests.support.stores import small_plan

PLAN = small_plan(4)


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "open", "key": "k", "time": "now", "name": "n", "tags": {}, "params": {}},
        {"kind": "open", "key": "k", "time": 1, "name": "n", "tags": [], "params": {}},
        {"kind": "metrics", "key": "k", "time": 1, "values": {"a": "x"}},
        {"kind": "metrics", "key": "k", "time": 1, "values": {"a": 1}, "step": "x"},
        {"kind": "close", "key": 3, "time": 1, "status": "FINISHED", "tags": {}},
        {"kind": ["open"]},
        {"kind": "something new"},
        {},
    ],
)
def test_entries_without_their_fields_are_told_apart(entry: dict[str, Any]) -> None:
    assert not entries.well_formed(entry)


def test_what_the_builders_make_is_well_formed(tmp_path: Path) -> None:
    run = PLAN.runs[0]
    made = [
        entries.journal_entry("uri", "study", "o.1.1"),
        entries.open_parent_entry("p", "grid", {"ablate.command": "grid"}, "o.1.1", "uri"),
        entries.open_entry("k", "p", run, PLAN, "o.1.1"),
        entries.metrics_entry("k", {"loss": 1.0}),
        entries.tags_entry("k", {"a": "b"}),
        entries.artifact_entry("k", tmp_path / "x" / ".." / "a.txt", "logs"),
        entries.close_entry("k", "timeout", {}),
        entries.withdraw_entry("k"),
    ]
    assert all(entries.well_formed(json.loads(json.dumps(entry))) for entry in made)
    assert [entry["kind"] for entry in made] == [
        "journal",
        "open",
        "open",
        "metrics",
        "tags",
        "artifact",
        "close",
        "withdraw",
    ]
    assert made[5]["path"] == str(tmp_path / "a.txt")


def test_a_run_is_opened_with_its_cell() -> None:
    run = next(run for run in PLAN.runs if run.spec.techniques)
    entry = entries.open_entry("k", "p", run, PLAN, "o.1.1", claim="held")
    assert {name: entry["params"][name] for name in PLAN.study.techniques} == {
        name: "on" if name in {tag.partition("=")[0] for tag in run.spec.techniques} else "off"
        for name in PLAN.study.techniques
    }
    assert entry["params"]["recipe.epochs"] == run.spec.recipe.epochs
    assert entry["tags"]["ablate.digest"] == run.spec.digest and entry["tags"]["ablate.claim"] == "held"


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("finished", "FINISHED"),
        ("oom", "FAILED"),
        ("failed", "FAILED"),
        ("timeout", "FAILED"),
        ("interrupted", "KILLED"),
    ],
)
def test_outcomes_have_a_status(outcome: str, status: str) -> None:
    entry = entries.close_entry("k", outcome, {"a": "b"}, 1.5)
    assert (entry["status"], entry["time"], entry["outcome"], entry["tags"]) == (status, 1500, outcome, {"a": "b"})


def test_orphans_are_closed_with_their_parents_last() -> None:
    rows: dict[str, bool] = {}
    for entry in (
        {"kind": "open", "key": "parent", "parent": None},
        {"kind": "open", "key": "b", "parent": "parent"},
        {"kind": "open", "key": "a", "parent": "parent"},
        {"kind": "open", "key": "c", "parent": "parent"},
        {"kind": "close", "key": "b"},
        {"kind": "withdraw", "key": "c"},
        {"kind": "tags", "key": "d"},
    ):
        entries.note_row(entry, rows)
    assert rows == {"parent": True, "a": False}
    made = entries.orphan_entries(rows)
    assert [(entry["key"], entry["status"], entry["orphan"]) for entry in made] == [
        ("a", "KILLED", True),
        ("parent", "KILLED", True),
    ]
