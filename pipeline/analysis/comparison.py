"""The same study on two machines, versions or dates: what changed, by how much, where it ran and with what recipe."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pipeline.analysis import verdicts
from pipeline.analysis.effects import Effects, estimate
from pipeline.analysis.frame import IGNORED_RECIPE_FIELDS
from pipeline.analysis.pooling import ALL
from pipeline.analysis.responses import BY_NAME, RATIO, RESPONSES
from pipeline.design.names import LEVEL_PARAM, RECIPE_PARAM
from pipeline.shown import counted, markdown_cell
from pipeline.tracking.study_data import StudyData

_KEYS = ["model", "dataset", "cell", "response"]
_EFFECT_KEYS = ["model", "dataset", "response", "kind", "term"]

MOST_NAMES = 12  # of cells that only one study has; the JSON has all

Differing = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]


@dataclass(frozen=True)
class Comparison:
    """Study B against study A.

    Attributes:
        a, b: The studies' names.
        cells: model, dataset, cell, response, a, b (means), ratio (B / A, or points B - A), low, high, unit,
            runs_a, runs_b.
        effects: model, dataset, response, kind, term, a, b (estimates), ratio, low, high, unit: how much the
            effect itself changed.
        only_a, only_b: Cells (model/dataset/cell) that just one study finished.
        provenance: Name of an `env` tag -> (values in A, values in B), only what differs.
        recipe: Field of the recipe -> the same, in cells that go by one name in both studies; and `level.TECHNIQUE`,
            in all cells, without a value where it is the default.
        notes: What was not compared, and why.
    """

    a: str
    b: str
    cells: pd.DataFrame
    effects: pd.DataFrame
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    provenance: Differing
    recipe: Differing
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """Writes the comparison as one JSON document; a missing number is null."""
        document = {
            "a": self.a,
            "b": self.b,
            "cells": _records(self.cells),
            "effects": _records(self.effects),
            "only_a": self.only_a,
            "only_b": self.only_b,
            "provenance": {k: {"a": a, "b": b} for k, (a, b) in self.provenance.items()},
            "recipe": {k: {"a": a, "b": b} for k, (a, b) in self.recipe.items()},
            "notes": self.notes,
            "conclusion": self.conclusion(),
        }
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)

    def conclusion(self) -> list[str]:
        """Says in one to three lines whether B is faster, whether its accuracy is another, and what could be why."""
        if self.cells.empty:
            return [f"Nothing to compare: no cell finished in both ({self._apart()})."]
        lines = [_change(self.cells, "train_seconds", "training time", "faster", "slower")]
        if self.cells["response"].eq("accuracy").any():
            lines.append(_change(self.cells, "accuracy", "accuracy", "better", "worse"))
        differs = [name for name, sides in (("the recipe", self.recipe), ("provenance", self.provenance)) if sides]
        said = [f"{' and '.join(differs)} differ" + ("s" if len(differs) == 1 else "")] if differs else []
        said += [self._apart()] if self.only_a or self.only_b else []
        return lines + ([f"Beware: {'; '.join(said)}."] if said else [])

    def _apart(self) -> str:
        return f"{counted(len(self.only_a), 'cell')} only in A, {counted(len(self.only_b), 'cell')} only in B"

    def to_markdown(self) -> str:
        """Writes the comparison as Markdown: provenance, recipe, cells, effects, conclusion."""
        lines = [f"# {markdown_cell(self.b)} against {markdown_cell(self.a)}"]
        for title, differing in (("provenance", self.provenance), ("the recipe", self.recipe)):
            lines += ["", f"## What differs in {title}", ""]
            lines += ["| | A | B |", "|---|---|---|"] if differing else ["Nothing that was recorded."]
            for name, sides in differing.items():
                left, right = (markdown_cell(", ".join(values)) or "–" for values in sides)
                lines.append(f"| {markdown_cell(name)} | {left} | {right} |")
        lines += ["", "## Cells (B / A)", "", "| model | dataset | cell | response | ratio | 95 % interval |"]
        lines.append("|---|---|---|---|---|---|")
        lines += [_line(row, "cell") for row in self.cells.to_dict("records")]
        lines += [
            "",
            "## Effects (B / A)",
            "",
            "| model | dataset | effect | response | ratio | 95 % interval |",
        ]
        lines.append("|---|---|---|---|---|---|")
        lines += [_line(row, "term") for row in self.effects.to_dict("records")]
        for note in self.notes:
            lines += ["", markdown_cell(note)]
        for name, cells in (("A", self.only_a), ("B", self.only_b)):
            if cells:
                lines += ["", f"Only in {name}, {counted(len(cells), 'cell')}:", ""]
                lines += [f"- {markdown_cell(cell)}" for cell in cells[:MOST_NAMES]]
                lines += [f"- and {len(cells) - MOST_NAMES} more"] if len(cells) > MOST_NAMES else []
        lines += ["", "## Conclusion (B against A)", ""]
        lines += [f"- {markdown_cell(line)}" for line in self.conclusion()]
        return "\n".join(lines) + "\n"


def _change(cells: pd.DataFrame, response: str, title: str, better: str, worse: str) -> str:
    """Says of how many cells a response is shown to be another in B; all are judged together (Bonferroni)."""
    rows = cells[cells["response"].eq(response) & cells["ratio"].notna()]
    if rows.empty:
        return f"{title}: in no cell of both."
    up = BY_NAME[response].higher_is_better
    judged = rows[rows["low_together"].notna()]
    none = 1.0 if BY_NAME[response].unit == RATIO else 0.0
    above, below = int((judged["low_together"] > none).sum()), int((judged["high_together"] < none).sum())
    gains, losses = (above, below) if up else (below, above)
    if BY_NAME[response].unit == RATIO:
        middle = f"on average B takes {np.exp(np.log(rows['ratio']).mean()):.3f} of A's"
    else:
        middle = f"on average {rows['ratio'].mean():+.2f} points"
    if judged.empty:
        return f"{title}: {middle}; no cell ran twice in a study, so nothing is shown."
    if not gains + losses:
        return f"{title}: {middle}; in none of {counted(len(judged), 'cell')} is B shown to be {better} or {worse}."
    return f"{title}: {middle}; of {counted(len(judged), 'cell')} B is {better} in {gains} and {worse} in {losses}."


def _line(row: Mapping[Any, Any], name: str) -> str:
    label = row[name] if "kind" not in row else f"{row[name]} ({row['kind']})"
    change = f"{row['ratio']:.3f}" if row["unit"] == RATIO else f"{row['ratio']:+.2f} points"
    span = "not replicated" if math.isnan(row["low"]) else f"{row['low']:.3f} to {row['high']:.3f}"
    parts = [row["model"], row["dataset"], label, row["response"], change, span]
    return "| " + " | ".join(markdown_cell(str(p)) for p in parts) + " |"


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(k): None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in frame.to_dict("records")
    ]


def _finished(effects: Effects) -> pd.DataFrame:
    return effects.study.runs[effects.study.runs["outcome"].eq("finished")]


def _cell_stats(effects: Effects) -> pd.DataFrame:
    """Returns mean, variance and number of runs per cell and response, on the analysis scale."""
    done = _finished(effects)
    parts = []
    for response in RESPONSES:
        values = response.to_scale(done[response.name])
        grouped = values.groupby([done[k] for k in _KEYS[:3]], sort=False)
        frame = grouped.agg(["mean", "var", "count"]).reset_index()
        parts.append(frame[frame["count"] > 0].assign(response=response.name))
    return pd.concat(parts, ignore_index=True)


def _finish(
    frame: pd.DataFrame, change: pd.Series, se: pd.Series, dof: pd.Series, confidence: ArrayLike
) -> pd.DataFrame:
    """Adds ratio, low, high and unit, back on the scale that people read."""
    half = verdicts.half_widths(se, dof, confidence)
    ratio = np.array([BY_NAME[str(r)].unit == RATIO for r in frame["response"]], dtype=bool)
    for name, value in (("ratio", change), ("low", change - half), ("high", change + half)):
        frame[name] = np.where(ratio, np.exp(value), value)
    frame["unit"] = [BY_NAME[str(r)].unit for r in frame["response"]]
    return frame


def _cells(a: Effects, b: Effects, confidence: float) -> pd.DataFrame:
    """Compares cell means by Welch's t interval: two studies have no blocks in common."""
    both = _cell_stats(a).merge(_cell_stats(b), on=_KEYS, suffixes=("_a", "_b"))
    va, vb = both["var_a"] / both["count_a"], both["var_b"] / both["count_b"]
    se = (va + vb) ** 0.5
    below = va**2 / (both["count_a"] - 1) + vb**2 / (both["count_b"] - 1)
    dof = ((va + vb) ** 2 / below).where(below > 0, both["count_a"] + both["count_b"] - 2)
    frame = both[_KEYS].copy()
    for side in ("a", "b"):
        names = zip(both["response"], both[f"mean_{side}"], strict=True)
        frame[side] = [BY_NAME[str(r)].level(float(m)) for r, m in names]
    change = both["mean_b"] - both["mean_a"]
    tests = (se.notna() & dof.gt(0)).groupby(both["response"]).transform("sum").clip(lower=1)
    together = _finish(frame.copy(), change, se, dof, 1 - (1 - confidence) / tests)
    frame = _finish(frame, change, se, dof, confidence)
    frame["low_together"], frame["high_together"] = together["low"], together["high"]
    frame["runs_a"], frame["runs_b"] = both["count_a"], both["count_b"]
    return frame


