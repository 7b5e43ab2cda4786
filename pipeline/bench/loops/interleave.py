"""Contenders take turns, a step each, within an epoch of every one of them.

The speed of a shared machine wanders: two measurements that lie a tenth of a second apart differ nearly as much as two
that lie seconds apart, however long each of them is. So the shortest turns compare best. A contender that drives its
own loop (Lightning's Trainer) cannot be stopped after a step from outside, so each runs in a greenlet of its own, and
gives way where it asks for its next batch. One thread runs them all: threads of their own would have other memory
arenas and might move between cores.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

from greenlet import getcurrent, greenlet


class _Runner(greenlet):
    """One contender's epoch.

    Attributes:
        away: seconds that the others have had so far.
        result: what it returned.
    """

    away = 0.0
    result: float

    def __init__(self, action: Callable[[], float]) -> None:
        super().__init__()
        self._action = action

    def run(self) -> None:
        """Runs the action; called by the first switch."""
        self.result = self._action()


def give_way() -> None:
    """Lets the others have a turn; returns at once where nobody takes turns."""
    me = getcurrent()
    if isinstance(me, _Runner):
        left = time.perf_counter()
        assert me.parent is not None
        me.parent.switch()
        me.away += time.perf_counter() - left


def now() -> float:
    """Seconds on a clock that stands still while others have their turn."""
    me = getcurrent()
    return time.perf_counter() - (me.away if isinstance(me, _Runner) else 0.0)


def take_turns(actions: Mapping[str, Callable[[], float]], order: random.Random) -> dict[str, float]:
    """Runs all actions, each from one `give_way` to the next, then another; the order is shuffled before every turn.

    Args:
        actions: by name.
        order: shuffles.

    Returns:
        What each action returned.
    """
    runners = {name: _Runner(action) for name, action in actions.items()}
    running = list(runners)
    try:
        while running:
            order.shuffle(running)
            for name in running:
                runners[name].switch()
            running = [name for name in running if not runners[name].dead]
    finally:
        for runner in runners.values():
            if runner:  # begun and not ended: another one failed
                runner.throw()
    return {name: runner.result for name, runner in runners.items()}
