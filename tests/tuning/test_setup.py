"""From options to what is tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.design import catalog
from pipeline.design.spec import Recipe, RunSpec
from pipeline.training.data import split, store
from pipeline.tuning.setup import TuneOptions, prepare_tuning, train_samples


@pytest.mark.parametrize(
    ("dataset", "fraction", "most"), [("digits", 0.1, None), ("digits", 0.25, 100), ("digits", 0.0, None)]
)
def test_the_parent_knows_how_many_images_a_run_trains_on(
    dataset: str, fraction: float, most: int | None, digits_dir: Path
) -> None:
    labels = store.prepare_dataset(dataset, digits_dir, image_size=16).train_labels
    assert len(labels) == catalog.dataset(dataset).train_images
    train, _ = split.train_validation(labels, fraction, 3, most)
    recipe = Recipe(validation_fraction=fraction, max_train_samples=most)
    assert train_samples(RunSpec(model="test_resnet", dataset=dataset, recipe=recipe)) == len(train)


def test_the_name_of_a_study_follows_from_what_is_tuned() -> None:
    flags = {"model": "test_resnet", "dataset": "digits", "study": "quickstart", "device": "cpu"}
    base = prepare_tuning(TuneOptions(**flags))
    same = prepare_tuning(TuneOptions(**flags, trials=99, jobs=2, top=5))
    assert base.name == same.name and base.name.startswith("test_resnet-digits-throughput-")
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"settings": ("epochs=9",)},
        {"memory_limit": 100.0},
        {"trial_seconds": 1.0},
        {"objective": "memory"},
        {"batch_sizes": "8,16"},
        {"model": "test_vit"},
    ]
    assert len({prepare_tuning(TuneOptions(**{**flags, **change})).name for change in changes} | {base.name}) == 8
