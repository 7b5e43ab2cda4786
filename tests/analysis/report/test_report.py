"""What a report collects."""

import dataclasses

import pytest

from pipeline.analysis.effects import estimate
from pipeline.analysis.paper.audit import audit_paper
from pipeline.analysis.report.report import build_report
from tests.support.planted import planted


def test_a_report_holds_the_given_estimates_and_what_follows_from_them():
    study = planted(models=("m1", "m2"), blocks=3)
    effects = estimate(study, margin=0.05)
    report = build_report(study, effects)
    assert report.effects is effects and report.study is study
    assert len(report.budgets) == len(report.throughput) == 16
    assert {(r.model, r.technique) for r in report.reasons} == {
        (m, t) for m in ("m1", "m2") for t in ("ga", "amp", "pm")
    }
    assert [(r.model, r.dataset) for r in report.recommendations] == [("m1", "digits"), ("m2", "digits")]
    assert report.provenance["hostname"] == ("host",)
    assert (report.audit, report.memory_limit_mib) == (None, None)


def test_the_audit_is_the_one_given_and_the_memory_limit_reaches_the_recommendation():
    study = planted(blocks=3, noise=0.003)
    effects = estimate(study)
    audit = audit_paper(study, effects)
    report = build_report(study, effects, audit=audit, memory_limit_mib=100.0)
    assert report.audit is audit
    assert report.recommendations[0].cell == "baseline" and "memory limit" in report.recommendations[0].reason


def test_a_report_is_data():
    report = build_report(planted(blocks=1), estimate(planted(blocks=1)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.audit = None  # type: ignore[misc]
