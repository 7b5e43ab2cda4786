"""Contenders do the same work; a block pairs them and notices when one does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.bench.cases import Case
from pipeline.bench.loops import race
from pipeline.bench.loops.contenders import BUILT_IN, Ablate, Bare, weights
from pipeline.bench.loops.workload import Work, build_workload
from pipeline.training import environment
from tests.support.bench import CASE, HERE, Noted


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_all_end_with_the_same_weights(model: str) -> None:
    block = race.run_block(replace(CASE, model=model), HERE, 0)
    assert set(block.seconds) == set(HERE)
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in block.seconds.values())
    assert max(block.difference.values()) < 1e-6, "on a CPU the arithmetic is the same to the last bit or nearly"


def test_the_same_weights_after_several_epochs_in_bfloat16() -> None:
    made = build_workload(replace(CASE, precision="bf16"))
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


class Inexact(Bare):
    """Adds its gradients up otherwise in every call, as a GPU's convolutions do (more coarsely: 60 steps suffice)."""

    made = 0

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        Inexact.made += 1
        noise = torch.Generator().manual_seed(Inexact.made)
        for parameter in self.model.parameters():
            parameter.register_hook(lambda grad: grad * (1 + 1e-4 * torch.randn(grad.shape, generator=noise)))


class InexactAndFaster(Inexact):
    """Has another learning rate, and that noise."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._optimizer.param_groups[0]["lr"] *= 1.05


class Forgetful(Inexact):
    """Begins every epoch without momentum."""

    def _epoch(self, number: int) -> None:
        self._optimizer.state.clear()
        super()._epoch(number)


@pytest.fixture
def gpu_case(monkeypatch: pytest.MonkeyPatch) -> Case:
    """A race that takes the CPU for a GPU, with epochs long enough for rounding to grow into other weights."""
    monkeypatch.setattr(environment, "prepare_process", lambda _spec: None)
    monkeypatch.setattr(environment, "open_device", lambda _spec: torch.device("cpu"))
    monkeypatch.setitem(race.BUILT_IN, "bare", Inexact)
    monkeypatch.setattr(Inexact, "made", 0)
    return replace(CASE, device="cuda", windows=60, rounds=1)


def test_a_gpus_own_noise_is_not_taken_for_other_work(gpu_case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(race.BUILT_IN, "timm", Inexact)
    block = race.run_block(gpu_case, ("bare", "timm"), 0)
    assert block.difference["timm"] < 0.005, "far from what is allowed"
    work = build_workload(gpu_case)
    long = {"bare": Inexact(work), "timm": Inexact(work)}
    for contender in long.values():
        contender.epoch(1)
    with pytest.raises(RuntimeError, match="timm did not do the same work"):  # what the whole epoch would say
        race.differences(work, dict(long))


@pytest.mark.parametrize("cheat", [InexactAndFaster, Forgetful])
def test_other_work_is_noticed_in_a_gpus_noise(cheat: Any, gpu_case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(race.BUILT_IN, "timm", cheat)
    with pytest.raises(RuntimeError, match="timm did not do the same work"):
        race.run_block(gpu_case, ("bare", "timm"), 0)


def test_all_do_the_same_work_where_a_gpu_compares_it(gpu_case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(race.BUILT_IN, "bare", Bare)
    block = race.run_block(replace(gpu_case, windows=3), HERE, 0)
    assert set(block.difference) == set(HERE) and max(block.difference.values()) < 1e-6


def test_ablate_races_with_its_own_trainer_epoch_by_epoch(work: Work) -> None:
    contender = Ablate(work)
    before = weights(contender.model)
    assert contender.epoch(1) > 0
    after = weights(contender.model)
    assert not torch.equal(before, after)
    with pytest.raises(ValueError, match="epoch 3 after 1"):
        contender.epoch(3)
    contender.close()


def raced(device: Any, rounds: int = 20) -> tuple[list[str], dict[str, list[float]]]:
    seen: list[str] = []
    contenders: Any = {name: Noted(name, seen) for name in "abcd"}
    return seen, race._rounds(replace(CASE, rounds=rounds, device=device), contenders, 0)


def test_on_a_cpu_every_step_is_followed_by_those_of_the_others() -> None:
    seen, found = raced("cpu")
    assert all(len(values) == 20 for values in found.values())
    turn = [seen[start : start + 4] for start in range(0, len(seen), 4)]
    assert len(turn) == 20 * 3
    for number, names in enumerate(turn):
        assert sorted(names) == [f"{name}{number // 3 + 2}.{number % 3}" for name in "abcd"]
    assert len({tuple(name[0] for name in names) for names in turn}) > 10, "the order is shuffled before every turn"
    assert raced("cpu")[0] == seen, "the order is the block's own, and the same in every call"


def test_on_a_gpu_every_contender_has_an_epoch_in_one_piece() -> None:
    seen, found = raced("cuda")
    assert all(len(values) == 20 for values in found.values())
    pieces = [seen[start : start + 3] for start in range(0, len(seen), 3)]
    assert all([step[0] for step in piece] == [piece[0][0]] * 3 for piece in pieces)
    assert len({tuple(piece[0][0] for piece in pieces[start : start + 4]) for start in range(0, 80, 4)}) > 5
