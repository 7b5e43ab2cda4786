"""`ablate techniques`, and the tables of the documents that are made from the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from pipeline.commands import techniques
from pipeline.design.techniques import TECHNIQUES
from tests.support.ablate import Result
from tests.support.technique_tables import PAGES, renewed


@pytest.fixture
def listed(ablate: Callable[..., Result]) -> Callable[..., str]:
    """What `ablate techniques` prints."""

    def printed(*arguments: str) -> str:
        done = ablate("techniques", *arguments)
        assert (done.code, done.err) == (0, "")
        return done.out

    return printed


@pytest.mark.parametrize("page", PAGES)
def test_the_documents_have_the_table_of_the_rows(page: str) -> None:
    text, wanted = renewed(page)
    assert text == wanted, "python -m tests.support.technique_tables renews it"


def test_one_line_for_each_where_nobody_looks(listed: Callable[..., str]) -> None:
    heading, _, *rows = listed().splitlines()
    assert heading.split(" | ")[0] == "| name" and "\x1b" not in heading
    assert [row.split("`")[1] for row in rows] == list(TECHNIQUES)
    assert "| `tf32` | TensorFloat-32 matrix products and convolutions | `precision` | on | cpu, cuda |" in rows[5]
    assert rows[5].endswith("| on cuda: capability 8.0 | rounding | forward, backward | cpu |")


def test_a_drawn_table_on_a_terminal(listed: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr("pipeline.streams.ControlStream.isatty", lambda _: True)
    shown = listed()
    assert "━" in shown and "| ---" not in shown
    for name, technique in TECHNIQUES.items():
        assert f"│ {name} " in shown and technique.description[:20] in shown


def test_one_document_for_programs(listed: Callable[..., str]) -> None:
    rows = json.loads(listed("--json"))["techniques"]
    assert [row["name"] for row in rows] == list(TECHNIQUES)
    graph = next(row for row in rows if row["name"] == "cuda_graph")
    assert graph == {
        "name": "cuda_graph",
        "description": TECHNIQUES["cuda_graph"].description,
        "owns": ["cuda_graph"],
        "levels": {"default": {"cpu": "on", "cuda": "on"}, "allowed": "on"},
        "devices": ["cuda"],
        "requires": ["cuda", "not with compile=reduce-overhead/max-autotune", "not with grad_checkpoint"],
        "preserves": "exact",
        "saves": ["launches"],
        "inert_on": [],
    }
    amp = next(row for row in rows if row["name"] == "amp")
    assert amp["levels"] == {"default": {"cpu": "bf16", "cuda": "fp16"}, "allowed": "fp16, bf16"}


def test_a_new_row_is_shown(listed: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(TECHNIQUES["pm"], name="turbo", inert_on=frozenset(("cuda",)), saves=())
    monkeypatch.setattr(techniques, "TECHNIQUES", {"turbo": row})
    _, _, shown = listed().splitlines()
    assert shown.startswith("| `turbo` | pinned") and shown.endswith("| exact |  | cuda |")
