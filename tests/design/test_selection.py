"""From options to a plan: what the command line changes, and what is measured again."""

from __future__ import annotations

from pipeline.design.plan import build_plan
from pipeline.design.selection import with_reruns
from pipeline.design.spec import RERUNS_FROM
from pipeline.design.study import load_study


def test_tainted_cells_are_measured_again_under_their_own_digest() -> None:
    plan = build_plan(load_study("quickstart"), "cpu")
    bad = plan.runs[3].spec
    again = with_reruns(plan, {bad.digest})
    changed = [(a.spec, b.spec) for a, b in zip(plan.runs, again.runs, strict=True) if a != b]
    assert len(changed) == 1
    old, new = changed[0]
    assert (old, new.repeat, new.name) == (bad, RERUNS_FROM, old.name)
    assert new.recipe == old.recipe
    third = with_reruns(plan, {bad.digest, new.digest})
    assert third.runs[3].spec.repeat == RERUNS_FROM + 1, "a rerun that was disturbed too is not taken for good"
