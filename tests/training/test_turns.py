"""Training in turns is the same training, and what it measures is what a run measures."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.design.spec import RunSpec
from pipeline.training import environment, models
from pipeline.training.data import inputs, store
from pipeline.training.data.prefetch import NAME, Prefetcher
from pipeline.training.losses import DivergedError
from pipeline.training.trainer import Run, train
from pipeline.training.turns import Turns
from tests.support.training import small_spec

CPU = torch.device("cpu")


def prepared(spec: RunSpec, folder: Path) -> tuple[torch.nn.Module, inputs.Inputs]:
    environment.prepare_process(spec)
    source = store.prepare_dataset(spec.dataset, folder, image_size=spec.recipe.image_size)
    environment.seed_all(spec.seed)
    model = models.build_model(spec.model, spec.recipe, 10)
    return model, inputs.build_inputs(spec, source, CPU)


def weights_after(run: Run) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in run.model.parameters()])


@pytest.mark.parametrize("recipe", [{}, {"accumulation_steps": 2}, {"input_pipeline": "loader"}])
def test_turns_make_the_updates_of_a_run(recipe: dict[str, Any], digits_dir: Path) -> None:
    """Three epochs of 192 images: in one go, and in turns whose ends are not those of epochs."""
    spec = small_spec(max_train_samples=192, epochs=3, **recipe)
    model, data = prepared(spec, digits_dir)
    try:
        for _ in train(spec, model, data, CPU):
            pass
    finally:
        data.close()
    expected = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    model, data = prepared(spec, digits_dir)
    try:
        run = Run(spec, model, data, CPU)
        turns = Turns(run)
        window = 32 * spec.recipe.accumulation_steps
        found = [turns.take(window * 2, head=window) for _ in range(192 * 3 // (window * 3))]
        assert torch.equal(weights_after(run), expected)
    finally:
        data.close()
    assert all((turn.images, turn.updates) == (window * 2, 2) and turn.seconds > 0 for turn in found)
    assert run.updates == 192 * 3 // window


def test_a_turn_that_ends_within_a_window_is_refused(digits_dir: Path) -> None:
    spec = small_spec(accumulation_steps=2, max_train_samples=128)
    model, data = prepared(spec, digits_dir)
    try:
        with pytest.raises(ValueError, match="turn of 96 images"):
            Turns(Run(spec, model, data, CPU)).take(96, head=0)
    finally:
        data.close()


def test_what_diverges_says_so_with_the_epoch(digits_dir: Path) -> None:
    spec = small_spec(learning_rate=1e30, optimizer="sgd", epochs=9)
    model, data = prepared(spec, digits_dir)
    try:
        turns = Turns(Run(spec, model, data, CPU))
        with pytest.raises(DivergedError, match="epoch"):
            for _ in range(4):
                turns.take(96, head=0)
    finally:
        data.close()


def with_slow_reader(data: inputs.Inputs, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches come from a thread that reads ahead and needs so long for each: as a slow decoder in a worker does."""
    make = data.train.epoch

    def epoch(number: int, sizes: Sequence[int], positions: torch.Tensor | None = None) -> Iterator[Any]:
        batches = list(make(number, sizes, positions))
        with Prefetcher(lambda _: time.sleep(seconds), len(sizes), AHEAD) as prefetcher:
            for batch in batches:
                prefetcher.wait()
                yield batch

    monkeypatch.setattr(data.train, "epoch", epoch)


AHEAD = 8


def test_what_was_read_ahead_while_it_stood_still_is_not_measured(
    digits_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = small_spec(batch_size=8, max_train_samples=960, epochs=50)
    model, data = prepared(spec, digits_dir)
    with_slow_reader(data, 0.06, monkeypatch)
    try:
        turns = Turns(Run(spec, model, data, CPU))

        def batch_seconds(head: int) -> float:
            found = []
            for _ in range(3):
                time.sleep(AHEAD * 0.06 + 0.1)  # others have their turn
                found.append(turns.take(8 * 12, head * 8).seconds / 12)
            return statistics.median(found)

        honest = batch_seconds(AHEAD + 1)
        assert honest > 0.06 * 0.97
        assert batch_seconds(0) < honest * 0.85, "the trap"
    finally:
        data.close()


def test_between_turns_a_run_uses_no_processor(digits_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = small_spec(max_train_samples=960, epochs=50)
    model, data = prepared(spec, digits_dir)
    with_slow_reader(data, 0.001, monkeypatch)
    try:
        turns = Turns(Run(spec, model, data, CPU))
        turns.take(320, head=64)
        time.sleep(0.3)  # it reads ahead
        assert any(thread.name == NAME for thread in threading.enumerate()), "the reader waits"
        before = time.process_time()
        time.sleep(1.0)
        assert time.process_time() - before < 0.1, (
            "whoever polls takes most of a second; other threads of the tests some"
        )
    finally:
        data.close()
