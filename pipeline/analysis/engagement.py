"""Which techniques were on and did not act, and what was seen of those that did.

Runs tell it of the fields of their recipe (`training.engagement`). A technique of which a run shows that it did not act
has no effect that could be estimated: what was measured is the same thing twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.frame import OFF, Factor
from pipeline.analysis.pooling import ALL
from pipeline.analysis.verdicts import NOT_ENGAGED
from pipeline.design.names import COMPILER_CACHE, RECOMPILED, UNMOVED
from pipeline.design.techniques import TECHNIQUES

ESTIMATES = ("main", "simple", "interaction")  # that are about single techniques
Group = tuple[str, str]
NotEngaged = Mapping[Group, Mapping[str, Mapping[str, str]]]  # cell -> term -> why


@dataclass(frozen=True)
class Seen:
    """What the last run of a cell showed.

    Attributes:
        model, dataset, cell: Which one.
        facts: Name -> value; see `training.engagement.Engagement.facts`.
        missing: Recipe fields that did not act, with reasons; see `training.engagement.Engagement.missing`.
    """

    model: str
    dataset: str
    cell: str
    facts: Mapping[str, Any]
    missing: Mapping[str, Any]

    @property
    def words(self) -> str:
        """The facts in one line."""
        return ", ".join(f"{_name(name)} {_shown(value)}" for name, value in self.facts.items())

    @property
    def missing_words(self) -> str:
        """What did not act, in one line; fields of one reason together."""
        fields: dict[str, list[str]] = {}
        for field, why in self.missing.items():
            fields.setdefault(str(why), []).append(str(field))
        return "; ".join(f"{', '.join(names)}: {why}" for why, names in fields.items())


def _name(fact: str) -> str:
    return fact.replace("micro_batches", "micro-batches").replace("_", " ")


def _shown(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def parsed(value: str) -> dict[str, Any]:
    """Reads what a tag has; nothing where another program wrote something else."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def cells_not_engaged(runs: pd.DataFrame, factors: Sequence[Factor], controls: frozenset[str]) -> NotEngaged:
    """Finds cells of which a finished run shows that a technique that is on there did not act.

    Args:
        runs: Tidy runs.
        factors: The techniques with their levels.
        controls: A/A controls, which are known to do nothing.
    """
    fields = {
        factor.name: (*TECHNIQUES[factor.name].owns, UNMOVED)
        for factor in factors
        if factor.name in TECHNIQUES and factor.name not in controls
    }
    told = runs[runs["outcome"].eq("finished") & ~runs["not_engaged"].isin(("", "{}"))]
    found: dict[Group, dict[str, dict[str, str]]] = {}
    for row in told.to_dict("records"):
        missing = parsed(str(row["not_engaged"]))
        for factor in factors:
            level = str(row[f"level.{factor.name}"])
            why = next((missing[field] for field in fields.get(factor.name, ()) if field in missing), None)
            if level != OFF and why is not None:
                of_group = found.setdefault((str(row["model"]), str(row["dataset"])), {})
                of_group.setdefault(str(row["cell"]), {}).setdefault(factor.term(level), str(why))
    return found


def cells_of_groups(runs: pd.DataFrame) -> dict[Group, list[str]]:
    """The cells of each model and data set that have a finished run."""
    done = runs[runs["outcome"].eq("finished")]
    groups = done.groupby(["model", "dataset"], sort=False)
    return {(str(key[0]), str(key[1])): [str(cell) for cell in part["cell"].unique()] for key, part in groups}


def judge(rows: pd.DataFrame, not_engaged: NotEngaged, cells: Mapping[Group, Sequence[str]]) -> pd.DataFrame:
    """Takes the verdict from effects that are of nothing, and notes where techniques act in a part of the cells only.

    An effect is of nothing where its techniques act in none of the cells that have them on: a technique alone has one
    such cell. A pooled one is where one of its parts is.

    Args:
        rows: Of the table of effects, with verdicts, plans and notes.
        not_engaged: See `cells_not_engaged`.
        cells: The finished cells of each group.

    Returns:
        The rows with a column `not_engaged`: why, or empty.
    """
    rows = rows.assign(not_engaged="")
    for (model, dataset), of_group in not_engaged.items():
        at_group = (
            rows["model"].isin((model, ALL)) & rows["dataset"].isin((dataset, ALL)) & rows["kind"].isin(ESTIMATES)
        )
        for index, row in rows[at_group].iterrows():
            terms = str(row["term"]).split(":")
            on = [
                cell
                for cell in cells[model, dataset]
                if set(terms) <= set(cell.split("+")) and (row["kind"] != "simple" or cell == row["term"])
            ]
            reasons = [reason for cell in on if (reason := _reason(of_group.get(cell, {}), terms))]
            where = f" ({model} / {dataset})" if ALL in (row["model"], row["dataset"]) else ""
            if on and len(reasons) == len(on):
                rows.loc[index, ["verdict", "not_engaged"]] = NOT_ENGAGED, reasons[0] + where
                rows.loc[index, "further_blocks"] = np.nan
            elif reasons:
                part = f"did not act in {len(reasons)} of {len(on)} cells{where}: {reasons[0]}"
                rows.loc[index, "note"] = "; ".join(filter(None, (str(row["note"]), part)))
    return rows


def _reason(missing: Mapping[str, str], terms: Sequence[str]) -> str:
    """Why the first of the terms that did not act did not; names it where there are others."""
    for term in terms:
        if term in missing:
            return missing[term] if len(terms) == 1 else f"{term}: {missing[term]}"
    return ""


def seen(runs: pd.DataFrame) -> list[Seen]:
    """What the last finished run of each cell showed, in the order of the cells."""
    done = runs[runs["outcome"].eq("finished") & runs["engagement"].ne("")].sort_values("start", kind="stable")
    last = done.drop_duplicates(["model", "dataset", "cell"], keep="last").sort_index()
    found = (
        Seen(
            str(row["model"]),
            str(row["dataset"]),
            str(row["cell"]),
            parsed(str(row["engagement"])),
            parsed(str(row["not_engaged"])),
        )
        for row in last.to_dict("records")
    )
    return [each for each in found if each.facts]


def compiler_cache(engagement: str) -> str:
    """Whether a run's compiler found what it compiled in its cache (`warm`) or not (`cold`); empty where nobody knows.

    Args:
        engagement: The run's tag.
    """
    return str(parsed(engagement).get(COMPILER_CACHE, ""))


def alarms(runs: pd.DataFrame) -> list[str]:
    """Says which finished runs did not train, and which compiled when the clock was running.

    Args:
        runs: Tidy runs.
    """
    done = runs[runs["outcome"].eq("finished")]
    found = []
    still = done["not_engaged"].map(lambda value: UNMOVED in parsed(value))
    if still.any():
        cells = _some(done.loc[still, "cell"].unique())
        found.append(f"In {int(still.sum())} runs no update changed the weights ({cells}): they did not train.")
    late = done["engagement"].map(lambda value: bool(parsed(value).get(RECOMPILED)))
    if late.any():
        cells = _some(done.loc[late, "cell"].unique())
        found.append(
            f"In {int(late.sum())} runs something was compiled after the warm-up ({cells}): it is in their times."
        )
    return found


def _some(names: Iterable[Any]) -> str:
    first, *others = map(str, names)
    return first + (f" and {len(others)} more" if others else "")
