"""Catalog row -> a timm module, initialised under the run's seed."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from pipeline.design import catalog
from pipeline.design.spec import Recipe
from pipeline.errors import InputError, OutsideError, first_line, not_allowed, suggest
from pipeline.files import reading
from pipeline.training import grad_checkpoint

CIFAR_STEM_BELOW = 96


def build_model(name: str, recipe: Recipe, classes: int) -> nn.Module:
    """Builds the model of a recipe on the CPU; the caller seeds torch before.

    Args:
        name: catalog name or `timm:NAME`.
        recipe: `image_size`, `patch_size`, `pretrained`, `weights`, its digest and `grad_checkpoint` are used.
        classes: outputs of the classifier.

    Raises:
        InputError: the model cannot take the size or be checkpointed, timm has no such weights, or the weights file
            does not fit or is not the planned one.
        OutsideError: pretrained weights cannot be fetched.
    """
    row = catalog.model(name)
    architecture = (
        f"{row.timm_name}.{row.pretrained_tag}" if recipe.pretrained and row.pretrained_tag else row.timm_name
    )
    if not timm.is_model(row.timm_name):
        raise not_allowed("model", name, "an architecture of the installed timm")
    _check_known(row, name, architecture, recipe.pretrained)
    model = _create(architecture, row, recipe, classes, name)
    if row.cifar_stem and recipe.image_size < CIFAR_STEM_BELOW:
        _use_cifar_stem(model)
    if recipe.weights is not None:
        _load_weights(model, Path(recipe.weights), recipe.weights_sha256)
    if recipe.grad_checkpoint:
        grad_checkpoint.switch_on(model, name)
    return model


def _check_known(row: catalog.ModelRow, name: str, architecture: str, pretrained: bool) -> None:
    """Refuses weights that timm does not have, which no network brings; the catalog knows only what is written out."""
    if row.pretrained_tag:
        known = timm.list_models(f"{row.timm_name}.*", include_tags=True)
        if f"{row.timm_name}.{row.pretrained_tag}" not in known:
            tags = [full.partition(".")[2] for full in known]
            raise not_allowed("model", name, f"a tag of {suggest(row.pretrained_tag, tags)}" if tags else "no tag")
    if pretrained and not timm.is_model_pretrained(architecture):
        raise not_allowed("recipe.pretrained", True, f"false for model {name} (timm has no such weights)")


def _create(architecture: str, row: catalog.ModelRow, recipe: Recipe, classes: int, name: str) -> nn.Module:
    size: dict[str, Any] = {"img_size": recipe.image_size}
    if recipe.patch_size is not None:
        size["patch_size"] = recipe.patch_size
    candidates: list[dict[str, Any]] = [size] if row.sized else [{}] if row.sized is False else [size, {}]
    for number, options in enumerate(candidates):
        try:
            model: nn.Module = timm.create_model(
                architecture, pretrained=recipe.pretrained, num_classes=classes, **options
            )
            return model
        except TypeError as error:
            if number + 1 < len(candidates) and "unexpected keyword" in str(error):
                continue
            raise not_allowed(f"model {name}: size", options, f"sizes that timm accepts ({error})") from None
        except (AssertionError, ValueError) as error:
            raise not_allowed(f"model {name}: size", options, f"sizes that timm accepts ({error})") from None
        except (RuntimeError, OSError) as error:
            if not recipe.pretrained:
                raise
            raise OutsideError(
                f"model {name}: pretrained weights cannot be fetched ({first_line(error)}); "
                "go online once, or give a local "
                "file with --set pretrained=false --set weights=FILE"
            ) from None
    raise AssertionError("unreachable: the last candidate returns or raises")


def _use_cifar_stem(model: nn.Module) -> None:
    """3x3 convolution of stride 1 and no max-pool: the usual ResNet stem for 32-pixel images."""
    old = model.conv1
    if not isinstance(old, nn.Conv2d):
        raise InputError("model: a ResNet with a deep stem is not allowed below 96 px; allowed: a plain stem")
    stem = nn.Conv2d(old.in_channels, old.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = stem
    model.maxpool = nn.Identity()


def _load_weights(model: nn.Module, path: Path, digest: str | None) -> None:
    """Loads a local state dict, tensors only; a classifier of another width is left as initialised."""
    content = _read_weights(path, digest)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            state: Any = load(content)
        else:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # every loader has its own errors; all mean that the file is no weights file
        raise not_allowed("recipe.weights", str(path), f"a state dict of tensors ({first_line(error, 120)})") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    own = model.state_dict()
    if not isinstance(state, dict) or not set(state) & set(own):
        raise not_allowed("recipe.weights", str(path), "a state dict with this model's parameter names")
    head = {f"{prefix}.{kind}" for prefix in classifier_names(model) for kind in ("weight", "bias")}
    fitting = {key: state[key] for key in own if _fits(state.get(key), own[key])}
    bad = [key for key in own if key not in head and key not in fitting]
    if bad:
        raise not_allowed(
            "recipe.weights", str(path), f"weights that fit this model (missing or other shape: {bad[0]})"
        )
    model.load_state_dict({**own, **fitting})


def _read_weights(path: Path, digest: str | None) -> bytes:
    """The file's bytes, read once: what is loaded is what its digest was compared with."""
    try:
        with reading(path) as file:
            content: bytes = file.read()
    except OSError as error:
        raise not_allowed("recipe.weights", str(path), f"a state dict of tensors ({error.strerror})") from None
    found = hashlib.sha256(content).hexdigest()
    if digest not in (None, found):
        allowed = f"a file that does not change between plan and run (its SHA-256 was {digest}, and is {found})"
        raise not_allowed("recipe.weights", str(path), allowed)
    return content


def _fits(value: Any, own: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == own.shape


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Module names of timm's classifier(s)."""
    config = getattr(model, "default_cfg", None) or {}
    names = config.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def has_batchnorm(model: nn.Module) -> bool:
    """Whether accumulation changes the model's statistics: BatchNorm sees micro-batches, not windows."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def training_flops_per_image(name: str, recipe: Recipe, classes: int) -> float | None:
    """Floating-point operations of forward and backward for one image, counted by PyTorch on meta tensors.

    Counts matrix products, convolutions and attention (a multiply-add is two operations), as
    `torch.utils.flop_counter` does; element-wise work and what checkpointing computes twice are not in it. None
    where the model cannot run on meta.

    Args:
        name: catalog name or `timm:NAME`.
        recipe: recipe of the run; image and patch size are read.
        classes: outputs of the classifier.
    """
    from torch.utils.flop_counter import FlopCounterMode

    plain = recipe.model_copy(update={"pretrained": False, "weights": None, "grad_checkpoint": False})
    try:
        with torch.device("meta"):
            model = build_model(name, plain, classes)
            images = torch.empty(2, 3, recipe.image_size, recipe.image_size)
        with FlopCounterMode(display=False) as counter:
            model(images).sum().backward()
    except (RuntimeError, NotImplementedError, ValueError):
        return None
    return float(counter.get_total_flops()) / 2
