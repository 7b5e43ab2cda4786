"""Times from cells that took turns (`ablate speed`), in the place of those of a grid's runs.

A grid's runs of one block are minutes apart, turns of one round seconds: what is known of both is taken from the
rounds. Accuracy, memory and all else stay the grid's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.frame import BASELINE, IGNORED_RECIPE_FIELDS, Tidy, number, text, tidy
from pipeline.analysis.group_effects import group_rows
from pipeline.analysis.round_effects import raised_for_looks
from pipeline.design.names import DATASET_PARAM, MODEL_PARAM, RECIPE_PARAM, SPEED_ROUNDS, TECHNIQUES_PARAM
from pipeline.tracking.study_data import StudyData

TIMES = ("train_seconds", "images_per_second")
TURN_KIND = "turns"
_KNOWN = (*TIMES, "position", "compile_seconds", "first_use_seconds", "epoch_images")  # of cells that took turns
Row = dict[str, Any]
FieldValues = dict[str, set[str]]  # of a recipe -> all values that they had


@dataclass(frozen=True)
class RoundTimes:
    """What rounds say.

    Attributes:
        rows: effects, as `group_rows` gives them.
        runs: the tidy rounds.
        notes: what a reader must know of them.
    """

    rows: tuple[Row, ...] = ()
    runs: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()

    def put_into(self, rows: Iterable[Row]) -> list[Row]:
        """Replaces those of a grid's effects that the rounds have too; adds none that the grid has not."""
        mine = {_key(row): row for row in self.rows}
        return [mine.get(_key(row), row) for row in rows]

    def put_over(self, runs: pd.DataFrame) -> pd.DataFrame:
        """The runs with the rounds' times: those of cells that took turns are the rounds', in rows of their own."""
        if self.runs is None:
            return runs
        cells = set(self.runs[["model", "dataset", "cell"]].itertuples(index=False, name=None))
        known = [cell in cells for cell in runs[["model", "dataset", "cell"]].itertuples(index=False, name=None)]
        kept = runs.copy()
        kept.loc[known, list(TIMES)] = np.nan
        theirs = self.runs.reindex(columns=kept.columns).assign(kind=TURN_KIND)  # no single runs
        return pd.concat([kept, theirs], ignore_index=True)


def of_study(study: StudyData, grid: Tidy) -> RoundTimes:
    """Estimates a study's effects on times from its rounds, where they are of the grid's cells on the grid's machine.

    Args:
        study: the study.
        grid: its runs.
    """
    if study.rounds.empty:
        return RoundTimes()
    only = study.runs is study.rounds
    data = grid if only else tidy(replace(study, runs=study.rounds, rounds=pd.DataFrame()))
    rows: list[Row] = []
    notes: list[str] = []
    used: list[pd.DataFrame] = []
    made: dict[str, int] = {}
    recipes = [] if only else [_recipes(runs) for runs in (study.runs, study.rounds)]
    for key, runs in data.runs.groupby(["model", "dataset"], sort=False):
        model, dataset = str(key[0]), str(key[1])
        ours = grid.runs[grid.runs["model"].eq(model) & grid.runs["dataset"].eq(dataset)]
        if ours.empty:
            continue
        why = "" if only else _differs(ours, runs, [each.get((model, dataset), {}) for each in recipes])
        if why:
            notes.append(f"{model} / {dataset}: times are the grid's, since {why} when its cells took turns.")
            continue
        unknown = [name for name in runs.select_dtypes("number").columns if name not in _KNOWN]
        timed = runs.assign(**dict.fromkeys(unknown, np.nan))
        rows += [_raised(row) for row in group_rows((model, dataset), timed, data.factors) if row["response"] in TIMES]
        used.append(timed)
        made[f"{model} / {dataset}"] = _rounds_of(study.rounds, runs)
    if not used:
        return RoundTimes(notes=tuple(notes))
    groups = grid.runs.groupby(["model", "dataset"]).ngroups
    return RoundTimes(tuple(rows), pd.concat(used, ignore_index=True), (_note(made, groups), *notes))


def _note(made: Mapping[str, int], groups: int) -> str:
    """Says of what the times are from rounds, and of how many.

    Args:
        made: model and data set -> rounds.
        groups: how many of them the study has.
    """
    which, each = next(iter(made)), ""
    if groups > 1:
        of = "all" if len(made) == groups else f"{len(made)} of"
        which, each = f"{of} {groups} models and data sets", " each"
    fewest, most = min(made.values()), max(made.values())
    number = str(fewest) if fewest == most else f"{fewest} to {most}"
    return f"Times of {which} are from {number} rounds of `ablate speed`{each}."


def _rounds_of(rounds: pd.DataFrame, runs: pd.DataFrame) -> int:
    """How many rounds the runs of a group are from; several may be one block."""
    mine = rounds[rounds["run_id"].astype(str).isin(set(runs["run_id"]))]
    counted = number(mine, f"metrics.{SPEED_ROUNDS}").max()
    return int(runs["block"].nunique() if np.isnan(counted) else counted)


def _raised(row: Row) -> Row:
    """Raises an effect's error for the looks after which rounds were enough."""
    raised = float(raised_for_looks(np.asarray(row["se"]), np.asarray(row["dof"])))
    scores = row["scores"]
    if scores is not None and row["se"] > 0:
        ratio = raised / row["se"]
        scores = replace(scores, values=scores.values * ratio, pooled=scores.pooled * ratio**2)
    return {**row, "se": raised, "scores": scores}


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["model"], row["dataset"], row["response"], row["kind"], row["term"]


def _differs(grid: pd.DataFrame, rounds: pd.DataFrame, recipes: Sequence[Mapping[str, FieldValues]]) -> str:
    """Says why rounds tell nothing of a grid's cells; empty where they do.

    Args:
        grid: its runs of a model and data set.
        rounds: the same of the rounds.
        recipes: of the cells of both.
    """
    if set(grid["machine"]) != set(rounds["machine"]):
        return "they ran on another machine"
    for cell in recipes[0].keys() & recipes[1].keys():
        fields = sorted(name for name, values in recipes[0][cell].items() if recipes[1][cell].get(name) != values)
        if fields:
            return f"{', '.join(fields)} had other values"
    return "" if BASELINE in set(rounds["cell"]) else "there was no baseline"


def _recipes(runs: pd.DataFrame) -> dict[tuple[str, str], dict[str, FieldValues]]:
    """Recipe fields of each cell of each model and data set, with all values that they had."""
    prefix = f"params.{RECIPE_PARAM}"
    names = [str(column)[len(prefix) :] for column in runs.columns if str(column).startswith(prefix)]
    columns = {name: text(runs, prefix + name).tolist() for name in names if name not in IGNORED_RECIPE_FIELDS}
    keys = [text(runs, f"params.{param}").tolist() for param in (MODEL_PARAM, DATASET_PARAM, TECHNIQUES_PARAM)]
    found: dict[tuple[str, str], dict[str, FieldValues]] = {}
    for i, (model, dataset, cell) in enumerate(zip(*keys, strict=True)):
        fields = found.setdefault((model, dataset), {}).setdefault(cell, {})
        for name, values in columns.items():
            fields.setdefault(name, set()).add(values[i])
    return found
