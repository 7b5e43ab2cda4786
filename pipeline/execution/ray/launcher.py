"""Runs on an existing Ray cluster: one Ray task per run, on its block's node, records streamed back.

The driver stays the only writer: what a run produces (records, figures, log, checkpoints) comes back in the task's
stream. Ray's own retries are off: a cell whose node is lost ends as `interrupted`, and the grid runs it again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.design.plan import PlannedRun
from pipeline.design.records import Record
from pipeline.design.spec import Device, RunSpec
from pipeline.errors import OutsideError
from pipeline.execution.ray import cluster, node
from pipeline.execution.ray.membership import Membership
from pipeline.execution.ray.placement import NodeSlots, Slot
from pipeline.execution.ray.standing import RayStandingWorker, RayStands, Stand
from pipeline.execution.ray.stream import RunStreams, WorkerLostError, interrupted_end, lost_end
from pipeline.execution.ray.vetting import NodeVetting

_SLOT_SECONDS = 0.2  # between looks for a free slot


class RayLauncher:
    """Launches each run as one Ray task.

    Args:
        device: `cuda` asks for GPUs (`num_gpus` = the run's processes), `cpu` for CPUs (threads x processes).
        address: of the cluster (see `cluster.connect`).
        jobs: runs at once on each node; None for one per GPU, on the CPU one.
        data_dir: of data sets on the nodes; None for each node's default.
        work_dir: folder on this machine for artifacts and checkpoints.
        timeout: time after which a run is stopped, in s; None for none.
        checkpoint_every: epochs between checkpoints; 0 for none.
        scope: what blocks are numbered in (tracking store and experiment).
        note: shows a line to the user.

    Attributes:
        jobs: runs at once on the nodes that passed the preflight; nodes that join later make waiting shorter, not this
            larger, and a lost node's runs move to the others.
    """

    def __init__(
        self,
        device: Device,
        *,
        address: str,
        jobs: int | None,
        data_dir: Path | None,
        work_dir: Path,
        timeout: float | None,
        checkpoint_every: int,
        scope: str,
        note: Callable[[str], None],
    ) -> None:
        self.jobs = 0
        self._device = device
        self._address = address
        self._per_node = jobs
        self._work_dir = work_dir
        self._note = note
        self._slots = NodeSlots(cluster.SharedAssignments(scope))
        kept = tuple((name, os.environ.get(name)) for name in ("OMP_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG"))
        folder = str(data_dir.resolve()) if data_dir else None
        self._request = node.Request(device, folder, timeout, checkpoint_every, kept)
        self._nodes: Membership | None = None
        self._streams: RunStreams | None = None
        self._stands: RayStands | None = None
        self._held: dict[str, Slot] = {}
        self._cancelled = threading.Event()

    def start(self) -> None:
        """Connects to the cluster.

        Raises:
            InputError, OutsideError: see `cluster.connect`.
        """
        ray = cluster.connect(self._address)
        vetting = NodeVetting(ray, self._request, self._cancelled)
        self._nodes = Membership(
            ray, self._address, self._device, self._per_node, vetting, self._slots, self._cancelled, self._note
        )
        self._streams = RunStreams(ray, self._request, self._slots, self._cancelled.is_set)
        self._stands = RayStands(ray, self._request, self._cancelled.is_set)

    def preflight(self, specs: Sequence[RunSpec], note: Callable[[str], None]) -> None:
        """Compares versions, and checks data, models and weights, on every node that can take a run.

        Args:
            specs: one run for each thing that can be wrong.
            note: shows the user a line.

        Raises:
            InputError, OutsideError: the first difference or problem, in one line.
        """
        self._members().admit(specs, note)
        self.jobs = self._slots.total

    def work_dir(self, spec: RunSpec) -> Path:
        """See `Launcher.work_dir`."""
        return self._work_dir / spec.digest

    def choose(self, runs: Sequence[PlannedRun]) -> int | None:
        """Keeps a slot for the first of `runs` whose node has a free one (see `ChoosesNext`).

        Raises:
            OutsideError: the cluster has had no node for a while.
        """
        self._members().refresh()
        if not self._slots.free:
            return None
        full = set()
        for index, run in enumerate(runs):
            if run.block in full:
                continue
            slot = self._slots.take(run.block)
            if slot is not None:
                self._held[run.spec.digest] = slot
                return index
            full.add(run.block)
        return None

    def release(self, run: PlannedRun) -> None:
        """Frees the slot that is kept for a run which will not be launched."""
        slot = self._held.pop(run.spec.digest, None)
        if slot is not None:
            self._slots.give_back(slot)

    def launch(self, spec: RunSpec) -> Generator[Record, None, None]:
        """Runs `spec` on the slot that `choose` kept for it, or else on any free one (see `Launcher.launch`)."""
        slot = self._held.pop(spec.digest, None) or self._any_slot()
        if slot is None:
            yield interrupted_end("cancelled")
            return
        try:
            yield from self._launch(spec, slot)
        finally:
            self._slots.give_back(slot)

    def cancel(self) -> None:
        """See `Launcher.cancel`."""
        self._cancelled.set()
        if self._streams is not None:
            self._streams.cancel(force=False)
        if self._stands is not None:
            self._stands.kill()

    def kill(self) -> None:
        """Kills the Ray workers of all runs, and with them the runs."""
        if self._streams is not None:
            self._streams.cancel(force=True)
        if self._stands is not None:
            self._stands.kill()

    @contextmanager
    def slot(self, spec: RunSpec) -> Iterator[Stand]:
        """See `HasCellsStand.slot`: a process of Ray's on any node that has room, in which the cells stand.

        Raises:
            OutsideError: the cluster has had no node for a while, or the call has been cancelled.
        """
        slot = self._any_slot()
        if slot is None:
            raise OutsideError("Ray: cancelled")
        try:
            with self._standing().open(slot, spec) as stand:
                yield stand
        finally:
            self._slots.give_back(slot)

    def stand(self, spec: RunSpec, slot: Stand) -> RayStandingWorker:
        """See `HasCellsStand.stand`."""
        return self._standing().stand(slot, spec, self.work_dir(spec))

    def free_mib(self, slot: Stand) -> tuple[float, float]:
        """See `HasCellsStand.free_mib`."""
        return self._standing().free_mib(slot)

    def _standing(self) -> RayStands:
        assert self._stands is not None, "start comes first"
        return self._stands

    def _members(self) -> Membership:
        assert self._nodes is not None, "start comes first"
        return self._nodes

    def _any_slot(self) -> Slot | None:
        """Waits for a free slot on any node; None once cancelled."""
        while not self._cancelled.is_set():
            self._members().refresh()
            slot = self._slots.take(None)
            if slot is not None:
                return slot
            time.sleep(_SLOT_SECONDS)
        return None

    def _launch(self, spec: RunSpec, slot: Slot) -> Generator[Record, None, None]:
        assert self._streams is not None, "start comes first"
        folder = self.work_dir(spec)
        try:
            end = yield from self._streams.follow(self._streams.submit(spec, folder, slot), folder)
        except WorkerLostError as error:
            self._members().wait_for_loss(slot)
            end = lost_end(slot, str(error), cancelled=self._cancelled.is_set())
        if end.outcome == "finished":
            (folder / node.CHECKPOINT).unlink(missing_ok=True)
        yield end
