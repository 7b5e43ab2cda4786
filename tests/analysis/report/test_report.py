"""The report's files, the audit, the comparison."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis import recommendation
from pipeline.analysis.comparison import compare_studies
from pipeline.analysis.effects import COLUMNS, estimate
from pipeline.analysis.report import drawing, effect_figures, figures, headlines, run_figures
from pipeline.analysis.report.document import report_document
from pipeline.analysis.report.files import write_report
from pipeline.tracking.study_data import StudyData
from tests.support.planted import planted
from tests.support.reports import report_of, written_report

HOSTILE = "<script>alert(1)</script>|x `y` ${7*7} {{ 7*7 }}"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    study = replace(planted(models=("m1", "m2"), blocks=3), name=HOSTILE)
    study.runs["tags.ablate.error"] = None
    study.runs.loc[0, "tags.ablate.outcome"] = "oom"
    study.runs.loc[0, "tags.ablate.error"] = HOSTILE
    study.runs.loc[1, "tags.ablate.tainted"] = HOSTILE
    study.runs["tags.env.hostname"] = HOSTILE
    built = report_of(study, paper=True)
    out = tmp_path_factory.mktemp("report")
    return built, out, write_report(built, out)


def test_all_files_of_the_contract_are_written(written):
    _, out, files = written
    assert {"report.html", "report.md", "report.json", "runs.csv", "effects.csv"} <= {p.name for p in files}
    assert {"audit.md", "audit_claims.csv"} <= {p.name for p in files}
    assert all(p.stat().st_size > 0 for p in files)
    assert list(pd.read_csv(out / "effects.csv").columns) == COLUMNS
    assert len(pd.read_csv(out / "runs.csv")) == 48


def test_the_json_is_strict_and_holds_the_effects(written):
    built, out, _ = written

    def refuse(value):
        raise ValueError(value)

    data = json.loads((out / "report.json").read_text(), parse_constant=refuse)
    assert len(data["effects"]) == len(built.effects.table)
    assert set(COLUMNS) <= set(data["effects"][0])
    assert data["outcomes"][0].keys() >= {"model", "cell", "oom"}


def test_hostile_text_stays_text(written):
    _, out, _ = written
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "{{ 7*7 }}" in page
    assert "<script" not in text.replace("\\<script", "")
    for line in text.splitlines():
        if line.startswith("| "):
            assert "|x" not in line.replace("\\|", "")


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.ids, self.references = [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append((tag, values))
        if "id" in values:
            self.ids.append(values["id"])
        for key in ("src", "href", "xlink:href", "action"):
            if key in values:
                self.references.append(values[key])


def test_the_page_is_self_contained_and_accessible(written):
    _, out, _ = written
    text = (out / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert all(r.startswith(("#", "data:")) for r in page.references)
    assert not [t for t, _ in page.tags if t in ("script", "link") and t != "link"]
    assert len(page.ids) == len(set(page.ids))
    names = [t for t, _ in page.tags]
    assert names.count("table") == names.count("caption") > 5
    assert all("scope" in a for t, a in page.tags if t == "th")
    figures = [a for t, a in page.tags if t == "svg"]
    assert len(figures) >= 6
    for figure in figures:
        assert figure["role"] == "img"
        assert set(figure["aria-labelledby"].split()) <= set(page.ids)
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | {r[1:] for r in page.references if r[0] == "#"}
    assert used <= set(page.ids)


def test_every_figure_follows_the_page_colours(written):
    built, _, _ = written
    drawings = figures.draw_figures(built)
    assert [d.key for d in drawings] == ["forest", "interactions", "budget", "pareto", "curves", "order"]
    for figure in drawings:
        hard = set(re.findall(r"#[0-9a-f]{6}\b", figure.svg)) - {"#000000"}
        assert not hard, (figure.key, hard)
        assert "var(--" in figure.svg
        assert len(figure.alt) > 20


@pytest.mark.parametrize("name", ["pm", "channels_last", "non_blocking_only"])
def test_names_under_the_figure_of_interactions_are_whole_and_apart(name, monkeypatch):
    kept = []
    monkeypatch.setattr(drawing, "render", lambda fig, *_: kept.append(fig) or "")
    effect_figures.interactions(estimate(planted(blocks=1, techniques=("ga", name, "amp", f"x{name}"))))
    (fig,) = kept
    fig.draw_without_rendering()
    for row in (fig.axes[:3], fig.axes[3:]):
        boxes = [label.get_window_extent() for ax in row for label in ax.get_xticklabels()]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
        assert boxes[0].x0 > 0 and boxes[-1].x1 < fig.bbox.x1 and min(box.y0 for box in boxes) > 0
    above, below = (ax.get_window_extent() for ax in (fig.axes[0], fig.axes[3]))
    assert min(label.get_window_extent().y0 for label in fig.axes[0].get_xticklabels()) > below.y1 < above.y0


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_curves_are_drawn_at_their_epochs(epochs, monkeypatch):
    """The step of an epoch's metrics is its number, from 1; they were drawn one epoch late."""
    kept = []
    monkeypatch.setattr(drawing, "render", lambda fig, *_: kept.append(fig) or "")
    study = planted(models=("m1",), blocks=1)
    shorter = study.history[study.history["step"] <= epochs]
    run_figures.curves(estimate(study), shorter)
    (axes,) = [ax for ax in kept[0].axes if ax.get_visible()]
    assert {tuple(line.get_xdata()) for line in axes.lines} == {tuple(range(1, epochs + 1))}
    kept[0].draw_without_rendering()
    low, high = axes.get_xlim()
    shown = [float(label.get_text()) for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
    assert shown and all(value.is_integer() for value in shown), "there is no half epoch"


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1.7976931348623157e308])
def test_the_curve_of_a_diverged_run_has_no_point(value):
    """MLflow keeps an infinite loss as the largest number; the axis would have to reach it."""
    study = planted(models=("m1",), blocks=2)
    effects = estimate(study)
    for hit in (study.history.index == 0, study.history.index >= 0):  # one point, and all
        history = study.history.assign(value=study.history["value"].where(~hit, value))
        drawn = run_figures.curves(effects, history)
        assert (drawn is None) == hit.all()


