"""Runs in processes of their own: fresh, quick to start, and ended as an outcome whatever happens to them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pipeline
from pipeline import nvml
from pipeline.design.records import Artifact, End, Metrics, Phase, Record, parse_record
from pipeline.design.spec import RunSpec
from pipeline.errors import InputError, OutsideError
from pipeline.execution.local import child
from pipeline.execution.local import launcher as local
from pipeline.execution.local.launcher import LocalLauncher
from pipeline.host import process_environment
from tests.execution.launcher_contract import LauncherContract, Subject
from tests.support.training import end_of, per_epoch, reproducible, run_in_process, small_spec, summary


class TestLocalLauncher(LauncherContract):
    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
        folder = tmp_path_factory.mktemp("contract")
        weights = folder / "weights.pt"
        weights.write_bytes(b"no weights")

        def make(jobs: int = 1, timeout: float | None = None) -> LocalLauncher:
            return LocalLauncher(
                "cpu", gpus=[], jobs=jobs, data_dir=digits_dir, work_dir=folder / "work", timeout=timeout
            )

        before = dict(os.environ)
        yield Subject(
            make=make,
            finishes=lambda seed: small_spec(seed=seed),
            unhappy={
                "failed": lambda: (make(), small_spec("test_vit", patch_size=5)),  # 16 pixels are no multiple of 5
                "timeout": lambda: (make(timeout=1.0), long_spec()),
            },
            long=long_spec(),
            refused=small_spec(weights=str(weights)),
            workers=lambda: len(multiprocessing.active_children()),
        )
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def make(digits_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes launchers; what they set in the environment is put back."""
    for name in local.process_environment():
        monkeypatch.setenv(name, os.environ.get(name, ""))
        if not os.environ[name]:
            monkeypatch.delenv(name)

    def build(**options: Any) -> LocalLauncher:
        defaults: dict[str, Any] = {"gpus": [], "jobs": 1, "data_dir": digits_dir, "work_dir": tmp_path / "work"}
        return LocalLauncher("cpu", **{**defaults, **options})

    return build


def worker_pid() -> int:
    """The one worker that is running."""
    (process,) = multiprocessing.active_children()
    assert process.pid is not None
    return process.pid


def long_spec() -> RunSpec:
    """Takes minutes unless it is stopped."""
    return small_spec(epochs=5000)


def until_training(records: Iterator[Record]) -> list[Record]:
    """Reads records until the first epoch is over."""
    seen: list[Record] = []
    for record in records:
        seen.append(record)
        if isinstance(record, Metrics):
            return seen
    raise AssertionError(f"the run ended before: {seen[-1]}")


def log_of(launcher: LocalLauncher, spec: RunSpec) -> str:
    return (launcher.work_dir(spec) / "log.txt").read_text()


def test_records_arrive_in_order_and_equal_a_run_in_process(make: Any, digits_dir: Path, tmp_path: Path) -> None:
    spec = small_spec(epochs=3)
    launcher = make()
    records = list(launcher.launch(spec))
    assert end_of(records).outcome == "finished"
    assert [record.name for record in records if isinstance(record, Phase)] == ["setup", "train", "evaluate", "done"]
    assert [record.time for record in records] == sorted(record.time for record in records)
    assert list(per_epoch(records)) == [1, 2, 3]
    inside = run_in_process(spec, digits_dir, tmp_path / "inside")
    assert reproducible(summary(records)) == reproducible(summary(inside)), "the process adds nothing"
    assert (launcher.work_dir(spec) / "confusion.png").is_file()
    assert not [record for record in records if isinstance(record, Artifact) and record.path == "log.txt"]
    assert multiprocessing.active_children() == []


def test_every_run_has_a_fresh_process(make: Any) -> None:
    launcher = make()
    pids = []
    for seed in (1, 2, 3):
        records = launcher.launch(small_spec(seed=seed))
        until_training(records)
        pids.append(worker_pid())
        assert end_of([*records]).outcome == "finished"
    assert len(set(pids)) == 3 and os.getpid() not in pids


