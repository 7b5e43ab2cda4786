"""A report with hostile text in every place, written once."""

from dataclasses import replace

import pytest

from pipeline.analysis.report.files import write_report
from tests.support.planted import planted
from tests.support.reports import report_of

HOSTILE = "<script>alert(1)</script>|x `y` ${7*7} {{ 7*7 }}"


@pytest.fixture(scope="session")
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
