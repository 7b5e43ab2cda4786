"""The files of a report."""

import csv
import re

import matplotlib
import pandas as pd
import pytest

from pipeline.analysis.effects import COLUMNS
from pipeline.analysis.report.files import write_report
from tests.support.planted import planted
from tests.support.reports import report_of


def test_all_files_of_the_contract_are_written(written):
    _, out, files = written
    assert {"report.html", "report.md", "report.json", "runs.csv", "effects.csv"} <= {p.name for p in files}
    assert {"audit.md", "audit_claims.csv"} <= {p.name for p in files}
    assert all(p.stat().st_size > 0 for p in files)
    effects = pd.read_csv(out / "effects.csv")
    assert list(effects.columns) == [*COLUMNS, "p", "method", "further_blocks", "not_engaged", "note"]
    assert (effects["p"] <= effects["p_adjusted"]).all() and set(effects["method"]) <= {"cr2", "hc2", "lenth", "none"}
    assert len(pd.read_csv(out / "runs.csv")) == 48


def test_equal_data_give_equal_bytes_in_whatever_style(written, tmp_path):
    built, out, _ = written
    with matplotlib.rc_context({"axes.grid": True, "axes.facecolor": "#e5e5e5", "lines.linewidth": 7.0}):
        files = write_report(report_of(built.study, paper=True), tmp_path)
    for path in files:
        assert path.read_bytes() == (out / path.name).read_bytes(), path.name


def test_no_text_in_a_table_is_a_formula_and_numbers_stay_numbers(tmp_path):
    study = planted(blocks=3)
    study.runs["tags.ablate.error"] = "=cmd|' /C calc'!A0"
    study.runs["tags.env.hostname"] = "\x1b[2J@host"
    study.runs["params.=x"] = "-0.5"
    study.runs["metrics.test/accuracy"] = -0.25
    write_report(report_of(study), tmp_path)
    for path in tmp_path.glob("*.csv"):
        rows = list(csv.reader(path.open(newline="")))
        cells = [cell for row in rows for cell in row]
        assert not [c for c in cells if c.startswith(("=", "+", "-", "@")) and not re.fullmatch(r"-?[\d.e-]+", c)]
        assert "\x1b" not in path.read_text()
    assert "'=cmd|' /C calc'!A0" in set(pd.read_csv(tmp_path / "runs.csv")["tags.ablate.error"])


def test_without_figures_the_numbers_are_written_all_the_same(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no backend\nmore")

    report = report_of(planted(blocks=2))
    failed: list[str] = []
    monkeypatch.setattr("pipeline.analysis.report.figures.pareto", broken)
    write_report(report, tmp_path / "one", failed.append)
    assert failed == ["figure of accuracy against time: RuntimeError: no backend"]
    assert "<svg" in (tmp_path / "one" / "report.html").read_text()
    monkeypatch.setattr("pipeline.analysis.report.files.own_style", broken)
    names = {path.name for path in write_report(report, tmp_path / "none", failed.append)}
    written = {"report.html", "report.md", "report.json", "runs.csv", "effects.csv", "tables.tex", "methods.md"}
    assert names == written
    assert failed[1:] == ["RuntimeError: no backend"]


def test_figures_are_files_where_they_are_wanted(tmp_path):
    files = write_report(report_of(planted(blocks=2)), tmp_path, figures=True)
    drawn = {path.name for path in files if path.parent.name == "figures"}
    keys = {"forest", "interactions", "budget", "pareto", "curves", "order"}
    assert drawn == {f"{key}.{kind}" for key in keys for kind in ("svg", "png", "pdf")}
    assert "var(--fg)" in (tmp_path / "report.html").read_text(), "the page keeps its own colours"


def test_the_table_of_runs_has_no_mark_of_a_controller_and_no_empty_column(tmp_path):
    study = planted(blocks=1)
    study.runs["tags.ablate.heartbeat.host.1.2"] = "17"
    study.runs["tags.mlflow.ablate.heartbeat.host.1.2"] = "17"
    study.runs["tags.ablate.owner"] = "host.1.2"
    study.runs["metrics.speed/rounds"] = float("nan")
    write_report(report_of(study), tmp_path)
    columns = set(pd.read_csv(tmp_path / "runs.csv").columns)
    assert not [c for c in columns if "heartbeat" in c or "owner" in c or c == "metrics.speed/rounds"]
    assert {"run_id", "metrics.time/train_seconds", "tags.ablate.outcome"} <= columns


def test_a_page_of_48_cells_is_small(tmp_path):
    models, datasets = ("test_resnet", "test_vit", "test_efficientnet"), ("digits", "digits100")
    write_report(report_of(planted(models, datasets, blocks=2, device="cpu", gpu=False)), tmp_path)
    page = (tmp_path / "report.html").read_bytes()
    assert len(page) < 500_000
    assert page.count(b"<details") > 10 and page.count(b'href="#') >= 9
    ids = set(re.findall(rb'<h2 id="([a-z]+)"', page))
    assert set(re.findall(rb'<li><a href="#([a-z]+)"', page)) == ids, "the contents name every section"


@pytest.mark.slow
def test_a_page_of_ten_thousand_runs_is_no_more_than_two_megabytes(tmp_path):
    models, names = tuple(f"m{i}" for i in range(13)), ("ga", "amp", "pm", "fused", "compile")
    study = planted(models, ("d1", "d2"), blocks=12, techniques=names, truth={"ga": -0.1})
    assert len(study.runs) == 9984
    write_report(report_of(study), tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 2_000_000
