"""Runs on an existing Ray cluster: one Ray task per run, pinned to its block's node, records streamed back.

The driver stays the only writer: what a run produces (records, figures, log, checkpoints) comes back in the task's
stream. Ray's own retries are off: a cell whose node is lost ends as `interrupted`, and the grid runs it again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pipeline.design.records import End, Record
from pipeline.design.spec import Device, RunSpec
from pipeline.errors import AblateError, InputError, OutsideError
from pipeline.execution.ray import cluster
from pipeline.execution.ray import node as ray_node
from pipeline.execution.ray.placement import Node, NodeSlots, Slot

LOOK_SECONDS = 2.0  # between looks at the cluster's nodes
NODE_PATIENCE = 300.0  # without any node
LOSS_SECONDS = 40.0  # that Ray takes at most to tell a lost node from a crashed worker
FACTS_SECONDS = 180.0


class NodeLostError(OutsideError):
    """A node has left the cluster while it was asked something."""


class Planned(Protocol):
    """What the launcher needs of a planned run."""

    @property
    def block(self) -> int:
        """Its block."""
        ...

    @property
    def spec(self) -> RunSpec:
        """What it is."""
        ...


class RayLauncher:
    """Launches each run as one Ray task.

    Args:
        device: `cuda` asks for GPUs (`num_gpus` = the run's processes), `cpu` for CPUs (threads x processes).
        address: of the cluster (see `cluster.connect`).
        jobs: runs at once on each node; None for one per GPU, on the CPU one.
        data_dir: of data sets on the nodes; None for each node's default.
        work_dir: folder on this machine for artifacts and checkpoints.
        timeout: seconds after which a run is stopped, or None.
        checkpoint_every: epochs between checkpoints; 0 for none.
        scope: what blocks are numbered in (tracking store and experiment).
        note: shows a line to the user.
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
        self._places = NodeSlots(cluster.SharedAssignments(scope))
        kept = tuple((name, os.environ.get(name)) for name in ("OMP_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG"))
        folder = str(data_dir.resolve()) if data_dir else None
        self._request = ray_node.Request(device, folder, timeout, checkpoint_every, kept)
        self._ray: Any = None
        self._need = 1
        self._specs: list[RunSpec] = []
        self._model = ""
        self._known: set[str] = set()
        self._held: dict[str, Slot] = {}
        self._watched: set[tuple[str, int]] = set()
        self._streams: set[Any] = set()
        self._looking = threading.Lock()
        self._looked = 0.0
        self._peopled = 0.0
        self._cancelled = False

    # -- before the first run --------------------------------------------------------------------------------------

    def warm(self) -> None:
        """Connects to the cluster.

        Raises:
            InputError, OutsideError: see `cluster.connect`.
        """
        self._ray = cluster.connect(self._address)

    def work_dir(self, spec: RunSpec) -> Path:
        """The run's own folder on this machine."""
        return self._work_dir / spec.digest

    def preflight(self, specs: list[RunSpec], note: Any = None) -> None:
        """Compares versions, and checks data, models and weights, on every node that can take a run.

        Raises:
            InputError, OutsideError: the first difference or problem, in one line.
        """
        self._specs = specs
        self._need = max(self._units(spec) for spec in specs)
        found = {machine.id: machine for machine in cluster.machines(self._ray).values() if self._slots(machine)}
        if not found:
            unit = "GPUs" if self._device == "cuda" else "CPUs"
            raise OutsideError(f"Ray at {self._address}: no node has {self._need} {unit} for a run")
        self._known = set(found)
        if note is not None:
            note(f"checking {len(found)} node(s) of the Ray cluster")
        facts = self._of_each(self._facts, found.values())
        self._model = _commonest({node: self._slots(found[node]) for node in facts}, facts)
        chosen = []
        for node, fact in facts.items():
            if fact["model"] == self._model:
                chosen.append(found[node])
            else:
                self._leave_out(found[node], f"has {fact['model']}, the others {self._model}")
        for node in self._of_each(self._check, chosen):
            self._places.add(Node(node, facts[node]["hostname"], self._slots(found[node])))
        self._look()
        self.jobs = self._places.slots

    def _of_each(
        self, function: Callable[[cluster.ClusterNode], Any], machines: Iterable[cluster.ClusterNode]
    ) -> dict[str, Any]:
        """Asks all nodes at once; one that is lost meanwhile is left out, as it would be a moment later.

        Raises:
            InputError, OutsideError: the first problem of a node that lives, or none lives.
        """
        listed = list(machines)
        found = {}
        for machine, answer in zip(listed, _together([partial(function, machine) for machine in listed]), strict=True):
            if isinstance(answer, NodeLostError):
                self._leave_out(machine, "it was lost while it was checked")
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found[machine.id] = answer
        if not found:
            raise OutsideError(f"Ray at {self._address}: no node is left, all were lost while they were checked")
        return found

    def _units(self, spec: RunSpec) -> int:
        """GPUs or CPUs that a run takes."""
        return spec.nproc if self._device == "cuda" else spec.recipe.num_threads * spec.nproc

    def _slots(self, machine: cluster.ClusterNode) -> int:
        """Runs at once on a node: on the CPU one, unless asked for more, since they would disturb each other."""
        room = (machine.gpus if self._device == "cuda" else machine.cpus) // self._need
        wanted = self._per_node or (room if self._device == "cuda" else 1)
        return min(room, wanted)

    def _facts(self, machine: cluster.ClusterNode) -> dict[str, str]:
        """What a node is; raises where its versions are not those of this process."""
        found: dict[str, str] = self._ask(machine, ray_node.facts, self._device)
        mine = ray_node.facts("cpu")
        for name in ray_node.COMPARED:
            if found[name] != mine[name]:
                raise OutsideError(
                    f"Ray node {machine.name}: {name} is {found[name]} there and {mine[name]} here; "
                    "install the same environment on all machines"
                )
        return found

    def _check(self, machine: cluster.ClusterNode) -> None:
        specs = [spec.model_dump_json() for spec in self._specs]
        code, text = self._ask(machine, ray_node.check_node, self._request, specs)
        if code:
            raise (InputError if code == 2 else OutsideError)(f"Ray node {machine.name}: {text}")

    def _ask(self, machine: cluster.ClusterNode, function: Any, *arguments: Any) -> Any:
        """Calls a function of `ray_node` on a node."""
        errors = self._ray.exceptions
        task = self._ray.remote(num_cpus=0, max_retries=0, max_calls=0)(function)
        answer = task.options(scheduling_strategy=self._on(machine.id)).remote(*arguments)
        try:
            while True:
                done, _ = self._ray.wait([answer], timeout=0.5)
                if done:
                    return self._ray.get(answer)
                if self._cancelled:
                    raise OutsideError("cancelled")
        except errors.RayTaskError as error:
            raise OutsideError(f"Ray node {machine.name}: {_reason(error)}") from None
        except errors.RayError as error:
            lost = NodeLostError if self._has_left(machine.id) else OutsideError
            raise lost(f"Ray node {machine.name}: lost ({type(error).__name__})") from None

    def _has_left(self, node: str) -> bool:
        """Whether a node that failed has left the cluster; waits until Ray knows."""
        deadline = time.monotonic() + LOSS_SECONDS
        while not self._cancelled and time.monotonic() < deadline:
            with suppress(Exception):
                if node not in cluster.machines(self._ray):
                    return True
            time.sleep(0.5)
        return False

    def _on(self, node: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node, soft=False)

    def _leave_out(self, machine: cluster.ClusterNode, why: str) -> None:
        self._places.refuse(machine.id)
        self._note(f"Ray node {machine.name} is left out: {why}")

    # -- places ----------------------------------------------------------------------------------------------------

    def choose(self, runs: Sequence[Planned]) -> int | None:
        """The first of `runs` whose node has a free slot, which is kept for it; None when all have to wait.

        Raises:
            OutsideError: the cluster has had no node for a while.
        """
        self._look_around()
        if not self._places.free:
            return None
        seen = set()
        for index, run in enumerate(runs):
            if run.block in seen:
                continue
            seen.add(run.block)
            place = self._places.take(run.block)
            if place is not None:
                self._held[run.spec.digest] = place
                return index
        return None

    def release(self, run: Planned) -> None:
        """Frees the slot that is kept for a run which will not be launched."""
        place = self._held.pop(run.spec.digest, None)
        if place is not None:
            self._places.give_back(place)

    def _look_around(self) -> None:
        """Looks for nodes that were lost or joined, at most every `LOOK_SECONDS`."""
        if time.monotonic() - self._looked < LOOK_SECONDS or not self._looking.acquire(blocking=False):
            return
        try:
            self._look()
        finally:
            self._looking.release()
        if self._places.slots:
            self._peopled = time.monotonic()
        elif time.monotonic() - self._peopled > NODE_PATIENCE:
            raise OutsideError(f"Ray at {self._address}: no node that could take a run for {NODE_PATIENCE:g} s")

    def _look(self) -> set[str]:
        """Brings the places up to date; returns the nodes that live."""
        found = cluster.machines(self._ray)
        for name in self._places.look(found):
            self._note(f"Ray node {name} is lost: its cells run again elsewhere, their blocks are marked")
        for machine in found.values():
            if machine.id not in self._known and self._slots(machine):
                self._known.add(machine.id)
                threading.Thread(target=self._recruit, args=(machine,), daemon=True, name="recruit").start()
        now = time.monotonic()
        self._looked = now
        self._peopled = self._peopled or now
        return set(found)

    def _recruit(self, machine: cluster.ClusterNode) -> None:
        """Takes a node that has joined, if it is like the others."""
        try:
            facts = self._facts(machine)
            if facts["model"] != self._model:
                raise OutsideError(f"has {facts['model']}, the others {self._model}")
            self._check(machine)
        except AblateError as error:
            self._leave_out(machine, str(error))
        else:
            self._places.add(Node(machine.id, facts["hostname"], self._slots(machine)))
            self._note(f"Ray node {machine.name} has joined")

    # -- runs ------------------------------------------------------------------------------------------------------

    def launch(self, spec: RunSpec) -> Iterator[Record]:
        """Runs `spec` on the place that `choose` kept for it, or else on any free one; the last record is an `End`."""
        place = self._held.pop(spec.digest, None) or self._any_place()
        if place is None:
            yield _interrupted("cancelled")
            return
        try:
            yield from self._launch(spec, place)
        finally:
            self._places.give_back(place)

    def cancel(self) -> None:
        """Stops every run; their last record says `interrupted`."""
        self._cancelled = True
        self._cancel(force=False)

    def kill(self) -> None:
        """Kills the Ray workers of all runs, and with them the runs."""
        self._cancel(force=True)

    def _cancel(self, *, force: bool) -> None:
        for stream in list(self._streams):
            with suppress(Exception):  # the stream may just have ended; whatever is left dies with the driver
                self._ray.cancel(stream, force=force)

    def _any_place(self) -> Slot | None:
        while not self._cancelled:
            self._look_around()
            place = self._places.take(None)
            if place is not None:
                return place
            time.sleep(0.2)
        return None

    def _launch(self, spec: RunSpec, place: Slot) -> Iterator[Record]:
        end = yield from self._follow(spec, self._submit(spec, place), place)
        if end.outcome == "finished":
            (self.work_dir(spec) / ray_node.CHECKPOINT).unlink(missing_ok=True)
        yield end

    def _submit(self, spec: RunSpec, place: Slot) -> Any:
        folder = self.work_dir(spec)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "log.txt").unlink(missing_ok=True)
        saved = folder / ray_node.CHECKPOINT
        checkpoint = self._ray.put(saved.read_bytes()) if saved.is_file() else None
        key = (place.node, spec.seed)
        watch = key not in self._watched and self._places.used(place.node) == 1
        self._watched.add(key)
        units = self._units(spec)
        # max_calls=0: the worker process, hence its fork server, is kept; the run itself is forked for each task
        task = self._ray.remote(max_calls=0, max_retries=0)(ray_node.run_cell)
        options: dict[str, Any] = {"num_gpus": units, "num_cpus": 0} if self._device == "cuda" else {"num_cpus": units}
        options |= {"scheduling_strategy": self._on(place.node), "name": spec.name}
        return task.options(**options).remote(
            self._request, spec.model_dump_json(), place.node, place.moved, watch, checkpoint
        )

    def _follow(self, spec: RunSpec, stream: Any, place: Slot) -> Generator[Record, None, End]:
        """Yields the run's records up to its `End`, which is returned; files are put into the run's folder."""
        errors = self._ray.exceptions
        self._streams.add(stream)
        try:
            if self._cancelled:
                self._ray.cancel(stream)
            for reference in stream:
                item = ray_node.parse(self._ray.get(reference))
                if isinstance(item, ray_node.File):
                    _write(self.work_dir(spec), item)
                elif isinstance(item, End):
                    return item
                else:
                    yield item
        except GeneratorExit:  # a tuner has seen enough of the run
            self._ray.cancel(stream)
            raise
        except errors.TaskCancelledError:
            return _interrupted("cancelled")
        except errors.OutOfMemoryError as error:
            return End(time=time.time(), outcome="oom", error=_reason(error))
        except errors.RayTaskError as error:
            return _interrupted("cancelled") if self._cancelled else _failed(_reason(error))
        except errors.RayError as error:
            return self._lost(place, error)
        finally:
            self._streams.discard(stream)
        return _interrupted("cancelled") if self._cancelled else _failed("its stream ended without a last record")

    def _lost(self, place: Slot, error: Exception) -> End:
        """The last record of a run whose worker or node is gone; waits until Ray knows which."""
        deadline = time.monotonic() + LOSS_SECONDS
        while not self._cancelled and time.monotonic() < deadline:
            with suppress(Exception), self._looking:
                if place.node not in self._look():
                    break
            time.sleep(1.0)
        if self._cancelled:
            return _interrupted("cancelled")
        return _interrupted(f"node {place.name} ({place.node[:8]}) or its Ray worker was lost: {type(error).__name__}")


