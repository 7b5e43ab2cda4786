"""The pages: what they say, that they stand alone, that hostile text stays text."""

import html
import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest

from pipeline.analysis.report import headlines, render
from pipeline.analysis.report.document import report_document
from pipeline.tracking.study_data import StudyData
from tests.support.planted import planted, with_gpu
from tests.support.reports import pages_of, report_of, written_report

TIME = {"unit": "ratio", "response": "train_seconds"}


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


def test_the_controls_are_shown_for_each_model():
    page, text = pages_of(report_of(planted(models=("m1", "m2"), device="cpu", gpu=False, blocks=3)))
    assert page.count("over 3 blocks") == 3 and "<dt>A/A controls, m2 / digits</dt>" in page
    assert re.search(r"^  - m2 / digits: [+-]\d\.\d\d % \(.*\), over 3 blocks$", text, re.MULTILINE)
    page, _ = pages_of(report_of(planted(device="cpu", gpu=False, blocks=1)))
    assert page.count("over the pairs of one block") == 1


def test_the_answer_leads_both_pages_with_what_to_use():
    built = report_of(planted(blocks=3))
    document = report_document(built)
    (group,), (advice,) = document["answer"]["groups"], document["recommendations"]
    low, high = (f"{1 / advice[end]:.3f}" for end in ("high", "low"))
    assert group["line"].startswith(f"use {advice['cell']}: {1 / advice['ratio']:.3f}x as fast [{low}, {high}], ")
    for page in (html.unescape(text) for text in pages_of(built)):
        plain = page.replace("\\", "")
        assert group["line"] in plain and group["settings"] in plain
        assert all(part["line"] in plain for part in group["parts"])
        assert plain.index(group["line"]) < plain.index(group["parts"][0]["line"])


def test_a_cpu_report_labels_the_control():
    page, text = pages_of(report_of(planted(device="cpu", gpu=False, blocks=3)))
    assert "A/A control" in page
    assert "A/A control" in text
    assert "GPU energy" not in page


@pytest.mark.parametrize("joules", [0.0, None])
def test_a_study_without_energy_has_no_effect_on_it(joules, recwarn):
    """A device's counter moves every 20 to 100 ms: a short epoch may have 0 J, which has no logarithm."""
    study = planted(blocks=2)
    study.runs["metrics.energy/gpu_joules"] = joules
    built = report_of(study)
    assert "gpu_joules" not in set(built.effects.table["response"]) | set(built.effects.cells["response"])
    page = pages_of(built)[0].replace("16 finished runs with zero GPU energy", "" if joules == 0 else "?", 1)
    assert "GPU energy" not in page
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


@pytest.mark.parametrize("study", [StudyData("empty", pd.DataFrame()), None])
def test_a_report_without_a_finished_run_still_renders(study, tmp_path):
    if study is None:
        study = planted(blocks=1)
        study.runs["tags.ablate.outcome"] = "oom"
    built = written_report(study, tmp_path, paper=True)
    assert "nothing to estimate" in (tmp_path / "report.html").read_text()
    assert headlines.summary_lines(built)


def test_a_fraction_prints_its_aliases():
    from pipeline.design.factorial import fractional

    names = tuple("abcdef")
    cells = [tuple(r.values()) for r in fractional(names)]
    study = planted(blocks=2, techniques=names, truth={})
    keep = [s in cells for s in study.runs[[f"params.{n}" for n in names]].eq("on").itertuples(index=False, name=None)]
    page, text = pages_of(report_of(replace(study, runs=study.runs[keep])))
    assert "a:b = c:e = d:f" in page
    assert "a:b = c:e = d:f" in text


def test_lenth_is_said_in_the_report():
    page, _ = pages_of(report_of(planted(blocks=1)))
    assert "Lenth" in page


def test_the_report_shows_what_launching_takes():
    report = report_of(planted(blocks=2, launch_bound=0.7))
    budget = report_document(report)["budgets"][0]
    assert (budget["bound"], budget["launch_bound"]) == ("launch", pytest.approx(0.7))
    page, text = pages_of(report)
    assert '<th scope="col" class="n">launching</th>' in page
    assert '<td>launch</td><td class="n">63.1 %</td><td class="n">10.0 %</td>' in page
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("| cell | model | dataset | bound by |"))
    assert lines[at].endswith("| launching | data\\_wait | h2d | forward | backward | optimizer | idle |")
    row = "| baseline | resnet | digits | launch | 63.1 % | 10.0 % | 2.0 % | 25.0 % | 50.0 % | 8.0 % | 5.0 % |"
    assert lines[at + 1 : at + 3] == ["|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|", row]


