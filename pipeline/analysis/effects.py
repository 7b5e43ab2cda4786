"""The effects of a study: estimates, intervals, corrected p-values and verdicts.

Per (model, dataset) an additive cell + block model on the scale of the response (`linear.py` has the model,
`variance.py` the errors and the reasons); every effect is a contrast of its cell means (`contrasts.py` has the
definitions). Pooled rows (`all`) are equally weighted averages of the groups' effects (`pooling.py`): models and
datasets are fixed factors, so a pooled effect speaks of the models and datasets that were run.

Intervals are per effect, at the stated confidence. Verdicts are family-wise: p-values are Holm-corrected over
a family, which is one response and one kind of effect over all (model, dataset) groups, and likewise over all
pooled rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis import chance, contrasts, engagement, time_to_target, times_in_rounds, verdicts
from pipeline.analysis.frame import OFF, Factor, Tidy, inert, tidy, timeless
from pipeline.analysis.group_effects import CELL, group_rows
from pipeline.analysis.pooling import ALL, pool
from pipeline.analysis.responses import BY_NAME, POINTS, RESPONSES, Response
from pipeline.analysis.variance import BLOCKS_FOR_CR2
from pipeline.design.factorial import resolution
from pipeline.shown import counted
from pipeline.tracking.study_data import StudyData

COLUMNS = [
    "model",
    "dataset",
    "response",
    "term",
    "kind",
    "estimate",
    "low",
    "high",
    "unit",
    "p_adjusted",
    "verdict",
    "blocks",
]


@dataclass(frozen=True)
class EffectOptions:
    """The settings of an analysis.

    Attributes:
        margin: Equivalence margin of ratios: effects between 1 / (1 + margin) and 1 + margin are no effect.
        accuracy_margin_points: Equivalence and non-inferiority margin of accuracy and F1, percentage points.
        confidence: Confidence of the intervals; 1 - confidence is the level of every test.
        target_accuracy: Validation accuracy, as a fraction, the time to which is a response; None for none.
    """

    margin: float = 0.01
    accuracy_margin_points: float = 1.0
    confidence: float = 0.95
    target_accuracy: float | None = None

    @property
    def alpha(self) -> float:
        """The level of the tests."""
        return 1.0 - self.confidence

    def scale_margin(self, response: Response) -> float:
        """Returns the margin on the scale of the analysis."""
        return self.accuracy_margin_points if response.unit == POINTS else math.log1p(self.margin)


@dataclass(frozen=True)
class Effects:
    """The result of `estimate`.

    Attributes:
        table: The rows of effects.csv, columns `COLUMNS`.
        details: Same index as `table`: log_estimate, se, dof, p, method (cr2 by block, hc2 by run, lenth, none),
            further_blocks, non_inferior (accuracy only), control (an A/A control), not_engaged and not_trained (why it
            has that verdict), estimable, note, runs.
        cells: Every cell of every group against its baseline: model, dataset, cell, response, mean, estimate,
            low, high, unit, non_inferior, verdict, se, dof, further_blocks, not_trained, runs, blocks.
        outcomes: Every planned cell: model, dataset, cell, runs, one column per outcome, tainted, error.
        aliases: Alias sets of a fractional design, as equations; empty for full factorials.
        notes: What a reader must know about the analysis as a whole.
        study: The tidy study.
        timed: Its runs, and the rounds of cells that took turns, each with the times that the effects are of.
        inert: The techniques treated as A/A controls.
        timeless: Others that cannot change a time or the memory, and are A/A controls of these.
        not_engaged: Other techniques that were on in a cell and did not act: (model, dataset) -> cell -> term -> why.
        untrained: The models and data sets that learned nothing: (model, dataset) -> accuracy and chance.
        options: The settings.
        source: The study as stored.
    """

    table: pd.DataFrame
    details: pd.DataFrame
    cells: pd.DataFrame
    outcomes: pd.DataFrame
    aliases: tuple[str, ...]
    notes: tuple[str, ...]
    study: Tidy
    timed: pd.DataFrame
    inert: frozenset[str]
    timeless: frozenset[str]
    not_engaged: engagement.NotEngaged
    untrained: Mapping[engagement.Group, chance.Untrained]
    options: EffectOptions
    source: StudyData

    @property
    def idle(self) -> frozenset[str]:
        """The techniques that cannot change a time here."""
        return self.inert | self.timeless

    @property
    def detailed(self) -> pd.DataFrame:
        """The table with its details beside it."""
        return self.table if self.table.empty else self.table.join(self.details.drop(columns="blocks"))


def _decide(
    rows: pd.DataFrame, options: EffectOptions, controls: frozenset[str], timeless_ones: frozenset[str]
) -> pd.DataFrame:
    """Adds intervals, corrected p-values, verdicts and plans to rows of estimates."""
    rows = rows.copy()
    rows.loc[rows["log_estimate"].abs().le(verdicts.ROUNDING), "log_estimate"] = 0.0
    estimate, se, dof = (rows[c].to_numpy(dtype=float) for c in ("log_estimate", "se", "dof"))
    responses = [BY_NAME[name] for name in rows["response"]]
    margin = np.array([options.scale_margin(r) for r in responses], dtype=float)
    rows["p"] = verdicts.p_values(estimate, se, dof)
    pooled = rows["model"].eq(ALL) | rows["dataset"].eq(ALL)
    family = [rows["response"], rows["kind"], pooled]
    rows["p_adjusted"] = rows.groupby(family, sort=False)["p"].transform(lambda p: verdicts.holm(p.to_numpy()))
    up = [r.higher_is_better for r in responses]
    adjusted = rows["p_adjusted"].to_numpy(dtype=float)
    rows["verdict"] = verdicts.verdicts(estimate, se, dof, adjusted, margin, up, options.alpha)
    half = verdicts.half_widths(se, dof, options.confidence)
    ratio = np.array([r.unit != POINTS for r in responses], dtype=bool)
    for name, value in (("estimate", estimate), ("low", estimate - half), ("high", estimate + half)):
        with np.errstate(over="ignore"):
            rows[name] = np.where(ratio, np.exp(value), value)
    rows["unit"] = [r.unit for r in responses]
    penalty = rows.groupby(family, sort=False)["p"].transform(lambda p: verdicts.holm_factors(p.to_numpy()))
    start = [r.by_block_from for r in responses]
    plan = verdicts.further_blocks(estimate, se, dof, rows["blocks"], margin, penalty, options.alpha, start)
    rows["further_blocks"] = np.where(rows["verdict"].eq(verdicts.UNDECIDED), plan, np.nan)
    lower = estimate - verdicts.half_widths(se, dof, 1 - 2 * options.alpha)
    judged = ~(ratio | np.isnan(lower))
    shown = [bool(v) if known else None for known, v in zip(judged, lower > -margin, strict=True)]
    rows["non_inferior"] = pd.Series(shown, index=rows.index, dtype=object)
    idle = controls | timeless_ones
    rows["control"] = [
        bool(t) and set(t) <= (idle if of_time else controls)
        for t, of_time in zip(rows["techniques"], ratio, strict=True)
    ]
    return rows


def _outcomes(runs: pd.DataFrame) -> pd.DataFrame:
    """Counts the outcomes of every planned cell; the first error of a cell is quoted."""
    known = ["finished", "oom", "failed", "timeout", "interrupted", "running"]
    keys = ["model", "dataset", "cell"]
    if runs.empty:
        return pd.DataFrame(columns=[*keys, "runs", *known, "tainted", "error"])
    counts = pd.crosstab([runs[k] for k in keys], runs["outcome"])
    counts = counts.reindex(columns=[*known, *[c for c in counts.columns if c not in known]], fill_value=0)
    counts.insert(0, "runs", counts.sum(axis=1))
    counts["tainted"] = runs["tainted"].ne("").groupby([runs[k] for k in keys]).sum()
    errors = runs[runs["error"].ne("")].groupby(keys)["error"].first()
    counts["error"] = errors.reindex(counts.index).fillna("")
    order = runs[keys].drop_duplicates()
    return order.merge(counts.reset_index(), on=keys, how="left").reset_index(drop=True)


def _cell_table(decided: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Joins each cell's mean with its ratio to (or difference from) the baseline of its group."""
    done = runs[runs["outcome"].eq("finished")]
    parts = []
    for response in RESPONSES:
        values = response.to_scale(done[response.name])
        grouped = values.groupby([done["model"], done["dataset"], done["cell"]], sort=False)
        frame = grouped.agg(["mean", "count"]).reset_index().rename(columns={"count": "cell_runs"})
        frame = frame[frame["cell_runs"] > 0]
        if len(frame):
            frame["mean"] = frame["mean"].map(response.level)
            frame["response"] = response.name
            parts.append(frame)
    names = ["estimate", "se", "dof", "low", "high", "unit", "non_inferior", "verdict", "blocks"]
    names += ["further_blocks", "not_trained"]
    if not parts:
        return pd.DataFrame(columns=["model", "dataset", "cell", "mean", "cell_runs", "response", *names])
    against = decided[["model", "dataset", "response", "term", *names]].rename(columns={"term": "cell"})
    return pd.concat(parts, ignore_index=True).merge(against, on=["model", "dataset", "response", "cell"], how="left")


