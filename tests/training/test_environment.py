"""What surrounds a run: seeds, settings of the process, the device, and what is noted of them."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.training import environment
from tests.support.ablate import environment as outside
from tests.support.training import small_spec


@pytest.fixture
def settings_kept() -> Iterator[None]:
    """Puts torch's settings back as they were."""
    cudnn, threads = torch.backends.cudnn, torch.get_num_threads()
    before = cudnn.deterministic, cudnn.benchmark
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    cudnn.deterministic, cudnn.benchmark = before


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_seed_decides_all_three_generators() -> None:
    environment.seed_all(5)
    first = draw()
    environment.seed_all(6)
    other = draw()
    environment.seed_all(5)
    assert draw() == first
    assert all(one != another for one, another in zip(first, other, strict=True))


@pytest.mark.usefixtures("settings_kept")
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_process_gets_the_recipes_threads_and_determinism(deterministic: bool) -> None:
    spec = small_spec(seed=9, num_threads=2, deterministic=deterministic)
    environment.prepare_process(spec)
    prepared = draw()
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled() is deterministic
    assert torch.backends.cudnn.deterministic is deterministic
    assert torch.backends.cudnn.benchmark is not deterministic, "a search may choose another algorithm each time"
    environment.seed_all(9)
    assert draw() == prepared


def test_a_missing_device_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert environment.open_device(small_spec()) == torch.device("cpu")
    with pytest.raises(RuntimeError, match="no CUDA device"):
        environment.open_device(small_spec().model_copy(update={"device": "cuda"}))


def test_each_process_opens_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", opened.append)
    spec = small_spec().model_copy(update={"device": "cuda"})
    assert [environment.open_device(spec, rank) for rank in (0, 1)] == [torch.device("cuda", rank) for rank in (0, 1)]
    assert opened == [0, 1]


def test_facts_of_a_cpu_run_name_no_gpu() -> None:
    facts = environment.run_provenance(small_spec(seed=9), torch.device("cpu"))
    assert facts == {
        "env.device": "cpu",
        "env.torch_threads": str(torch.get_num_threads()),
        "env.model_seed": "9",
    }


def test_facts_of_a_gpu_are_those_of_the_runs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="Card", uuid="aa-1", total_memory=8 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91000)
    gpus = [
        SimpleNamespace(uuid=f"GPU-{uuid}", driver="580.1", sm_clock=clock, temperature=clock // 40)
        for uuid, clock in (("bb-2", 1980), ("aa-1", 1200))
    ]
    monkeypatch.setattr(environment.nvml, "gpus", lambda: gpus)
    facts = environment.run_provenance(small_spec(), torch.device("cuda", 0))
    assert facts["env.gpu_name"] == "Card" and facts["env.gpu_memory_mib"] == "8192"
    assert (facts["env.gpu_sm_clock_mhz"], facts["env.gpu_temperature_c"]) == ("1200", "30")
    monkeypatch.setattr(environment.nvml, "gpus", lambda: gpus[:1])
    assert "env.gpu_driver" not in environment.run_provenance(small_spec(), torch.device("cuda", 0))


FAULTS = """
import resource
from pipeline.training import environment

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"x" * (20 << 20) for _ in range(4)]  # together more than glibc keeps by itself
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

dropped = [faults() for _ in range(3)]
environment.keep_freed_memory()
print(min(dropped), min(faults() for _ in range(4)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_freed_memory_is_not_faulted_in_again() -> None:
    """Pages that are faulted in while blocks are taken and freed; in a process whose heap nothing else has cut up."""
    found = subprocess.run([sys.executable, "-c", FAULTS], env=outside(), capture_output=True, text=True, check=True)
    dropped, kept = map(int, found.stdout.split())
    assert dropped > 4 * 20 * 2**20 / resource.getpagesize() / 2
    assert kept < dropped / 10
