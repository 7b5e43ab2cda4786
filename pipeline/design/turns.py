"""Cells that take turns: which of a plan do so together, and how long a turn is. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.design.plan import Plan, PlannedRun
from pipeline.design.spec import RunSpec, TurnPlan, content_digest
from pipeline.errors import InputError

TURN_SECONDS = 0.04  # at least, of a cell that is faster than three in four
EDGE_SHARE = 0.005  # of a turn, that its own edges may weigh
MOST_IMAGES = 2**40


@dataclass(frozen=True)
class TurnGroup:
    """The cells of one (model, data set), which take turns with each other; the baseline is the first.

    Attributes:
        model, dataset: what they train.
        runs: the cells.
        multiple: images, the common multiple of their windows.
    """

    model: str
    dataset: str
    runs: tuple[PlannedRun, ...]
    multiple: int

    @property
    def name(self) -> str:
        """For people, and one of its own: each variant is a group."""
        return f"{self.runs[0].model}/{self.dataset}"


def turn_groups(plan: Plan) -> tuple[TurnGroup, ...]:
    """The groups of a plan's first block, in the order in which the study names models and data sets.

    Args:
        plan: of the grid.
    """
    found: dict[tuple[object, ...], list[PlannedRun]] = {}
    for run in plan.cells:
        if run.block == plan.cells[0].block:
            variant = [getattr(run.spec.recipe, field) for field in plan.study.variants]
            found.setdefault((run.spec.model, run.spec.dataset, *map(str, variant)), []).append(run)
    order = [(model, dataset) for model in plan.study.models for dataset in plan.study.datasets]
    keys = sorted(found, key=lambda key: (order.index((str(key[0]), str(key[1]))), key))
    return tuple(_group(found[key]) for key in keys)


def _group(runs: Sequence[PlannedRun]) -> TurnGroup:
    multiple = math.lcm(*(run.spec.recipe.effective_batch for run in runs))
    ordered = sorted(runs, key=lambda run: (len(run.spec.techniques), run.position))
    turns = TurnPlan(multiple=multiple)
    cells = [
        replace(run, spec=run.spec.model_copy(update={"turns": turns}), kind="turns", position=place)
        for place, run in enumerate(ordered)
    ]
    return TurnGroup(runs[0].spec.model, runs[0].spec.dataset, tuple(cells), multiple)


def identity(groups: Sequence[TurnGroup]) -> str:
    """Says which cells take turns: calls with the same ones go on with each other's rounds."""
    return content_digest([[run.spec.digest for run in group.runs] for group in groups])


def images_of_epoch(spec: RunSpec, samples: int) -> int:
    """Images that an epoch trains on: all of them, or, for a cell that takes turns, so many that turns fit in.

    Raises:
        InputError: a turn does not fit into an epoch.
    """
    if spec.turns is None:
        return samples
    multiple = spec.turns.multiple
    if samples < multiple:
        raise InputError(
            f"turns of {spec.model}/{spec.dataset}: {samples} training images are not allowed; allowed: at least "
            f"{multiple}, the common multiple of all cells' effective batches (--set batch_size=.., --technique ga=..)"
        )
    return samples - samples % multiple


@dataclass(frozen=True)
class TurnLength:
    """How long the turns of a group are.

    Attributes:
        images: that the clock sees.
        head: images before them, which it does not see.
    """

    images: int
    head: int


def turn_length(
    multiple: int, seconds: Sequence[float], edge_seconds: float, ahead_images: int, epoch_images: int
) -> TurnLength:
    """Chooses a turn, the same for all cells of a group: as short as its edges allow.

    What disturbs a machine lasts: two turns see the same of it if they are close to each other, so short ones need
    fewer seconds for the same precision. An epoch's end costs (a new order, new workers), and is part of training. It
    comes at the same image in all cells, so in one round. A turn with a head shares, together with it, no divisor with
    the epoch: they come to all its places, and its ends fall upon heads no more often than they should.

    Args:
        multiple: images, the common multiple of all windows.
        seconds: that each cell took for so many, once; the fastest of several single figures is too fast by chance.
        edge_seconds: that a turn of no images takes.
        ahead_images: that any cell reads ahead while it stands still.
        epoch_images: of an epoch, a multiple of `multiple`.

    Examples:
        Windows of 256 images in 0.015 s, and epochs of 195 of them.

        >>> turn_length(256, [0.015] * 4, 0.0, 0, 195 * 256)
        TurnLength(images=768, head=0)
        >>> turn_length(256, [0.015] * 4, 0.0, 500, 195 * 256)
        TurnLength(images=1280, head=512)
    """
    wanted = max(TURN_SECONDS, edge_seconds / EDGE_SHARE)
    fast = sorted(seconds)[len(seconds) // 4]
    least = max(1, math.ceil(wanted / fast))
    head = math.ceil(ahead_images / multiple)
    epoch = epoch_images // multiple
    count = least
    while head and math.gcd(count + head, epoch) != 1:
        count += 1
    return TurnLength(min(count * multiple, MOST_IMAGES), head * multiple)
