"""From estimates with errors to decisions: intervals, Holm's correction, equivalence, further blocks needed.

Every function works element by element on arrays of one shape. Estimates, errors and margins are on the scale of the
analysis: logarithms of ratios, or percentage points.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.analysis import student_t
from pipeline.analysis.linear import Floats

PAYS, COSTS, NO_EFFECT, UNDECIDED = "pays", "costs", "no_effect", "undecided"
MAX_FURTHER_BLOCKS = 1000

# Below this an estimate or a standard error is rounding noise: a deterministic response (peak memory)
# repeats exactly.
ROUNDING = 1e-11


def p_values(estimate: ArrayLike, se: ArrayLike, dof: ArrayLike) -> Floats:
    """Returns two-sided p-values of "no effect" by Student's t.

    Args:
        estimate: Estimates of the effects.
        se: Their standard errors; one of zero decides outright, NaN stays NaN.
        dof: Degrees of freedom of the errors.

    Examples:
        >>> p_values([0.05, -0.05, 0.0], [0.02, 0.0, 0.0], 7).round(4).tolist()
        [0.041, 0.0, 1.0]
    """
    est, err = np.asarray(estimate, dtype=float), np.asarray(se, dtype=float)
    exact = err <= ROUNDING
    p = 2 * student_t.upper_tail(np.abs(est) / np.where(exact, 1.0, err), np.asarray(dof, dtype=float))
    p = np.where(exact, np.where(np.abs(est) <= ROUNDING, 1.0, 0.0), p)
    return np.where(np.isnan(err) | np.isnan(est), np.nan, p)


def half_widths(se: ArrayLike, dof: ArrayLike, confidence: float) -> Floats:
    """Returns half the widths of two-sided t intervals; NaN where there is no error.

    Args:
        se: Standard errors.
        dof: Their degrees of freedom.
        confidence: Confidence of the intervals, in (0, 1).

    Examples:
        >>> half_widths([0.02, 0.0, np.nan], 7, 0.95).round(4).tolist()
        [0.0473, 0.0, nan]
    """
    err = np.asarray(se, dtype=float)
    width = student_t.quantile(0.5 + confidence / 2, np.asarray(dof, dtype=float)) * err
    return np.where(err <= ROUNDING, 0.0, width)


def holm(p: ArrayLike) -> Floats:
    """Adjusts p-values by Holm's step-down method (Holm 1979); NaN is no test and stays NaN.

    Args:
        p: (m,) one family, or (m, s) one family per column.

    Returns:
        Adjusted p-values of the same shape, at most 1.

    Examples:
        >>> holm([0.01, 0.04, 0.03, np.nan]).tolist()
        [0.03, 0.06, 0.06, nan]
    """
    values = np.asarray(p, dtype=float)
    tests = ~np.isnan(values)
    order = np.argsort(values, axis=0, kind="stable")  # NaN last
    ranks = np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1))
    steps = np.take_along_axis(values, order, axis=0) * (tests.sum(axis=0) - ranks)
    adjusted = np.empty_like(values)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(steps, axis=0), 1.0), axis=0)
    return np.where(tests, adjusted, np.nan)


def equivalent(
    estimate: ArrayLike, se: ArrayLike, dof: ArrayLike, margin: ArrayLike, alpha: float
) -> NDArray[np.bool_]:
    """Tests whether each effect lies within its margin, by two one-sided tests (Schuirmann 1987).

    Args:
        estimate: Estimates of the effects.
        se: Their standard errors.
        dof: Degrees of freedom of the errors.
        margin: Largest effect, up or down, that counts as none.
        alpha: Level of each of the two tests.

    Examples:
        >>> equivalent([0.001, 0.008, 0.001], [0.002, 0.002, 0.02], dof=10, margin=0.01, alpha=0.05).tolist()
        [True, False, False]
    """
    reach = np.abs(np.asarray(estimate, dtype=float)) + half_widths(se, dof, 1 - 2 * alpha)
    return np.asarray(reach < np.asarray(margin, dtype=float))


def verdicts(
    estimate: ArrayLike,
    se: ArrayLike,
    dof: ArrayLike,
    p_adjusted: ArrayLike,
    margin: ArrayLike,
    higher_is_better: ArrayLike,
    alpha: float,
) -> NDArray[np.object_]:
    """Decides each effect.

    Equivalence first: an effect shown to lie within the margin is no effect in practice, significant or not.
    Then the family-wise significant ones pay or cost by their sign. All else, and all that has no error, is
    undecided.

    Args:
        estimate: Estimates of the effects.
        se: Their standard errors.
        dof: Degrees of freedom of the errors.
        p_adjusted: p-values, corrected over their family.
        margin: Equivalence margins.
        higher_is_better: Which sign pays.
        alpha: Level of all tests.

    Examples:
        >>> estimate, p = [-0.1, 0.1, 0.001, -0.03], [0.001, 0.001, 0.4, 0.2]
        >>> verdicts(estimate, [0.01, 0.01, 0.001, 0.02], 10, p, 0.01, False, 0.05).tolist()
        ['pays', 'costs', 'no_effect', 'undecided']
    """
    est, adjusted = np.asarray(estimate, dtype=float), np.asarray(p_adjusted, dtype=float)
    better = (est > 0) == np.asarray(higher_is_better, dtype=bool)
    significant = adjusted < alpha  # NaN compares as false
    decided = np.where(significant, np.where(better, PAYS, COSTS), UNDECIDED)
    return np.where(equivalent(est, se, dof, margin, alpha), NO_EFFECT, decided).astype(object)


def _first_total(succeeds: Callable[[Floats], NDArray[np.bool_]], blocks: Floats, least: int) -> Floats:
    """Bisects for the least number of further blocks at which a monotone condition holds."""
    low = np.full(len(blocks), float(least))
    high = np.full(len(blocks), float(MAX_FURTHER_BLOCKS))
    reachable = succeeds(blocks + high)
    while np.any(low < high):
        middle = np.floor((low + high) / 2)
        ok = succeeds(blocks + middle)
        high, low = np.where(ok, middle, high), np.where(ok, low, np.minimum(middle + 1, high))
    return np.where(reachable, high, np.nan)


def _dof_at(total: Floats, blocks: Floats, dof: Floats) -> Floats:
    """Scales degrees of freedom to another number of blocks; Lenth's of one stand in for those of two."""
    return np.asarray(dof * np.maximum(total - 1, 1) / np.maximum(blocks - 1, 1))