def test_a_killed_worker_is_a_failed_run_with_its_log(make: Any) -> None:
    launcher = make()
    spec = long_spec()
    records = launcher.launch(spec)
    until_training(records)
    os.kill(worker_pid(), signal.SIGKILL)
    rest = list(records)
    end = end_of(rest)
    assert (end.outcome, end.error) == ("failed", "worker ended with signal SIGKILL")
    assert isinstance(rest[-2], Artifact) and rest[-2].path == "log.txt"
    assert (launcher.work_dir(spec) / "log.txt").is_file()
    assert multiprocessing.active_children() == []
    assert end_of(launcher.launch(small_spec())).outcome == "finished", "the next run is not touched"


def test_a_worker_that_exits_is_a_failed_run(make: Any) -> None:
    launcher = make()
    records = launcher.launch(long_spec())
    until_training(records)
    os.kill(worker_pid(), signal.SIGTERM)
    end = end_of(list(records))
    assert (end.outcome, end.error) == ("failed", "worker ended with signal SIGTERM")


def test_a_worker_that_ended_by_a_signal_that_the_parent_learns_of_later_is_interrupted(make: Any) -> None:
    """As batch systems and shells send it: to all of them, and a busy parent is the last to react."""
    launcher = make()
    records = launcher.launch(long_spec())
    until_training(records)
    os.kill(worker_pid(), signal.SIGTERM)
    told = threading.Timer(0.7, launcher.cancel)
    told.start()
    end = end_of(list(records))
    told.join()
    assert (end.outcome, end.error) == ("interrupted", "cancelled")


def test_a_worker_that_sends_no_record_is_a_failed_run(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = make()
    with monkeypatch.context() as patched:
        patched.setattr(local, "parse_record", lambda _text: parse_record('{"type": "metrics", "time": NaN}'))
        end = end_of(list(launcher.launch(long_spec())))
    assert (end.outcome, end.error) == ("failed", "the worker sent something that is no record")
    assert multiprocessing.active_children() == []
    assert end_of(launcher.launch(small_spec())).outcome == "finished", "the next run is not touched"


def test_a_run_that_raises_has_its_log(make: Any) -> None:
    launcher = make()
    spec = small_spec("test_vit", patch_size=5)  # 16 pixels are no multiple of 5
    records = list(launcher.launch(spec))
    assert end_of(records).outcome == "failed"
    artifact = records[-2]
    assert isinstance(artifact, Artifact) and artifact.path == "log.txt"
    assert "Traceback (most recent call last)" in log_of(launcher, spec)


def test_timeout_leaves_a_stack_dump(make: Any) -> None:
    launcher = make(timeout=2.0)
    spec = long_spec()
    began = time.monotonic()
    records = list(launcher.launch(spec))
    assert 2.0 < time.monotonic() - began < 30
    end = end_of(records)
    assert (end.outcome, end.error) == ("timeout", "no end within 2 s")
    assert isinstance(records[-2], Artifact) and records[-2].path == "log.txt"
    log = log_of(launcher, spec)
    assert "most recent call first" in log and "local/child.py" in log
    assert multiprocessing.active_children() == []


def test_preflight_says_what_is_wrong(make: Any, tmp_path: Path) -> None:
    launcher = make()
    notes: list[str] = []
    launcher.preflight([small_spec()], notes.append)
    assert notes and notes[0] == "preparing digits"
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"recipe\.weights: .* is not allowed; allowed: a state dict"):
        launcher.preflight([small_spec(weights=str(weights))])
    with pytest.raises(OutsideError, match="pretrained weights cannot be fetched"):
        launcher.preflight([small_spec("resnet50", image_size=32, pretrained=True)])
    with pytest.raises(OutsideError, match="no CUDA device"):
        launcher.preflight([small_spec().model_copy(update={"device": "cuda"})])


