"""The answer of a study as numbers: what to use, what each technique does alone, what they do together.

One place for every reader: the terminal, report.json and the pages say what is here, in the words of
`report/headlines.py`. Numbers are in the direction that people read: speed-ups (2 is twice as fast), points of accuracy
and ratios of memory over the baseline's. Each technique is told by its simple effect, the technique alone against the
baseline; its average over the others' settings stands in where the technique alone did not run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.chance import Untrained
from pipeline.analysis.effects import Effects
from pipeline.analysis.engagement import Group
from pipeline.analysis.frame import BASELINE
from pipeline.analysis.pooling import ALL
from pipeline.analysis.recommendation import Recommendation, recommend
from pipeline.analysis.times_in_rounds import TURN_KIND
from pipeline.analysis.verdicts import COSTS, NOT_TRAINED, PAYS

_Row = Mapping[Any, Any]
HostMemory = Mapping[tuple[str, str, str], float]  # (model, data set, cell) -> MiB
ALONE, AVERAGE, TOGETHER = "simple", "main", "combined"
_TIME, _ACCURACY, _MEMORY = "train_seconds", "accuracy", "gpu_peak_allocated_mib"


@dataclass(frozen=True)
class Estimated:
    """One number with its interval; `low` and `high` are NaN where there is none.

    Attributes:
        value, low, high: A speed-up, points of accuracy, or a ratio of memory.
        verdict: One of `verdicts`.
        further_blocks: After which it is likely to be decided; NaN where that is not known.
    """

    value: float
    low: float
    high: float
    verdict: str
    further_blocks: float = math.nan


@dataclass(frozen=True)
class OnTop:
    """What a technique does on top of others that it is shown to act with or against.

    Attributes:
        others: Their names, or the equation of aliases where the design cannot tell which.
        speed: Speed-up over these others without it; NaN where a cell is missing.
        verdict: What the others do by themselves; empty where that is not known.
    """

    others: str
    speed: float
    verdict: str


@dataclass(frozen=True)
class Part:
    """What one technique, or all together, do to the baseline.

    Attributes:
        term: `ga`, `ga=4`, `ga+amp`.
        kind: `simple` (alone), `main` (on average over the others' settings) or `combined` (together).
        speed, accuracy, memory: Estimated; None where it was not.
        host_mib: Change of the host's peak memory, MiB; NaN where it is not known, or GPU memory is.
        blocks: Number of blocks.
        control: Whether it cannot change the time here, so that its runs are A/A controls.
        not_engaged: Why it did not act; empty where it did.
        on_top: What it does on top of others, where an interaction is shown.
        synergy: Together: speed-up over what the single speed-ups multiply to; None where unknown.
        in_rounds: Whether its blocks are rounds of `ablate speed`.
    """

    term: str
    kind: str
    speed: Estimated | None
    accuracy: Estimated | None
    memory: Estimated | None
    host_mib: float
    blocks: int
    control: bool
    not_engaged: str
    on_top: tuple[OnTop, ...] = ()
    synergy: Estimated | None = None
    in_rounds: bool = False


@dataclass(frozen=True)
class Advice:
    """What to use for one model and data set.

    Attributes:
        chosen: The recommendation.
        chosen_part: The recommended cell, its speed with the interval that holds for all compared; None for baseline.
        fastest_part: The fastest cell where it is not the recommended one; None otherwise.
        untrained: Why accuracy was not judged, where nothing was learned.
        judged: Whether accuracy was judged.
        compared: Whether any cell has a time beside the baseline's.
        parts: What each technique does alone, then all together.
    """

    chosen: Recommendation
    chosen_part: Part | None
    fastest_part: Part | None
    untrained: Untrained | None
    judged: bool
    compared: bool
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class StudyAnswer:
    """The answer of a study.

    Attributes:
        groups: One for each model and data set.
        averages: The parts over all models and data sets, where there are several.
        models, datasets: How many of them the averages are over.
        margin_points: Margin of accuracy, percentage points.
        has_accuracy: Whether accuracy was measured at all.
        techniques: Names of the techniques.
    """

    groups: tuple[Advice, ...]
    averages: tuple[Part, ...]
    models: int
    datasets: int
    margin_points: float
    has_accuracy: bool
    techniques: tuple[str, ...]


def answer_of(effects: Effects, memory_limit_mib: float | None = None) -> StudyAnswer:
    """Makes the answer from the estimates.

    Args:
        effects: The estimates.
        memory_limit_mib: Largest peak GPU memory of a recommended cell; None for no limit.
    """
    if effects.table.empty:
        return StudyAnswer((), (), 0, 0, effects.options.accuracy_margin_points, False, ())
    table = effects.detailed
    of_group = {(str(key[0]), str(key[1])): rows for key, rows in table.groupby(["model", "dataset"], sort=False)}
    cells_of = {
        (str(key[0]), str(key[1])): cells for key, cells in effects.cells.groupby(["model", "dataset"], sort=False)
    }
    host = _host_mib(effects.study.runs)
    advice = tuple(
        _advice(effects, of_group[each.model, each.dataset], cells_of[each.model, each.dataset], host, each)
        for each in recommend(effects, effects.source, memory_limit_mib)
    )
    single = table[table["model"].ne(ALL) & table["dataset"].ne(ALL)]
    averages: tuple[Part, ...] = ()
    if len(advice) > 1:
        every = all(_in_rounds(effects, (each.chosen.model, each.chosen.dataset)) for each in advice)
        averages = tuple(replace(part, in_rounds=every) for part in _parts(effects, _widest(table), None, {}))
    return StudyAnswer(
        advice,
        averages,
        single["model"].nunique(),
        single["dataset"].nunique(),
        effects.options.accuracy_margin_points,
        bool(table["response"].eq(_ACCURACY).any()),
        tuple(factor.name for factor in effects.study.factors if factor.levels),
    )


def _widest(table: pd.DataFrame) -> pd.DataFrame:
    """Keeps the rows of the widest average."""
    for columns in (["model", "dataset"], ["model"], ["dataset"]):
        at = (table[columns] == ALL).all(axis=1)
        if at.any():
            return table[at]
    return table.iloc[:0]


def _advice(
    effects: Effects, mine: pd.DataFrame, cells: pd.DataFrame, host: HostMemory, chosen: Recommendation
) -> Advice:
    group = (chosen.model, chosen.dataset)
    other = chosen.fastest if chosen.fastest not in ("", chosen.cell) else ""
    in_rounds = _in_rounds(effects, group)
    part = None if chosen.cell == BASELINE else _cell_part(host, group, cells, chosen.cell, chosen)
    part = replace(part, in_rounds=in_rounds) if part else None
    judged = group not in effects.untrained and bool(cells["response"].eq(_ACCURACY).any())
    return Advice(
        chosen,
        part,
        replace(_cell_part(host, group, cells, other), in_rounds=in_rounds) if other else None,
        effects.untrained.get(group),
        judged,
        bool(cells.loc[cells["response"].eq(_TIME), "estimate"].notna().any()),
        tuple(replace(part, in_rounds=in_rounds) for part in _parts(effects, mine, group, host)),
    )


def _in_rounds(effects: Effects, group: Group) -> bool:
    """Whether the times of a model and data set are from rounds."""
    runs = effects.timed
    return bool((runs["model"].eq(group[0]) & runs["dataset"].eq(group[1]) & runs["kind"].eq(TURN_KIND)).any())


def _cell_part(
    host: HostMemory, group: Group, cells: pd.DataFrame, cell: str, chosen: Recommendation | None = None
) -> Part:
    """Tells one cell; of the recommended one the interval is that of the recommendation."""
    of = {str(row["response"]): row for row in cells[cells["cell"].eq(cell)].to_dict("records")}
    speed = _speed(of.get(_TIME))
    if chosen is not None and speed is not None:
        speed = Estimated(1 / chosen.ratio, 1 / chosen.high, 1 / chosen.low, speed.verdict)
    blocks = int(of[_TIME]["blocks"]) if _TIME in of else 0
    measured = (speed, _plain(of.get(_ACCURACY)), _plain(of.get(_MEMORY)))
    return Part(cell, TOGETHER, *measured, _added_mib(host, group, cell), blocks, False, "")


def _parts(effects: Effects, rows: pd.DataFrame, group: Group | None, host: HostMemory) -> tuple[Part, ...]:
    """Tells each technique, then all together."""
    by: dict[tuple[str, str, str], _Row] = {
        (str(row["response"]), str(row["kind"]), str(row["term"])): row for row in rows.to_dict("records")
    }
    crossed = [
        row
        for row in by.values()
        if row["response"] == _TIME
        and row["kind"] == "interaction"
        and row["verdict"] in (PAYS, COSTS)
        and effects.idle.isdisjoint(row["techniques"])
    ]
    found = []
    for factor in effects.study.factors:
        for level in factor.levels:
            term = factor.term(level)
            alone = by.get((_TIME, ALONE, term))
            kind = ALONE if alone is not None and not math.isnan(alone["estimate"]) else AVERAGE
            if (_TIME, kind, term) in by:
                on_top = _on_top(effects, group, term, crossed, by)
                found.append(_part(group, term, kind, by, host, on_top))
    for response, kind, term in by:
        if response == _TIME and kind == TOGETHER and not math.isnan(by[response, kind, term]["estimate"]):
            found.append(_part(group, term, kind, by, host))
    return tuple(found)


def _part(
    group: Group | None,
    term: str,
    kind: str,
    by: Mapping[tuple[str, str, str], _Row],
    host: HostMemory,
    on_top: tuple[OnTop, ...] = (),
) -> Part:
    row = by[_TIME, kind, term]
    return Part(
        term,
        kind,
        _speed(row),
        _plain(by.get((_ACCURACY, kind, term))),
        _plain(by.get((_MEMORY, kind, term))),
        math.nan if group is None or kind == AVERAGE else _added_mib(host, group, term),
        int(row["blocks"]),
        bool(row["control"]),
        str(row["not_engaged"]),
        on_top,
        _speed(by.get((_TIME, "synergy", term))) if kind == TOGETHER else None,
    )


def _speed(row: _Row | None) -> Estimated | None:
    if row is None or math.isnan(row["estimate"]):
        return None
    low, high = (1 / value if value > 0 else math.inf for value in (row["high"], row["low"]))
    low, high = (math.nan, math.nan) if math.isnan(row["low"]) else (low, high)
    return Estimated(1 / row["estimate"], low, high, str(row["verdict"]), float(row["further_blocks"]))


def _plain(row: _Row | None) -> Estimated | None:
    if row is None or math.isnan(row["estimate"]) or row["verdict"] == NOT_TRAINED:
        return None
    return Estimated(float(row["estimate"]), float(row["low"]), float(row["high"]), str(row["verdict"]))


def _host_mib(runs: pd.DataFrame) -> HostMemory:
    """The mean of the host's peak memory in each cell, MiB; without groups whose GPU memory was measured."""
    done = runs[runs["outcome"].eq("finished")]
    on_gpu = done.groupby(["model", "dataset"])["gpu_peak_allocated_mib"].transform("count").gt(0)
    means = done[~on_gpu].groupby(["model", "dataset", "cell"], as_index=False)["host_peak_rss_mib"].mean()
    rows = means[["model", "dataset", "cell", "host_peak_rss_mib"]].itertuples(index=False, name=None)
    return {(str(model), str(dataset), str(cell)): float(mib) for model, dataset, cell, mib in rows}


def _added_mib(host: HostMemory, group: Group, cell: str) -> float:
    """How much more the host's peak memory was than the baseline's, MiB; NaN where it is not known."""
    return host.get((*group, cell), math.nan) - host.get((*group, BASELINE), math.nan)


def _on_top(
    effects: Effects,
    group: tuple[str, str] | None,
    term: str,
    crossed: Sequence[_Row],
    by: Mapping[tuple[str, str, str], _Row],
) -> tuple[OnTop, ...]:
    """Says on top of which others a technique does something else than alone; aliased ones may be any of them."""
    found = []
    for row in crossed:
        equation = str(row["note"]).partition("aliased: ")[2].partition(";")[0]
        if equation:
            words = [word.lstrip("-").split(":") for word in equation.split(" = ")]
            others = ["+".join(part for part in word if part != term) for word in words if term in word]
            found += [OnTop(f"{other} ({equation} cannot be told apart)", math.nan, "") for other in others]
            continue
        names = str(row["term"]).split(":")
        if term in names:
            rest = _in_order(effects, [name for name in names if name != term])
            alone = by.get((_TIME, ALONE, rest))
            verdict = str(alone["verdict"]) if alone is not None else ""
            found.append(OnTop(rest, _ratio(effects, group, _in_order(effects, names), rest), verdict))
    return tuple(found)


def _in_order(effects: Effects, terms: Sequence[str]) -> str:
    """Names a cell as cells are named: techniques in the study's order."""
    order = [factor.term(level) for factor in effects.study.factors for level in factor.levels]
    return "+".join(sorted(terms, key=order.index))


def _ratio(effects: Effects, group: tuple[str, str] | None, cell: str, over: str) -> float:
    """The speed-up of one cell over another, a geometric mean over all groups where none is given."""
    times = effects.cells[effects.cells["response"].eq(_TIME)]
    if group is not None:
        times = times[times["model"].eq(group[0]) & times["dataset"].eq(group[1])]
    means = times.pivot_table(index=["model", "dataset"], columns="cell", values="mean")
    if cell not in means or over not in means:
        return math.nan
    return float(np.exp(np.log(means[over] / means[cell]).mean()))
