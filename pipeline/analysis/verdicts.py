"""From estimates with errors to decisions: intervals, Holm's correction, equivalence, further blocks needed.

Every function works element by element on arrays of one shape. Estimates, errors and margins are on the scale of the
analysis: logarithms of ratios, or percentage points.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from pipeline.analysis import student_t
from pipeline.analysis.linear import Floats

PAYS, COSTS, NO_EFFECT, UNDECIDED = "pays", "costs", "no_effect", "undecided"
NOT_ENGAGED = "not_engaged"  # the technique was on and did not act: there is nothing to decide
NOT_TRAINED = "not_trained"  # accuracy at chance: there is nothing to decide, either
MAX_FURTHER_BLOCKS = 1000
CHANCE = 0.8  # of being decided after the planned blocks; the words that say so are in `report/headlines.py`
_PARTS = 16  # of a posterior distribution that is averaged over

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


def half_widths(se: ArrayLike, dof: ArrayLike, confidence: ArrayLike) -> Floats:
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
    width = student_t.quantile(0.5 + np.asarray(confidence) / 2, np.asarray(dof, dtype=float)) * err
    return np.where(err <= ROUNDING, 0.0, width)


def _raised(p: Floats) -> Floats:
    """Raises p-values by Holm's steps, without the cut at 1."""
    tests = ~np.isnan(p)
    order = np.argsort(p, axis=0, kind="stable")  # NaN last
    ranks = np.arange(len(p)).reshape(-1, *[1] * (p.ndim - 1))
    steps = np.take_along_axis(p, order, axis=0) * (tests.sum(axis=0) - ranks)
    raised = np.empty_like(p)
    np.put_along_axis(raised, order, np.maximum.accumulate(steps, axis=0), axis=0)
    return np.where(tests, raised, np.nan)


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
    return np.asarray(np.minimum(_raised(np.asarray(p, dtype=float)), 1.0))


def holm_factors(p: ArrayLike) -> Floats:
    """Returns what Holm's method multiplies each p-value by, also where the product is cut at 1.

    Args:
        p: (m,) one family, or (m, s) one family per column.

    Returns:
        Factors of the same shape, from 1 to m; 1 where there is no test or p is 0.

    Examples:
        >>> holm_factors([0.5, 0.01, 0.5, np.nan]).tolist()
        [2.0, 3.0, 2.0, 1.0]
    """
    values = np.asarray(p, dtype=float)
    factors = np.divide(_raised(values), values, out=np.ones_like(values), where=values > 0)
    return np.asarray(factors, dtype=float)


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


def _first_total(
    succeeds: Callable[[Floats], NDArray[np.bool_]], blocks: Floats, least: int, by_block_from: ArrayLike
) -> Floats:
    """Finds the least number of further blocks at which a condition holds that more blocks can only help.

    One step is not monotone, that to errors by block: bisection starts there, and what is before it is looked at.
    """
    low = np.clip(np.asarray(by_block_from, dtype=float) - blocks, least, MAX_FURTHER_BLOCKS)
    early = np.arange(low.max(initial=least) - 1, least - 1, -1.0)
    high, step = np.full(len(blocks), float(MAX_FURTHER_BLOCKS)), low.copy()
    found = np.where(succeeds(blocks + high), 1.0, np.nan)
    while np.any(low < high):
        middle = np.floor((low + high) / 2)
        ok = succeeds(blocks + middle)
        high, low = np.where(ok, middle, high), np.where(ok, low, np.minimum(middle + 1, high))
    found *= high
    for more in early:
        found = np.where((more < step) & succeeds(blocks + more), more, found)
    return found


def _dof_at(total: Floats, blocks: Floats, dof: Floats, by_block_from: ArrayLike) -> Floats:
    """Scales degrees of freedom to another number of blocks; Lenth's of one stand in for those of two."""
    scaled = dof * np.maximum(total - 1, 1) / np.maximum(blocks - 1, 1)
    start = np.asarray(by_block_from, dtype=float)
    switched = (blocks < start) & (total >= start)
    return np.asarray(np.where(switched, total - 1, scaled))


