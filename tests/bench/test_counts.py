"""What costs time is counted, so that no busy machine can blur it."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.bench import orchestration, scaling
from pipeline.bench.cases import Case
from pipeline.bench.loops import input_rates
from pipeline.bench.loops.contenders import Ablate, Bare, Timm
from pipeline.bench.loops.workload import build_workload
from pipeline.bench.record_cost import record_seconds
from pipeline.design.plan import PlannedRun
from pipeline.design.records import Metrics, Progress
from pipeline.tracking import journal


def _case(windows: int) -> Case:
    return Case("test_resnet", batch=4, windows=windows, rounds=1, threads=1, image_size=16)


SYNCHRONISING = ("item", "cpu", "tolist", "numpy", "__float__", "__int__", "__bool__", "nonzero")


def _reads(contender: Any, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often one epoch reads values back from float tensors, by method: on a device each would wait for it."""
    found: Counter[str] = Counter()
    with monkeypatch.context() as patch:
        for name in SYNCHRONISING:
            plain = getattr(torch.Tensor, name)

            def counted(self: Any, *args: Any, _plain: Any = plain, _name: str = name, **options: Any) -> Any:
                found[_name] += self.is_floating_point()
                return _plain(self, *args, **options)

            patch.setattr(torch.Tensor, name, counted)
        contender.epoch(1)
    return found


def test_an_epoch_reads_from_the_device_once_however_long_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = (_reads(Ablate(build_workload(_case(windows))), monkeypatch) for windows in (3, 12))
    assert short == long, "nothing in a window reads from the device"
    assert long["cpu"] == 1 and long["item"] == 0


def test_the_counter_sees_a_loop_that_reads_every_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = (_reads(Timm(build_workload(_case(windows))), monkeypatch) for windows in (3, 12))
    assert (short["item"], long["item"]) == (3, 12)


class _Operations(TorchDispatchMode):
    """Counts what a device would be given to do; views and bookkeeping of the host are not among it."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not operation.is_view:
            self.counts[operation.name()] += 1
        return operation(*args, **(kwargs or {}))


def _operations(contender: Any) -> Counter[str]:
    with _Operations() as mode:
        contender.epoch(1)
    return mode.counts


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_has_no_operation_that_the_bare_loop_has_not(precision: Any) -> None:
    # 64 windows make one write of losses; what an epoch costs as a whole is in both lengths
    def more(kind: Any) -> Counter[str]:
        short, long = (
            _operations(kind(build_workload(replace(_case(windows), precision=precision)))) for windows in (3, 3 + 64)
        )
        long.subtract(short)
        return Counter({name: count for name, count in long.items() if count})

    ours, bare = more(Ablate), more(Bare)
    extra = {name: ours[name] - bare[name] for name in ours if ours[name] > bare[name]}
    assert sum(extra.values()) <= 2, f"beyond the one write of 64 losses: {extra}"
    assert sum(bare.values()) > 64 * 50


def test_synchronisations_of_the_device_stay_at_phase_boundaries(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.training.meter import Meter

    calls: list[int] = []
    monkeypatch.setattr(Meter, "synchronize", lambda _self: calls.append(1))
    found = []
    for windows in (3, 12):
        calls.clear()
        Ablate(build_workload(_case(windows))).epoch(1)
        found.append(len(calls))
    assert found == [2, 2]


_FAULTS = """
import resource
from pipeline.bench.cases import Case
from pipeline.bench.loops.contenders import Ablate
from pipeline.bench.loops.workload import build_workload

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

ablate = Ablate(build(Case("resnet50", batch=2, windows=4, rounds=1, threads=1)))
found = []
for epoch in range(1, 6):
    before = faults()
    ablate.epoch(epoch)
    found.append(faults() - before)
print(min(found[2:]))  # one epoch or other has some thousands once, with or without the setting: the heap grows
ablate.close()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator alone is told to keep memory")
def test_a_step_does_not_fault_its_gradients_in_again() -> None:
    done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, timeout=300, check=True)
    gradients = 4 * 25_000_000 // 4096  # pages of one of an epoch's four windows
    assert int(done.stdout) < gradients / 4


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A grid of twelve runs that train nothing, on a store of its own."""
    folder = tmp_path_factory.mktemp("orchestration")
    return orchestration.measure_orchestration(12, str(folder)), folder


def test_calls_of_mlflow_per_run(measured: tuple[dict[str, Any], Path]) -> None:
    found = measured[0]
    assert found["runs"] == 12
    # opening (search, create, search, log), claim (3), values (1 to 3), closing (2); the parent's own are spread
    assert 5 < found["mlflow_calls_per_run"] < 18, found["calls"]
    assert 1 <= found["calls"]["create_run"] < 1.2
    assert found["calls"]["log_batch"] < 8
    assert found["seconds_per_run"] > 0 and found["seconds_per_record"] > 0


def test_journal_entries_per_run(measured: tuple[dict[str, Any], Path]) -> None:
    kinds: Counter[str] = Counter()
    for path in (measured[1] / "journal").glob("*.journal"):
        kinds.update(str(entry["kind"]) for entry, _ in journal.read_entries(path))
    # 12 runs: opened, claimed... closed once each; three epochs and one summary; tags; the parent's own are the rest
    assert kinds["open"] == 13 and kinds["close"] == 13
    assert kinds["metrics"] == 12 * (orchestration.EPOCHS + 1) + 1
    assert kinds["tags"] <= 12 + 4


def test_progress_is_never_journaled(tmp_path: Path) -> None:
    from pipeline.tracking.mlflow_store import MlflowStore
    from pipeline.tracking.recorder import OpenRun, Recorder

    book = Recorder(MlflowStore(f"sqlite:///{tmp_path}/x.db", "x", tmp_path), tmp_path)
    run: PlannedRun = orchestration._plan(1).runs[0]
    opened = OpenRun("key", run, tmp_path)
    before = book._journal.end
    values: dict[str, Any] = {"epoch": 1, "epochs": 1, "update": 1, "updates": 2, "images_per_second": 1.0}
    book.record(opened, Progress(time=0.0, **values))
    assert book._journal.end == before
    book.record(opened, Metrics(time=0.0, values={"a": 1.0}))
    assert book._journal.end > before


def test_a_record_costs_the_training_process_microseconds() -> None:
    # 20 is what is promised on a quiet machine; a step of the smallest model is a thousand times longer than this
    assert 0 < record_seconds(2_000) < 400e-6


def test_the_cost_of_a_plan_is_that_of_its_cells() -> None:
    found = scaling.measure_plan_cost(1_000)
    assert found["cells"] == 1_008
    assert 0 < found["seconds"] < 30 and found["memory_mib"] > 10


def test_a_report_of_simulated_runs(tmp_path: Path) -> None:
    del tmp_path
    found = scaling.measure_report_cost(80)
    assert found["cells"] == 80 and found["seconds"] > 0


@pytest.mark.slow
def test_gather_is_at_least_three_times_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_rates, "IMAGES", 5_000)
    rates = input_rates.rates("cpu", 3, "none")
    assert min(rates["gather"]) > 3 * max(rates["loader"])
