"""Checkpoints: a resumed run ends where an uninterrupted one does, and files of no use are passed over."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.design.records import Metrics, Record
from pipeline.design.spec import RunSpec
from pipeline.training import trainer, worker
from pipeline.training.checkpoint import CHECKPOINT_MAGIC, CHECKPOINT_VERSION, Checkpoints
from tests.support.training import end_of, per_epoch, reproducible, run_in_process, small_spec, summary


class InterruptedRunError(Exception):
    """Raised by the tests in the middle of a run."""


def interrupt_in(epoch: int) -> Any:
    def watch(record: Record) -> None:
        if isinstance(record, Metrics) and record.step == epoch:
            raise InterruptedRunError

    return watch


@pytest.fixture
def final_weights(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The weights of the run that was made last."""
    made: list[torch.nn.Module] = []
    original = worker.models.build_model

    def build(*args: Any) -> torch.nn.Module:
        made.append(original(*args))
        return made[-1]

    monkeypatch.setattr(worker.models, "build_model", build)

    def read() -> dict[str, Tensor]:
        # the last but one is the model on meta tensors, of which operations are counted
        model = next(m for m in reversed(made) if next(m.parameters()).device.type != "meta")
        return {name: value.clone() for name, value in model.state_dict().items()}

    return read


RECIPES: dict[str, dict[str, Any]] = {
    "adamw-onecycle": {"schedule": "onecycle", "warmup": 0.3, "augmentation": "crop_flip"},
    "sgd-cosine-warmup": {"optimizer": "sgd", "schedule": "cosine", "warmup": 0.2, "learning_rate": 0.05},
    "adam-exponential": {"optimizer": "adam", "schedule": "exponential", "accumulation_steps": 2},
    "linear-fused": {"schedule": "linear", "fused_optimizer": True, "clip_norm": 1.0},
    "fp16": {"precision": "fp16", "batch_size": 4, "max_train_samples": 24, "scaler_init_scale": 2.0**14},
}


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_resumed_run_ends_as_an_uninterrupted_one(
    recipe: str, digits_dir: Path, tmp_path: Path, final_weights: Any
) -> None:
    spec = small_spec(epochs=4, **RECIPES[recipe])
    whole = run_in_process(spec, digits_dir, tmp_path / "whole")
    assert end_of(whole).outcome == "finished"
    expected = final_weights()
    place = tmp_path / "cut"
    first = run_in_process(spec, digits_dir, place, checkpoint_every=1, watch=interrupt_in(3))
    assert end_of(first).outcome == "failed" and (place / "checkpoint.pt").is_file()
    second = run_in_process(spec, digits_dir, place, checkpoint_every=1)
    assert end_of(second).outcome == "finished"
    found = final_weights()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert reproducible(summary(second)) == reproducible(summary(whole))
    epochs, resumed = per_epoch(whole), per_epoch(second)
    assert {n: reproducible(v) for n, v in resumed.items()} == {n: reproducible(v) for n, v in epochs.items()}
    # times of both parts: the first two epochs are those of the interrupted run
    assert [resumed[n] for n in (1, 2)] == [per_epoch(first)[n] for n in (1, 2)]
    total = sum(values["train/epoch_seconds"] for values in resumed.values())
    assert summary(second)["time/train_seconds"] == pytest.approx(total)
    assert not (place / "checkpoint.pt").exists(), "a finished run needs none"
    assert not list(place.glob("*.tmp"))


