"""report.json."""

import json

from pipeline.analysis.effects import COLUMNS


def test_the_json_is_strict_and_holds_the_effects(written):
    built, out, _ = written

    def refuse(value):
        raise ValueError(value)

    data = json.loads((out / "report.json").read_text(), parse_constant=refuse)
    assert len(data["effects"]) == len(built.effects.table)
    assert set(COLUMNS) <= set(data["effects"][0])
    assert data["outcomes"][0].keys() >= {"model", "cell", "oom"}
