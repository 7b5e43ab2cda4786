"""Who lives: nobody is taken for dead without being watched."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from pipeline.tracking.journal import abandoned
from pipeline.tracking.liveness import ENDED, Liveness, is_alive, owner


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def watch(liveness: Liveness, clock: Clock, seconds: float, beats: dict[str, str]) -> None:
    """Looks at the same heartbeats every five seconds."""
    for _ in range(int(seconds / 5)):
        clock.now += 5
        liveness.observe(beats)


def test_a_controller_elsewhere_is_dead_after_a_minute_without_a_new_heartbeat() -> None:
    clock = Clock()
    liveness = Liveness(clock=clock)
    liveness.observe({"other.1.2": "17"})
    assert liveness.is_alive("other.1.2")
    watch(liveness, clock, 55, {"other.1.2": "17"})
    assert liveness.is_alive("other.1.2")
    watch(liveness, clock, 10, {"other.1.2": "17"})
    assert not liveness.is_alive("other.1.2")
    liveness.observe({"other.1.2": "18"})
    assert liveness.is_alive("other.1.2")


def test_other_clocks_and_unwatched_time_kill_nobody() -> None:
    clock = Clock()
    liveness = Liveness(clock=clock)
    liveness.observe({"other.1.2": "1"})  # a clock of 1970
    clock.now += 3600  # the store was away: nobody could write, nobody could read
    liveness.observe({"other.1.2": "1"})
    assert liveness.is_alive("other.1.2")
    watch(liveness, clock, 65, {"other.1.2": "1"})
    assert not liveness.is_alive("other.1.2")


def test_one_that_has_left_is_not_waited_for() -> None:
    liveness = Liveness(clock=Clock())
    liveness.observe({"other.1.2": ENDED, "more.1.2": "5"})
    assert not liveness.is_alive("other.1.2")
    assert liveness.living() == ["more.1.2"]


def test_one_without_a_heartbeat_gets_its_minute() -> None:
    clock = Clock()
    liveness = Liveness(clock=clock)
    assert liveness.is_alive("other.1.2")
    watch(liveness, clock, 65, {})
    assert not liveness.is_alive("other.1.2")


def test_on_this_host_the_process_table_decides() -> None:
    liveness = Liveness()
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    host = owner().partition(".")[0]
    start = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    name = f"{host}.{process.pid}.{start}"
    try:
        assert liveness.is_alive(name)
        assert is_alive(name, None)
        assert not liveness.is_alive(f"{host}.{process.pid}.{int(start) + 1}"), "another process with a reused pid"
    finally:
        process.kill()
        process.wait()
    liveness.observe({name: "9999999999999"})
    assert not liveness.is_alive(name)
    assert liveness.is_alive(owner())


HALF_DEAD = """
import ctypes, sys, threading, time
from pathlib import Path
from pipeline.tracking.journal import Journal
from pipeline.tracking.liveness import owner
book = Journal(Path(sys.argv[1]))
threading.Thread(target=time.sleep, args=(600,)).start()
print(owner(), flush=True)
ctypes.CDLL(None).pthread_exit(None)  # as when a kill has reached the main thread, and another one hangs in fsync
"""


def test_a_process_lives_until_its_last_thread_has_let_go_of_its_files(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    process = subprocess.Popen([sys.executable, "-c", HALF_DEAD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        stat = Path(f"/proc/{process.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        with abandoned(path) as free:
            assert not free
        assert is_alive(name, None)
        process.kill()
        while is_alive(name, None):  # nobody has asked for its exit status yet: it stays in the process table
            time.sleep(0.01)
        with abandoned(path) as free:
            assert free and stat.exists()
    finally:
        process.kill()
        process.communicate()