def test_without_the_fraction_there_is_no_column_for_launching():
    page, text = pages_of(report_of(planted(blocks=2, device="cpu", gpu=False)))
    assert "launch" not in page and "launch" not in text
    assert (
        "| baseline | resnet | digits | compute | 10.0 % | 2.0 % | 25.0 % | 50.0 % | 8.0 % | 5.0 % |"
        in text.splitlines()
    )


def test_the_report_has_a_table_of_throughput():
    report = report_of(planted(blocks=2))
    document = report_document(report)
    page, text = pages_of(report)
    first = next(a for a in document["throughput"] if a["cell"] == "baseline")
    shown = [f"{100 * first[name]:.1f} %" for name in ("of_achieved", "of_peak")]
    lines = text.splitlines()
    at = lines.index("| cell | model | dataset | precision | images/s | TFLOP/s | of achieved peak | of data sheet |")
    assert lines[at + 1] == "|---|---|---|---|---:|---:|---:|---:|"
    assert lines[at + 2].startswith("| baseline | resnet | digits | fp32 | ")
    assert lines[at + 2].endswith(f" | {shown[0]} | {shown[1]} |")
    assert f'<td class="n">{shown[0]}</td><td class="n">{shown[1]}</td></tr>' in page
    assert document["fastest"][0].replace("'", "&#39;") in page


def test_a_table_has_the_columns_that_are_known():
    _, text = pages_of(report_of(with_gpu("NVIDIA H100 PCIe")))
    assert "| images/s | TFLOP/s | of data sheet |\n" in text
    for page in pages_of(report_of(planted(blocks=2, device="cpu", gpu=False))):
        assert "TFLOP/s" not in page


def test_a_long_table_keeps_the_pooled_rows(monkeypatch):
    """The page has the first rows only, and says so; the pooled ones say most."""
    report = report_of(planted(models=("m1", "m2"), blocks=2))
    whole = report_document(report)["effects"]
    monkeypatch.setattr(render, "MAX_TABLE_ROWS", 8)
    shown = render.context(report, report_document(report))
    assert len(shown["tables"]["main"]) == 8
    assert shown["total"]["main"] == len([row for row in whole if row["kind"] == "main"]) > 8
    assert {row["model"] for row in shown["tables"]["main"]} == {"all"}


@pytest.mark.parametrize(
    ("write", "value", "words"),
    [
        (render.number_text, None, "–"),
        (render.number_text, float("nan"), "–"),
        (render.number_text, 1.23456, "1.235"),
        (render.percent_text, 0.0123, "1.2 %"),
        (render.measure_text, 12345.6, "12,346"),
        (render.measure_text, 0.0123456, "0.01235"),
        (render.p_text, 0.0004, "< 0.001"),
        (render.p_text, 0.04, "0.040"),
        (render.markdown_text, "a|b*c\n", r"a\|b\*c "),
        (render.effect, {"estimate": 0.9, "unit": "ratio"}, "0.900"),
        (render.effect, {"estimate": 0.4, "unit": "points"}, "+0.40"),
        (render.interval_text, {"low": -0.1, "high": 0.4, "unit": "points"}, "-0.10 to +0.40"),
        (render.interval_text, {"low": None, "unit": "ratio"}, "–"),
        (render.effect, {"estimate": 0.5, **TIME}, "2.000"),
        (
            render.interval_text,
            {"low": 0.4, "high": 0.5, **TIME},
            "2.000 to 2.500",
        ),
        (
            render.interval_text,
            {"low": 1e-9, "high": 0.5, **TIME},
            "2.000 to > 1000",
        ),
        (render.interval_text, {"low": 0.4, "high": 0.5, "unit": "ratio", "response": "gpu_joules"}, "0.400 to 0.500"),
        (render.trust_percent, {"value": 1.05, "low": 1.0, "high": 1.1, "blocks": 0}, "+5.00 % (+0.00 to +10.00 %)"),
    ],
)
def test_values_in_words(write, value, words):
    assert write(value) == words


def test_what_is_folded_is_printed_and_what_leads_about_is_not():
    page, _ = pages_of(report_of(planted(models=("m1", "m2"), datasets=("d1", "d2"), blocks=2)))
    assert page.count("<details open>") >= 1 and page.count("<details>") > 5
    printed = page[page.index("@media print") : page.index("</style>")]
    assert "details::details-content { content-visibility: visible" in printed and "nav { display: none; }" in printed
    first = page.index("Main effects: average over all 2 models and 2 data sets")
    assert first < page.index("Main effects: m1 / d1"), "averages first"


def test_alarms_stand_above_everything():
    study = planted(blocks=2)
    study.runs.loc[0, "tags.ablate.tainted"] = "neighbour"
    page, _ = pages_of(report_of(study))
    assert page.index('class="note alarm"') < page.index("<main>")
