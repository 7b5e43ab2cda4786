"""The entries of a journal: one per thing that is to happen in the store, made and checked here alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.design.names import (
    BLOCK_TAG,
    CLAIM_TAG,
    DIGEST_TAG,
    ERROR_TAG,
    FAILED_STATE,
    FINISHED_STATE,
    HEARTBEAT_TAG,
    KILLED_STATE,
    KIND_TAG,
    OPENED_TAG,
    OUTCOME_TAG,
    OWNER_TAG,
    POSITION_TAG,
)
from pipeline.design.plan import Plan, PlannedRun
from pipeline.tracking.provenance import host_provenance

Entry = dict[str, Any]
Refused = tuple[Entry, str]  # what a store refuses for good, and what it said

STATUS: dict[str, str] = {
    "finished": FINISHED_STATE,
    "oom": FAILED_STATE,
    "failed": FAILED_STATE,
    "timeout": FAILED_STATE,
    "interrupted": KILLED_STATE,
}


def now_ms(seconds: float | None = None) -> int:
    """A time as MLflow keeps it, in ms since the epoch.

    Args:
        seconds: The time in s since the epoch; now if not given.
    """
    return int((time.time() if seconds is None else seconds) * 1000)


def journal_entry(uri: str, experiment: str, owner: str) -> Entry:
    """The first entry of a journal, which says whose it is.

    Args:
        uri: The store, without credentials.
        experiment: Its experiment's name.
        owner: The controller, see `liveness.owner`.
    """
    return {"kind": "journal", "uri": uri, "experiment": experiment, "owner": owner}


def open_parent_entry(key: str, name: str, tags: dict[str, str], owner: str, uri: str) -> Entry:
    """Opens a parent run, or opens it again, with its owner's first heartbeat.

    Args:
        key: The row's.
        name: The run's, if it is new.
        tags: The run's; a grid's if they do not say otherwise.
        owner: The controller.
        uri: The store, without credentials.
    """
    tags = {KIND_TAG: "grid", **tags, **host_provenance(), "env.tracking_uri": uri}
    tags |= {OWNER_TAG: owner, HEARTBEAT_TAG + owner: str(now_ms()), OPENED_TAG: str(now_ms())}
    entry = {"kind": "open", "key": key, "parent": None, "name": name, "time": now_ms()}
    return {**entry, "tags": tags, "params": {}}


def open_entry(key: str, parent: str, run: PlannedRun, plan: Plan, owner: str, claim: str = "pending") -> Entry:
    """Opens a run's row, with all that is known of it before it runs.

    Args:
        key: The row's.
        parent: Key of the run that it lies under.
        run: What is run.
        plan: The plan that it is of.
        owner: The controller.
        claim: `pending` or `held`, see `claims.settle_claim`.
    """
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
        KIND_TAG: run.kind,
        DIGEST_TAG: spec.digest,
        BLOCK_TAG: str(run.block),
        POSITION_TAG: str(run.position),
        **dict(run.tags),
        CLAIM_TAG: claim,
        OWNER_TAG: owner,
        **host_provenance(),
    }
    entry = {"kind": "open", "key": key, "parent": parent, "name": run.name, "time": now_ms()}
    return {**entry, "tags": tags, "params": params}


def close_entry(key: str, outcome: str, tags: dict[str, str], seconds: float | None = None) -> Entry:
    """Closes a row.

    Args:
        key: The row's.
        outcome: How the run ended, see `records.Outcome`.
        tags: Further tags.
        seconds: When it ended, in s since the epoch; now if not given.
    """
    status = STATUS[outcome]
    return {"kind": "close", "key": key, "time": now_ms(seconds), "status": status, "outcome": outcome, "tags": tags}


def interrupted_entry(key: str, why: str) -> Entry:
    """Closes a row whose run did not come to its end, for the reason given."""
    return close_entry(key, "interrupted", {OUTCOME_TAG: "interrupted", ERROR_TAG: why})


def withdraw_entry(key: str) -> Entry:
    """Takes a row back that another controller's came before."""
    return {"kind": "withdraw", "key": key, "time": now_ms()}


def metrics_entry(key: str, values: Mapping[str, float], *, step: int = 0, time_ms: int | None = None) -> Entry:
    """Metrics of a row.

    Args:
        key: The row's.
        values: The metrics by name.
        step: The epoch; 0 for what holds for the whole run.
        time_ms: When they were measured, in ms since the epoch; now if not given.
    """
    time_ms = now_ms() if time_ms is None else time_ms
    return {"kind": "metrics", "step": step, "time": time_ms, "values": dict(values), "key": key}


def tags_entry(key: str, values: Mapping[str, str]) -> Entry:
    """Tags of a row, by name."""
    return {"kind": "tags", "key": key, "values": dict(values)}


def artifact_entry(key: str, path: Path, folder: str) -> Entry:
    """A file for a folder of a row's artifacts."""
    return {"kind": "artifact", "key": key, "path": str(path.resolve()), "folder": folder}


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
    """Whether an entry has the fields of its kind, with values that a store has room for.

    Kinds of later versions have none that this one could check.
    """
    fields = _FIELDS.get(str(entry.get("kind")))
    if fields is None or not all(isinstance(entry.get(name), kind) for name, kind in fields.items()):
        return False
    if entry["kind"] == "close" and entry["status"] not in STATUS.values():
        return False
    numbers = entry["values"].values() if entry["kind"] == "metrics" else ()
    whole = (entry.get("step") or 0, entry.get("time", 0))
    # databases have 64 bits for an integer, and an exponent of 1,023 for a float
    fits = all(isinstance(number, int) and abs(number) < 2**63 for number in whole)
    return fits and all(isinstance(n, float) or (isinstance(n, int) and abs(n) < 2**1023) for n in numbers)


def note_row(entry: Entry, rows: dict[str, bool]) -> None:
    """Keeps track of a journal's open rows.

    Args:
        entry: The journal's next entry.
        rows: Key of each open row -> whether it is a parent; changed.
    """
    key = str(entry.get("key", ""))
    if entry.get("kind") == "open":
        rows[key] = not entry.get("parent")
    elif entry.get("kind") in ("close", "withdraw"):
        rows.pop(key, None)


def orphan_entries(rows: dict[str, bool]) -> list[Entry]:
    """Closes the rows that a dead controller left open, parents last.

    Args:
        rows: As `note_row` keeps them.
    """
    # "orphan": only where nobody else has closed the row, or is at work on it
    return [
        {**interrupted_entry(key, "its controller died"), "orphan": True}
        for key in sorted(rows, key=lambda key: rows[key])
    ]