def dies_early(*_: Any) -> None:
    os._exit(1)


def dies_late(_payloads: list[str], _records: Any, _lifeline: Any, log_path: str) -> None:
    Path(log_path).write_text("Traceback\nModuleNotFoundError: No module named 'pipeline.cli'\n")
    os._exit(1)


def test_a_dead_preflight_s_log_is_named_where_there_is_one(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of a process that died before it had one; what an earlier call left tells nothing."""
    for dies, words in (
        (dies_late, r"exit status 1; see \S+/preflight.log: ModuleNotFoundError: No module named 'pipeline.cli'$"),
        (dies_early, r"exit status 1$"),
    ):
        monkeypatch.setattr(child, "check_child", dies)
        with pytest.raises(OutsideError, match=words):
            make().preflight([small_spec()])


def test_from_launch_to_the_end_of_the_first_step(make: Any) -> None:
    launcher = make()
    spec = small_spec(max_train_samples=32, validation_fraction=0.0)  # one epoch of one step
    seconds = []
    for _ in range(6):
        began = time.time()
        records = list(launcher.launch(spec))
        (first,) = [record for record in records if isinstance(record, Metrics) and record.step == 1]
        seconds.append(first.time - began)
    print("launch to end of first step:", [round(value, 3) for value in seconds])
    assert statistics.median(seconds[1:]) < 2.0


def test_a_prepared_worker_sets_up_but_does_not_train_before_it_is_launched(make: Any) -> None:
    launcher = make()
    first, second = small_spec(seed=1), small_spec(seed=2)
    seen: list[Record] = []
    for record in launcher.launch(first):
        seen.append(record)
        if isinstance(record, Phase) and record.name == "done":
            launcher.prepare(second, first)
            time.sleep(1.0)  # time to begin training, if it would
    ended = time.time()
    assert end_of(seen).outcome == "finished"
    assert len(multiprocessing.active_children()) == 1, "the prepared worker waits"
    time.sleep(2.0)
    records = list(launcher.launch(second))
    assert end_of(records).outcome == "finished"
    began = {record.name: record.time for record in records if isinstance(record, Phase)}
    assert began["setup"] < ended < began["train"]
    values = summary(records)
    working = values["time/setup_seconds"] + began["done"] - began["train"]
    assert values["time/total_seconds"] == pytest.approx(working, abs=1.0), "waiting is no part of the run"
    assert values["time/train_seconds"] > 0
    assert end_of(launcher.launch(small_spec(seed=3))).outcome == "finished", "the slot is free again"
    assert multiprocessing.active_children() == []


def test_a_prepared_worker_goes_with_a_cancelled_grid(make: Any) -> None:
    launcher = make()
    first, second = small_spec(seed=1), small_spec(seed=2)
    for record in launcher.launch(first):
        if isinstance(record, Phase) and record.name == "done":
            launcher.prepare(second, first)
    launcher.cancel()
    assert end_of(launcher.launch(second)).outcome == "interrupted"
    assert multiprocessing.active_children() == []


def test_operations_are_counted_once_per_model_and_size(make: Any) -> None:
    launcher = make()
    specs = [small_spec(seed=1), small_spec(seed=2), small_spec("test_vit", seed=1)]
    assert launcher.job(specs[1]).flops_per_image is None
    counted = summary(list(launcher.launch(specs[0])))["model/flops_per_image"]
    assert counted > 0 and launcher.job(specs[1]).flops_per_image == counted
    assert launcher.job(specs[2]).flops_per_image is None, "another model"
    assert summary(list(launcher.launch(specs[1])))["model/flops_per_image"] == counted


def report_collector(connection: Any) -> None:
    """Tells what a worker's garbage collector goes through, and what it leaves alone."""
    connection.send((gc.isenabled(), gc.get_freeze_count(), len(gc.get_objects())))


def test_garbage_collection_of_a_run_leaves_the_imports_alone(make: Any) -> None:
    """Going through them took half a second each time, in the midst of what is measured."""
    context = make()._context
    ours, theirs = context.Pipe()
    process = context.Process(target=report_collector, args=(theirs,))
    process.start()
    enabled, frozen, live = ours.recv()
    process.join()
    assert enabled
    assert frozen > 10 * live and frozen > 100_000


UNINSTALLED = """
import multiprocessing, sys
sys.path.insert(0, sys.argv[1])
from pipeline.execution.local.launcher import LocalLauncher
from pathlib import Path

def loaded(connection):
    connection.send("pipeline.training.worker" in sys.modules)

if __name__ == "__main__":
    launcher = LocalLauncher("cpu", gpus=[], jobs=1, data_dir=Path("."), work_dir=Path("work"))
    ours, theirs = launcher._context.Pipe()
    process = launcher._context.Process(target=loaded, args=(theirs,))
    process.start()
    print("loaded:", ours.recv())
    process.join()
"""


def test_the_fork_server_finds_a_package_that_is_not_installed(tmp_path: Path) -> None:
    """It does not get its parent's `sys.path`, and skips a preload that it cannot import.

    Each run would import torch anew then.
    """
    package = tmp_path / "elsewhere"
    shutil.copytree(Path(pipeline.__file__).parent, package / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "program.py").write_text(UNINSTALLED)
    # without this project's own installation, which would be found in its place
    site = [path for path in sys.path if path.endswith("site-packages")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    (tmp_path / "site").mkdir()
    for folder in site:
        for entry in Path(folder).iterdir():
            if "ablate" not in entry.name and not entry.name.startswith("pipeline"):
                (tmp_path / "site" / entry.name).symlink_to(entry)
    found = subprocess.run(
        [sys.executable, "-S", "program.py", str(package)],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert found.stdout.strip() == "loaded: True", found.stderr


ELASTIC = """
import os, sys
os.environ.update(json_environment)
import torch
torch.cuda._device_count_nvml = lambda: 1  # what NVML tells on a machine with a GPU
from torch.distributed.launcher.api import LaunchConfig
LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=1, run_id="x", rdzv_backend="c10d",
             rdzv_endpoint="127.0.0.1:0", local_addr="127.0.0.1", start_method="fork")
pid = os.fork()
if pid == 0:
    os._exit(int(torch.cuda._is_in_bad_fork()))
print("bad fork:", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_ranks_that_the_elastic_launcher_forks_can_open_a_gpu() -> None:
    """It asks whether there is one; the CUDA runtime's answer would close the door for every process forked later."""
    code = ELASTIC.replace("json_environment", repr(process_environment()))
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert found.stdout.split() == ["bad", "fork:", "0"]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What NVML lists."""
    listed = ["GPU-a", "GPU-b"]
    monkeypatch.setattr(nvml, "gpus", lambda: [SimpleNamespace(uuid=uuid) for uuid in listed])
    for name in local.process_environment():
        monkeypatch.setenv(name, os.environ.get(name, ""))
    return listed


def test_a_lost_gpu_takes_its_place_along(gpus: list[str], tmp_path: Path) -> None:
    """A real worker that finds no CUDA device fails; whether its GPU is still listed makes the difference."""
    launcher = LocalLauncher("cuda", gpus=list(gpus), jobs=2, data_dir=tmp_path, work_dir=tmp_path / "work")
    ends = []
    for lost in ([], ["GPU-b"], ["GPU-a"]):  # places are taken in turn: a stays, b and a go
        records = launcher.launch(RunSpec(model="test_resnet", dataset="digits", device="cuda"))
        first = next(records)
        for uuid in lost:
            gpus.remove(uuid)
        ends.append([first, *records][-1])
    assert all(isinstance(end, End) for end in ends)
    assert [end.outcome for end in ends] == ["failed", "interrupted", "interrupted"]
    assert ends[1].error.startswith("GPU GPU-b disappeared: ")
    assert launcher.jobs == 0
