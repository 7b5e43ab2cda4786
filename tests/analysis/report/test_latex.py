"""Tables for a paper."""

import shutil
import subprocess

import pytest

from pipeline.analysis.report.document import report_document
from pipeline.analysis.report.latex import latex_tables, latex_text
from pipeline.analysis.report.overview import overview
from tests.support.planted import planted
from tests.support.reports import report_of


def tables_of(report):
    document = report_document(report)
    return latex_tables(document, overview(document["effects"]))


def test_the_tables_have_rules_and_a_row_for_each_group():
    text = tables_of(report_of(planted(models=("m_1", "m2"), blocks=3)))
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\begin{tabular}") == 2
    rows = [line for line in text.splitlines() if line.startswith("  m\\_1 & ")]
    assert len(rows) == 1 and rows[0].count("&") == 4 and rows[0].endswith(r"\\")
    assert "training speed-up" in text and text.count("{") == text.count("}")


def test_nothing_in_a_name_is_a_command():
    assert latex_text("a\\b_{x}^~$%#&\n<") == (
        r"a\textbackslash{}b\_\{x\}\textasciicircum{}\textasciitilde{}\$\%\#\& \textless{}"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX is installed")
def test_latex_sets_the_tables(tmp_path):
    body = tables_of(report_of(planted(models=("m_1", "m2"), blocks=3)))
    head = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "t.tex").write_text(f"{head}{body}\\end{{document}}\n")
    subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
