"""The studies of the GPU's minutes: protocols of `experiments/paper.yaml`, lengths that fit the time.

A grid stage makes its study in passes, each a study file of the same name. A later pass adds a block or a variant to
what is there already, and is made only when the time is left: so every pass that has begun is whole.
"""

from __future__ import annotations

from typing import Any

Study = dict[str, Any]
IMAGES = "imagefolder:cifar10"


def length(micro_batches: int, batch: int, scale: float) -> int:
    """Training images: full micro-batches, an even number of them, and a short rest.

    With two accumulation steps the last window is then partial, and its one micro-batch short.
    """
    count = max(4, round(micro_batches * scale / 2) * 2)
    return count * batch + batch * 5 // 8


def blocks(study: Study, least: int, most: int) -> list[Study]:
    """Passes that add a block each; the first makes `least` of them, for a command's start costs as much as a run."""
    return [{**study, "seeds": number} for number in range(least, most + 1)]


def variants(study: Study, field: str, values: list[Any]) -> list[Study]:
    """Passes that add a value of a recipe field each. It is no factor, so no effect is estimated over passes."""
    return [{**study, "variants": {field: values[: number + 1]}} for number in range(len(values))]


def launch(device: str, scale: float) -> list[Study]:
    """A model so small that launching its kernels takes longer than they do."""
    small = device == "cpu"
    study: Study = {
        "name": "launch",
        "title": "Launch-bound: a tiny ResNet on digits",
        "models": {"test_resnet": {"learning_rate": 1e-2}},
        "datasets": ["digits"],
        "techniques": ["fused", "device_data"] if small else ["cuda_graph", "fused", "device_data"],
        "base_seed": 101,
        "recipe": {
            "epochs": 1 if small else max(4, round(20 * scale)),
            "image_size": 16,
            "batch_size": 64,
            "optimizer": "adamw",
            "weight_decay": 0.05,
            "schedule": "onecycle",
            "warmup": 0.3,
            "input_pipeline": "gather",
            "num_threads": 1,
            "validation_fraction": 0.0,
            "eval_batch_size": 512,
        },
    }
    return blocks(study, 1, 1) if small else blocks(study, 2, 3)


_RESNET50: dict[str, Any] = {
    "batch_size": 128,
    "image_size": 32,
    "augmentation": "crop_flip",
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "weight_decay": 1e-3,
    "schedule": "onecycle",
    "warmup": 0.3,
    "clip_norm": 0.1,
}
_VIT: dict[str, Any] = {
    "batch_size": 70,
    "image_size": 224,
    "interpolation": "bicubic",
    "optimizer": "adamw",
    "learning_rate": 5e-5,
    "weight_decay": 1e-2,
    "schedule": "linear",
    "normalization": "imagenet",
}
_EFFICIENTNET: dict[str, Any] = {
    "batch_size": 96,
    "image_size": 224,
    "interpolation": "bicubic",
    "augmentation": "affine_flip",
    "optimizer": "sgd",
    "learning_rate": 1e-2,
    "backbone_lr_scale": 0.1,
    "neck_lr_scale": 0.2,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 1e-3,
    "schedule": "exponential",
    "normalization": "imagenet",
}


def _resnet(name: str, title: str, techniques: list[str], device: str, scale: float) -> Study:
    if device == "cpu":
        model = {"test_resnet": {**_RESNET50, "batch_size": 32, "max_train_samples": length(4, 32, min(scale, 1.0))}}
    else:
        model = {"resnet50": {**_RESNET50, "max_train_samples": length(50, 128, scale)}}
    return {
        "name": name,
        "title": title,
        "models": model,
        "datasets": [IMAGES],
        "techniques": techniques,
        "base_seed": 101,
        "recipe": {
            "epochs": 1,
            "input_pipeline": "gather",
            "num_workers": 4,
            "num_threads": 1 if device == "cpu" else 4,
            "validation_fraction": 0.0,
            # one size of evaluation batch: cuDNN looks for the fastest algorithm once more for every size
            "eval_batch_size": 64 if device == "cpu" else 512,
            "max_test_samples": 64 if device == "cpu" else 2048,
        },
    }