def test_a_resumed_run_trains_only_the_rest(digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = small_spec(epochs=4)
    run_in_process(spec, digits_dir, tmp_path, checkpoint_every=2, watch=interrupt_in(4))
    steps: list[int] = []
    original = trainer.optimizer_step
    monkeypatch.setattr(trainer, "optimizer_step", lambda *args: steps.append(1) or original(*args))
    run_in_process(spec, digits_dir, tmp_path, checkpoint_every=2)
    assert len(steps) == 2 * 3


def test_no_checkpoint_unless_asked(digits_dir: Path, tmp_path: Path) -> None:
    run_in_process(small_spec(epochs=3), digits_dir, tmp_path, watch=interrupt_in(3))
    assert not list(tmp_path.glob("checkpoint*"))


def _torn(file: Path, _spec: RunSpec) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _empty(file: Path, _spec: RunSpec) -> None:
    file.write_bytes(b"")


def _flipped(file: Path, _spec: RunSpec) -> None:
    """A weight of another sign, which torch's reader does not notice."""
    content = file.read_bytes()
    weights = next(iter(torch.load(io.BytesIO(_payload(file)), weights_only=True)["model"].values()))
    before = weights.numpy().tobytes()
    assert content.count(before) == 1
    file.write_bytes(content.replace(before, (-weights).numpy().tobytes()))


def _framed(file: Path, payload: bytes, version: int = CHECKPOINT_VERSION) -> None:
    """As this program writes it, with a checksum that is right."""
    header = f"{CHECKPOINT_MAGIC} {version} {hashlib.sha256(payload).hexdigest()}\n"
    file.write_bytes(header.encode() + payload)


def _saved(content: Any) -> bytes:
    archive = io.BytesIO()
    torch.save(content, archive)
    return archive.getvalue()


def _payload(file: Path) -> bytes:
    return file.read_bytes().partition(b"\n")[2]


def _foreign(file: Path, _spec: RunSpec) -> None:
    content = torch.load(io.BytesIO(_payload(file)), weights_only=True)
    _framed(file, _saved({**content, "digest": "0" * 32}))


def _old_version(file: Path, _spec: RunSpec) -> None:
    _framed(file, _payload(file), CHECKPOINT_VERSION - 1)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


def _with_code(file: Path, _spec: RunSpec) -> None:
    _framed(file, pickle.dumps({"digest": Trap(file.parent / "made")}))


def _a_list(file: Path, _spec: RunSpec) -> None:
    _framed(file, _saved([1, 2]))


def _with(**other: Any) -> Any:
    """A change of the content: of this run by its digest, framed as this program does, and yet not of it."""

    def damage(file: Path, _spec: RunSpec) -> None:
        content = torch.load(io.BytesIO(_payload(file)), weights_only=True)
        _framed(file, _saved({name: value for name, value in {**content, **other}.items() if value is not None}))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        *(_torn, _empty, _flipped, _foreign, _old_version, _with_code, _a_list),
        _with(model={}),
        _with(model=None, optimizer=None),
        _with(rng={}),
        _with(rng=None),
        _with(rng={"torch": torch.zeros(3), "cuda": [], "numpy": 1, "python": 2}),
        _with(optimizer={"state": {}, "param_groups": []}),
        _with(epoch=2),
        _with(epoch="x"),
        _with(epoch=None),
        _with(history=["{}"]),
        _with(history=3),
        _with(meter={}),
        _with(updates="x"),
    ],
)
def test_a_file_of_no_use_is_passed_over(damage: Any, digits_dir: Path, tmp_path: Path) -> None:
    spec = small_spec(epochs=2, max_train_samples=32)
    whole = run_in_process(spec, digits_dir, tmp_path / "whole")
    place = tmp_path / "cut"
    run_in_process(spec, digits_dir, place, checkpoint_every=1, watch=interrupt_in(2))
    damage(place / "checkpoint.pt", spec)
    records = run_in_process(spec, digits_dir, place, checkpoint_every=1)
    assert end_of(records).outcome == "finished"
    assert reproducible(summary(records)) == reproducible(summary(whole))
    epochs, again = per_epoch(whole), per_epoch(records)
    assert {n: reproducible(v) for n, v in again.items()} == {n: reproducible(v) for n, v in epochs.items()}
    assert not (place / "made").exists(), "code in a checkpoint is not run"


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoint.pt", "a" * 32, 1)
    checkpoints.save(1, {"value": 1})

    def full(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(2, {"value": 2})
    monkeypatch.undo()
    state = checkpoints.load()
    assert state is not None and (state["epoch"], state["value"]) == (1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_random_generators_are_restored(tmp_path: Path) -> None:
    import random

    import numpy as np

    def draw() -> tuple[Any, ...]:
        return random.random(), float(np.random.rand()), float(torch.rand(())), float(np.random.randn())

    checkpoints = Checkpoints(tmp_path / "checkpoint.pt", "a" * 32, 1)
    draw()
    checkpoints.save(1, {})
    expected = draw()
    draw()
    assert checkpoints.load() is not None
    assert draw() == expected
