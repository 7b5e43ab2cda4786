"""The rounds of `ablate speed`, read from the tracking store by nothing but the names of the contract."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import fmean, geometric_mean
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.design.names import (
    BLOCK_TAG,
    COMPILE_SECONDS,
    DATASET_PARAM,
    DIGEST_TAG,
    FACTORS_TAG,
    FINISHED_STATE,
    IMAGES_PER_SECOND,
    KIND_TAG,
    MODEL_PARAM,
    OPENED_TAG,
    OUTCOME_TAG,
    POSITION_TAG,
    RECIPE_IMAGES,
    ROUND_PLACE,
    ROUND_RATE,
    SPEED_ROUNDS,
    STUDY_TAG,
    TECHNIQUES_TAG,
    TRAIN_SECONDS,
    WARMUP_SECONDS,
)
from pipeline.tracking.attempts import opened_at

if TYPE_CHECKING:
    import pandas as pd


class RunSource(Protocol):
    """Where runs are read: MLflow's client (`MlflowStore`) or the tables of a local store (`SqliteReader`)."""

    def frame(self) -> pd.DataFrame:
        """The experiment's runs."""
        ...

    def history(self, run_ids: Iterable[str], keys: Sequence[str]) -> pd.DataFrame:
        """Per-epoch points of some runs."""
        ...

    def tags_of(self, run_id: str) -> dict[str, str]:
        """Tags of a run."""
        ...


_KEPT = (
    *("run_id", "start_time", "end_time"),
    *(f"metrics.{name}" for name in (RECIPE_IMAGES, COMPILE_SECONDS, WARMUP_SECONDS)),
)
MOST_BLOCKS = 200  # of a group in a frame
# A cell that failed, or was left out, has rounds that nothing is compared with; an interrupted call's are whole.
COUNTED = ("finished", "interrupted", "")


def parents_of(parents: pd.DataFrame, study: str) -> pd.DataFrame:
    """The parent runs of a study, in an experiment that several may share; all where none is of that name.

    Args:
        parents: their rows.
        study: its name.
    """
    names = parents.get(f"tags.{STUDY_TAG}")
    mine = parents if names is None else parents[names == study]
    return parents if mine.empty else mine


def by_opening(parents: pd.DataFrame) -> pd.DataFrame:
    """Parent runs in the order in which the last calls that work under them began."""
    tags = parents.get(f"tags.{OPENED_TAG}")
    told = [None] * len(parents) if tags is None else list(tags)
    opened = [opened_at(tag, start) for tag, start in zip(told, parents["start_time"].fillna(0), strict=True)]
    return parents.assign(_opened=opened).sort_values(["_opened", "start_time"]).drop(columns="_opened")


def factors_of(row: Mapping[Any, Any]) -> str:
    """What the design of a parent run crosses (`Plan.factors`); empty where its row does not say.

    Args:
        row: its row of the frame.
    """
    told = (row.get(f"tags.{name}") for name in (FACTORS_TAG, TECHNIQUES_TAG))
    return next((text for text in told if isinstance(text, str) and text), "")


def youngest_rounds(
    source: RunSource, runs: pd.DataFrame, study: str = "", factors: str = ""
) -> tuple[pd.DataFrame, str]:
    """The rounds under the youngest parent run of `ablate speed` that has any: a call may have ended in its set-up.

    Args:
        source: where the rounds are read.
        runs: one row per run of the experiment, as `RunSource.frame` gives them.
        study: of whose calls, where the experiment has any of it.
        factors: what the design of the grid crosses that the rounds are wanted for; empty for any.

    Returns:
        `round_frame`, and MLflow's id of the parent run (empty when there are no rounds).
    """
    kind = runs.get(f"tags.{KIND_TAG}")
    if kind is not None:
        for row in reversed(by_opening(parents_of(runs[kind == "speed"], study)).to_dict("records")):
            if factors and factors_of(row) not in ("", factors):
                continue
            parent = str(row["run_id"])
            found = round_frame(source, runs, parent)
            if len(found):
                return found, parent
    return runs.iloc[0:0], ""


def rates_under(source: RunSource, runs: pd.DataFrame, parent: str) -> dict[str, dict[int, float]]:
    """Images/s of each cell in each round: digest -> round -> rate.

    Args:
        source: where the rounds are read.
        runs: one row per run of the experiment.
        parent: MLflow's id of the parent run.
    """
    return _points_under(source, runs, parent, ROUND_RATE)


def _points_under(source: RunSource, runs: pd.DataFrame, parent: str, name: str) -> dict[str, dict[int, float]]:
    """A metric of each cell in each round: digest -> round -> value."""
    rows = rows_under(runs, parent)
    found: dict[str, dict[int, float]] = {}
    if len(rows):
        of_row = _points_of(source, rows, name)
        for run_id, digest in zip(rows["run_id"].astype(str), rows[f"tags.{DIGEST_TAG}"].astype(str), strict=True):
            if run_id in of_row:
                found.setdefault(digest, {}).update(of_row[run_id])
    return found


