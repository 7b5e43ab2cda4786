"""Data sets that several files of these tests open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.design.spec import RunSpec
from pipeline.training.data.inputs import Inputs, build_inputs
from pipeline.training.data.store import FolderSource, ImageStore, prepare_dataset
from tests.support.data import write_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def digits(data_dir: Path) -> ImageStore:
    store = prepare_dataset("digits", data_dir, image_size=16)
    assert isinstance(store, ImageStore)
    return store


@pytest.fixture(scope="module")
def pictures(data_dir: Path) -> ImageStore:
    """A folder of equal squares, as JPEG and PNG."""
    root = write_folder(data_dir / "pictures", train=12, test=4)
    store = prepare_dataset(f"imagefolder:{root}", data_dir, image_size=32)
    assert isinstance(store, ImageStore)
    return store


@pytest.fixture
def building() -> Iterator[Any]:
    """`build_inputs` on the CPU, closed at the end of the test."""
    made: list[Inputs] = []

    def make(run: RunSpec, source: ImageStore | FolderSource) -> Inputs:
        made.append(build_inputs(run, source, CPU))
        return made[-1]

    yield make
    for inputs in made:
        inputs.close()
