"""Tools of the fault tests: real `ablate` processes, their stores read without `ablate`, and a small study."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.ablate import Result, ended, start_ablate

# metrics that are figures of the machine and not of the run
MACHINE = re.compile(
    r"time/|throughput/|step/|budget/|memory/|energy/|host/|gpu/|env/|train/epoch_seconds|train/images_per_second"
)

STUDY = """\
title: Small
models:
  test_resnet: {learning_rate: 1.0e-2}
datasets: [digits]
techniques: [ga, pm]
recipe:
  epochs: 1
  image_size: 16
  batch_size: 32
  max_train_samples: 96
  max_test_samples: 50
  num_threads: 1
  validation_fraction: 0.2
  eval_batch_size: 256
  warmup_windows: 1
"""


@contextmanager
def default_signal(number: signal.Signals) -> Iterator[None]:
    """Has a signal handled as in a terminal: what is started in the background, or by nohup, inherits it ignored."""
    before = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)


@dataclass
class Workspace:
    """A folder with a study file in which `ablate` runs."""

    folder: Path
    study: str = STUDY
    env: dict[str, str] = field(default_factory=dict)
    name: str = "small"

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / f"{self.name}.yaml"
        self.file.write_text(self.study)

    @property
    def state(self) -> Path:
        """`mlruns`."""
        return self.folder / "mlruns"

    @property
    def database(self) -> Path:
        """The default store."""
        return self.state / "mlflow.db"

    def start(self, *words: str, **settings: Any) -> subprocess.Popen[str]:
        """Starts `ablate` there."""
        return start_ablate(*words, cwd=self.folder, env=self.env, **settings)

    def grid(self, *words: str, **settings: Any) -> subprocess.Popen[str]:
        """Starts `ablate grid` on the study file."""
        return self.start("grid", "--study", self.file.name, "--device", "cpu", *words, **settings)

    def call(self, *words: str, timeout: float = 120, **settings: Any) -> Result:
        """Runs `ablate` to its end."""
        return ended(self.start(*words, **settings), timeout)

    def call_grid(self, *words: str, timeout: float = 120, **settings: Any) -> Result:
        """Runs `ablate grid` to its end."""
        return ended(self.grid(*words, **settings), timeout)

    def rows(self, kind: str = "run") -> list[Row]:
        """The default store's rows of a kind, deleted ones left out."""
        return rows_of(self.database, kind)


@dataclass
class Row:
    """A run as the tracking store has it."""

    run_id: str
    name: str
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    points: list[tuple[str, int, int, float]]

    @property
    def outcome(self) -> str:
        """The contract's outcome."""
        return self.tags.get("ablate.outcome", "")

    @property
    def digest(self) -> str:
        """The cell."""
        return self.tags.get("ablate.digest", "")

    def results(self) -> dict[str, float]:
        """Metrics that may not depend on the machine's mood."""
        return {key: value for key, value in self.metrics.items() if not MACHINE.match(key)}


def rows_of(database: Path, kind: str = "run") -> list[Row]:
    """Reads a SQLite store with plain SQL."""
    if not database.is_file():
        return []
    found = []
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as store:
        try:
            runs = store.execute(
                "SELECT run_uuid, name, status FROM runs WHERE lifecycle_stage = 'active' ORDER BY start_time"
            ).fetchall()
        except sqlite3.OperationalError:
            return []
        for run_id, name, status in runs:
            tags = dict(store.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run_id,)).fetchall())
            if kind and tags.get("ablate.kind") != kind:
                continue
            params = dict(store.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run_id,)).fetchall())
            points = store.execute(
                "SELECT key, step, timestamp, value FROM metrics WHERE run_uuid = ?", (run_id,)
            ).fetchall()
            latest = dict(store.execute("SELECT key, value FROM latest_metrics WHERE run_uuid = ?", (run_id,)))
            found.append(Row(run_id, name, status, tags, params, latest, points))
    return found


def assert_once(rows: Sequence[Row], cells: int) -> None:
    """Exactly `cells` finished digests, none twice, no row open, no metric point twice."""
    finished = [row.digest for row in rows if row.status == "FINISHED"]
    assert len(finished) == cells
    assert len(set(finished)) == cells
    assert not [row.name for row in rows if row.status not in ("FINISHED", "FAILED", "KILLED")]
    for row in rows:
        keys = [(key, step) for key, step, _, _ in row.points]
        assert len(keys) == len(set(keys)), f"a point of {row.name} is stored twice"


def until(condition: Callable[[], Any], timeout: float = 60, what: str = "the condition") -> Any:
    """Waits until `condition` gives something true, and returns it."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not come within {timeout} s"
        time.sleep(0.02)


def lines_of(process: subprocess.Popen[str], pattern: str) -> str:
    """Reads the process's standard output up to a line that matches."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if re.search(pattern, line):
            return line
    errors = process.stderr.read() if process.stderr else ""
    raise AssertionError(f"{pattern!r} never came; output:\n{''.join(seen)}\n{errors}")


def working_in(folder: Path) -> list[int]:
    """Processes whose working folder is `folder` (children of `ablate` keep it), zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX" and (entry / "cwd").readlink() == folder.resolve():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def workers(folder: Path) -> list[int]:
    """Workers of an `ablate` that runs in `folder`: forked from the fork server, each leads its own session."""
    return [pid for pid, session in _forked(folder) if session == pid]


def fork_servers(folder: Path) -> list[int]:
    """Fork servers of an `ablate` that runs in `folder`; a worker that has not got its own session yet is one, too."""
    return [pid for pid, session in _forked(folder) if session != pid]


def _forked(folder: Path) -> Iterator[tuple[int, int]]:
    for pid in working_in(folder):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            session = os.getsid(pid)
        except OSError:
            continue
        if b"forkserver" in command:
            yield pid, session


def marked(text: str) -> list[int]:
    """Processes whose environment holds a text, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and text.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def kill(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    """Sends a signal to one process and, if it is deadly for sure, reaps it and all that hold its output open."""
    process.send_signal(number)
    if number == signal.SIGKILL:
        process.communicate(timeout=60)


def journal_entries(folder: Path) -> Iterator[dict[str, Any]]:
    """All entries of all journals of a workspace."""
    from pipeline.tracking import journal

    for path in sorted((folder / "mlruns" / "journal").glob("*.journal")):
        for entry, _ in journal.read_entries(path):
            yield entry
