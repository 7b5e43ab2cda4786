"""Claims: never two holders, whatever the interleaving."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tracking import claims
from pipeline.tracking.claims import LocalClaims, settle_claim


class CrashError(Exception):
    """A simulated crash."""


class Simulation:
    """Claimants in lock step: each access to the store, and each pause, is one step that the schedule grants.

    Args:
        keys: of the claims, one per claimant.
        patience: in steps of the whole simulation.
    """

    def __init__(self, keys: list[str], patience: int) -> None:
        self.store: dict[str, str] = {}
        self.keys = keys
        self.patience = patience
        self.now = 0
        self.results: dict[str, bool | None] = {}
        self._turns = [threading.Semaphore(0) for _ in keys]
        self._done = threading.Semaphore(0)
        self._crash: set[int] = set()
        self._threads = [threading.Thread(target=self._claimant, args=(n,), daemon=True) for n in range(len(keys))]
        self._over = [False] * len(keys)
        for thread in self._threads:
            thread.start()

    def _turn(self, number: int) -> None:
        self._done.release()
        self._turns[number].acquire()
        if number in self._crash:
            raise CrashError

    def _claimant(self, number: int) -> None:
        key = self.keys[number]
        self._turns[number].acquire()
        try:
            if number in self._crash:
                raise CrashError
            self.store[key] = "pending"

            def others() -> list[tuple[str, str]]:
                self._turn(number)
                return [(other, state) for other, state in self.store.items() if other != key]

            def hold() -> None:
                self._turn(number)
                self.store[key] = "held"

            local.turn = lambda: self._turn(number)
            held = settle_claim(key, others, hold, patience=self.patience)
            if not held:
                self._turn(number)
                del self.store[key]
            self.results[key] = held
        except CrashError:
            self.store.pop(key, None)  # the others find out that it is dead
            self.results[key] = None
        finally:
            self._over[number] = True
            self._done.release()

    def step(self, choice: int, crash: bool = False) -> bool:
        """Lets one claimant make one step; False when all are through."""
        ready = [number for number, over in enumerate(self._over) if not over]
        if not ready:
            return False
        number = ready[choice % len(ready)]
        if crash:
            self._crash.add(number)
        self.now += 1
        self._turns[number].release()
        self._done.acquire()
        assert sum(state == "held" for state in self.store.values()) <= 1, "two hold the cell"
        return True


local = threading.local()


@pytest.fixture(autouse=True)
def simulated_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Simulation], None]]:
    """`settle_claim` sees the simulation's steps as time, and a pause as a step."""
    current: list[Simulation] = []

    class Time:
        @staticmethod
        def monotonic() -> float:
            return current[-1].now if current and hasattr(local, "turn") else __import__("time").monotonic()

        @staticmethod
        def sleep(seconds: float) -> None:
            if hasattr(local, "turn"):
                local.turn()
            else:
                __import__("time").sleep(seconds)

        time = staticmethod(__import__("time").time)

    monkeypatch.setattr(claims, "time", Time)
    yield current.append


def drain(simulation: Simulation, schedule: Iterator[int]) -> None:
    while simulation.step(next(schedule)):
        assert simulation.now < 5000, "no end"


@pytest.mark.parametrize("keys", [["a", "b"], ["b", "a"]])
@pytest.mark.parametrize("patience", [2, 10_000])
def test_two_claimants_in_every_interleaving(
    keys: list[str], patience: int, simulated_time: Callable[[Simulation], None]
) -> None:
    """All orders of their first ten steps: never two holders, and exactly one when both are patient."""
    for order in itertools.product((0, 1), repeat=10):
        simulation = Simulation(keys, patience)
        simulated_time(simulation)
        drain(simulation, itertools.chain(order, itertools.cycle((0, 1))))
        found = sorted(simulation.results.values(), key=bool)
        assert found == [False, True] or (patience == 2 and found == [False, False]), order


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    keys=st.permutations(["a", "b", "c", "d"]),
    count=st.integers(2, 4),
    order=st.lists(st.integers(0, 3), max_size=40),
    crashes=st.sets(st.integers(0, 39), max_size=2),
    patience=st.sampled_from([3, 8, 20, 10_000]),
)
def test_never_two_holders(keys: list[str], count: int, order: list[int], crashes: set[int], patience: int) -> None:
    """With crashes and time-outs at any step; a time-out may leave the cell to nobody, never to two."""
    simulation = Simulation(list(keys[:count]), patience)
    original = claims.time.monotonic
    claims.time.monotonic = lambda: simulation.now if hasattr(local, "turn") else original()
    try:
        for number, choice in enumerate(order):
            if not simulation.step(choice, number in crashes):
                break
        drain(simulation, itertools.cycle(range(count)))
    finally:
        claims.time.monotonic = original
    results = list(simulation.results.values())
    assert results.count(True) <= 1
    if patience == 10_000:
        assert True in results or None in results


def test_a_local_claim_is_one_and_dies_with_its_process(tmp_path: Path) -> None:
    mine, other = LocalClaims(tmp_path), LocalClaims(tmp_path)
    assert mine.acquire("d")
    assert not other.acquire("d")
    assert not mine.acquire("d")
    mine.release("d")
    assert other.acquire("d")
    code = (
        f"from pathlib import Path\nfrom pipeline.tracking.claims import LocalClaims\nimport os\n"
        f"LocalClaims(Path({str(tmp_path)!r})).acquire('e'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert mine.acquire("e")
