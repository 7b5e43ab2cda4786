"""Data-parallel runs: the gradients, weights and outcomes of one process, whatever the split."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.design.records import Job, Record, parse_record
from pipeline.design.spec import Recipe, RunSpec
from pipeline.training import ranks, worker
from pipeline.training.data import inputs, store
from pipeline.training.data_parallel import SINGLE_PROCESS, ProcessGroup, accumulating, rank_windows, split_batch
from pipeline.training.precision import Precision
from pipeline.training.step import Learner, optimizer_step, plan_windows
from tests.support.processes import Workspace
from tests.support.training import (
    Batches,
    PlainCopier,
    end_of,
    in_run_process,
    no_clock,
    parallel_job,
    per_epoch,
    perceptron,
    small_spec,
    summary,
)

COUNTS = st.integers(1, 12)


@given(samples=st.integers(1, 200), size=COUNTS)
def test_parts_of_a_micro_batch(samples: int, size: int) -> None:
    parts = split_batch(samples, size)
    assert len(parts) == size and sum(parts) == samples and list(parts) == sorted(parts, reverse=True)
    assert 1 not in parts or samples == 1, "one sample alone has no batch statistics"
    if samples >= 2 * size:
        assert min(parts) >= 2 and max(parts) - min(parts) <= 1


@given(samples=st.integers(1, 120), batch=COUNTS, steps=st.integers(1, 5), size=st.integers(2, 6))
def test_ranks_share_every_window_exactly(samples: int, batch: int, steps: int, size: int) -> None:
    windows = plan_windows(samples, batch, steps)
    parts = [rank_windows(windows, rank, size) for rank in range(size)]
    for own, positions in parts:
        assert [len(window.sizes) for window in own] == [len(window.sizes) for window in windows]
        assert [window.total for window in own] == [window.total for window in windows]
        assert len(positions) == sum(sum(window.sizes) for window in own)
    # the weight of each sample in the averaged gradient of its window is 1 / (samples of the window)
    weight = torch.zeros(samples, dtype=torch.float64)
    for own, positions in parts:
        place = 0
        for window in own:
            for count, share in zip(window.sizes, window.shares, strict=True):
                weight[positions[place : place + count]] += share / count / size
                place += count
    expected = torch.cat([torch.full((window.total,), 1 / window.total, dtype=torch.float64) for window in windows])
    assert torch.allclose(weight, expected, rtol=1e-12, atol=0)


class Made:
    """A training input over fixed tensors, by place in the epoch's order."""

    def __init__(self, samples: int) -> None:
        self.images, self.labels = Batches([samples]).made[0]

    def epoch(self, _epoch: int, sizes: Any, positions: torch.Tensor | None = None) -> Any:
        order = torch.arange(len(self.images)) if positions is None else positions
        for rows in order.split(list(sizes)):
            yield self.images[rows], self.labels[rows]


def train_some(
    group: ProcessGroup, *, optimizer: str, clip: float | None, precision: str, samples: int
) -> dict[str, Any]:
    """Three updates, the last window partial and its last micro-batch short; gradients, weights, exchanges."""
    recipe = Recipe(batch_size=8, accumulation_steps=3, precision=precision, clip_norm=clip, learning_rate=0.1)
    windows = plan_windows(samples, 8, 3)
    assert len(windows) == 3 and len(windows[-1].sizes) < 3 and windows[-1].sizes[-1] < 8
    dtype = torch.float64 if precision == "fp32" else torch.float32
    plain = perceptron(dtype)
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    engine = kinds[optimizer](plain.parameters(), lr=0.1)
    device = torch.device("cpu")
    wrapped = group.wrap(plain, device)
    exchanged: list[int] = []
    if isinstance(wrapped, nn.parallel.DistributedDataParallel):
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook as average

        def counted(state: Any, bucket: Any) -> Any:
            exchanged.append(bucket.index())
            return average(state, bucket)

        counted.__annotations__ = {}  # DDP wants none or the classes themselves
        wrapped.register_comm_hook(None, counted)
    schedule = torch.optim.lr_scheduler.ConstantLR(engine, 1.0)
    behaviour = Precision(recipe, device)
    behaviour.watch(engine)
    learner = Learner(wrapped, nn.CrossEntropyLoss(), engine, schedule, behaviour, clip, accumulating=accumulating)
    gradients: list[torch.Tensor] = []
    engine.register_step_pre_hook(
        lambda *_: gradients.append(torch.cat([p.grad.flatten() for p in plain.parameters()]))
    )
    own, start = group.share(windows)
    data = Made(samples)
    data.images = data.images.to(dtype)
    batches = start(data, 1)
    losses = [optimizer_step(learner, window, batches, PlainCopier(), no_clock) for window in own]
    return {
        "gradients": torch.stack(gradients),
        "weights": torch.cat([p.detach().flatten() for p in plain.parameters()]),
        "losses": group.mean(torch.stack(losses).detach()),
        "exchanged": len(exchanged),
    }


