"""Coverage of 95 % intervals at the stop of `ablate grid --until-decided`, beside other rules.

One group with 1 to 3 techniques in a full factorial and normal noise: in a complete block the main effects are
independent values, and their intervals (CR2 by block) are t intervals over the blocks. A study goes on until all
effects meet the rule, or to the last block. Only the ratio of noise to width matters, so one width tells of all.
Usage: python experiments/stopping.py [--studies N] [--seed N] [--width W] [--max-blocks N] [--noise P ..]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis import verdicts
from pipeline.analysis.stopping import FIRST_LOOK, FURTHER_BLOCKS, precise

CONFIDENCE = 0.95
NOISE = (0.1, 0.25, 0.35, 0.5, 0.7, 1.0, 1.2, 1.4, 2.0, 2.8, 4.0, 6.0)  # %, sd of a run
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rule = Callable[[Floats, float], Ints]


def sequential(half: Floats, target: float, first: int, further: int) -> Ints:
    """Blocks of the program's rule.

    Args:
        half: (n, e, b) half widths of the effects of n studies after 1 .. b blocks, on the log scale.
        target: Half width that is narrow enough.
        first: Blocks at the first look.
        further: Blocks after the first narrow interval.

    Returns:
        (n,) blocks of each study.
    """
    met = np.asarray(precise(half, target, first, further).all(axis=1))
    return np.asarray(np.where(met.any(axis=1), met.argmax(axis=1) + 1, half.shape[2]))


def _needed(half: Floats, target: float, blocks: Ints) -> Ints:
    """Blocks that bring all effects to the target, by the variances and quantiles of `blocks` (n,) blocks."""
    now = np.take_along_axis(half, blocks[:, None, None] - 1, axis=2)[:, :, 0]
    return np.asarray(np.ceil(blocks * ((now / target) ** 2).max(axis=1)).clip(1, half.shape[2]), dtype=np.int64)


def stages(half: Floats, target: float, first: int, parts: tuple[float, ...]) -> Ints:
    """Blocks of two stages (Stein 1945; `parts` is 1) or three (Hall 1981; 1/2 and 1), each planned by those before."""
    blocks = np.full(len(half), first, dtype=np.int64)
    for part in parts:
        blocks = np.maximum(blocks, np.ceil(part * _needed(half, target, blocks)).astype(np.int64))
    return blocks


RULES: dict[str, Rule] = {
    "first narrow interval": partial(sequential, first=2, further=0),
    "from 4 blocks, 1 more": partial(sequential, first=4, further=1),
    "from 6 blocks, 1 more": partial(sequential, first=6, further=1),
    "from 8 blocks, 1 more": partial(sequential, first=8, further=1),
    "from 4 blocks, 4 more": partial(sequential, first=4, further=4),
    f"**from {FIRST_LOOK} blocks, {FURTHER_BLOCKS} more**": partial(
        sequential, first=FIRST_LOOK, further=FURTHER_BLOCKS
    ),
    "from 6 blocks, 4 more": partial(sequential, first=6, further=4),
    "from 8 blocks, 3 more": partial(sequential, first=8, further=3),
    "Stein from 4 blocks": partial(stages, first=4, parts=(1.0,)),
    "Stein from 6 blocks": partial(stages, first=6, parts=(1.0,)),
    "Hall from 6 blocks": partial(stages, first=6, parts=(0.5, 1.0)),
}


def simulate(
    rules: dict[str, Rule], noise: float, techniques: int, *, width: float, max_blocks: int, studies: int, seed: int
) -> dict[str, tuple[float, float, float]]:
    """Simulates studies of one group.

    Args:
        rules: By name; all see the same studies.
        noise: Standard deviation of a run's log time.
        techniques: Factors of the full factorial.
        width: Whole width of the interval of a ratio that is narrow enough.
        max_blocks: Where a study ends at the latest.
        studies: How many.
        seed: Of the random numbers.

    Returns:
        By rule: the share of intervals that cover, the share wider than asked for of those that did not end at the
        last block, and the mean number of blocks.
    """
    scale = noise * math.sqrt(4 / 2**techniques)  # of an effect in one block: weights 2 / 2^k over 2^k cells
    values = np.random.default_rng(seed).normal(0.0, scale, (studies, techniques, max_blocks))
    n = np.arange(1, max_blocks + 1)
    mean = values.cumsum(axis=2) / n
    squares = np.maximum((values**2).cumsum(axis=2) - n * mean**2, 0.0)
    half = np.full_like(mean, np.nan)
    half[:, :, 1:] = verdicts.half_widths(np.sqrt(squares / (n * (n - 1.0).clip(1)))[:, :, 1:], n[1:] - 1, CONFIDENCE)
    target, found = math.log1p(width) / 2, {}
    for name, rule in rules.items():
        blocks = np.minimum(rule(half, target), max_blocks)
        at = blocks[:, None, None] - 1
        end, reach = np.take_along_axis(mean, at, axis=2)[..., 0], np.take_along_axis(half, at, axis=2)[..., 0]
        stopped = blocks < max_blocks
        wide = float((reach[stopped] > target).mean()) if stopped.any() else 0.0
        found[name] = float((np.abs(end) < reach).mean()), wide, float(blocks.mean())
    return found


def p_values_by_look(first: int, last: int, studies: int, seed: int) -> Floats:
    """Returns (studies, looks) p-values of paired t tests after blocks `first` to `last`, without effect."""
    values = np.random.default_rng(seed).normal(size=(studies, last))
    n = np.arange(1, last + 1)
    mean = values.cumsum(axis=1) / n
    squares = np.maximum((values**2).cumsum(axis=1) - n * mean**2, 0.0)
    looks = slice(first - 1, last)
    return verdicts.p_values(mean[:, looks], np.sqrt(squares[:, looks] / (n * (n - 1.0))[looks]), n[looks] - 1)


def nominal_level(first: int, last: int, studies: int, seed: int, level: float = 0.05) -> float:
    """Returns the level of each look that keeps that of all looks together: Pocock's boundary (1977) for t tests."""
    return float(np.quantile(p_values_by_look(first, last, studies, seed).min(axis=1), level))