def _averaged(effects: Effects) -> pd.Series:
    """Lists the groups (model, dataset) that each row is the average of; a group's own row is of itself."""
    rows = list(effects.table[_EFFECT_KEYS].itertuples(index=False, name=None))
    known = {row for row, value in zip(rows, effects.details["log_estimate"], strict=True) if not math.isnan(value)}
    groups = {row[:2] for row in known if ALL not in row[:2]}
    parts = [
        frozenset(g for g in groups if row[0] in (ALL, g[0]) and row[1] in (ALL, g[1]) and g + row[2:] in known)
        for row in rows
    ]
    return pd.Series(parts, index=effects.table.index, dtype=object)


def _effects(a: Effects, b: Effects, confidence: float) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Compares the effects themselves: difference of the estimates, variances added, Welch's dof.

    Returns:
        The effects, and the notes on averages over different groups, which are left out.
    """
    if a.table.empty or b.table.empty:
        return pd.DataFrame(columns=[*_EFFECT_KEYS, "a", "b", "ratio", "low", "high", "unit"]), ()
    numbers = ["log_estimate", "se", "dof"]
    sides = [
        pd.concat([e.table[[*_EFFECT_KEYS, "estimate"]], e.details[numbers]], axis=1).assign(groups=_averaged(e))
        for e in (a, b)
    ]
    both = sides[0].merge(sides[1], on=_EFFECT_KEYS, suffixes=("_a", "_b"))
    both = both[both["log_estimate_a"].notna() & both["log_estimate_b"].notna()]
    unlike = both["groups_a"].ne(both["groups_b"])
    notes = []
    for (left, right), count in Counter(zip(both["groups_a"][unlike], both["groups_b"][unlike], strict=True)).items():
        only = [
            f"only in {side}: {', '.join('/'.join(group) for group in sorted(more))}"
            for side, more in (("A", left - right), ("B", right - left))
            if more
        ]
        words = f"{count} effects over '{ALL}' are averages of different groups and not compared"
        notes.append("; ".join([words, *only]) + ".")
    both = both[~unlike].reset_index(drop=True)
    va, vb = both["se_a"] ** 2, both["se_b"] ** 2
    below = va**2 / both["dof_a"] + vb**2 / both["dof_b"]
    dof = ((va + vb) ** 2 / below).where(below > 0, both["dof_a"] + both["dof_b"])
    frame = both[_EFFECT_KEYS].copy()
    frame["a"], frame["b"] = both["estimate_a"], both["estimate_b"]
    change = both["log_estimate_b"] - both["log_estimate_a"]
    return _finish(frame, change, (va + vb) ** 0.5, dof, confidence), tuple(notes)


def _settings(effects: Effects, study: StudyData) -> set[tuple[str, ...]]:
    """Collects (model, dataset, cell, name, value) of the recipe fields and levels of all finished runs."""
    kept = study.runs.set_index("run_id").filter(regex=rf"^params\.({RECIPE_PARAM}|{LEVEL_PARAM})")
    long = _finished(effects).set_index("run_id")[_KEYS[:3]].join(kept).melt(_KEYS[:3]).dropna().astype(str)
    long["variable"] = long["variable"].str.removeprefix("params.").str.removeprefix(RECIPE_PARAM)
    return set(long[~long["variable"].isin(IGNORED_RECIPE_FIELDS)].itertuples(index=False, name=None))


def _recipe(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> Differing:
    """Lists what differs between the settings of two studies: recipe fields in the cells that both have, and levels."""
    shared = {row[:3] for row in a} & {row[:3] for row in b}
    differs = {row[:4] for row in a ^ b if row[:3] in shared or row[3].startswith(LEVEL_PARAM)}
    found: Differing = {}
    for name in sorted({row[3] for row in differs}):
        left, right = ({row[4] for row in side if row[3] == name and row[:4] in differs} for side in (a, b))
        found[name] = tuple(sorted(left)), tuple(sorted(right))
    return found


def provenance(study: StudyData) -> dict[str, tuple[str, ...]]:
    """Collects the distinct values of every `tags.env.*` column, sorted."""
    found = {}
    for column in study.runs.columns:
        if str(column).startswith("tags.env."):
            values = study.runs[column].dropna().astype(str).unique()
            if len(values):
                found[str(column)[len("tags.env.") :]] = tuple(sorted(values))
    return dict(sorted(found.items()))


def compare_studies(a: StudyData, b: StudyData, *, confidence: float = 0.95) -> Comparison:
    """Compares the cells and effects that two studies share.

    Args:
        a: The reference study.
        b: The study to judge; ratios are B / A.
        confidence: Confidence of the intervals, in (0.5, 1).

    Returns:
        The comparison; where a side is not replicated the interval is NaN.
    """
    left, right = estimate(a, confidence=confidence), estimate(b, confidence=confidence)
    done = [_finished(effects) for effects in (left, right)]
    names = [list(dict.fromkeys(d["model"] + "/" + d["dataset"] + "/" + d["cell"])) for d in done]
    env = provenance(a), provenance(b)
    keys = sorted(set(env[0]) | set(env[1]))
    differing = {k: (env[0].get(k, ()), env[1].get(k, ())) for k in keys if env[0].get(k) != env[1].get(k)}
    effects, notes = _effects(left, right, confidence)
    return Comparison(
        a.name,
        b.name,
        _cells(left, right, confidence),
        effects,
        tuple(n for n in names[0] if n not in names[1]),
        tuple(n for n in names[1] if n not in names[0]),
        differing,
        _recipe(_settings(left, a), _settings(right, b)),
        notes,
    )