def further_blocks(
    estimate: ArrayLike,
    se: ArrayLike,
    dof: ArrayLike,
    blocks: ArrayLike,
    margin: ArrayLike,
    penalty: ArrayLike,
    alpha: float,
    by_block_from: ArrayLike = 1,
) -> Floats:
    """Plans after how many more blocks each effect is decided with a probability of `CHANCE`.

    By predictive power (Spiegelhalter, Freedman and Blackburn 1986; Spiegelhalter, Abrams and Myles 2004): under flat
    priors of the effect and of the logarithm of its scatter, the estimate after N more than B blocks is predicted as
    N(estimate, v se^2 N / (B + N)) with 1 / v ~ chi^2(dof) / dof, its squared error as the mean, weighted by B - 1 and
    N, of se^2 and v se^2, times B / (B + N). It is decided where the corrected test or the equivalence test succeeds.

    Args:
        estimate: Current estimates.
        se: Their standard errors now.
        dof: Their degrees of freedom now.
        blocks: Blocks run so far.
        margin: Equivalence margins.
        penalty: Factors by which the correction raises each p-value (1 = uncorrected).
        alpha: Level of the tests.
        by_block_from: Blocks from which on errors are by block, on B - 1 degrees of freedom, if not now.

    Returns:
        Further blocks, at least 1; NaN when more than `MAX_FURTHER_BLOCKS` would be needed or nothing is known.

    Examples:
        Effects of 3 % with an error of 2 %, and of 1 % with one of 50 %, after two blocks, of three techniques.

        >>> further_blocks([0.03, 0.01], [0.02, 0.5], 7, 2, margin=0.01, penalty=3, alpha=0.05).tolist()
        [24.0, 179.0]
    """
    est, err, freedom, now, near = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(a, dtype=float)) for a in (np.abs(estimate), se, dof, blocks, margin))
    )
    level = alpha / (2 * np.maximum(np.asarray(penalty, dtype=float), 1.0))
    # Midpoints of equal parts of the scatter's posterior distribution, as factors on se^2.
    v = freedom / special.chdtri(freedom, (np.arange(_PARTS)[:, None] + 0.5) / _PARTS)

    def decided(total: Floats) -> NDArray[np.bool_]:
        df = _dof_at(total, now, freedom, by_block_from)
        old = np.maximum(now - 1, 1) / np.maximum(total - 1, 1)
        error = err * np.sqrt(now / total * (old + (1 - old) * v))
        differs = -student_t.quantile(level, df) * error
        same = np.maximum(near + student_t.quantile(alpha, df) * error, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):  # an error of 0 has decided, NaN never does
            z = (np.stack([-differs, -same, same, differs]) - est) / (err * np.sqrt(v * (1 - now / total)))
        below = special.ndtr(z)
        gap = np.where(same >= differs, 0.0, below[1] - below[0] + below[3] - below[2])
        return np.asarray(1 - gap.mean(axis=0) >= CHANCE)

    return _first_total(decided, now, 1, by_block_from)


def blocks_for_width(
    se: ArrayLike,
    dof: ArrayLike,
    blocks: ArrayLike,
    width: ArrayLike,
    confidence: float = 0.95,
    by_block_from: ArrayLike = 1,
) -> Floats:
    """Plans how many more blocks bring the whole width of each interval below a limit.

    Args:
        se: Standard errors now.
        dof: Their degrees of freedom now.
        blocks: Blocks run so far.
        width: Whole widths to reach.
        confidence: Confidence of the intervals.
        by_block_from: As in `further_blocks`.

    Returns:
        Further blocks, 0 where it is narrow enough; NaN if unknown or more than `MAX_FURTHER_BLOCKS`.

    Examples:
        >>> blocks_for_width([0.01, 0.001], dof=14, blocks=3, width=0.02).tolist()
        [9.0, 0.0]
    """
    err, freedom, now = np.broadcast_arrays(*(np.atleast_1d(np.asarray(a, dtype=float)) for a in (se, dof, blocks)))

    def narrow(total: Floats) -> NDArray[np.bool_]:
        quantile = student_t.quantile(0.5 + confidence / 2, _dof_at(total, now, freedom, by_block_from))
        return np.asarray(2 * quantile * err * np.sqrt(now / total) < width)

    return _first_total(narrow, now, 0, by_block_from)
