"""The tables of models and data sets: one row each. To add one, add a row.

No torch and no timm here: names are checked before anything heavy is imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import meant, not_allowed, suggest


@dataclass(frozen=True)
class ModelRow:
    """One architecture.

    Attributes:
        timm_name: what timm calls it.
        pretrained_tag: timm's tag of the weights that `pretrained` loads (timm's default when empty).
        sized: the constructor takes `img_size` and `patch_size` (vision transformers); None: try it.
        cifar_stem: below 96 px the stem becomes a 3x3 convolution of stride 1 without max-pool.
        neck: name prefixes of the modules between backbone and classifier (`neck_lr_scale`).
    """

    timm_name: str
    pretrained_tag: str = ""
    sized: bool | None = False
    cifar_stem: bool = False
    neck: tuple[str, ...] = ()


MODELS: Mapping[str, ModelRow] = {
    "resnet50": ModelRow("resnet50", cifar_stem=True),
    "vit_base_patch16_224": ModelRow("vit_base_patch16_224", "augreg_in21k", sized=True),
    "efficientnet_b0": ModelRow("efficientnet_b0", neck=("conv_head", "bn2")),
    "mobilenetv3_small_100": ModelRow("mobilenetv3_small_100", neck=("conv_head",)),
    "test_resnet": ModelRow("test_resnet"),
    "test_vit": ModelRow("test_vit", sized=True),
    "test_efficientnet": ModelRow("test_efficientnet", neck=("conv_head", "bn2")),
}


@dataclass(frozen=True)
class DatasetRow:
    """One data set.

    Attributes:
        classes: number of classes; 0 when the folder tells (image folders).
        mean: per-channel mean of the training images, on the scale 0 to 1, RGB.
        std: per-channel standard deviation, likewise.
        embedded: made offline from scikit-learn's bundled digits.
        train_images: images of the training part; 0 when the folder tells.
    """

    classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    embedded: bool = False
    train_images: int = 0


IMAGENET = DatasetRow(1000, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
IMAGEFOLDER = "imagefolder:"
DATASETS: Mapping[str, DatasetRow] = {
    "cifar10": DatasetRow(10, (0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159), train_images=50_000),
    "cifar100": DatasetRow(100, (0.50708, 0.48655, 0.44092), (0.26733, 0.25644, 0.27615), train_images=50_000),
    # scikit-learn's digits, 0 to 16 mapped to 0 to 255: moments of the training part
    "digits": DatasetRow(10, (0.30547,) * 3, (0.37574,) * 3, embedded=True, train_images=1347),
    "digits100": DatasetRow(100, (0.15266,) * 3, (0.30619,) * 3, embedded=True, train_images=4000),
}


def model(name: str) -> ModelRow:
    """Looks a model up; `timm:NAME` is any architecture of the installed timm.

    Raises:
        InputError: there is no such model.
    """
    if name in MODELS:
        return MODELS[name]
    if name.startswith("timm:"):
        architecture, dot, tag = name.removeprefix("timm:").partition(".")
        known = timm_architectures()
        if architecture not in known and architecture not in MODELS:
            raise not_allowed("model", name, "timm:NAME with NAME of " + suggest(architecture, list(known), 4))
        if dot:
            _check_tag(name, architecture, tag)
        if architecture in MODELS:
            row = MODELS[architecture]
            return ModelRow(architecture, tag or row.pretrained_tag, row.sized, row.cifar_stem, row.neck)
        return ModelRow(architecture, tag, sized=None)
    if name.partition(".")[0] in timm_architectures():
        raise not_allowed("model", name, f"{', '.join(MODELS)}, timm:NAME (did you mean timm:{name}?)")
    typed = {**{each: f"timm:{each}" for each in timm_architectures()}, **{each: each for each in MODELS}}
    raise not_allowed("model", name, f"{', '.join(MODELS)}, timm:NAME{meant(name, typed)}")


def _check_tag(name: str, architecture: str, tag: str) -> None:
    # the tags of a few architectures are computed, not written: those the preflight looks up in timm itself
    tags = timm_tags().get(architecture, ())
    if not tag or (tags and tag not in tags):
        bare = f"timm:{architecture}"
        raise not_allowed("model", name, f"{bare}, {bare}.TAG with TAG of {suggest(tag, list(tags))}" if tags else bare)


@lru_cache(maxsize=1)
def timm_architectures() -> tuple[str, ...]:
    """Lists the names of the installed timm's architectures, read from its sources without importing it.

    timm registers each with a decorated function, `@register_model def NAME(...)`. Importing it takes seconds
    and torch; reading takes a tenth of one.
    """
    pattern = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)
    return tuple(sorted(name for source in timm_sources().values() for name in pattern.findall(source)))


@lru_cache(maxsize=1)
def timm_tags() -> Mapping[str, tuple[str, ...]]:
    """Architecture -> the tags of its weights, as far as timm's sources write them, `'NAME.TAG': _cfg(...)`."""
    pattern = re.compile(r"""^\s*['"](\w+)\.([\w.-]+)['"]\s*:""", re.MULTILINE)
    found: dict[str, list[str]] = {}
    for source in timm_sources().values():
        for architecture, tag in pattern.findall(source):
            found.setdefault(architecture, []).append(tag)
    return {architecture: tuple(tags) for architecture, tags in found.items()}


@lru_cache(maxsize=1)
def timm_sources() -> Mapping[str, str]:
    """Module -> the source text of each of the installed timm's modules of models; empty where there is no timm."""
    found = find_spec("timm")
    if found is None or not found.submodule_search_locations:
        return {}
    files = Path(found.submodule_search_locations[0], "models").glob("*.py")
    return {file.stem: file.read_text(encoding="utf-8") for file in files}


def dataset(name: str) -> DatasetRow:
    """Looks a data set up; `imagefolder:DIR` is a folder of images, or a CSV file that lists them.

    Raises:
        InputError: there is no such data set.
    """
    if name in DATASETS:
        return DATASETS[name]
    if name.startswith(IMAGEFOLDER):
        if not name.removeprefix(IMAGEFOLDER):
            raise not_allowed("dataset", name, "imagefolder:DIR with DIR a folder, or a CSV file")
        return DatasetRow(0, IMAGENET.mean, IMAGENET.std)
    place = name.removeprefix("csv:")
    if os.path.isdir(name) or place.lower().endswith(".csv"):  # noqa: PTH112 - a path's own raises at a long name
        hint = f"(did you mean imagefolder:{place}?)"
        raise not_allowed("dataset", name, f"{', '.join(DATASETS)}, imagefolder:DIR {hint}")
    here: list[str] = []
    with suppress(OSError):
        here = [path.name for path in Path().iterdir() if path.is_dir() and not path.name.startswith(".")]
    typed = {**{folder: f"{IMAGEFOLDER}{folder}" for folder in here}, **{each: each for each in DATASETS}}
    raise not_allowed("dataset", name, f"{', '.join(DATASETS)}, imagefolder:DIR{meant(name, typed)}")
