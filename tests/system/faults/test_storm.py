"""Long proofs: a storm of kills, servers that are away or answer with errors."""

from __future__ import annotations

import math
import os
import random
import signal
import statistics
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.ablate import Result, ended
from tests.support.processes import (
    Row,
    Workspace,
    assert_once,
    fork_servers,
    kill,
    lines_of,
    marked,
    rows_of,
    until,
    workers,
    working_in,
)
from tests.support.servers import Proxy, Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ROUNDS = 16
KILLS = int(os.environ.get("ABLATE_KILLS", "6"))
SEEDS = 15 if KILLS > 50 else 3
PARENT_KILLS = 4
VICTIMS = ("parent", "fork server", "fork server", "worker", "worker", "tracking server")
SHORT = ("--set", "max_train_samples=128", "--set", "max_test_samples=100", "--set", "epochs=1")


@dataclass
class Storm:
    """A grid on a tracking server; parent, fork server, workers and server are killed and started again.

    Args:
        place: where the grid runs.
        server: its store.
        words: of the command, the same at every start.
        rng: decides who is killed, and when.

    Attributes:
        cells: of the grid.
        left: cells that were not finished at the last kill.
        late: kills when all cells were finished.
        kills: who was killed, how often.
        ends: exit codes of parents that were not killed.
        lines: what those said last.
    """

    place: Workspace
    server: Server
    words: tuple[str, ...]
    rng: random.Random
    cells: int
    left: int = 0
    late: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    ends: Counter[int] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    def rage(self, kills: int) -> None:
        """Kills so often, and waits until nothing of it is left."""
        process = self._start()
        while (done := self.kills.total()) < kills:
            # kills and cells keep pace, so that cells are left for the last kill
            ahead = self._finished() * kills > self.cells * done
            time.sleep(self.rng.uniform(0.0, 0.5 if ahead else 6.0))
            if process.poll() is not None:
                self._note(ended(process))
                process = self._start()
                continue
            victim = self.rng.choice(VICTIMS)
            self._kill(victim, process)
            if self.kills.total() > done:
                self.late += self._finished() >= self.cells
            if victim == "parent":
                process = self._start()
        kill(process)
        self.left = self.cells - self._finished()
        until(lambda: not working_in(self.place.folder), 15, "the end of all processes")

    def _finished(self) -> int:
        return sum(row.status == "FINISHED" for row in rows_of(self.server.database))

    def _start(self) -> subprocess.Popen[str]:
        """Starts the grid, and mostly waits for its first cell: the start would take most of the kills."""
        process = self.place.grid(*self.words)
        if self.rng.random() < 0.75:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("started"):
                    break
        return process

    def _note(self, end: Result) -> None:
        self.ends[end.code] += 1
        self.lines += end.lines[-1:]
        assert "Traceback" not in end.err, end.err

    def _kill(self, victim: str, process: subprocess.Popen[str]) -> None:
        if victim == "tracking server":
            self.server.stop()
            time.sleep(self.rng.uniform(0.0, 2.0))
            self.server.start()
        elif victim == "parent":
            kill(process)
        else:
            found = workers(self.place.folder) if victim == "worker" else fork_servers(self.place.folder)
            if not found:
                return
            with suppress(ProcessLookupError):
                os.kill(self.rng.choice(found), signal.SIGKILL)
        self.kills[victim] += 1


