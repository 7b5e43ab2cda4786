"""What a journal's entries say: one per thing that is to happen in the store."""

from __future__ import annotations

import time
from typing import Any

from pipeline.design.names import CLAIM_TAG, OUTCOME_TAG, OWNER_TAG
from pipeline.design.plan import Plan, PlannedRun
from pipeline.tracking.provenance import host_provenance

Entry = dict[str, Any]

STATUS: dict[str, str] = {
    "finished": "FINISHED",
    "oom": "FAILED",
    "failed": "FAILED",
    "timeout": "FAILED",
    "interrupted": "KILLED",
}


def now_ms(seconds: float | None = None) -> int:
    """Time as MLflow keeps it."""
    return int((time.time() if seconds is None else seconds) * 1000)


def close_entry(key: str, outcome: str, tags: dict[str, str], seconds: float | None = None) -> Entry:
    status = STATUS[outcome]
    return {"kind": "close", "key": key, "time": now_ms(seconds), "status": status, "outcome": outcome, "tags": tags}


def interrupted_entry(key: str, why: str) -> Entry:
    return close_entry(key, "interrupted", {OUTCOME_TAG: "interrupted", "ablate.error": why})


def open_entry(key: str, parent: str, run: PlannedRun, plan: Plan, owner_name: str, claim: str = "pending") -> Entry:
    spec = run.spec
    on = {tag.partition("=")[0]: tag.partition("=")[2] for tag in spec.techniques}
    params: dict[str, Any] = {
        "model": spec.model,
        "dataset": spec.dataset,
        "seed": spec.seed,
        "techniques": spec.label,
        "device": spec.device,
        "nproc": spec.nproc,
        **{name: "on" if name in on else "off" for name in plan.study.techniques},
        **{f"level.{name}": value for name, value in on.items() if value},
        **{f"recipe.{name}": value for name, value in spec.recipe.model_dump(mode="json").items()},
    }
    tags = {
        "ablate.kind": run.kind,
        "ablate.digest": spec.digest,
        "ablate.block": str(run.block),
        "ablate.position": str(run.position),
        **({"ablate.tainted": run.tainted} if run.tainted else {}),
        **dict(run.tags),
        CLAIM_TAG: claim,
        OWNER_TAG: owner_name,
        **host_provenance(),
    }
    entry = {"kind": "open", "key": key, "parent": parent, "name": run.name, "time": now_ms()}
    return {**entry, "tags": tags, "params": params}


_FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "journal": {},
    "open": {"key": str, "time": int, "name": str, "tags": dict, "params": dict},
    "close": {"key": str, "time": int, "status": str, "tags": dict},
    "withdraw": {"key": str, "time": int},
    "artifact": {"key": str, "path": str},
    "metrics": {"key": str, "time": int, "values": dict},
    "tags": {"key": str, "values": dict},
}


def well_formed(entry: Entry) -> bool:
    """Whether an entry has the fields of its kind; kinds of later versions have none that this one could check."""
    fields = _FIELDS.get(str(entry.get("kind")))
    if fields is None or not all(isinstance(entry.get(name), kind) for name, kind in fields.items()):
        return False
    numbers = entry["values"].values() if entry["kind"] == "metrics" else ()
    return isinstance(entry.get("step", 0), int) and all(isinstance(number, int | float) for number in numbers)


def note_row(entry: Entry, rows: dict[str, bool]) -> None:
    """Keeps track of a journal's open rows, as key -> whether it is a parent."""
    key = str(entry.get("key", ""))
    if entry.get("kind") == "open":
        rows[key] = not entry.get("parent")
    elif entry.get("kind") in ("close", "withdraw"):
        rows.pop(key, None)


def orphan_entries(rows: dict[str, bool]) -> list[Entry]:
    tags = {"ablate.outcome": "interrupted", "ablate.error": "its controller died"}
    close = {"kind": "close", "time": int(time.time() * 1000), "status": "KILLED", "tags": tags, "orphan": True}
    return [{**close, "key": key} for key in sorted(rows, key=lambda key: rows[key])]
