"""Runs in fresh local processes: one per run, one run per GPU, forked from a server that has torch imported."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from pipeline import nvml
from pipeline.environment import oom_kills, process_environment
from pipeline.errors import AblateError, InputError, OutsideError
from pipeline.launchers import child
from pipeline.spec import Artifact, Device, End, Job, Outcome, Record, RunSpec, parse_record

GRACE_SECONDS = 3.0  # from the asking to the killing of a worker


class LocalLauncher:
    """Launches each run in a process of its own.

    Args:
        device: `cuda` takes a free GPU for every run; `cpu` takes none.
        gpus: identifiers for CUDA_VISIBLE_DEVICES, one run at a time on each.
        jobs: runs at once on the CPU.
        data_dir: where data sets are.
        work_dir: a folder for each run's log, figures and checkpoint is made here.
        timeout: seconds after which a run is stopped, or None.
        checkpoint_every: epochs between checkpoints; 0 for none.
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
        places: list[str | None] = [*gpus] if device == "cuda" else [None] * jobs
        for place in places:
            self._slots.put(place)
        self.jobs = len(places)
        self._cancelled = False
        self._running: set[int] = set()
        os.environ.update({**process_environment(), **_kept("CUBLAS_WORKSPACE_CONFIG")})
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["pipeline.launchers.preload"])

    def warm(self) -> None:
        """Starts the fork server; its imports go on while the parent does something else."""
        from multiprocessing import forkserver

        forkserver.ensure_running()

    def work_dir(self, spec: RunSpec) -> Path:
        """The run's own folder."""
        return self._work_dir / spec.digest

    def job(self, spec: RunSpec, gpu: str | None = None) -> Job:
        """The job of a run on this host."""
        return Job(
            spec=spec,
            data_dir=str(self._data_dir.resolve()),
            work_dir=str(self.work_dir(spec).resolve()),
            gpu=gpu,
            checkpoint_every=self._checkpoint_every,
        )

    def preflight(self, specs: list[RunSpec], note: Any = None) -> None:
        """Checks device, data, models and weights in a child, before any run.

        Raises:
            InputError, OutsideError: as the child found.
        """
        log = self._work_dir / "preflight.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        payloads = [self.job(spec).model_dump_json() for spec in specs]
        with self._process(child.check, (payloads,), log) as (process, records):
            try:
                while True:
                    code, text = records.recv()
                    if code == "note":
                        if note is not None:
                            note(text)
                    elif code == "ok":
                        return
                    else:
                        raise {2: InputError, 3: OutsideError}.get(code, AblateError)(text)
            except EOFError:
                process.join(GRACE_SECONDS)
                raise OutsideError(f"preflight ended with {_death(process.exitcode)}; see {log}") from None

    def launch(self, spec: RunSpec) -> Iterator[Record]:
        """Runs `spec`; yields its records, the last one an `End` whatever happens to the process.

        A GPU that disappears under a run takes its place with it: `jobs` goes down by one, and the run is
        `interrupted`, since nothing is known against it.
        """
        slot = self._slots.get()
        present = _present(slot)
        try:
            for record in self.launch_job(self.job(spec, slot)):
                if isinstance(record, End) and record.outcome == "failed" and present and not _present(slot):
                    text = f"GPU {slot} disappeared: {record.error}"
                    record = record.model_copy(update={"outcome": "interrupted", "error": text})
                    slot, self.jobs = None, self.jobs - 1
                    present = False
                yield record
        finally:
            if slot is not None or self._device == "cpu":
                self._slots.put(slot)

    def cancel(self) -> None:
        """Stops every run; their last record says `interrupted`."""
        self._cancelled = True

    def kill(self) -> None:
        """Kills all workers at once: for a controller that leaves without waiting for them."""
        for pid in self._running - {0}:  # 0 would be this process's own group
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def launch_job(self, job: Job) -> Iterator[Record]:
        """Runs a job whose slot somebody else keeps (see `launch`)."""
        folder = Path(job.work_dir)
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log.txt"
        log.unlink(missing_ok=True)
        kills = oom_kills()
        with self._process(child.main, (job.model_dump_json(), time.time()), log) as (process, records):
            end = yield from self._follow(process, records)
            if end is None:
                process.join(GRACE_SECONDS)
                end = _dead(process, oom_kills() > kills)
        if end.outcome != "finished":
            yield Artifact(time=time.time(), path="log.txt")
        yield end

    def _follow(self, process: ForkServerProcess, records: Connection) -> Generator[Record, None, End | None]:
        """Yields records up to the last one, which is the generator's return value; None when it never came."""
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            if self._cancelled:
                _stop(process)
                return End(time=time.time(), outcome="interrupted", error="cancelled")
            if deadline is not None and time.monotonic() > deadline:
                _dump_and_stop(process)
                return End(time=time.time(), outcome="timeout", error=f"no end within {self._timeout:g} s")
            if not wait([records], timeout=0.2):
                continue
            try:
                record = parse_record(records.recv_bytes())
            except (EOFError, OSError):
                return None
            if isinstance(record, End):
                return record
            yield record

    @contextmanager
    def _process(self, target: Any, arguments: tuple[Any, ...], log: Path) -> Iterator[Any]:
        """A child with its record pipe; it is gone when the block is left, however."""
        records, sender = self._context.Pipe(duplex=False)
        watched, lifeline = self._context.Pipe(duplex=False)
        process = self._context.Process(target=target, args=(*arguments, sender, watched, str(log.resolve())))
        try:
            process.start()
        finally:
            sender.close()
            watched.close()
        pid = process.pid or 0
        self._running.add(pid)
        try:
            yield process, records
            process.join(GRACE_SECONDS)
        finally:
            self._running.discard(pid)
            if process.is_alive():
                _stop(process)
            process.close()
            lifeline.close()
            records.close()


def _present(slot: str | None) -> bool:
    """Whether NVML still lists a GPU; one that has fallen off the bus is not listed any more."""
    return slot is not None and any(gpu.uuid == slot for gpu in nvml.gpus())


def _kept(name: str) -> dict[str, str]:
    """A user's own setting wins over the default."""
    return {name: os.environ[name]} if name in os.environ else {}


def _stop(process: ForkServerProcess) -> None:
    """Kills a worker with its process group and reaps it."""
    pid = process.pid
    if pid is None:
        return
    for kill in (os.killpg, os.kill):  # the group exists once the child has called setsid
        try:
            kill(pid, signal.SIGKILL)
            break
        except ProcessLookupError:
            continue
    process.join(GRACE_SECONDS)


def _dump_and_stop(process: ForkServerProcess) -> None:
    """Asks for a dump of all stacks into the log, then kills."""
    if process.pid is not None:
        try:
            os.kill(process.pid, signal.SIGCONT)  # a stopped process would not answer
            os.kill(process.pid, signal.SIGUSR1)
            time.sleep(0.5)
        except ProcessLookupError:
            pass
    _stop(process)


def _dead(process: ForkServerProcess, by_oom_killer: bool) -> End:
    """The last record of a worker that died without one."""
    if by_oom_killer and process.exitcode == -signal.SIGKILL:
        return End(time=time.time(), outcome="oom", error="killed by the kernel's out-of-memory killer")
    outcome: Outcome = "failed"
    return End(time=time.time(), outcome=outcome, error=f"worker ended with {_death(process.exitcode)}")


def _death(code: int | None) -> str:
    if code is None:
        return "no exit status"
    if code < 0:
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:
            return f"signal {-code}"
    return f"exit status {code}"
