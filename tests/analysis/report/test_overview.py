"""The study in one table, and recommendations that say the same on one card."""

from pipeline.analysis.report import overview as module
from pipeline.analysis.report.document import report_document
from tests.support.planted import planted
from tests.support.reports import pages_of, report_of


def test_each_technique_alone_and_all_together_for_each_group_averages_first():
    report = report_of(planted(models=("m1", "m2"), datasets=("d1", "d2"), blocks=4))
    document = report_document(report)
    found = module.overview(document["effects"])
    assert found.columns == ("ga", "amp", "pm", "ga+amp+pm") and found.alone
    assert [label for label, _ in found.rows] == ["all", *(f"{m} / {d}" for m in ("m1", "m2") for d in ("d1", "d2"))]
    amp = found.rows[1][1][1]
    (wanted,) = [
        row
        for row in document["effects"]
        if (row["model"], row["dataset"], row["term"], row["kind"], row["response"])
        == ("m1", "d1", "amp", "simple", "train_seconds")
    ]
    assert amp[0] == wanted and amp[1]["response"] == "accuracy"
    page, text = pages_of(report)
    said = f"{1 / wanted['estimate']:.2f}×"
    assert f'<span class="tag pays" title="pays">P</span> <b>{said}</b>' in page
    assert f"P {said}" in next(line for line in text.splitlines() if line.startswith("| m1 / d1 |"))


def test_what_cannot_act_has_no_verdict_there_whatever_it_seems_to_do():
    report = report_of(planted(blocks=5, device="cpu", gpu=False, truth={"pm": -0.2}))
    (row,) = [
        row
        for row in report_document(report)["effects"]
        if (row["term"], row["kind"], row["response"]) == ("pm", "simple", "train_seconds")
    ]
    assert row["verdict"] == "pays" and row["control"]
    page, text = pages_of(report)
    said = f"{1 / row['estimate']:.2f}×"
    assert f'<span class="tag control" title="A/A control">A/A</span> <b>{said}</b>' in page
    (cells,) = [line.split(" | ") for line in text.splitlines() if f" A/A {said}" in line]
    assert cells[3].startswith(f"A/A {said}")
    assert 'class="is-control"' in page


def test_one_group_is_no_average_and_many_groups_fit_the_page():
    one = module.overview(report_document(report_of(planted(blocks=2)))["effects"])
    assert [label for label, _ in one.rows] == ["resnet / digits"] and one.shared == "resnet / digits"
    study = planted(models=tuple(f"m{i}" for i in range(30)), blocks=1, techniques=("ga",), truth={})
    many = module.overview(report_document(report_of(study))["effects"])
    assert len(many.rows) == module.MAX_ROWS and many.left_out == 31 - module.MAX_ROWS
    assert module.overview([]) is None


def test_answers_that_agree_are_one_card():
    def row(model, cell):
        line = "" if cell == "baseline" else f"--set {cell}=1"
        return {"model": model, "dataset": "d", "cell": cell, "settings": line}

    rows = [*(row(f"m{i}", "ga") for i in range(5)), row("m5", "baseline")]
    most, other = module.gathered(rows)
    assert (most.cell, most.where, len(most.groups)) == ("ga", "same in 5 of 6; differs: m5", 5)
    assert (other.cell, other.where) == ("baseline", "1 of 6: m5")
    assert [a.where for a in module.gathered(rows[:5])] == ["same in all 5"]
    assert [a.where for a in module.gathered(rows[:1])] == ["m0 / d"]
