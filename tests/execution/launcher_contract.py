"""What every launcher does, whatever runs behind it: one suite over the promises of `execution.launcher.Launcher`.

A test module of a launcher makes a subclass of `LauncherContract` with a fixture `subject`.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from pipeline.design.plan import PlannedRun
from pipeline.design.records import End, Outcome, Record
from pipeline.design.spec import RunSpec
from pipeline.errors import InputError
from pipeline.execution.launcher import ChoosesNext, Launcher, PreparesNext
from tests.support.processes import until

PATIENCE = 60.0  # s, for whatever has to come


@dataclass
class Subject:
    """A kind of launcher, and runs that end on it in a known way.

    Attributes:
        make: makes a launcher with so many slots.
        finishes: makes short runs that finish, different ones for different seeds.
        unhappy: outcome -> a launcher and a run that ends so by itself; what is missing cannot be provoked.
        long: a run that lasts until it is ended; None where runs take no time.
        refused: a run that the preflight refuses; None where nothing can be wrong.
        workers: how many processes of runs there are.
    """

    make: Callable[[int], Launcher]
    finishes: Callable[[int], RunSpec]
    unhappy: Mapping[Outcome, Callable[[], tuple[Launcher, RunSpec]]] = field(default_factory=dict)
    long: RunSpec | None = None
    refused: RunSpec | None = None
    workers: Callable[[], int] = lambda: 0

    def ready(self, jobs: int = 1) -> Launcher:
        """A launcher that has been through what comes before the first run."""
        return started(self.make(jobs), self.finishes(1))


def started(launcher: Launcher, spec: RunSpec) -> Launcher:
    """Takes a launcher through what comes before the first run."""
    launcher.start()
    launcher.preflight([spec], lambda _: None)
    return launcher


def read(records: Iterator[Record]) -> list[Record]:
    """All records; the last one, and no other, is the end."""
    listed = list(records)
    assert [isinstance(record, End) for record in listed] == [False] * (len(listed) - 1) + [True]
    return listed


def end_of(records: Iterator[Record]) -> End:
    end = read(records)[-1]
    assert isinstance(end, End)
    return end


class LauncherContract:
    """The suite."""

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls) -> Subject:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def launcher(cls, subject: Subject) -> Launcher:
        """One that is not cancelled, for several tests."""
        return subject.ready()

    def long_of(self, subject: Subject) -> RunSpec:
        if subject.long is None:
            pytest.skip("its runs take no time")
        return subject.long

    def test_it_has_all_methods_with_the_protocol_s_arguments(self, launcher: Launcher) -> None:
        protocols: list[Any] = [Launcher, *(p for p in (ChoosesNext, PreparesNext) if isinstance(launcher, p))]
        for protocol in protocols:
            for name, method in inspect.getmembers(protocol, inspect.isfunction):
                if not name.startswith("_"):
                    wanted = list(inspect.signature(method).parameters)[1:]
                    assert list(inspect.signature(getattr(launcher, name)).parameters) == wanted, name
        assert launcher.jobs >= 1

    def test_records_arrive_in_order_and_end_with_the_end(self, subject: Subject, launcher: Launcher) -> None:
        records = read(launcher.launch(subject.finishes(1)))
        assert [record.time for record in records] == sorted(record.time for record in records)
        end = records[-1]
        assert isinstance(end, End) and (end.outcome, end.error) == ("finished", None)

    def test_a_run_can_be_launched_again(self, subject: Subject, launcher: Launcher) -> None:
        assert [end_of(launcher.launch(subject.finishes(2))).outcome for _ in range(2)] == ["finished"] * 2

    @pytest.mark.parametrize("outcome", ["failed", "oom", "timeout"])
    def test_what_becomes_of_a_run_is_its_outcome(self, subject: Subject, outcome: Outcome) -> None:
        if outcome not in subject.unhappy:
            pytest.skip("cannot be provoked")
        launcher, spec = subject.unhappy[outcome]()
        end = end_of(launcher.launch(spec))
        assert end.outcome == outcome
        assert end.error and "\n" not in end.error

    def test_work_dirs_differ_by_run_and_not_by_try(self, subject: Subject, launcher: Launcher) -> None:
        one, other = subject.finishes(1), subject.finishes(2)
        assert launcher.work_dir(one) == launcher.work_dir(one) != launcher.work_dir(other)

    def test_preflight_refuses_bad_input_in_one_line(self, subject: Subject) -> None:
        if subject.refused is None:
            pytest.skip("nothing can be wrong")
        launcher = subject.make(1)
        launcher.start()
        with pytest.raises(InputError) as caught:
            launcher.preflight([subject.refused], lambda _: None)
        assert len(str(caught.value).splitlines()) == 1

    def test_after_cancel_every_run_is_interrupted(self, subject: Subject) -> None:
        launcher = subject.ready()
        launcher.cancel()
        launcher.cancel()
        assert end_of(launcher.launch(subject.finishes(1))).outcome == "interrupted"

    def test_cancel_from_another_thread_ends_a_run(self, subject: Subject) -> None:
        spec, launcher = self.long_of(subject), subject.ready()
        records = launcher.launch(spec)
        first = next(records)
        cancelling = threading.Thread(target=launcher.cancel)
        cancelling.start()
        assert not isinstance(first, End) and end_of(records).outcome == "interrupted"
        cancelling.join(PATIENCE)
        until(lambda: subject.workers() == 0, PATIENCE, "the end of the worker")

    def test_kill_ends_the_processes_at_once(self, subject: Subject) -> None:
        spec, launcher = self.long_of(subject), subject.ready()
        records = launcher.launch(spec)
        next(records)
        until(lambda: subject.workers() == 1, PATIENCE, "the worker")  # a node's first record comes before it
        began = time.monotonic()
        launcher.kill()
        assert time.monotonic() - began < 5
        until(lambda: subject.workers() == 0, PATIENCE, "the end of the worker")
        records.close()

    def test_a_reader_that_leaves_ends_the_run_and_frees_its_slot(self, subject: Subject, launcher: Launcher) -> None:
        records = launcher.launch(self.long_of(subject))
        next(records)
        until(lambda: subject.workers() == 1, PATIENCE, "the worker")
        records.close()
        until(lambda: subject.workers() == 0, PATIENCE, "the end of the worker")
        assert end_of(launcher.launch(subject.finishes(1))).outcome == "finished"

    def test_no_more_runs_than_jobs_go_on_at_once(self, subject: Subject) -> None:
        self.long_of(subject)
        launcher = subject.ready(2)
        assert launcher.jobs == 2
        spans: list[tuple[float, float]] = []

        def follow(seed: int) -> None:
            times = [record.time for record in read(launcher.launch(subject.finishes(seed)))]
            spans.append((times[0], times[-1]))

        threads = [threading.Thread(target=follow, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(spans) == 3
        assert max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans) <= 2

    def test_a_prepared_run_waits_for_its_launch(self, subject: Subject, launcher: Launcher) -> None:
        if not isinstance(launcher, PreparesNext):
            pytest.skip("prepares nothing")
        first, second = subject.finishes(1), subject.finishes(2)
        records = launcher.launch(first)
        seen = [next(records)]
        launcher.prepare(second, first)
        seen += records
        assert isinstance(seen[-1], End) and seen[-1].outcome == "finished"
        assert end_of(launcher.launch(second)).outcome == "finished"
        assert end_of(launcher.launch(first)).outcome == "finished", "the slot is free again"

    def test_a_chosen_run_has_its_slot_until_it_is_released(self, subject: Subject) -> None:
        launcher = subject.ready()
        if not isinstance(launcher, ChoosesNext):
            pytest.skip("does not choose")
        runs = [PlannedRun(subject.finishes(seed), block=0, position=seed) for seed in (1, 2)]
        assert launcher.jobs == 1 and launcher.choose(runs) == 0
        assert launcher.choose(runs[1:]) is None, "the one slot is kept"
        launcher.release(runs[0])
        assert launcher.choose(runs[1:]) == 0
        assert end_of(launcher.launch(runs[1].spec)).outcome == "finished"
        assert launcher.choose(runs) == 0, "the slot is free again"
