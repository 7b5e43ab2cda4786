"""Contenders do the same work; a block pairs them and notices when one does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.bench import race
from pipeline.bench.cases import CONTENDERS, Case, missing
from pipeline.bench.contenders import BUILT_IN, Ablate, Bare, weights
from pipeline.bench.peers import PEERS
from pipeline.bench.work import Work, build

CASE = Case("test_resnet", batch=8, windows=3, rounds=2, threads=1, image_size=16)
HERE = tuple(name for name in CONTENDERS if missing(name) is None)


@pytest.fixture(autouse=True)
def _torch_settings() -> Iterator[None]:
    """A block has its process to itself; here its settings are put back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def work() -> Work:
    return build(CASE)


def test_every_contender_is_made_somewhere() -> None:
    assert {*BUILT_IN, *PEERS} == set(CONTENDERS)


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_all_end_with_the_same_weights(model: str) -> None:
    block = race.run_block(replace(CASE, model=model), HERE, 0)
    assert set(block.seconds) == set(HERE)
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in block.seconds.values())
    assert max(block.difference.values()) < 1e-6, "on a CPU the arithmetic is the same to the last bit or nearly"


def test_the_same_weights_after_several_epochs_in_bfloat16() -> None:
    made = build(replace(CASE, precision="bf16"))
    found = {name: BUILT_IN[name](made) for name in BUILT_IN}
    for epoch in (1, 2, 3):
        for contender in found.values():
            assert contender.epoch(epoch) > 0
    race.differences(made, found)
    for contender in found.values():
        contender.close()


class Skipping(Bare):
    """Leaves the last batch out."""

    def _epoch(self, number: int) -> None:
        whole = self._work
        self._work = replace(whole, labels=whole.labels[:-8])
        super()._epoch(number)
        self._work = whole


class Faster(Bare):
    """Has another learning rate."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._optimizer.param_groups[0]["lr"] *= 1.01


class Idle(Bare):
    """Does nothing."""

    def _epoch(self, number: int) -> None:
        del number


@pytest.mark.parametrize("cheat", [Skipping, Faster, Idle])
def test_other_work_is_noticed(work: Work, cheat: Any) -> None:
    contenders: dict[str, Any] = {"bare": Bare(work), "cheat": cheat(work)}
    for contender in contenders.values():
        contender.epoch(1)
    with pytest.raises(RuntimeError, match="cheat did not do the same work"):
        race.differences(work, contenders)


def test_ablate_races_with_its_own_trainer_epoch_by_epoch(work: Work) -> None:
    contender = Ablate(work)
    before = weights(contender.model)
    assert contender.epoch(1) > 0
    after = weights(contender.model)
    assert not torch.equal(before, after)
    with pytest.raises(ValueError, match="epoch 3 after 1"):
        contender.epoch(3)
    contender.close()


def test_the_order_of_contenders_is_shuffled_and_every_round_has_all(work: Work) -> None:
    seen: list[str] = []

    class Noted:
        def __init__(self, name: str) -> None:
            self.name = name

        def epoch(self, number: int) -> float:
            seen.append(f"{self.name}{number}")
            return 1.0

    contenders: Any = {name: Noted(name) for name in "abcd"}
    found = race._rounds(replace(CASE, rounds=20), contenders, 0)
    assert all(len(values) == 20 for values in found.values())
    rounds = [tuple(name[0] for name in seen[start : start + 4]) for start in range(0, 80, 4)]
    assert all(set(names) == set("abcd") for names in rounds)
    assert len(set(rounds)) > 5
    again: list[str] = []
    seen, again = again, seen
    race._rounds(replace(CASE, rounds=20), contenders, 0)
    assert seen == again, "the order is the block's own, and the same in every call"
    del work