def _points_of(source: RunSource, rows: pd.DataFrame, name: str) -> dict[str, dict[int, float]]:
    """A metric of each row in each round, where it is positive: MLflow's id -> round -> value."""
    points = source.history(list(rows["run_id"].astype(str)), [name])
    found: dict[str, dict[int, float]] = {}
    for run_id, step, value in zip(points["run_id"], points["step"], points["value"], strict=True):
        if 0 < value < math.inf:  # not nan either
            found.setdefault(str(run_id), {})[int(step)] = float(value)
    return found


def rows_under(runs: pd.DataFrame, parent: str) -> pd.DataFrame:
    """The rows of cells that took turns under a parent run, and whose rounds count."""
    kind, above = runs.get(f"tags.{KIND_TAG}"), runs.get("tags.mlflow.parentRunId")
    if kind is None or above is None or f"tags.{DIGEST_TAG}" not in runs:
        return runs.iloc[0:0]
    rows = runs[(kind == "turns") & (above == parent)]
    outcome = rows.get(f"tags.{OUTCOME_TAG}")
    return rows if outcome is None else rows[outcome.fillna("").isin(COUNTED)]


def round_frame(source: RunSource, runs: pd.DataFrame, parent: str) -> pd.DataFrame:
    """One row for each cell and round, as a grid's frame has for each cell and block; empty where there is none.

    The block is the round. Of more than `MOST_BLOCKS` rounds of a group some that follow each other are one block, with
    the geometric mean of their rates: errors by block take memory by the square of their number, and 200 tell them well
    enough. The training time is that of the recipe's epochs at the block's rate, without evaluation.

    Args:
        source: where the rounds are read.
        runs: one row per run of the experiment.
        parent: MLflow's id of the parent run.
    """
    import pandas as pd

    every = rows_under(runs, parent)
    of_row = _points_of(source, every, ROUND_RATE) if len(every) else {}
    if not of_row:
        return pd.DataFrame()
    places = _points_under(source, runs, parent, ROUND_PLACE)
    # a cell has several rows where calls went on: of each round its own one tells how it trained
    rates: dict[str, dict[int, float]] = {}
    makers: dict[str, dict[int, dict[str, Any]]] = {}
    for each in every.sort_values("start_time").to_dict("records"):
        maker = {str(name): value for name, value in each.items()}
        mine, digest = of_row.get(str(maker["run_id"]), {}), str(maker[f"tags.{DIGEST_TAG}"])
        rates.setdefault(digest, {}).update(mine)
        makers.setdefault(digest, {}).update(dict.fromkeys(mine, maker))
    cells = every.drop_duplicates(f"tags.{DIGEST_TAG}", keep="last")
    rows = [{str(name): value for name, value in cell.items()} for cell in cells.to_dict("records")]
    numbers: dict[str, set[int]] = {}
    for row in rows:
        numbers.setdefault(_group_of(row), set()).update(rates.get(str(row[f"tags.{DIGEST_TAG}"]), {}))
    found: list[dict[str, Any]] = []
    for row in rows:
        digest, group = str(row[f"tags.{DIGEST_TAG}"]), _group_of(row)
        for block, of_block in _blocks_of(numbers[group]).items():
            turned = [number for number in of_block if number in rates.get(digest, {})]
            if not turned:
                continue
            maker = makers[digest][turned[-1]]
            kept = {name: maker[name] for name in maker if name.startswith(("params.", "tags.")) or name in _KEPT}
            images = float(maker.get(f"metrics.{RECIPE_IMAGES}", math.nan))
            measured_rates = [rates[digest][number] for number in turned]
            rate = geometric_mean(measured_rates) if len(turned) > 1 else measured_rates[0]
            measured = {
                "status": FINISHED_STATE,
                f"tags.{KIND_TAG}": "run",
                f"tags.{OUTCOME_TAG}": "finished",
                # rounds of different groups have nothing in common but their number
                f"tags.{BLOCK_TAG}": f"{group}/{block}",
                f"tags.{POSITION_TAG}": str(fmean(places.get(digest, {}).get(number, 0.0) for number in turned)),
                f"metrics.{SPEED_ROUNDS}": len(numbers[group]),
                f"metrics.{IMAGES_PER_SECOND}": rate,
                f"metrics.{TRAIN_SECONDS}": images / rate,
            }
            found.append({**kept, **measured})
    return pd.DataFrame(found)


def _group_of(row: Mapping[str, Any]) -> str:
    return f"{row.get(f'params.{MODEL_PARAM}')}/{row.get(f'params.{DATASET_PARAM}')}"


def _blocks_of(numbers: Collection[int]) -> dict[int, list[int]]:
    """First round of each block -> its rounds, which follow each other."""
    ordered = sorted(numbers)
    size = math.ceil(len(ordered) / MOST_BLOCKS)
    return {ordered[start]: ordered[start : start + size] for start in range(0, len(ordered), size or 1)}
