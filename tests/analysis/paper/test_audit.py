"""The paper's claims beside a measurement."""

import pytest

from pipeline.analysis.report.document import report_document
from tests.support.planted import planted
from tests.support.reports import report_of


def test_the_audit_sets_every_claim_beside_a_measurement():
    study = planted(
        models=("resnet50", "efficientnet_b0", "vit_base", "timm:mobilenetv3"),
        datasets=("cifar10",),
        blocks=5,
    )
    data = report_document(report_of(study, paper=True))["audit"]
    found = {f["key"]: f for f in data["findings"]}
    assert found["E10"]["measured"].startswith("efficientnet_b0 baseline: 0.")
    assert found["E100"]["measured"] == "not measured in this study"
    runs = study.runs[study.runs["params.model"].eq("vit_base") & study.runs["params.techniques"].eq("baseline")]
    assert found["V10h"]["ours"][0]["estimate"] == pytest.approx(runs["metrics.time/train_seconds"].mean() / 3600)
    assert "pays" in found["ALL"]["measured"]
    assert len(found["EACH"]["ours"]) == 3
    questions = {q["key"]: q for q in data["questions"]}
    assert list(questions) == ["Q1", "Q2", "Q3", "C1", "C2", "C3"]
    assert all(q["command"].startswith(("ablate grid", "for ")) and q["table"] for q in questions.values())
    assert {r["model"] for r in questions["C3"]["table"]} == {"timm:mobilenetv3"}
    assert all(r["seeds"] == 5 for r in questions["C1"]["table"])
    assert len(data["confounds"]) == 8