def test_equal_data_give_equal_bytes(written, tmp_path):
    built, out, _ = written
    for path in write_report(report_of(built.study, paper=True), tmp_path):
        assert path.read_bytes() == (out / path.name).read_bytes(), path.name


def test_a_cpu_report_labels_the_control(tmp_path):
    built = written_report(planted(device="cpu", gpu=False, blocks=3), tmp_path)
    assert "A/A control" in (tmp_path / "report.html").read_text()
    assert "A/A control" in (tmp_path / "report.md").read_text()
    assert any("pm" in line and "A/A" in line for line in headlines.summary_lines(built))
    assert "GPU energy" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("joules", [0.0, None])
def test_a_study_without_energy_has_no_effect_on_it(joules, tmp_path, recwarn):
    """A device's counter moves every 20 to 100 ms: a short epoch may have 0 J, which has no logarithm."""
    study = planted(blocks=2)
    study.runs["metrics.energy/gpu_joules"] = joules
    built = written_report(study, tmp_path)
    assert "gpu_joules" not in set(built.effects.table["response"]) | set(built.effects.cells["response"])
    assert "GPU energy" not in (tmp_path / "report.html").read_text()
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_a_cell_without_energy_has_no_effect_on_it(recwarn):
    study = planted(blocks=2)
    study.runs.loc[study.runs["params.techniques"].eq("amp"), "metrics.energy/gpu_joules"] = 0.0
    built = report_of(study)
    rows = built.effects.table.query("response == 'gpu_joules'")
    assert rows.query("term == 'amp' and kind == 'simple'")["estimate"].isna().all()
    assert rows.query("term == 'pm' and kind == 'simple'")["estimate"].notna().all()
    assert "amp" not in set(built.effects.cells.query("response == 'gpu_joules'")["cell"])
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


@pytest.mark.parametrize("study", [StudyData("empty", pd.DataFrame()), None])
def test_a_report_without_a_finished_run_still_renders(study, tmp_path):
    if study is None:
        study = planted(blocks=1)
        study.runs["tags.ablate.outcome"] = "oom"
    built = written_report(study, tmp_path, paper=True)
    assert "nothing to estimate" in (tmp_path / "report.html").read_text()
    assert headlines.summary_lines(built)


def test_a_fraction_prints_its_aliases(tmp_path):
    from pipeline.design.factorial import fractional

    names = tuple("abcdef")
    cells = [tuple(r.values()) for r in fractional(names)]
    study = planted(blocks=2, techniques=names, truth={})
    keep = [s in cells for s in study.runs[[f"params.{n}" for n in names]].eq("on").itertuples(index=False, name=None)]
    written_report(replace(study, runs=study.runs[keep]), tmp_path)
    assert "a:b = c:e = d:f" in (tmp_path / "report.html").read_text()
    assert "a:b = c:e = d:f" in (tmp_path / "report.md").read_text()


