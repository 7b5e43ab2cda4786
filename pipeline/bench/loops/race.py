"""One block: all contenders in this process, in rounds of one epoch each, step by step in turn."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch

from pipeline.bench.cases import SELF, Case
from pipeline.bench.loops.contenders import BUILT_IN, Contender, weights
from pipeline.bench.loops.interleave import take_turns
from pipeline.bench.loops.libraries import PEERS, silence
from pipeline.bench.loops.workload import Work, build_workload

# Of the distance that the weights have moved. On a CPU: far above what another order of the same sums makes, far below
# what another learning rate, loss or batch would.
SAME_WORK = 1e-3
# A GPU's convolutions may add in another order in every call. With gradients off by a millionth, a ReLU that falls on
# its other side puts the weights of test_resnet 0.001 of their way apart after 4 steps, and 0.2 after 200, where two
# bare loops are as far apart as two learning rates. Gradients off by 0.4 %, bfloat16's rounding, make 0.006 of 4 steps;
# a learning rate off by 5 % makes 0.04 to 0.05. So there the weights are compared after few steps, in two epochs.
SAME_WORK_ON_GPU = 0.02
COMPARED_WINDOWS = 2
COMPARED_EPOCHS = 2


@dataclass(frozen=True)
class Block:
    """What one block measured.

    Attributes:
        seconds: contender -> seconds of each round's epoch; the n-th of all were timed in the same round.
        difference: contender -> distance of its weights from the bare loop's (or the first contender's) over the
            distance that those have moved: after the warm-up epoch, on a GPU after two epochs of two steps.
    """

    seconds: dict[str, list[float]]
    difference: dict[str, float]


def run_block(case: Case, names: Sequence[str], number: int) -> Block:
    """Runs a block in this process, which is to be a fresh one.

    Args:
        case: the work.
        names: contenders; all are installed.
        number: the block's; seeds the order.

    Raises:
        RuntimeError: a contender did not do the same work.
    """
    silence()
    difference = _compared(case, names) if case.device == "cuda" else {}
    work = build_workload(case)
    with _contenders(work, names) as contenders:
        for contender in contenders.values():  # the first epoch allocates, plans convolutions, and is thrown away
            contender.epoch(1)
        if case.device == "cpu":
            difference = differences(work, contenders)
        gc.collect()
        gc.freeze()
        return Block(_rounds(case, contenders, number), difference)


@contextmanager
def _contenders(work: Work, names: Sequence[str]) -> Iterator[dict[str, Contender]]:
    made = {name: {**BUILT_IN, **PEERS}[name](work) for name in names}
    try:
        yield made
    finally:
        for contender in made.values():
            contender.close()


def _compared(case: Case, names: Sequence[str]) -> dict[str, float]:
    """Has contenders of their own do a few steps of the case; see `differences`."""
    work = build_workload(replace(case, windows=min(case.windows, COMPARED_WINDOWS)))
    with _contenders(work, names) as contenders:
        for epoch in range(1, COMPARED_EPOCHS + 1):  # a second one: momentum is carried over, the order is another
            for contender in contenders.values():
                contender.epoch(epoch)
        return differences(work, contenders)


def differences(work: Work, contenders: dict[str, Contender]) -> dict[str, float]:
    """How far each contender's weights are from the reference's, relative to how far that one has moved.

    Raises:
        RuntimeError: one is further away than rounding can explain: it has not done the same work.
    """
    allowed = SAME_WORK if work.case.device == "cpu" else SAME_WORK_ON_GPU
    reference = weights(contenders.get("bare", next(iter(contenders.values()))).model)
    moved = torch.linalg.vector_norm(reference - weights(work.initial))
    found = {
        name: float(torch.linalg.vector_norm(weights(contender.model) - reference) / moved)
        for name, contender in contenders.items()
    }
    for name, value in found.items():
        if not value < allowed:
            raise RuntimeError(f"{name} did not do the same work: its weights differ by {value:.2g} of their change")
    return found


def _rounds(case: Case, contenders: dict[str, Contender], number: int) -> dict[str, list[float]]:
    order = random.Random(f"{case.seed}/{number}")
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for epoch in range(2, case.rounds + 2):
        if case.device == "cpu":
            actions = {name: partial(contenders[name].epoch, epoch) for name in names}
            taken = take_turns(actions, order)
        else:  # a GPU's steps overlap with the host's next ones: an epoch in one piece
            order.shuffle(names)
            taken = {name: contenders[name].epoch(epoch) for name in names}
        for name in names:
            seconds[name].append(taken[name])
    return {name: seconds[name] for name in sorted(seconds, key=lambda name: (name != SELF, name))}
