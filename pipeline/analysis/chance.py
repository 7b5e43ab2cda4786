"""Which models learned anything: accuracy that is not shown to be above chance says nothing about techniques.

Chance is the fraction of the test images that are of the most frequent class, what a model scores that always names it.
Of each cell the exact binomial test of its mean accuracy on one test set is made (blocks share the test set, so they
are no further images); a group learned where one of its cells is above chance, corrected for their number (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from scipy import special

from pipeline.analysis.engagement import Group
from pipeline.analysis.pooling import ALL
from pipeline.analysis.responses import BY_NAME, POINTS
from pipeline.analysis.verdicts import NOT_TRAINED


@dataclass(frozen=True)
class Untrained:
    """A model and data set of which no cell is shown to be above chance.

    Attributes:
        accuracy: Largest mean accuracy of a cell, a fraction.
        classes: Number of classes.
        chance: Accuracy without training, a fraction.
    """

    accuracy: float
    classes: int
    chance: float

    def __str__(self) -> str:
        return f"not trained: accuracy {self.accuracy:.2f} at {self.classes} classes (chance {self.chance:.2f})"


def p_above_chance(accuracy: float, images: int, chance: float) -> float:
    """Returns the exact binomial p-value of an accuracy that is no better than chance.

    Args:
        accuracy: The accuracy, a fraction.
        images: Number of test images.
        chance: Accuracy without training, a fraction.

    Examples:
        >>> [round(p_above_chance(accuracy, 256, 0.11), 4) for accuracy in (0.1, 0.15, 0.2)]
        [0.7639, 0.0351, 0.0]
    """
    right = int(accuracy * images + 1e-6)
    return float(special.betainc(right, images - right + 1, chance)) if right else 1.0


def untrained(runs: pd.DataFrame, alpha: float) -> dict[Group, Untrained]:
    """Finds the models and data sets whose training is not shown to have taught them anything.

    Args:
        runs: Tidy runs.
        alpha: Level of the test.

    Returns:
        Those, without the ones whose test sets are not known.
    """
    known = runs[
        runs["outcome"].eq("finished") & runs[["accuracy", "test_images", "test_majority"]].notna().all(axis=1)
    ]
    known = known[known["test_images"].ge(1) & known["accuracy"].between(0, 1) & known["test_majority"].between(0, 1)]
    found = {}
    for (model, dataset), group in known.groupby(["model", "dataset"], sort=False):
        images, chance = int(group["test_images"].min()), float(group["test_majority"].max())
        means = group.groupby("cell")["accuracy"].mean()
        best = float(means.max())
        if p_above_chance(best, images, chance) * len(means) >= alpha:
            classes = group["test_classes"].max()
            found[str(model), str(dataset)] = Untrained(best, 0 if pd.isna(classes) else int(classes), chance)
    return found


def judge_accuracy(rows: pd.DataFrame, groups: Mapping[Group, Untrained]) -> pd.DataFrame:
    """Takes the verdict on accuracy from models that learned nothing; from an average where one of its models did not.

    Args:
        rows: Effects with verdicts, plans and non-inferiority.
        groups: See `untrained`.

    Returns:
        The rows with a column `not_trained`: in words, or empty.
    """
    rows = rows.assign(not_trained="")
    of_accuracy = rows["response"].isin([name for name, response in BY_NAME.items() if response.unit == POINTS])
    for (model, dataset), why in groups.items():
        at = of_accuracy & rows["model"].isin((model, ALL)) & rows["dataset"].isin((dataset, ALL))
        rows.loc[at, "verdict"] = NOT_TRAINED
        rows.loc[at, "further_blocks"] = float("nan")
        rows.loc[at, "non_inferior"] = None
        pooled = rows["model"].eq(ALL) | rows["dataset"].eq(ALL)
        rows.loc[at & ~pooled, "not_trained"] = str(why)
        rows.loc[at & pooled, "not_trained"] = f"{why} ({model} / {dataset})"
    return rows
