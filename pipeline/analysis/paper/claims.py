"""What arXiv 2312.10024 claims and what its published code shows: facts for the audit."""

from __future__ import annotations

from dataclasses import dataclass

CONFOUNDS = (
    "The reported EfficientNet accuracy (98 %) is on a training subset: the saved run has 0.9801 there and "
    "0.9593 on test, below its own baseline's 0.9645.",
    "No factorial: only all-off against all-on, one seed each. No technique was ever measured alone.",
    "Pin memory is on in both arms of every script, so its effect was never measured.",
    "In the saved EfficientNet run the accumulation code is inside a string literal: it never ran. Its "
    "arms differ by batch size (96 against 200) and by AMP together.",
    "ResNet50's tuned arm: autocast without a gradient scaler, backward inside autocast, clipping only in "
    "the baseline, a schedule that steps per micro-batch, the last partial window divided by the full "
    "factor; its F1 is micro-averaged, which equals accuracy.",
    "ViT's baseline times are progress-bar estimates read after 5 % and 1 % of the run.",
    "EfficientNet ran at about 290 images/s with two loader workers resizing on the CPU: probably bound by "
    "the loader, not by the GPU.",
    "No variance, no GPU model and no library versions are stated.",
)


@dataclass(frozen=True)
class Claim:
    """One claim of the paper: how to find the same quantity in a study.

    Attributes:
        key: Short name.
        claim: What the paper or its repository says.
        model: Part of the model's name, any if empty.
        dataset: The dataset's name, any if empty.
        quantity: accuracy, hours, combined, or single (each technique alone).
        caveat: What the published code shows about it.
    """

    key: str
    claim: str
    model: str
    dataset: str
    quantity: str
    caveat: str


CLAIMS = (
    Claim(
        "E10",
        "EfficientNet reaches 98 % on CIFAR-10",
        "efficientnet",
        "cifar10",
        "accuracy",
        "Accuracy of a training subset; its test accuracy is 0.9593, its baseline's 0.9645.",
    ),
    Claim(
        "E100",
        "EfficientNet reaches 90 % on CIFAR-100",
        "efficientnet",
        "cifar100",
        "accuracy",
        "The saved baseline has 0.9517 on a training subset and 0.8363 on test.",
    ),
    Claim(
        "E10h",
        "EfficientNet on CIFAR-10 takes 1.05 h",
        "efficientnet",
        "cifar10",
        "hours",
        "Arms differ by batch size and AMP; accumulation never ran. Baseline 1:42:12, tuned 1:11:49 in the "
        "saved outputs.",
    ),
    Claim(
        "E100h",
        "EfficientNet on CIFAR-100 takes 1.11 h",
        "efficientnet",
        "cifar100",
        "hours",
        "Arms differ by batch size and AMP; accumulation never ran.",
    ),
    Claim(
        "V10",
        "ViT reaches 97 % on CIFAR-10",
        "vit",
        "cifar10",
        "accuracy",
        "One seed, not recorded.",
    ),
    Claim(
        "V10h",
        "ViT on CIFAR-10 takes 2 h",
        "vit",
        "cifar10",
        "hours",
        "Its baseline time is a progress-bar estimate.",
    ),
    Claim(
        "V100",
        "ViT reaches 84 % on CIFAR-100",
        "vit",
        "cifar100",
        "accuracy",
        "One seed, not recorded.",
    ),
    Claim(
        "V100h",
        "ViT on CIFAR-100 takes 2.5 h",
        "vit",
        "cifar100",
        "hours",
        "Its baseline time is a progress-bar estimate.",
    ),
    Claim(
        "R10",
        "ResNet50 reaches 92 % on CIFAR-10",
        "resnet",
        "cifar10",
        "accuracy",
        "One seed; clipping and schedule differ between the arms.",
    ),
    Claim(
        "R10h",
        "ResNet50 on CIFAR-10 takes 46 min",
        "resnet",
        "cifar10",
        "hours",
        "One seed; clipping and schedule differ between the arms.",
    ),
    Claim(
        "R100",
        "ResNet50 reaches 75.2 % on CIFAR-100",
        "resnet",
        "cifar100",
        "accuracy",
        "One seed; clipping and schedule differ between the arms.",
    ),
    Claim(
        "R100h",
        "ResNet50 on CIFAR-100 takes 18 min",
        "resnet",
        "cifar100",
        "hours",
        "One seed; clipping and schedule differ between the arms.",
    ),
    Claim(
        "ALL",
        "GA, AMP and PM combined significantly accelerate training",
        "",
        "",
        "combined",
        "No variance; pin memory on in both arms; batch size confounded.",
    ),
    Claim(
        "EACH",
        "Implied, not stated: each of GA, AMP and PM contributes",
        "",
        "",
        "single",
        "No technique was measured alone.",
    ),
)
