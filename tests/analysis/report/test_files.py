"""The files of a report."""

import matplotlib
import pandas as pd

from pipeline.analysis.effects import COLUMNS
from pipeline.analysis.report.files import write_report
from tests.support.reports import report_of


def test_all_files_of_the_contract_are_written(written):
    _, out, files = written
    assert {"report.html", "report.md", "report.json", "runs.csv", "effects.csv"} <= {p.name for p in files}
    assert {"audit.md", "audit_claims.csv"} <= {p.name for p in files}
    assert all(p.stat().st_size > 0 for p in files)
    assert list(pd.read_csv(out / "effects.csv").columns) == COLUMNS
    assert len(pd.read_csv(out / "runs.csv")) == 48


def test_equal_data_give_equal_bytes_in_whatever_style(written, tmp_path):
    built, out, _ = written
    with matplotlib.rc_context({"axes.grid": True, "axes.facecolor": "#e5e5e5", "lines.linewidth": 7.0}):
        files = write_report(report_of(built.study, paper=True), tmp_path)
    for path in files:
        assert path.read_bytes() == (out / path.name).read_bytes(), path.name
