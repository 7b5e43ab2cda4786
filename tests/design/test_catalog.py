"""Rows of models and data sets by name, and what is said of a name that there is none of."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.design import catalog
from pipeline.errors import InputError


def test_a_short_name_and_its_timm_name_have_one_row() -> None:
    row = catalog.model("resnet50")
    assert row.cifar_stem and row.timm_name == "resnet50" and catalog.model("timm:resnet50") == row
    tagged = catalog.model("timm:vit_base_patch16_224.augreg_in1k")
    assert tagged.pretrained_tag == "augreg_in1k" and tagged.sized is True
    assert catalog.model("timm:vit_base_patch16_224").pretrained_tag == "augreg_in21k", "the row's own"


def test_any_architecture_of_timm_is_a_model() -> None:
    row = catalog.model("timm:convnext_atto.d2_in1k")
    assert (row.timm_name, row.pretrained_tag, row.sized, row.cifar_stem) == ("convnext_atto", "d2_in1k", None, False)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet5", "resnet50"),
        ("timm:convnext_ato", "convnext_atto"),
        ("timm:", "timm:NAME"),
        ("timm:resnet18.nonsense", "timm:resnet18.TAG with TAG of a1_in1k"),
        ("timm:resnet18.a1_in1", "did you mean a1_in1k"),
        ("timm:resnet18.", "timm:resnet18, timm:resnet18.TAG"),
        ("timm:resnet18.a1_in1k.more", "a1_in1k"),
        ("timm:test_resnet.nonsense", "r160_in1k"),
        ("timm:qwen3_vit_306m_enc.", "timm:qwen3_vit_306m_enc$"),
        ("timm:hf-hub:timm/resnet18.a1_in1k", "timm:NAME"),
        ("hf-hub:timm/resnet18.a1_in1k", "timm:NAME"),
        ("timm:timm/resnet18", "timm:NAME"),
        ("resnet18", "did you mean timm:resnet18"),
        ("convnext_ato", r"did you mean timm:convnext_atto\?"),
        ("ResNet-50", r"did you mean resnet50\?"),
        ("resnet18.a1_in1k", "did you mean timm:resnet18.a1_in1k"),
    ],
)
def test_unknown_models_name_the_nearest(name: str, near: str) -> None:
    with pytest.raises(InputError, match=f"model: '{name}' is not allowed; allowed: .*{near}"):
        catalog.model(name)


def test_a_folder_is_taken_for_one_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"imagefolder:DIR \(did you mean imagefolder:photos\?\)"):
        catalog.dataset("photos")
    for absurd in ("9" * 5000, "a\0b"):
        with pytest.raises(InputError, match="dataset: "):
            catalog.dataset(absurd)


def test_data_sets() -> None:
    assert catalog.dataset("cifar100").classes == 100
    folder = catalog.dataset("imagefolder:photos")
    assert (folder.classes, folder.train_images, folder.mean) == (0, 0, catalog.IMAGENET.mean), "the folder tells"
    for name, word in (("cifar", "cifar10"), ("imagefolder:", "DIR")):
        with pytest.raises(InputError, match=f"dataset: '{name}' is not allowed; allowed: .*{word}"):
            catalog.dataset(name)


@pytest.mark.parametrize(
    ("name", "near"),
    [("fotos", "imagefolder:photos"), ("Photos", "imagefolder:photos"), ("CIFAR-10", "cifar10"), ("Digits", "digits")],
)
def test_an_unknown_data_set_is_taken_for_a_folder_here_or_another_spelling(
    name: str, near: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"did you mean {near}\?"):
        catalog.dataset(name)


@pytest.mark.parametrize("name", ["photos.csv", "csv:photos.csv"])
def test_a_table_is_taken_for_one_of_images(name: str) -> None:
    with pytest.raises(InputError, match=r"imagefolder:DIR \(did you mean imagefolder:photos\.csv\?\)"):
        catalog.dataset(name)
