"""The recipe of what no study knows."""

from __future__ import annotations

import pytest

from pipeline.design.own_recipe import own_recipe, recipe_line
from pipeline.design.spec import Recipe


@pytest.mark.parametrize(
    ("model", "dataset", "expected"),
    [
        (
            "timm:mobilenetv3_small_050",
            "imagefolder:photos",
            {"image_size": 224, "interpolation": "bicubic", "normalization": "imagenet", "input_pipeline": "loader",
             "optimizer": "sgd", "learning_rate": 0.1, "lr_reference_batch": 256, "weight_decay": 1e-4},
        ),
        (
            "timm:convnext_atto",
            "cifar10",
            {"image_size": 224, "normalization": "dataset", "input_pipeline": "gather",
             "optimizer": "adamw", "learning_rate": 5e-4, "lr_reference_batch": 512, "weight_decay": 0.05},
        ),
        ("test_vit", "digits", {"image_size": 160, "optimizer": "adamw"}),
        ("test_resnet", "digits", {"image_size": 160, "optimizer": "sgd", "nesterov": True}),
        ("timm:vit_base_patch16_384", "cifar10", {"image_size": 384}),
        ("timm:resnet18.a1_in1k", "cifar10", {"image_size": 224, "optimizer": "sgd"}),
    ],
)  # fmt: skip
def test_it_is_the_models_and_the_data_sets(model: str, dataset: str, expected: dict[str, object]) -> None:
    fields = own_recipe(model, dataset)
    assert fields == own_recipe(model, dataset) and fields.items() >= expected.items()
    assert (fields["schedule"], fields["warmup"], fields["lr_scaling"], fields["epochs"]) == (
        "cosine",
        0.05,
        "linear",
        1,
    )
    assert Recipe(**fields).precision == "fp32" and not Recipe(**fields).pretrained


def test_it_is_said_in_one_line_with_what_set_has_changed() -> None:
    model, dataset = "timm:mobilenetv3_small_050", "imagefolder:photos"
    fields = own_recipe(model, dataset)
    assert recipe_line(model, dataset, Recipe(**fields)) == (
        "recipe of timm:mobilenetv3_small_050 on imagefolder:photos: 224 px (the model's own), bicubic, ImageNet's "
        "moments, sgd 0.1 per 256 images, cosine, batch 64, 1 epoch(s), from scratch, 2 CPU thread(s); "
        "--set FIELD=VALUE changes it"
    )
    changed = recipe_line(
        model, "digits", Recipe(**{**fields, "image_size": 64, "lr_scaling": "none", "pretrained": True})
    )
    assert "64 px, bicubic" in changed and "sgd 0.1, cosine" in changed and "pretrained" in changed
