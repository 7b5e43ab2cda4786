"""Contenders take turns step by step, and wait for nobody else."""

from __future__ import annotations

import random
import time
from functools import partial
from typing import Any

import pytest

from pipeline.bench.loops import interleave
from tests.support.bench import Noted


def test_the_time_of_others_turns_is_not_counted() -> None:
    def sleeper(seconds: float) -> Any:
        def epoch() -> float:
            began = interleave.now()
            for _step in range(5):
                interleave.give_way()
                time.sleep(seconds)
            return interleave.now() - began

        return epoch

    found = interleave.take_turns({"slow": sleeper(0.04), "fast": sleeper(0.001)}, random.Random(1))
    assert found["slow"] >= 0.2 and 0.005 <= found["fast"] < 0.1
    began = interleave.now()
    interleave.give_way()  # nobody to give way to
    assert interleave.now() - began < 0.1


def test_contenders_that_end_earlier_leave_the_rest_to_the_others() -> None:
    seen: list[str] = []
    actions = {name: partial(Noted(name, seen, steps).epoch, 1) for name, steps in (("a", 1), ("b", 0), ("c", 4))}
    assert set(interleave.take_turns(actions, random.Random(1))) == {"a", "b", "c"}
    assert sorted(seen) == ["a1.0", "c1.0", "c1.1", "c1.2", "c1.3"]


def test_an_error_of_one_ends_all() -> None:
    ended: list[str] = []

    def waits() -> float:
        try:
            while True:
                interleave.give_way()
        finally:
            ended.append("waits")

    def fails() -> float:
        for _step in range(3):
            interleave.give_way()
        raise RuntimeError("no more images")

    with pytest.raises(RuntimeError, match="no more images"):
        interleave.take_turns({"waits": waits, "fails": fails}, random.Random(1))
    assert ended == ["waits"]