def test_lenth_is_said_in_the_report(tmp_path):
    written_report(planted(blocks=1), tmp_path)
    assert "Lenth" in (tmp_path / "report.html").read_text()


def advice(study, **kwargs):
    options = {"accuracy_margin_points": kwargs.pop("points", 1.0)}
    return recommendation.recommend(estimate(study, **options), study, **kwargs)[0]


def test_the_recommendation_is_the_fastest_cell_that_may_be_used():
    study = planted(blocks=5, noise=0.003, truth={"ga": np.log(0.9), "amp": np.log(0.7)})
    best = advice(study)
    assert best.cell.startswith("ga+amp")
    assert best.set_line.startswith("--set accumulation_steps=2 ")
    assert "--set precision=fp16" in best.set_line
    assert best.high < 1
    assert advice(study, points=0.1).cell in ("ga", "ga+pm", "baseline")  # amp costs 0.4 points
    assert "amp" in advice(study, memory_limit_mib=3000).cell
    none = advice(study, memory_limit_mib=100)
    assert (none.cell, none.set_line) == ("baseline", "")
    assert "memory limit" in none.reason


def test_a_cell_that_is_not_shown_faster_is_not_recommended():
    found = advice(planted(blocks=3, noise=0.01, truth={}))
    assert (found.cell, found.set_line) == ("baseline", "")
    assert "No cell is shown to be faster" in found.reason


def test_a_control_is_never_recommended():
    study = planted(blocks=5, noise=0.003, device="cpu", gpu=False, truth={"pm": np.log(0.9), "amp": np.log(0.8)})
    assert "amp" in advice(study).cell
    assert "pm" not in advice(study).cell


def test_without_recipe_fields_the_recommendation_names_techniques():
    study = planted(blocks=5, noise=0.003)
    bare = study.runs.drop(columns=[c for c in study.runs if c.startswith("params.recipe.")])
    assert advice(replace(study, runs=bare)).set_line.startswith("--techniques ga,amp")


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


def test_comparing_a_study_with_itself_shows_no_change():
    study = planted(blocks=3)
    same = compare_studies(study, study)
    assert same.cells["ratio"].where(
        same.cells["unit"].eq("ratio"), 1 + same.cells["ratio"]
    ).to_numpy() == pytest.approx(1)
    assert same.provenance == {}
    assert "Nothing that was recorded" in same.to_markdown()


def test_comparing_finds_what_changed_and_where_it_ran():
    slow = planted(blocks=5, noise=0.005, seed=1, truth={"amp": np.log(0.9)})
    fast = planted(blocks=5, noise=0.005, seed=2, truth={"amp": np.log(0.6)})
    fast.runs["metrics.time/train_seconds"] *= 0.5
    fast.runs["tags.env.hostname"] = "other"
    lost = fast.runs["params.techniques"].eq("ga")
    found = compare_studies(slow, replace(fast, runs=fast.runs[~lost]))
    main = found.effects.query("term == 'amp' and kind == 'main' and response == 'train_seconds'").iloc[0]
    assert main["low"] < 0.6 / 0.9 < main["high"]
    base = found.cells.query("cell == 'baseline' and response == 'train_seconds'").iloc[0]
    assert base["low"] < 0.5 * np.sqrt(0.9 / 0.6) < base["high"]
    assert found.only_a == ("resnet/digits/ga",)
    assert found.provenance == {"hostname": (("host",), ("other",))}
    json.loads(found.to_json())
    assert "| hostname | host | other |" in found.to_markdown()


@pytest.mark.parametrize(
    ("further", "words"),
    [
        (1.0, "about 1 more block would decide it."),
        (7.0, "about 7 more blocks would decide it."),
        (float("nan"), "more blocks will hardly decide it."),
        (None, "more blocks will hardly decide it."),
    ],
)
def test_a_headline_says_how_many_more_blocks_would_decide(further, words):
    row = {"term": "ga", "kind": "main", "estimate": 0.9, "low": 0.8, "high": 1.1, "verdict": "undecided"}
    assert (
        headlines.headline(row, control=False, further=further)
        == f"ga: 1.111x as fast [0.909, 1.250], undecided; {words}"
    )
    assert "more" not in headlines.headline(row, control=True, further=further)
