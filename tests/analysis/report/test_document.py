"""report.json."""

import json
import re
from pathlib import Path

from pipeline.analysis.effects import COLUMNS


def test_the_json_is_strict_and_holds_the_effects(written):
    built, out, _ = written

    def refuse(value):
        raise ValueError(value)

    data = json.loads((out / "report.json").read_text(), parse_constant=refuse)
    assert len(data["effects"]) == len(built.effects.table)
    assert set(COLUMNS) <= set(data["effects"][0])
    assert data["outcomes"][0].keys() >= {"model", "cell", "oom"}


def test_every_key_is_documented(written):
    """docs/report.md is the list of them."""
    _, out, _ = written
    data = json.loads((out / "report.json").read_text())
    text = (Path(__file__).parents[3] / "docs" / "report.md").read_text()
    table = text[text.index("## report.json") : text.index("## runs.csv")]
    named = set(re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE))
    assert len(data) > 20 and set(data) <= named