@pytest.mark.timeout(900 + 30 * KILLS)
def test_a_storm_on_every_process(tmp_path: Path, server: Server) -> None:
    """Whoever is killed, each cell is there once in the end, and is what an undisturbed grid gives.

    `ABLATE_KILLS` says how many kills; 100, on 60 cells, take half an hour.
    """
    mark = f"storm-{uuid.uuid4().hex}"
    storm = Workspace(tmp_path / "storm", env={"STORM_MARK": mark})
    calm = Workspace(tmp_path / "calm")
    words = ("--seeds", str(SEEDS), "--retries", "1000", "--jobs", "2", "--set", "epochs=80")
    raging = Storm(storm, server, (*words, "--tracking-uri", server.uri), random.Random(60), cells=4 * SEEDS)
    raging.rage(KILLS)
    print(f"{dict(raging.kills)}, {raging.late} of them too late, {raging.left} cells left at the last one")
    print(f"other ends: {dict(raging.ends)}, {raging.lines}")
    assert raging.late <= KILLS / 4
    last = storm.call_grid(*raging.words, timeout=900)
    assert last.code == 0, last.err
    assert storm.call("sync", "--tracking-uri", server.uri).code == 0
    until(lambda: not working_in(storm.folder), 15, "the end of all processes")
    assert not marked(mark)

    rows = rows_of(server.database)
    assert_once(rows, raging.cells)
    assert [row.status for row in rows_of(server.database, "grid")] == ["FINISHED"]
    assert calm.call_grid(*words, timeout=900).code == 0
    expected = {row.digest: row for row in calm.rows()}
    found = {row.digest: row for row in rows if row.status == "FINISHED"}
    assert found.keys() == expected.keys()
    for digest, row in found.items():
        assert row.results() == expected[digest].results(), row.name
        assert row.metrics.keys() == expected[digest].metrics.keys()
        assert row.params == expected[digest].params


def test_kill_storm(tmp_path: Path) -> None:
    """The parent is killed at random instants, on a store in a file; the outcome is that of an undisturbed grid."""
    words = ("grid", "--study", "quickstart", "--models", "test_resnet", "--device", "cpu", *SHORT)
    storm, calm = Workspace(tmp_path / "storm"), Workspace(tmp_path / "calm")
    rng = random.Random(20)
    kills = 0
    while kills < PARENT_KILLS:
        process = storm.start(*words)
        try:
            # Most of them while cells are run, the others anywhere in the start. They go by cells, of which a fast
            # machine makes more a second than another: at most 3 a kill, so that all kills come before the end.
            if kills % 4:
                for _ in range(rng.randint(1, 3)):
                    lines_of(process, "^started")
                process.wait(rng.uniform(0.0, 0.2))
            else:
                process.wait(rng.uniform(0.5, 4.0))
        except subprocess.TimeoutExpired:
            kill(process)
            kills += 1
        else:
            raise AssertionError(f"through after {kills} kills: {ended(process).err}")
        found = [row.digest for row in storm.rows() if row.status == "FINISHED"]
        print(f"kill {kills}: {len(found)} finished")
        assert len(found) == len(set(found))
    last = storm.call(*words, timeout=600)
    assert last.code == 0, last.err
    until(lambda: not working_in(storm.folder), 10, "the end of all processes")
    assert_once(storm.rows(""), 16 + 1)
    rows = {row.digest: row for row in storm.rows() if row.status == "FINISHED"}
    assert len(rows) == 16
    assert len(storm.rows("grid")) == 1

    assert calm.call(*words, timeout=600).code == 0
    expected = {row.digest: row for row in calm.rows()}
    assert rows.keys() == expected.keys()
    for digest, row in rows.items():
        assert row.results() == expected[digest].results(), row.name
        assert row.metrics.keys() == expected[digest].metrics.keys()
        assert row.params == expected[digest].params


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    place = Server(tmp_path / "server")
    place.start()
    yield place
    place.stop()


def check_store(rows: list[Row], cells: int, epochs: int) -> None:
    """Each cell once, with every point of its curve and its summary."""
    assert_once(rows, cells)
    assert len(rows) == cells
    for row in rows:
        assert sum(key == "train/loss" for key, *_ in row.points) == epochs
        assert "test/accuracy" in row.metrics
        assert row.params["model"] == "test_resnet"


def test_a_server_that_is_down_for_the_middle_third(tmp_path: Path, server: Server) -> None:
    place = Workspace(tmp_path / "work")
    process = place.grid("--seeds", "6", "--techniques", "pm", "--set", "epochs=20", "--tracking-uri", server.uri)
    for _ in range(4):
        lines_of(process, "^finished")
    server.stop()
    for _ in range(4):
        lines_of(process, "^finished")
    server.start()
    call = ended(process, 300)
    assert call.code == 0, call.err
    check_store(rows_of(server.database), 12, 20)
    assert [row.status for row in rows_of(server.database, "grid")] == ["FINISHED"]


