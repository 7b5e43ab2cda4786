"""Runs in fresh local processes: one per run, one run per GPU, forked from a server that has torch imported."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from pipeline import nvml
from pipeline.children import process_context
from pipeline.design.names import FLOPS_PER_IMAGE
from pipeline.design.records import Artifact, End, Job, Metrics, Record, parse_record
from pipeline.design.spec import Device, RunSpec
from pipeline.errors import AblateError, InputError, OutsideError
from pipeline.execution.local import child
from pipeline.execution.local.process import SERVER_LOST, Child, death, dump_and_stop, last_words, stop
from pipeline.execution.local.standing import Patience, StandingWorker, free_mib
from pipeline.host import ENDING_SIGNALS, oom_kills, process_environment

FLOPS = FLOPS_PER_IMAGE
NEWS_SECONDS = 2.0  # within which a busy parent learns of a signal that has ended its worker


@dataclass(frozen=True)
class PreparedWorker:
    """A worker that sets up, and waits for its start signal.

    Attributes:
        slot: its GPUs as CUDA_VISIBLE_DEVICES takes them; None on the CPU.
        child: its process.
        kills: how often the kernel's out-of-memory killer had struck before it.
        present: whether NVML listed its GPUs.
    """

    slot: str | None
    child: Child
    kills: int
    present: bool


class LocalLauncher:
    """Launches each run in a process of its own.

    Args:
        device: `cuda` takes a free slot of `gpus` for every run; `cpu` takes none.
        gpus: one entry for each slot, as CUDA_VISIBLE_DEVICES takes it.
        jobs: runs at once on the CPU.
        data_dir: where data sets are.
        work_dir: a folder for each run's log, figures and checkpoint is made here.
        timeout: time after which a run is stopped, in s; None for none.
        checkpoint_every: epochs between checkpoints; 0 for none.

    Attributes:
        jobs: runs at once, see `Launcher`.
    """

    def __init__(
        self,
        device: Device,
        *,
        gpus: list[str],
        jobs: int,
        data_dir: Path,
        work_dir: Path,
        timeout: float | None = None,
        checkpoint_every: int = 0,
    ) -> None:
        self._device = device
        self._data_dir = data_dir
        self._work_dir = work_dir
        self._timeout = timeout
        self._checkpoint_every = checkpoint_every
        self._slots: queue.Queue[str | None] = queue.Queue()
        slots: list[str | None] = [*gpus] if device == "cuda" else [None] * jobs
        for slot in slots:
            self._slots.put(slot)
        self.jobs = len(slots)
        self._cancelled = False
        self._running: set[int] = set()
        self._lock = threading.Lock()
        self._slot_of: dict[str, str | None] = {}
        self._prepared: dict[str, PreparedWorker] = {}
        self._flops: dict[tuple[Any, ...], float] = {}
        os.environ.update({**process_environment(), **_kept("CUBLAS_WORKSPACE_CONFIG")})
        self._context = process_context("forkserver")
        self._context.set_forkserver_preload(["pipeline.execution.local.preload"])

    def start(self) -> None:
        """Starts the fork server, whose imports go on while the parent does something else."""
        from multiprocessing import forkserver

        forkserver.ensure_running()

    def work_dir(self, spec: RunSpec) -> Path:
        """See `Launcher.work_dir`."""
        return self._work_dir / spec.digest

    def job(self, spec: RunSpec, gpu: str | None = None) -> Job:
        """Returns the job of a run on this host.

        Args:
            spec: the run.
            gpu: as CUDA_VISIBLE_DEVICES takes it; None on the CPU.
        """
        return Job(
            spec=spec,
            data_dir=str(self._data_dir.resolve()),
            work_dir=str(self._work_dir.resolve() / spec.digest),
            gpu=gpu,
            checkpoint_every=self._checkpoint_every,
            flops_per_image=self._flops.get(_shape(spec)),
        )

    def preflight(self, specs: Sequence[RunSpec], note: Callable[[str], None] | None = None) -> None:
        """Checks device, data, models and weights in a child (see `Launcher.preflight`).

        Args:
            specs: one run for each thing that can be wrong.
            note: shows the user a line.

        Raises:
            InputError: a specification asks for something that cannot work.
            OutsideError: something is missing here, or the child died.
        """
        log = self._work_dir / "preflight.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)  # of an earlier call, or a link to somewhere else
        payloads = [self.job(spec).model_dump_json() for spec in specs]
        if not self._checked(payloads, log, note) and not self._checked(payloads, log, note):
            raise OutsideError(f"preflight: the server that it was forked from was killed, twice{last_words(log)}")

    def _checked(self, payloads: list[str], log: Path, note: Callable[[str], None] | None) -> bool:
        """Runs the preflight; False when it lost the server that it was forked from, and went with it."""
        with self._closing(Child(self._context, child.check_child, (payloads,), log)) as checking:
            try:
                while True:
                    code, text = checking.records.recv()
                    if code == "note":
                        if note is not None:
                            note(text)
                    elif code == "ok":
                        return True
                    else:
                        raise {2: InputError, 3: OutsideError}.get(code, AblateError)(text)
            except EOFError:
                checking.wait()
                if checking.process.exitcode == SERVER_LOST:
                    return False
                raise OutsideError(
                    f"preflight ended with {death(checking.process.exitcode)}{last_words(log)}"
                ) from None

    def launch(self, spec: RunSpec) -> Generator[Record, None, None]:
        """Runs `spec` in a process of its own (see `Launcher.launch`).

        A GPU that disappears under a run takes its slot with it: `jobs` goes down by one, and the run is
        `interrupted`, since nothing is known against it.
        """
        prepared = self._prepared.pop(spec.digest, None)
        slot = prepared.slot if prepared else self._slots.get()
        present = prepared.present if prepared else _present(slot)
        with self._lock:
            self._slot_of[spec.digest] = slot
        try:
            for record in self._launch(prepared or self._start_worker(self.job(spec, slot)), self.job(spec, slot)):
                if isinstance(record, End) and record.outcome == "failed" and present and not _present(slot):
                    text = f"GPU {slot} disappeared: {record.error}"
                    record = record.model_copy(update={"outcome": "interrupted", "error": text})
                    self._lose(spec)
                    present = False
                yield record
        finally:
            with self._lock:
                if spec.digest in self._slot_of:
                    self._slots.put(self._slot_of.pop(spec.digest))

    def _lose(self, spec: RunSpec) -> None:
        """Gives the run's slot up, unless the next run has taken it over and will find that itself."""
        with self._lock:
            if spec.digest in self._slot_of:
                del self._slot_of[spec.digest]
                self.jobs -= 1

    def prepare(self, spec: RunSpec, after: RunSpec) -> None:
        """Starts the worker of the run that will follow `after` on its slot (see `PreparesNext`)."""
        with self._lock:
            slot = self._slot_of.pop(after.digest)
        try:
            self._prepared[spec.digest] = self._start_worker(self.job(spec, slot))
        except BaseException:
            with self._lock:
                self._slot_of[after.digest] = slot
            raise

    def cancel(self) -> None:
        """See `Launcher.cancel`."""
        self._cancelled = True

    def kill(self) -> None:
        """Kills all workers at once."""
        for pid in self._running - {0}:  # 0 would be this process's own group
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def launch_job(self, job: Job) -> Generator[Record, None, None]:
        """Runs a job whose slot somebody else keeps (see `launch`)."""
        return self._launch(self._start_worker(job), job)

    @contextmanager
    def slot(self, spec: RunSpec) -> Iterator[str | None]:
        """See `HasCellsStand.slot`: GPUs as CUDA_VISIBLE_DEVICES takes them; None on the CPU."""
        del spec
        slot = self._slots.get()
        try:
            yield slot
        finally:
            self._slots.put(slot)

    def stand(self, spec: RunSpec, slot: str | None) -> StandingWorker:
        """See `HasCellsStand.stand`."""
        job = self.job(spec, slot)
        prepared = self._start_worker(job)
        patience = Patience(None)
        return StandingWorker(prepared.child, self._launch(prepared, job, patience), patience)

    def free_mib(self, slot: str | None) -> tuple[float, float]:
        """See `HasCellsStand.free_mib`."""
        return free_mib(slot)

    def _start_worker(self, job: Job) -> PreparedWorker:
        folder = Path(job.work_dir)
        if folder.is_symlink():  # a run's folder is made here: what it leads to is not a run's
            folder.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log.txt"
        log.unlink(missing_ok=True)
        kills = oom_kills()
        worker = Child(self._context, child.run_child, (job.model_dump_json(), time.monotonic()), log, waits=True)
        self._running.add(worker.pid)
        return PreparedWorker(job.gpu, worker, kills, _present(job.gpu))

    def _launch(
        self, prepared: PreparedWorker, job: Job, patience: Patience | None = None
    ) -> Generator[Record, None, None]:
        worker = prepared.child
        with self._closing(worker):
            worker.send_start()
            end = yield from self._follow(worker, job.spec, patience or Patience(self._timeout))
            if end is None:
                worker.wait()
                end = _dead(worker, oom_kills() > prepared.kills)
                if self._ended_with_parent(worker.process.exitcode):
                    end = End(time=end.time, outcome="interrupted", error="cancelled")
        if end.outcome != "finished":
            yield Artifact(time=time.time(), path="log.txt")
        yield end

    def _ended_with_parent(self, code: int | None) -> bool:
        """Whether a worker's death belongs to the end of this call: batch systems signal parent and workers together.

        The worker may be dead before the parent has learnt of its own signal.
        """
        until = time.monotonic() + (NEWS_SECONDS if code is not None and -code in ENDING_SIGNALS else 0.0)
        while not self._cancelled and time.monotonic() < until:
            time.sleep(0.02)
        return self._cancelled

    def _follow(self, worker: Child, spec: RunSpec, patience: Patience) -> Generator[Record, None, End | None]:
        """Yields records up to the last one, which is the generator's return value; None when it never came."""
        while True:
            worker.cap_log()
            if self._cancelled:
                stop(worker.process)
                return End(time=time.time(), outcome="interrupted", error="cancelled")
            if patience.is_over():
                dump_and_stop(worker.process)
                return End(time=time.time(), outcome="timeout", error=f"no end within {patience.seconds:g} s")
            if not wait([worker.records], timeout=0.2):
                continue
            try:
                record = parse_record(worker.records.recv_bytes())
            except (EOFError, OSError):
                return None
            except ValueError:  # nothing further that it says can be trusted; the other runs are not touched
                stop(worker.process)
                return End(time=time.time(), outcome="failed", error="the worker sent something that is no record")
            if isinstance(record, End):
                return record
            if isinstance(record, Metrics) and FLOPS in record.values:
                self._flops[_shape(spec)] = record.values[FLOPS]
            yield record

    @contextmanager
    def _closing(self, worker: Child) -> Iterator[Child]:
        """The process is gone when the block is left, however."""
        self._running.add(worker.pid)
        try:
            yield worker
            worker.wait()
        finally:
            self._running.discard(worker.pid)
            worker.close()


def _shape(spec: RunSpec) -> tuple[Any, ...]:
    """What the number of operations per image depends on."""
    return (spec.model, spec.dataset, spec.data_digest, spec.recipe.image_size, spec.recipe.patch_size)


def _present(slot: str | None) -> bool:
    """Whether NVML still lists a GPU; one that has fallen off the bus is not listed any more."""
    return slot is not None and set(slot.split(",")) <= {gpu.uuid for gpu in nvml.gpus()}


def _kept(name: str) -> dict[str, str]:
    """A user's own setting wins over the default."""
    return {name: os.environ[name]} if name in os.environ else {}


def _dead(worker: Child, by_oom_killer: bool) -> End:
    """The last record of a worker that died without one."""
    code = worker.process.exitcode
    if by_oom_killer and code in (-signal.SIGKILL, SERVER_LOST):
        return End(time=time.time(), outcome="oom", error="killed by the kernel's out-of-memory killer")
    if code == SERVER_LOST:  # and the worker with it: nothing is known against the run
        return End(time=time.time(), outcome="interrupted", error="the server that it was forked from was killed")
    return End(time=time.time(), outcome="failed", error=f"worker ended with {death(code)}")
