"""Two studies side by side."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.analysis.comparison import compare_studies
from tests.support.planted import planted


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