def test_a_server_that_is_away_at_the_end_is_told_and_sync_delivers(tmp_path: Path, server: Server) -> None:
    place = Workspace(tmp_path / "work")
    process = place.grid("--seeds", "2", "--techniques", "pm", "--set", "epochs=20", "--tracking-uri", server.uri)
    lines_of(process, "^finished")
    server.stop()
    call = ended(process, 300)
    assert call.code == 3
    assert len(call.lines) == 1
    assert "`ablate sync` will deliver it" in call.lines[0]
    away = place.call("sync", "--tracking-uri", server.uri)
    assert (away.code, len(away.lines)) == (3, 1)
    server.start()
    for _ in range(2):
        assert place.call("sync", "--tracking-uri", server.uri).code == 0
        check_store(rows_of(server.database), 4, 20)
        assert [row.status for row in rows_of(server.database, "grid")] == ["FINISHED"]


def test_two_controllers_share_a_server(tmp_path: Path, server: Server) -> None:
    first, second = Workspace(tmp_path / "first"), Workspace(tmp_path / "second")
    words = ("--seeds", "2", "--set", "epochs=20", "--tracking-uri", server.uri)
    calls = [ended(process, 400) for process in [first.grid(*words), second.grid(*words)]]
    assert [call.code for call in calls] == [0, 0], [call.err for call in calls]
    check_store(rows_of(server.database), 8, 20)
    assert [row.status for row in rows_of(server.database, "grid")] == ["FINISHED"]
    assert all("finished  test_resnet" in call.out for call in calls), "both worked"


@pytest.mark.quiet
def test_training_does_not_feel_a_bad_server(tmp_path: Path, server: Server) -> None:
    """One long run; the server is healthy, answers every third request with 500, or is away, in turn.

    The modes change within the run, every second and in random order: what other users of the machine do is slower
    than that and falls on all modes alike. Each epoch, of about a tenth of a second, is recorded: a hundred times the
    tracking of an ordinary run.
    """
    proxy = Proxy(server.port)
    place = Workspace(tmp_path / "work")
    sizes = ("--set", "max_train_samples=256", "--set", "epochs=100000", "--set", "eval_every=100000")
    process = place.grid("--techniques", "none", *sizes, "--tracking-uri", proxy.uri)
    lines_of(process, "^started")
    until(lambda: any(len(row.points) > 60 for row in rows_of(server.database)), 60, "some epochs")
    rng = random.Random(7)
    spans: list[tuple[str, float, float]] = []
    for _ in range(ROUNDS):
        for mode in rng.sample(("healthy", "flaky", "down"), 3):
            proxy.mode, began = mode, time.time()
            time.sleep(1.0)
            spans.append((mode, began, time.time()))
    proxy.mode = "healthy"
    kill(process, signal.SIGINT)
    call = ended(process, 60)
    assert call.code == 130, call.err
    proxy.close()
    assert proxy.refused > ROUNDS
    (row,) = rows_of(server.database)
    points = sorted((at / 1e3, value) for key, _, at, value in row.points if key == "train/epoch_seconds")
    assert [step for key, step, *_ in sorted(row.points) if key == "train/loss"] == list(range(1, len(points) + 1))
    speeds = [(mode, speed_within(points, began, end)) for mode, began, end in spans]
    for mode in ("flaky", "down"):
        ratio, low, high = paired_ratio(speeds, mode)
        print(f"throughput with a server that is {mode}: {ratio:.3f} of healthy, 95 % [{low:.3f}, {high:.3f}]")
        assert high > 0.98


def speed_within(points: list[tuple[float, float]], began: float, end: float) -> float:
    """Epochs per second of training in a span, of the epochs that lie wholly in it (ends and seconds given)."""
    inside = [seconds for at, seconds in points if at <= end and at - seconds >= began]
    return len(inside) / sum(inside) if inside else math.nan


def paired_ratio(speeds: list[tuple[str, float]], mode: str) -> tuple[float, float, float]:
    """Geometric mean over the rounds of speed / speed when healthy, with a 95 % bootstrap interval."""
    logs = []
    for start in range(0, len(speeds), 3):
        found = dict(speeds[start : start + 3])
        if not math.isnan(found[mode] * found["healthy"]):
            logs.append(math.log(found[mode] / found["healthy"]))
    rng = random.Random(1)
    means = sorted(statistics.fmean(rng.choices(logs, k=len(logs))) for _ in range(2000))
    return math.exp(statistics.fmean(logs)), math.exp(means[50]), math.exp(means[1949])