def _together(calls: list[Callable[[], Any]]) -> list[Any]:
    """Runs functions at the same time; what one raises stands in the place of its result."""
    found: list[Any] = [None] * len(calls)

    def run(index: int) -> None:
        try:
            found[index] = calls[index]()
        except BaseException as error:
            found[index] = error

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():  # a join without time-out would keep signals waiting
            thread.join(0.2)
    return found


def _commonest(slots: dict[str, int], facts: dict[str, dict[str, str]]) -> str:
    """The hardware model with the most slots; the study stays on it."""
    counts: dict[str, int] = {}
    for node, fact in facts.items():
        counts[fact["model"]] = counts.get(fact["model"], 0) + slots[node]
    return max(sorted(counts), key=lambda model: counts[model])


def _write(folder: Path, file: ray_node.File) -> None:
    """Puts a file of the run into its folder, whole or not at all."""
    target = (folder / file.path).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise OutsideError(f"Ray: a run sent a file outside of its folder: {file.path}")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".part")
    temporary.write_bytes(file.content)
    temporary.replace(target)


def _interrupted(why: str) -> End:
    return End(time=time.time(), outcome="interrupted", error=why)


def _failed(why: str) -> End:
    return End(time=time.time(), outcome="failed", error=why)


def _reason(error: Exception) -> str:
    """The last line of what a task raised, which names the error; a node without `ablate` is told as such."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if any("No module named 'pipeline" in line or "from 'pipeline." in line for line in lines):
        return "ablate is not installed there, or in another version"
    return lines[-1][:400]