def further_blocks(
    estimate: ArrayLike,
    se: ArrayLike,
    dof: ArrayLike,
    blocks: ArrayLike,
    margin: ArrayLike,
    penalty: ArrayLike,
    alpha: float,
) -> Floats:
    """Plans how many more blocks would decide each effect, if its estimate and error stay as they are.

    The variance falls as 1 / blocks and the degrees of freedom grow as blocks - 1; the first number of blocks
    at which either the corrected test or the equivalence test succeeds is taken. A plan, not a promise: the
    estimate will move.

    Args:
        estimate: Current estimates.
        se: Their standard errors now.
        dof: Their degrees of freedom now.
        blocks: Blocks run so far.
        margin: Equivalence margins.
        penalty: Factors by which the correction raises each p-value (1 = uncorrected).
        alpha: Level of the tests.

    Returns:
        Further blocks, at least 1; NaN when more than `MAX_FURTHER_BLOCKS` would be needed or nothing is known.

    Examples:
        An effect of 3 % with an error of 2 % after two blocks, one of three techniques; and one too small to tell.

        >>> further_blocks([0.03, 0.01], [0.02, 0.5], 7, 2, margin=0.01, penalty=3, alpha=0.05).tolist()
        [4.0, nan]
    """
    est = np.abs(np.atleast_1d(np.asarray(estimate, dtype=float)))
    err, now = (
        np.broadcast_to(np.asarray(se, float), est.shape),
        np.broadcast_to(np.asarray(blocks, float), est.shape),
    )
    freedom = np.broadcast_to(np.asarray(dof, dtype=float), est.shape)
    level = alpha / (2 * np.maximum(np.asarray(penalty, dtype=float), 1.0))

    def decided(total: Floats) -> NDArray[np.bool_]:
        error, df = err * np.sqrt(now / total), _dof_at(total, now, freedom)
        differs = est > -student_t.quantile(level, df) * error
        same = est - student_t.quantile(alpha, df) * error < np.asarray(margin, dtype=float)
        return np.asarray(differs | same)

    return _first_total(decided, now, 1)


def blocks_for_width(
    se: ArrayLike, dof: ArrayLike, blocks: ArrayLike, width: ArrayLike, confidence: float = 0.95
) -> Floats:
    """Plans how many more blocks bring the whole width of each interval below a limit.

    Args:
        se: Standard errors now.
        dof: Their degrees of freedom now.
        blocks: Blocks run so far.
        width: Whole widths to reach.
        confidence: Confidence of the intervals.

    Returns:
        Further blocks, 0 where it is narrow enough; NaN if unknown or more than `MAX_FURTHER_BLOCKS`.

    Examples:
        >>> blocks_for_width([0.01, 0.001], dof=14, blocks=3, width=0.02).tolist()
        [9.0, 0.0]
    """
    err = np.atleast_1d(np.asarray(se, dtype=float))
    now = np.broadcast_to(np.asarray(blocks, dtype=float), err.shape)
    freedom = np.broadcast_to(np.asarray(dof, dtype=float), err.shape)

    def narrow(total: Floats) -> NDArray[np.bool_]:
        quantile = student_t.quantile(0.5 + confidence / 2, _dof_at(total, now, freedom))
        return np.asarray(2 * quantile * err * np.sqrt(now / total) < width)

    return _first_total(narrow, now, 0)