def _alias_lines(runs: pd.DataFrame, factors: Sequence[Factor]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the alias equations of the fractional groups and the notes that say so."""
    active = [f for f in factors if f.levels]
    equations: dict[str, None] = {}
    notes: dict[str, None] = {}
    for _, group in runs.groupby(["model", "dataset"], sort=False):
        planned = sorted(set(group[[f"level.{f.name}" for f in active]].itertuples(index=False, name=None)))
        sets = contrasts.aliases_of(planned, active)
        equations |= {s.describe(): None for s in sets}
        if sets:
            rows = [{f.name: v != OFF for f, v in zip(active, c, strict=True)} for c in planned]
            degree = resolution(rows)
            notes[f"Fractional design of resolution {degree}: {len(planned)} of {2 ** len(active)} cells."] = None
    return tuple(equations), tuple(notes)


def _notes(rows: pd.DataFrame, study: Tidy, controls: Iterable[str], timeless_ones: Iterable[str]) -> tuple[str, ...]:
    """States the facts about the analysis that change how its numbers are read."""
    notes = []
    if (rows["method"].eq("hc2") & rows["blocks"].gt(1)).any():
        notes.append(
            f"Fewer than {BLOCKS_FOR_CR2} blocks: the errors of times assume that techniques act alike in all blocks. "
            f"From {BLOCKS_FOR_CR2} blocks (--seeds) on they are by block and assume nothing of the kind."
        )
    if "lenth" in set(rows["method"]):
        notes.append(
            "One run of each setting: intervals are from how the effects scatter, and trust that most of them are "
            "small (Lenth's pseudo standard error). Run more blocks (--seeds) for intervals from repetition."
        )
    silent = rows["estimable"] & rows["se"].isna()
    for known, words in (
        (rows["blocks"].eq(1), "One seed cannot say how well {} are known: too few cells differ to tell by"),
        (rows["blocks"].gt(1), "Some blocks agree to the last digit, which says nothing of the error of {}"),
    ):
        if (silent & known).any():
            names = ", ".join(dict.fromkeys(BY_NAME[name].title for name in rows.loc[silent & known, "response"]))
            notes.append(
                words.format(f"some effects on {names}") + ". They have no interval; run more blocks (--seeds)."
            )
    if study.superseded:
        were = "was" if study.superseded == 1 else "were"
        notes.append(
            f"{counted(study.superseded, 'run')} {were} set aside: "
            "a later run repeated the same cell of the same block."
        )
    if study.strata:
        fields = ", ".join(study.strata)
        notes.append(f"Recipe fields differ within cells ({fields}); each setting is analysed as a model of its own.")
    omitted = contrasts.left_out([factor for factor in study.factors if factor.levels])
    if omitted:
        notes.append(omitted)
    for name in sorted(controls):
        notes.append(f"{name} does nothing on this device: its runs are A/A controls, its true effect is none.")
    for name in sorted(timeless_ones):
        notes.append(f"{name} cannot change a time: its runs are A/A controls of the times.")
    return tuple(notes)


def estimate(
    study: StudyData,
    *,
    margin: float = 0.01,
    accuracy_margin_points: float = 1.0,
    confidence: float = 0.95,
    inert_techniques: frozenset[str] | None = None,
    target_accuracy: float | None = None,
) -> Effects:
    """Estimates every effect of a study.

    Args:
        study: The study.
        margin: Equivalence margin of ratios (0.01 = 1 %).
        accuracy_margin_points: Equivalence and non-inferiority margin of accuracy and F1, percentage points.
        confidence: Confidence of the intervals, in (0.5, 1).
        inert_techniques: Techniques that cannot act on the study's devices (A/A controls); None finds them.
        target_accuracy: Validation accuracy, as a fraction; the time to it becomes a response. None for none.

    Returns:
        The effects; with no finished run, an empty table and the outcomes.

    Raises:
        ValueError: A margin is not positive or the confidence is out of range.
    """
    if margin <= 0 or accuracy_margin_points <= 0:
        raise ValueError(f"margins must be positive, got {margin} and {accuracy_margin_points} points")
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence must lie between 0.5 and 1, got {confidence}")
    options = EffectOptions(margin, accuracy_margin_points, confidence, target_accuracy)
    data = tidy(study)
    if target_accuracy is not None:
        data = time_to_target.with_times(data, study.history, target_accuracy)
    controls = inert(data) if inert_techniques is None else inert_techniques
    found: list[dict[str, Any]] = []
    for key, runs in data.runs.groupby(["model", "dataset"], sort=False):
        rows_of_group = group_rows((str(key[0]), str(key[1])), runs, data.factors)
        found += rows_of_group if target_accuracy is None else time_to_target.limited(rows_of_group, runs, data.factors)
    rounds = times_in_rounds.of_study(study, data)
    found = rounds.put_into(found)
    outcomes = _outcomes(data.runs)
    aliases, alias_notes = _alias_lines(data.runs, data.factors)
    if not found:
        empty = pd.DataFrame(columns=COLUMNS)
        cells = pd.DataFrame(columns=["model", "dataset", "cell", "response", "mean", "estimate", "low", "high"])
        note = ("No finished run has a measured response: there is nothing to estimate yet.",)
        nothing = (empty, pd.DataFrame(), cells, outcomes, aliases, note, data, data.runs, controls, frozenset[str]())
        return Effects(*nothing, {}, {}, options, study)
    rows = pd.DataFrame(found)
    effects = rows[rows["kind"].ne(CELL)]
    timed = rounds.put_over(data.runs)
    not_engaged = engagement.cells_not_engaged(timed, data.factors, controls)
    unmoved = timeless(data, study)
    untrained = chance.untrained(data.runs, options.alpha)
    decided = _decide(pd.concat([effects, pool(effects)], ignore_index=True), options, controls, unmoved)
    decided = engagement.judge(decided, not_engaged, engagement.cells_of_groups(timed))
    decided = chance.judge_accuracy(decided, untrained)
    against = chance.judge_accuracy(_decide(rows[rows["kind"].eq(CELL)], options, controls, unmoved), untrained)
    of_target = time_to_target.notes(data.runs, target_accuracy)
    details = decided.drop(columns=[*COLUMNS, "scores"], errors="ignore").assign(blocks=decided["blocks"])
    return Effects(
        decided[COLUMNS],
        details,
        _cell_table(against, timed),
        outcomes,
        aliases,
        (*alias_notes, *rounds.notes, *_notes(decided, data, controls, unmoved), *of_target),
        data,
        timed,
        controls,
        unmoved,
        not_engaged,
        untrained,
        options,
        study,
    )
