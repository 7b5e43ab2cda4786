"""`ablate list`: what there is to choose from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.listing import recipe_meanings
from pipeline.design.catalog import DATASETS, MODELS
from pipeline.design.spec import Recipe
from pipeline.design.study import load_study, parse_settings
from pipeline.design.techniques import TECHNIQUES
from tests.support.ablate import Result, ablate_in_process

Ablate = Callable[..., Result]


def listed(ablate: Ablate, *words: str) -> list[dict[str, Any]]:
    """The rows of `ablate list`."""
    rows: list[dict[str, Any]] = ablate("list", *words, "--json").json()[words[0]]
    return rows


def test_techniques_models_and_data_sets_are_those_of_the_tables(ablate: Ablate) -> None:
    assert [row["name"] for row in listed(ablate, "techniques")] == list(TECHNIQUES)
    assert [row["name"] for row in listed(ablate, "models")] == list(MODELS)
    assert [row["name"] for row in listed(ablate, "datasets")] == list(DATASETS)


def test_timms_models_are_found_by_a_pattern(ablate: Ablate) -> None:
    rows = listed(ablate, "models", "timm:convnext_att*")
    assert {"name": "timm:convnext_atto", "timm": "convnext_atto", "weights": ["d2_in1k"]} in rows
    assert all(row["name"].startswith("timm:convnext_att") for row in rows)
    assert {row["name"] for row in listed(ablate, "models", "test_vit")} > {"test_vit", "timm:test_vit2"}, "a part"


def test_folders_with_a_training_part_are_data_sets(ablate: Ablate, tmp_path: Path) -> None:
    (tmp_path / "photos" / "train").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    assert [row["name"] for row in listed(ablate, "datasets", "folder")] == ["imagefolder:photos"]


def test_every_field_of_the_recipe_says_what_it_takes_and_what_it_does(ablate: Ablate) -> None:
    rows = {row["name"]: row for row in listed(ablate, "fields")}
    assert list(rows) == list(Recipe.model_fields) and set(recipe_meanings()) == set(rows)
    assert all(row["type"] and row["what it does"] for row in rows.values())
    assert all(row["allowed"] for row in rows.values()) and rows["weights"]["allowed"] == "a text, null"
    assert rows["precision"]["allowed"] == "fp32, tf32, fp16, bf16" and rows["precision"]["default"] == "fp32"
    assert (rows["clip_norm"]["type"], rows["clip_norm"]["allowed"]) == ("number or null", "> 0, null")
    assert rows["nesterov"]["what it does"] == rows["momentum"]["what it does"] == "of SGD."


def test_a_default_is_shown_as_set_takes_it(ablate: Ablate) -> None:
    for line in ablate("list", "fields").out.splitlines():
        name, *cells = re.split(r" {2,}", line)
        default = cells[-2]
        assert parse_settings([f"{name}={default}"])[name] == Recipe.model_fields[name].default


def test_studies_are_files_and_what_the_store_has(
    finished: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _ = finished
    rows = {row["name"]: row for row in listed(lambda *words: ablate_in_process(*words, cwd=place), "studies")}
    assert rows["quickstart"]["runs"] == 2 and Path(rows["quickstart"]["file"]).is_file()
    assert rows["paper"]["runs"] is None and rows["paper"]["title"] == load_study("paper").title
    monkeypatch.setattr("pipeline.tracking.mlflow_sqlite.count_runs", lambda _: None)
    through_client = listed(lambda *words: ablate_in_process(*words, cwd=place), "studies", "quick")
    assert [(row["name"], row["runs"]) for row in through_client] == [("quickstart", None)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nonsense",), ("'nonsense'", "'techniques'", "'fields'")),
        ((), ("techniques",)),
        (("fields", "lerning_rate"), ("PATTERN", "'lerning_rate'", "did you mean learning_rate?")),
        (("models", "timm:*nonsense*"), ("PATTERN", "nonsense")),
        (("studies", "--tracking-uri", "sqlite:///none.db"), ("none.db", "no such file")),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(
    arguments: tuple[str, ...], words: tuple[str, ...], ablate: Ablate
) -> None:
    found = ablate("list", *arguments)
    assert found.code == 2 and all(word in found.line for word in words), found.err


def test_a_drawn_table_on_a_terminal(ablate: Ablate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("pipeline.streams.ControlStream.isatty", lambda _: True)
    text = re.sub("\x1b\\[[0-9;]*m", "", ablate("list", "fields").out)
    assert "allowed" in text and "─" in text and max(map(len, text.splitlines())) <= 80
    assert all(re.search(rf"^ ?{name} ", text, re.MULTILINE) for name in Recipe.model_fields)
    assert "--set FIELD=VALUE" in text.splitlines()[-1]