def paper32(device: str, scale: float) -> list[Study]:
    """The paper's factorial on its first model; sentinels show the drift of the machine."""
    study = _resnet("paper32", "ResNet-50 at 32 px: the paper's factorial", ["ga", "amp", "pm"], device, scale)
    return blocks({**study, "sentinels": True}, 1, 2)


def layout32(device: str, scale: float) -> list[Study]:
    """Techniques that the paper has not: memory layout and recorded passes."""
    techniques = ["amp", "channels_last"] if device == "cpu" else ["amp", "channels_last", "cuda_graph"]
    study = _resnet("layout32", "ResNet-50 at 32 px: layout and CUDA graphs", techniques, device, scale)
    return blocks(study, 1, 1 if device == "cpu" else 2)


def paper224(device: str, scale: float) -> list[Study]:
    """The paper's two other models, from scratch (weights cannot be had there), with both input pipelines."""
    if device == "cpu":
        tiny = {"image_size": 64, "batch_size": 16, "max_train_samples": length(4, 16, min(scale, 1.0))}
        models = {"test_vit": {**_VIT, **tiny, "patch_size": 16}, "test_efficientnet": {**_EFFICIENTNET, **tiny}}
    else:
        models = {
            "vit_base_patch16_224": {**_VIT, "max_train_samples": length(10, 70, scale)},
            "efficientnet_b0": {**_EFFICIENTNET, "max_train_samples": length(14, 96, scale)},
        }
    study: Study = {
        "name": "paper224",
        "title": "ViT-B/16 and EfficientNet-B0 at 224 px, from scratch",
        "models": models,
        "datasets": [IMAGES],
        "techniques": ["amp", "pm"] if device == "cpu" else ["ga", "amp", "pm"],
        "base_seed": 101,
        "recipe": {
            "epochs": 1,
            "num_workers": 2 if device == "cpu" else 8,
            "num_threads": 1 if device == "cpu" else 4,
            "validation_fraction": 0.0,
            "eval_batch_size": 64 if device == "cpu" else 256,
            "max_test_samples": 64 if device == "cpu" else 256,
        },
    }
    return variants(study, "input_pipeline", ["loader", "gather"])


def turns(device: str, scale: float) -> Study:
    """The paper's three models, whose cells take turns: at 32 px and 224 px, as in the two studies above."""
    recipe = {
        "epochs": 1,
        "input_pipeline": "gather",
        "num_threads": 1 if device == "cpu" else 4,
        "validation_fraction": 0.0,
    }
    if device == "cpu":
        models = {"test_resnet": {**_RESNET50, "batch_size": 16, "max_train_samples": 64}}
    else:
        models = {
            "resnet50": {**_RESNET50, "max_train_samples": length(50, 128, scale)},
            "vit_base_patch16_224": {**_VIT, "max_train_samples": length(20, 70, scale)},
            "efficientnet_b0": {**_EFFICIENTNET, "max_train_samples": length(20, 96, scale)},
        }
    return {
        "name": "turns",
        "title": "The paper's models, whose cells take turns",
        "models": models,
        "datasets": [IMAGES],
        "techniques": ["ga", "pm"] if device == "cpu" else ["ga", "amp", "pm"],
        "base_seed": 101,
        "recipe": recipe,
    }


def oom(device: str) -> Study:
    """A batch that cannot fit.

    On CUDA the activations of ResNet-50's stem and first block are 280 GB together, and the batch itself has fewer
    elements than 2^31, above which kernels refuse for another reason. On a CPU one tensor is larger than the address
    space that is allowed, so that nothing is written before it fails.
    """
    cpu = device == "cpu"
    return {
        "name": "oom",
        "title": "A batch that cannot fit",
        "models": {"test_resnet" if cpu else "resnet50": {}},
        "datasets": ["digits"],
        "recipe": {
            "batch_size": 1024,
            "max_train_samples": 1024,
            "max_test_samples": 16,
            "image_size": 4096 if cpu else 768,
            "input_pipeline": "device",
            "validation_fraction": 0.0,
            "eval_batch_size": 16,
        },
    }
