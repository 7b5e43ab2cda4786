"""The names of studies: what `--name` may be, and what a grid that the command line makes is called."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from pipeline.design.options import GridOptions, RunOptions, SpeedOptions
from pipeline.design.selection import select_plan
from pipeline.errors import InputError


def name(**options: Any) -> str:
    return select_plan(GridOptions(**options), "cpu").plan.study.name


def test_the_whole_of_a_study_keeps_its_name() -> None:
    assert name() == name(models="all", datasets="all", techniques="all") == name(seeds=7) == "quickstart"
    assert name(techniques="ga,amp,pm", datasets="digits100,digits", design="full") == "quickstart", "the same cells"
    assert name(study="quickstart", models="test_vit", settings=("epochs=9",)) == "quickstart", "the user has named it"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"models": "test_resnet"}, "quickstart-test_resnet"),
        ({"techniques": "amp,channels_last"}, "quickstart-amp-channels_last"),
        ({"techniques": "amp,fused"}, "quickstart-amp-fused"),
        ({"techniques": "none"}, "quickstart-baseline"),
        ({"models": "test_vit,test_resnet", "datasets": "digits", "techniques": "ga"},
         "quickstart-test_resnet-test_vit-digits-ga"),
        ({"models": "timm:convnext_atto", "techniques": "amp"}, "convnext_atto-digits-digits100-amp"),
        ({"models": "timm:resnet18.a1_in1k", "datasets": "cifar10", "techniques": "none"},
         "resnet18.a1_in1k-cifar10-baseline"),
        ({"tuned": True}, "quickstart-tuned"),
        ({"settings": ("epochs=5",)}, "quickstart-[0-9a-f]{6}"),
        ({"nproc": 2}, "quickstart-[0-9a-f]{6}"),
        ({"levels": ("ga=4",)}, "quickstart-[0-9a-f]{6}"),
        ({"models": "timm:resnet50", "datasets": "digits", "techniques": "amp"}, "resnet50-digits-amp-[0-9a-f]{6}"),
    ],
)  # fmt: skip
def test_a_grid_of_flags_is_named_after_what_it_chooses(options: dict[str, Any], expected: str) -> None:
    assert re.fullmatch(expected, name(**options))


def test_the_same_question_has_the_same_name_and_another_has_another() -> None:
    chosen = {"models": "test_resnet,test_vit", "datasets": "digits", "techniques": "ga,pm", "settings": ("epochs=2",)}
    first = name(**chosen)
    more = {"seeds": 9, "until_decided": True, "jobs": 1, "timeout": 5.0, "fresh": True, "target_accuracy": 0.9}
    assert name(**chosen, **more) == first
    assert name(**{**chosen, "models": "test_vit,test_resnet"}) == first, "in whatever order"
    others = [
        {"models": "test_resnet"},
        {"datasets": "digits100"},
        {"techniques": "pm,ga"},  # whose cells have other names
        {"levels": ("ga=8",)},
        {"levels": ("ga=4",)},
        {"settings": ("epochs=3",)},
        {"settings": ()},
    ]
    assert len({first, *(name(**{**chosen, **other}) for other in others)}) == 1 + len(others)
    assert name(**{**chosen, "settings": ("epochs=2", "batch_size=32")}) == name(
        **{**chosen, "settings": ("batch_size=32", "epochs=2")}
    )


def test_speed_and_a_single_run_find_the_grids_name() -> None:
    flags = {"models": "test_resnet", "datasets": "digits", "techniques": "ga", "settings": ("epochs=2",)}
    speed = select_plan(replace(SpeedOptions(**flags), seeds=1), "cpu").plan.study.name
    assert speed == name(**flags) == select_plan(RunOptions(**flags), "cpu").plan.study.name


def test_names_are_short_and_safe(tmp_path: Any) -> None:
    for part in ("train", "test"):
        for label in "ab":
            folder = tmp_path / "Holiday photos äöü.yaml" / part / label
            folder.mkdir(parents=True)
            (folder / "1.png").write_bytes(b"x")
    folder = f"imagefolder:{tmp_path}/Holiday photos äöü.yaml"
    names = [
        name(models="timm:mobilenetv3_small_050", datasets=folder, techniques="none"),
        name(models="test_vit", datasets=f"digits,{folder}"),
        name(models="test_vit,timm:" + ",timm:".join(f"mobilenetv4_conv_{n}" for n in ("small", "medium", "large"))),
    ]
    for found in names:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", found) and not found.endswith(".yaml")
    assert names[0].startswith("mobilenetv3_small_050-Holiday_photos_.yaml-baseline-")
    assert re.fullmatch("quickstart-mobilenetv4_conv_lar-3more-[0-9a-f]{6}", names[2])


def test_a_name_of_ones_own() -> None:
    assert name(name="mine") == name(name="mine", models="test_vit") == name(name="mine", study="paper") == "mine"
    assert name(name="quickstart") == "quickstart" and name(name="paper", study="paper", models="resnet50") == "paper"


@pytest.mark.parametrize(
    "options",
    [
        *({"name": bad} for bad in ("", " ", "a/b", "../x", "-a", "x" * 101, "a b", "ä", "mine.yaml", "a\n")),
        {"name": "paper"},
        {"name": "paper-q1", "models": "test_vit"},
        {"name": "quickstart", "models": "test_vit"},
    ],
)
def test_names_that_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"--name: .* is not allowed; allowed: "):
        name(**options)
