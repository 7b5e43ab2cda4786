"""Small data sets in the real formats, made by the tests."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from pipeline.design.spec import Recipe, RunSpec
from pipeline.training.data.inputs import Inputs
from pipeline.training.data.store import ImageStore, prepare_dataset

PIPELINES = ("loader", "gather", "device")


def spec(dataset: str = "digits", seed: int = 3, **recipe: Any) -> RunSpec:
    """A run's specification; the recipe's defaults suit the tests."""
    fields = {"image_size": 16, "num_workers": 0, "validation_fraction": 0.0, **recipe}
    return RunSpec(model="test_resnet", dataset=dataset, seed=seed, recipe=Recipe(**fields))


def even(total: int, size: int) -> list[int]:
    """Batch sizes that add up to `total`, the last one short."""
    return [size] * (total // size) + ([total % size] if total % size else [])


def epoch(
    inputs: Inputs, number: int = 1, sizes: Sequence[int] | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch as the trainer drives it: take, copy, prepare."""
    train = inputs.train
    for batch in train.epoch(number, even(train.num_samples, 64) if sizes is None else sizes):
        images, labels = train.to_device(batch)
        yield train.prepare(images), labels


def whole(inputs: Inputs, number: int = 1, sizes: Sequence[int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """One epoch in one piece: images and labels."""
    images, labels = zip(*epoch(inputs, number, sizes), strict=True)
    return torch.cat(images), torch.cat(labels)


def write_folder(
    root: Path,
    *,
    classes: Sequence[str] = ("cat", "dog"),
    train: int = 6,
    test: int = 3,
    sizes: Sequence[tuple[int, int]] = ((32, 32),),
    endings: Sequence[str] = (".jpg", ".png"),
) -> Path:
    """An image folder of smooth random pictures; (width, height) and ending go round in turn."""
    random = np.random.RandomState(5)
    number = 0
    for split, count in (("train", train), ("test", test)):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                width, height = sizes[number % len(sizes)]
                small = Image.fromarray(random.randint(0, 256, (4, 4, 3), dtype=np.uint8))
                small.resize((width, height), Image.Resampling.BICUBIC).save(
                    folder / f"{index:03d}{endings[number % len(endings)]}"
                )
                number += 1
    return root


def batch_dict(count: int, classes: int, key: str, seed: int) -> dict[str, Any]:
    """The content of one CIFAR batch file, labels in turn."""
    random = np.random.RandomState(seed)
    data = random.randint(0, 256, (count, 3072), dtype=np.uint8)
    return {"data": data, key: [index % classes for index in range(count)], "batch_label": "made"}


def cifar_files(kind: type[CIFAR10], *, protocol: int = 2, per_file: int = 20) -> dict[str, bytes]:
    """File name -> pickle, for every file that torchvision expects."""
    classes, key = (10, "labels") if kind is CIFAR10 else (100, "fine_labels")
    count = per_file if kind is CIFAR10 else 5 * per_file
    files = {
        name: pickle.dumps(batch_dict(count, classes, key, seed), protocol=protocol)
        for seed, (name, _md5) in enumerate([*kind.train_list, *kind.test_list])
    }
    names = [f"class {index}" for index in range(classes)]
    files[kind.meta["filename"]] = pickle.dumps({kind.meta["key"]: names}, protocol=protocol)
    return files


def write_archive(
    archive: Path, kind: type[CIFAR10], files: dict[str, bytes], extra: Sequence[tarfile.TarInfo] = ()
) -> None:
    """Packs files as the original archives are; `extra` members have no content."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        folder = tarfile.TarInfo(kind.base_folder)
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(f"{kind.base_folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member)


def trust(monkeypatch: pytest.MonkeyPatch, kind: type[CIFAR10], files: dict[str, bytes], archive: Path) -> None:
    """Makes torchvision's constants those of the made files."""

    def md5(content: bytes) -> str:
        return hashlib.md5(content, usedforsecurity=False).hexdigest()

    for listed in ("train_list", "test_list"):
        entries = [[name, md5(files[name])] for name, _old in getattr(kind, listed)]
        monkeypatch.setattr(kind, listed, entries)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(files[kind.meta["filename"]])})
    monkeypatch.setattr(kind, "tgz_md5", md5(archive.read_bytes()))


def prepare_small_cifar(name: str, data_dir: Path) -> None:
    """Prepares a small data set under CIFAR's name; commands read what is prepared, and need no archive.

    Args:
        name: `cifar10` or `cifar100`.
        data_dir: where data sets are.
    """
    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    files = cifar_files(kind)
    archive = data_dir / kind.filename
    write_archive(archive, kind, files)
    with pytest.MonkeyPatch.context() as patch:
        trust(patch, kind, files, archive)
        prepare_dataset(name, data_dir, image_size=32, download=False)
    archive.unlink()


def open_store(name: str, data_dir: Path, **options: Any) -> ImageStore:
    store = prepare_dataset(name, data_dir, image_size=options.pop("image_size", 32), **options)
    assert isinstance(store, ImageStore)
    return store