def main() -> None:
    """Prints a Markdown table for each number of techniques."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20_000, help="for each noise")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--width", type=float, default=0.02, help="of intervals that are narrow enough, a fraction")
    parser.add_argument("--max-blocks", type=int, default=20)
    parser.add_argument("--noise", type=float, nargs="+", default=NOISE, help="of runs, %%")
    parser.add_argument("--techniques", type=int, nargs="+", default=(1, 2, 3))
    words = parser.parse_args()
    print("level of each look at significance, for 5 % over all looks (no rule here looks at it):")
    for first, last in ((2, 4), (2, 6), (2, 12), (4, 12), (4, 20)):
        print(f"after blocks {first} to {last}: {nominal_level(first, last, 20 * words.studies, words.seed):.4f}")
    for techniques in words.techniques:
        columns = [
            simulate(
                RULES, noise / 100, techniques, width=words.width, max_blocks=words.max_blocks,
                studies=words.studies, seed=words.seed + index,
            )
            for index, noise in enumerate(words.noise)
        ]  # fmt: skip
        print(f"\n{techniques} technique(s): coverage % / mean blocks at a noise of")
        print(f"\n| rule | {' | '.join(f'{noise:g} %' for noise in words.noise)} | least | mean blocks | wider % |")
        print("| --- |" + " ---: |" * (len(words.noise) + 3))
        for name in RULES:
            cover, wide, blocks = zip(*(column[name] for column in columns), strict=True)
            cells = [f"{100 * c:.1f} / {b:.1f}" for c, b in zip(cover, blocks, strict=True)]
            ends = [f"{100 * min(cover):.1f}", f"{np.mean(blocks):.1f}", f"{100 * max(wide):.0f}"]
            print(f"| {name} | {' | '.join([*cells, *ends])} |")


if __name__ == "__main__":
    main()
