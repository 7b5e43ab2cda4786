"""Under which conditions a study was run: the command, the recipe, the data, the machine, and how to do it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.analysis.frame import BASELINE, IGNORED_RECIPE_FIELDS, text
from pipeline.analysis.report.labels import GroupLabels
from pipeline.analysis.report.report import Report
from pipeline.design.names import (
    CLASSES_TAG,
    PARAMETERS_TAG,
    RECIPE_PARAM,
    TEST_IMAGES_TAG,
    TRAIN_IMAGES_TAG,
    VALIDATION_IMAGES_TAG,
)

# What a reader asks for first, in this order, with its unit; all else is folded.
MAIN_FIELDS = {
    "image_size": "px",
    "epochs": "",
    "batch_size": "images",
    "accumulation_steps": "",
    "optimizer": "",
    "learning_rate": "",
    "schedule": "",
    "weight_decay": "",
    "precision": "",
    "augmentation": "",
    "pretrained": "",
    "num_threads": "",
}
_SIZES = {
    "classes": CLASSES_TAG,
    "train images": TRAIN_IMAGES_TAG,
    "validation images": VALIDATION_IMAGES_TAG,
    "test images": TEST_IMAGES_TAG,
    "parameters": PARAMETERS_TAG,
}
_VERSIONS = {
    "ablate": ("ablate", "git_commit", "git_dirty"),
    "torch": ("torch", "torchvision", "timm", "cuda", "cudnn"),
    "device": ("gpu_name", "gpu_driver", "cpu", "cpu_count", "torch_threads"),
    "host": ("hostname", "platform", "python"),
}


@dataclass(frozen=True)
class Conditions:
    """How a study was run.

    Attributes:
        commands: The command lines that made the runs; empty in stores of earlier versions.
        recipe: Field -> value of the baseline, where all groups agree; the fields of `MAIN_FIELDS` come first.
        own: Group in words -> field -> value, where they do not.
        data: Group in words -> what it read, and the parameters of its model -> a number.
        versions: What -> values in words.
        seeds: The seeds, in order of the blocks.
        shared: What all groups have in common, in words.
    """

    commands: tuple[str, ...]
    recipe: dict[str, str]
    own: dict[str, dict[str, str]]
    data: dict[str, dict[str, int]]
    versions: dict[str, str]
    seeds: tuple[str, ...]
    shared: str

    @property
    def reproduce(self) -> str:
        """The line that does it again, in an empty folder."""
        return " && ".join(self.commands)

    def document(self) -> dict[str, Any]:
        """The same as plain data, for report.json."""
        names = ("recipe", "own", "data", "versions", "shared", "reproduce")
        plain = {name: getattr(self, name) for name in names}
        return plain | {"commands": list(self.commands), "seeds": list(self.seeds)}


def conditions(report: Report) -> Conditions:
    """Collects how a study was run, from the finished runs of its baselines (or of all cells without one)."""
    runs = report.effects.study.runs
    done = runs[runs["outcome"].eq("finished")]
    base = done[done["cell"].eq(BASELINE)]
    shown = (base if len(base) else done).drop_duplicates(["model", "dataset"])
    groups: list[tuple[str, str]] = list(shown[["model", "dataset"]].itertuples(index=False, name=None))
    names = GroupLabels.of(groups)
    raw = report.study.runs
    row_of = {run: i for i, run in enumerate(text(raw, "run_id"))}
    rows = raw.iloc[[row_of[run] for run in shown["run_id"]]].reset_index(drop=True)
    labels = [names.full(*group) for group in groups]
    common, own = _fields(rows, labels)
    return Conditions(
        report.study.commands,
        common,
        own,
        _sizes(rows, labels),
        _versions(report.provenance),
        tuple(dict.fromkeys(done.sort_values("block", kind="stable")["seed"])),
        names.shared,
    )


def _fields(rows: pd.DataFrame, labels: list[str]) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Splits the recipes of groups into what they share and what is each one's own."""
    prefix = f"params.{RECIPE_PARAM}"
    every = sorted(str(c)[len(prefix) :] for c in rows.columns if str(c).startswith(prefix))
    listed = [f for f in MAIN_FIELDS if f in every] + [f for f in every if f not in MAIN_FIELDS]
    common: dict[str, str] = {}
    own: dict[str, dict[str, str]] = {label: {} for label in labels}
    for field in listed:
        values = text(rows, prefix + field).tolist()
        if field in IGNORED_RECIPE_FIELDS or not any(values):
            continue
        if len(set(values)) == 1:
            common[field] = values[0]
        else:
            for label, value in zip(labels, values, strict=True):
                own[label][field] = "–" if value == "None" else value
    return common, {label: fields for label, fields in own.items() if fields}


def _sizes(rows: pd.DataFrame, labels: list[str]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for name, tag in _SIZES.items():
        for label, value in zip(labels, text(rows, f"tags.{tag}"), strict=True):
            if value.isdecimal():
                found.setdefault(label, {})[name] = int(value)
    return found


def _versions(provenance: dict[str, tuple[str, ...]]) -> dict[str, str]:
    found = {}
    for what, names in _VERSIONS.items():
        said = []
        for name in names:
            values = provenance.get(name, ())
            if values and not (name == "git_dirty" and values == ("false",)):
                shown = ", ".join(value[:12] if name == "git_commit" else value for value in values[:4])
                said.append(
                    shown if name in (what, "gpu_name", "cpu", "platform") else f"{_WORDS.get(name, name)} {shown}"
                )
        if said:
            found[what] = "; ".join(said)
    return found


_WORDS = {
    "git_commit": "commit",
    "git_dirty": "sources changed since:",
    "gpu_driver": "driver",
    "cpu_count": "cores:",
    "torch_threads": "threads:",
    "cudnn": "cuDNN",
    "cuda": "CUDA",
}
