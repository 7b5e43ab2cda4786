"""The loader's workers: they change no batch, end with the run, and report a bad image in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from PIL import Image

from pipeline.errors import InputError, OutsideError
from pipeline.training.data import loader
from pipeline.training.data.inputs import build_inputs
from pipeline.training.data.store import ImageStore, prepare_dataset
from tests.support.data import spec, whole, write_folder

CPU = torch.device("cpu")


@pytest.mark.parametrize("augmentation", ["none", "crop_flip", "affine_flip"])
def test_workers_do_not_change_the_batches(augmentation: str, pictures: ImageStore, building: Any) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    runs = [
        building(
            spec(pictures.name, input_pipeline="loader", augmentation=augmentation, num_workers=workers),
            pictures,
        )
        for workers in (0, 1, 2)
    ]
    for number in (1, 2):
        reference, *others = [whole(inputs, number, [5, 7, 5, 7]) for inputs in runs]
        for other in others:
            assert torch.equal(reference[0], other[0]) and torch.equal(reference[1], other[1])
    # torch's own loader draws one base seed per epoch from the generator; the transforms must draw nothing
    torch.set_rng_state(before)
    whole(runs[0], 1, [24])
    drawn = torch.get_rng_state()
    torch.set_rng_state(before)
    iter(torch.utils.data.DataLoader(range(3)))
    assert torch.equal(drawn, torch.get_rng_state())


def test_workers_persist_and_end_with_close(pictures: ImageStore) -> None:
    inputs = build_inputs(spec(pictures.name, input_pipeline="loader", num_workers=2), pictures, CPU)

    def children() -> set[int]:
        return {child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}

    before = children()
    whole(inputs, 1)
    workers = children() - before
    assert len(workers) == 2
    next(inputs.train.epoch(2, [5, 5]))  # left half-way
    whole(inputs, 3)
    assert children() - before == workers
    inputs.close()
    deadline = time.monotonic() + 10
    while children() & workers and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not children() & workers


_PARENT = """
import sys, torch
from pathlib import Path
from tests.support.data import spec
from pipeline.training.data.inputs import build_inputs
from pipeline.training.data.store import prepare_dataset
if __name__ == "__main__":
    source = prepare_dataset("digits", Path(sys.argv[1]), image_size=16)
    inputs = build_inputs(spec(input_pipeline="loader", num_workers=2), source, torch.device("cpu"))
    batches = inputs.train.epoch(1, [1] * 1000)
    next(batches)
    print("ready", flush=True)
    input()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_workers_die_with_their_parent(data_dir: Path) -> None:
    path = os.pathsep.join(sys.path)
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(data_dir)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
    workers = psutil.Process(parent.pid).children()
    assert len(workers) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    _gone, alive = psutil.wait_procs(workers, timeout=2)
    assert not [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE]


def test_image_that_breaks_later_is_one_line(data_dir: Path, tmp_path: Path, building: Any) -> None:
    root = write_folder(tmp_path / "set")
    source = prepare_dataset(f"imagefolder:{root}", data_dir, image_size=32)
    (root / "train" / "cat" / "001.png").write_bytes(b"broken since")
    for workers in (0, 1):
        inputs = building(spec(source.name, input_pipeline="loader", num_workers=workers), source)
        with pytest.raises(InputError) as caught:
            whole(inputs, 1)
        assert "001.png" in str(caught.value) and "\n" not in str(caught.value)


def test_loader_decodes_files_and_gather_does_not(data_dir: Path, tmp_path: Path, building: Any) -> None:
    root = write_folder(tmp_path / "set", endings=(".png",))
    source = prepare_dataset(f"imagefolder:{root}", data_dir, image_size=32)
    runs = {p: building(spec(source.name, input_pipeline=p, image_size=32), source) for p in ("loader", "gather")}
    before = {name: whole(inputs)[0] for name, inputs in runs.items()}
    for path in root.glob("train/*/*.png"):
        Image.new("RGB", (32, 32)).save(path)
    assert not torch.equal(whole(runs["loader"])[0], before["loader"])
    assert torch.equal(whole(runs["gather"])[0], before["gather"])


class Failing:
    """A loader of two workers whose first batch fails."""

    num_workers = 2

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __iter__(self) -> Any:
        raise self.error


CAUGHT = "Caught {} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File ..\n{}\n"


@pytest.mark.parametrize(
    "said",
    [
        CAUGHT.format(
            "RuntimeError",
            "RuntimeError: unable to write to file </torch_7_1_0>: No space left on device (28)",
        ),
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
        "shared memory. Please try to raise your shared memory limit.",
        "unable to mmap 196608 bytes from file </torch_7_1_0>: Cannot allocate memory (12)",
    ],
)
def test_too_little_shared_memory_is_named_with_its_remedy(said: str) -> None:
    with pytest.raises(OutsideError, match=r"^/dev/shm \(.* MiB\) is too small .*--shm-size.*num_workers=0") as caught:
        next(loader._plain_errors(Failing(RuntimeError(said))))
    assert "\n" not in str(caught.value)


def test_what_failed_in_a_worker_comes_first() -> None:
    error = MemoryError(CAUGHT.format("MemoryError", "MemoryError"))
    with pytest.raises(MemoryError):
        next(loader._plain_errors(Failing(error)))
    failed = RuntimeError(CAUGHT.format("RuntimeError", "RuntimeError: the cause"))
    with pytest.raises(RuntimeError, match=r"^loader worker: RuntimeError: the cause$"):
        next(loader._plain_errors(Failing(failed)))
    with pytest.raises(RuntimeError, match=r"^something else$"):
        next(loader._plain_errors(Failing(RuntimeError("something else"))))
