"""The other libraries beside our own loops."""

from __future__ import annotations

import pytest

from pipeline.bench.cases import CONTENDERS
from pipeline.bench.loops import contenders, workload
from pipeline.bench.loops.contenders import BUILT_IN
from pipeline.bench.loops.libraries import PEERS
from pipeline.bench.loops.workload import Work
from tests.support.bench import CASE, HERE


def test_every_contender_is_made_somewhere() -> None:
    assert {*BUILT_IN, *PEERS} == set(CONTENDERS)


@pytest.mark.parametrize("name", HERE)
def test_every_contender_gives_way_before_every_batch(name: str, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    given = 0

    def count() -> None:
        nonlocal given
        given += 1

    for module in (contenders, workload):
        monkeypatch.setattr(module, "give_way", count)
    contender = {**BUILT_IN, **PEERS}[name](work)
    contender.epoch(1)
    assert CASE.windows <= given <= CASE.windows + 1, "once more to find that there is none left"
    contender.close()
