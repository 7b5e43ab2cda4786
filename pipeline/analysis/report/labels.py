"""What a group (a model and a data set) is called where others stand beside it: without what all of them share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.analysis.pooling import ALL

MAX_LABEL = 64  # characters of a label in a figure


@dataclass(frozen=True)
class GroupLabels:
    """Names of the groups of a study.

    Attributes:
        models, datasets: All there are, in order.
    """

    models: tuple[str, ...]
    datasets: tuple[str, ...]

    @classmethod
    def of(cls, groups: Iterable[tuple[str, str]]) -> GroupLabels:
        """Collects the models and data sets of groups; averages are none."""
        listed = list(groups)
        models, datasets = (tuple(dict.fromkeys(g[i] for g in listed if g[i] != ALL)) for i in (0, 1))
        return cls(models, datasets)

    @property
    def shared(self) -> str:
        """What all groups have in common, for the title; empty where that is nothing."""
        return " / ".join(names[0] for names in (self.models, self.datasets) if len(names) == 1)

    def label(self, model: str, dataset: str) -> str:
        """Names a group by what sets it apart; empty where there is no other.

        Examples:
            >>> GroupLabels(("vit", "resnet"), ("digits",)).label("vit", "digits")
            'vit'
            >>> GroupLabels(("vit", "resnet"), ("digits", "cifar10")).label("vit", "all")
            'vit / all data sets'
        """
        parts = []
        for value, names, what in ((model, self.models, "models"), (dataset, self.datasets, "data sets")):
            if len(names) > 1:
                parts.append(f"all {what}" if value == ALL else value)
        return "all" if parts and model == dataset == ALL else " / ".join(parts)

    def full(self, model: str, dataset: str) -> str:
        """Names a group where nothing else says what all share.

        Examples:
            >>> GroupLabels(("vit",), ("digits",)).full("vit", "digits")
            'vit / digits'
        """
        return self.label(model, dataset) or " / ".join(name for name in (model, dataset) if name != ALL) or "all"

    def title(self, words: str) -> str:
        """A title that says once what all share."""
        return f"{words}: {self.shared}" if self.shared else words


def shortened(label: str, most: int = MAX_LABEL) -> str:
    """Takes the middle out of a label that is too long: its ends tell it from others.

    Examples:
        >>> shortened("timm:mobilenetv3_small_050", 15)
        'timm:mo…all_050'
    """
    if len(label) <= most:
        return label
    half = (most - 1) // 2
    return f"{label[:half]}…{label[-(most - 1 - half) :]}"
