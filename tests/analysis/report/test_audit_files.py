"""The audit's own files."""

import io
from xml.etree import ElementTree

import pandas as pd
import pytest

from pipeline.analysis.effects import estimate
from pipeline.analysis.paper.audit import audit_paper
from pipeline.analysis.paper.claims import CLAIMS
from pipeline.analysis.report import audit_files
from pipeline.analysis.report.document import report_document
from tests.support.planted import planted
from tests.support.reports import report_of


@pytest.fixture(scope="module")
def texts():
    report = report_of(planted(blocks=2), paper=True)
    drawings = audit_files.draw_questions(report.audit)
    return report.audit, audit_files.audit_texts(report.audit, report_document(report)["audit"], drawings)


def test_every_answered_question_has_a_table_and_a_figure(texts):
    audit, files = texts
    answered = [q.key.lower() for q in audit.questions if q.table]
    assert answered and len(answered) < len(audit.questions)
    names = {f"audit_{key}.{ending}" for key in answered for ending in ("csv", "svg")}
    assert set(files) == {"audit.md", "audit_claims.csv"} | names
    for question in audit.questions:
        if question.table:
            assert len(pd.read_csv(io.StringIO(files[f"audit_{question.key.lower()}.csv"]))) == len(question.table)


def test_the_table_of_claims_has_them_all(texts):
    _, files = texts
    table = pd.read_csv(io.StringIO(files["audit_claims.csv"]))
    assert list(table.columns) == ["key", "claim", "caveat", "measured"]
    assert table["key"].tolist() == [claim.key for claim in CLAIMS]


def test_a_figure_of_its_own_is_a_whole_svg_file(texts):
    _, files = texts
    svg = files["audit_q3.svg"]
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in svg and "#0b62b8" in svg, "the colours come with it"
    assert "svg { background: #ffffff; }" in svg, "its text is for a light page"


def test_a_study_that_answers_nothing_has_no_figure():
    study = planted(blocks=1)
    study.runs["tags.ablate.outcome"] = "oom"
    assert audit_files.draw_questions(audit_paper(study, estimate(study))) == []