def train_in(folder: Path, **settings: Any) -> None:
    group = ProcessGroup.join(cuda=False)
    torch.save(train_some(group, **settings), folder / f"found{group.rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("nproc", "optimizer", "clip", "precision", "samples"),
    [
        (2, "sgd", None, "fp32", 61),
        (2, "adamw", 0.05, "fp32", 61),
        (3, "sgd", 0.05, "fp32", 57),  # the last micro-batch has one sample: two ranks have none
        (2, "sgd", None, "fp16", 61),
    ],
)
def test_weights_after_three_updates_are_those_of_one_process(
    nproc: int, optimizer: str, clip: float | None, precision: str, samples: int, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"optimizer": optimizer, "clip": clip, "precision": precision, "samples": samples}
    alone = train_some(SINGLE_PROCESS, **settings)
    body = partial(train_in, tmp_path, **settings)
    end = in_run_process(ranks.run_ranks, parallel_job(tmp_path, nproc), body, worker.classify)
    assert end.outcome == "finished", end.error
    close = {"rtol": 1e-12, "atol": 1e-14} if precision == "fp32" else {"rtol": 2e-2, "atol": 2e-3}
    for rank in range(nproc):
        found = torch.load(tmp_path / f"found{rank}.pt")
        torch.testing.assert_close(found["gradients"], alone["gradients"], **close)
        torch.testing.assert_close(found["weights"], alone["weights"], **close)
        torch.testing.assert_close(found["losses"], alone["losses"], **close)
        assert found["exchanged"] == 3, "gradients are exchanged once per window, with its last micro-batch"


@pytest.mark.parametrize("pipeline", ["gather", "device", "loader"])
def test_an_input_gives_a_rank_its_places(pipeline: str, digits_dir: Path) -> None:
    spec = small_spec("test_vit", augmentation="affine_flip", input_pipeline=pipeline, num_workers=0)
    source = store.prepare_dataset("digits", digits_dir, image_size=16)
    data = inputs.build_inputs(spec, source, torch.device("cpu")).train

    def samples(sizes: list[int], *places: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for batch in data.epoch(2, sizes, *places):
            images, _labels = data.to_device(batch)
            found.append(data.prepare(images).clone())
        return list(torch.cat(found))

    everything = samples([40, 40, 16])
    places = torch.tensor([3, 4, 40, 50, 51, 95])
    for found, place in zip(samples([2, 3, 1], places), places.tolist(), strict=True):
        assert torch.equal(found, everything[place])


def run_to_file(spec: RunSpec, data_dir: Path, folder: Path) -> list[Record]:
    """Runs a spec in a process of its own and those that it forks; records are collected in a file, as in a pipe."""
    folder.mkdir()
    given = Job(spec=spec, data_dir=str(data_dir), work_dir=str(folder))
    in_run_process(write_records, given, folder / "records")
    return [parse_record(line) for line in (folder / "records").read_bytes().splitlines()]


def write_records(job: Job, file: Path) -> None:
    with file.open("ab", buffering=0) as stream:
        worker.run_job(job, lambda record: stream.write(record.model_dump_json().encode() + b"\n") and None)


def test_a_whole_run_in_two_processes_learns_what_one_does(digits_dir: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"num_workers": 0, "accumulation_steps": 2, "patch_size": 4}
    spec = small_spec("test_vit", augmentation="crop_flip", **fields, batch_size=16, learning_rate=1e-3, epochs=2)
    one, two = (run_to_file(spec.model_copy(update={"nproc": n}), digits_dir, tmp_path / str(n)) for n in (1, 2))
    assert end_of(two).outcome == "finished", end_of(two).error
    first, second = per_epoch(one), per_epoch(two)
    assert list(first) == list(second) == [1, 2]
    for epoch, values in first.items():
        for name in ("train/loss", "val/loss"):
            assert second[epoch][name] == pytest.approx(values[name], rel=1e-4), name
    assert summary(two)["updates/count"] == summary(one)["updates/count"] == 6
    assert set(summary(two)) == set(summary(one))
    # that of both processes
    assert summary(two)["memory/host_peak_rss_mib"] > summary(one)["memory/host_peak_rss_mib"]


def test_the_number_of_processes_is_part_of_the_identity() -> None:
    spec = small_spec()
    assert spec.model_copy(update={"nproc": 1}).digest == spec.digest
    assert spec.model_copy(update={"nproc": 2}).digest != spec.digest
    assert accumulating(perceptron(), True).__class__ is nullcontext


def test_the_command_trains_one_cell_in_two_processes(tmp_path: Path) -> None:
    place = Workspace(tmp_path)
    words = ["run", "--study", place.file.name, "--model", "test_resnet", "--dataset", "digits", "--device", "cpu"]
    call = place.call(*words, "--nproc", "2")
    assert call.code == 0, call.err
    (row,) = place.rows()
    assert row.status == "FINISHED" and row.params["nproc"] == "2"
    refused = place.call(*words, "--nproc", "17")
    assert refused.code == 2 and len(refused.lines) == 1
    assert "--nproc: 17 is not allowed" in refused.err and "32" in refused.err
