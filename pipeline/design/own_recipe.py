"""The recipe of a model on a data set where no study says one: the model's own, by a table that docs/recipes.md argues.

It depends on the two names and on what the installed timm says of the model, and on nothing of the machine.
"""

from __future__ import annotations

from typing import Any, Literal, cast

from pipeline.design import catalog
from pipeline.design.spec import Recipe
from pipeline.design.timm_config import timm_config

Fields = dict[str, Any]
# timm's modules of convolutional networks with BatchNorm, which their authors train with SGD, or RMSProp
# fmt: off
_SGD_MODULES = frozenset((
    "byobnet", "cspnet", "cspnext", "densenet", "dla", "dpn", "efficientnet", "ghostnet", "hardcorenas", "hgnet",
    "hrnet", "inception_resnet_v2", "inception_v3", "inception_v4", "lcnetv2", "mobilenetv3", "nasnet", "pnasnet",
    "regnet", "repghost", "res2net", "resnest", "resnet", "resnetv2", "rexnet", "selecsls", "senet", "sknet",
    "tresnet", "vovnet", "xception", "xception_aligned",
))
# fmt: on
# Goyal et al., arXiv 1706.02677
_SGD: Fields = {
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "lr_reference_batch": 256,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 1e-4,
}
# DeiT (arXiv 2012.12877), Swin (2103.14030) and ConvNeXt (2201.03545) have the same rate per image, and decay
_ADAMW: Fields = {
    "optimizer": "adamw",
    "learning_rate": 5e-4,
    "lr_reference_batch": 512,
    "weight_decay": 0.05,
}
_ALL: Fields = {
    "lr_scaling": "linear",
    "schedule": "cosine",
    "warmup": 0.05,
    "batch_size": 64,
    "epochs": 1,
    "num_threads": 2,
    "validation_fraction": 0.1,
}


def own_recipe(model: str, dataset: str) -> Fields:
    """Returns the recipe fields of a model on a data set that differ from the defaults of `Recipe`.

    Args:
        model: name of the catalog, or `timm:NAME`.
        dataset: name of the catalog, or `imagefolder:DIR`.

    Raises:
        InputError: there is no such model.
    """
    row = catalog.model(model)
    config = timm_config(row.timm_name, row.pretrained_tag)
    folder = dataset.startswith(catalog.IMAGEFOLDER)
    return {
        **_ALL,
        **(_SGD if config.module in _SGD_MODULES else _ADAMW),
        "image_size": config.image_size,
        "interpolation": _interpolation(config.interpolation),
        # a folder's own moments are not known before it is decoded; the pipeline `loader` takes folders of any size
        "normalization": "imagenet" if folder else "dataset",
        "input_pipeline": "loader" if folder else "gather",
    }


def _interpolation(name: str) -> Literal["bilinear", "bicubic"]:
    return cast(Literal["bilinear", "bicubic"], name if name in ("bilinear", "bicubic") else "bicubic")


def recipe_line(model: str, dataset: str, recipe: Recipe) -> str:
    """Says in one line how a model with its own recipe trains.

    Args:
        model: its name.
        dataset: name of the data set.
        recipe: what it is, `--set` included.
    """
    own = own_recipe(model, dataset)
    size = f"{recipe.image_size} px" + (" (the model's own)" if recipe.image_size == own["image_size"] else "")
    scaled = "" if recipe.lr_scaling == "none" else f" per {recipe.lr_reference_batch} images"
    parts = [
        size,
        recipe.interpolation,
        "ImageNet's moments" if recipe.normalization == "imagenet" else "the data set's moments",
        f"{recipe.optimizer} {recipe.learning_rate:g}{scaled}",
        recipe.schedule,
        f"batch {recipe.batch_size}",
        f"{recipe.epochs} epoch(s)",
        "pretrained" if recipe.pretrained or recipe.weights else "from scratch",
        f"{recipe.num_threads} CPU thread(s)",
    ]
    return f"recipe of {model} on {dataset}: {', '.join(parts)}; --set FIELD=VALUE changes it"
