"""From options to a plan: what the command line changes, and what is measured again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.design.plan import build_plan
from pipeline.design.selection import GridOptions, SelectedPlan, in_processes, parse_levels, select_plan, with_reruns
from pipeline.design.spec import RERUNS_FROM
from pipeline.design.study import load_study
from pipeline.errors import InputError


def test_tainted_cells_are_measured_again_under_their_own_digest() -> None:
    plan = build_plan(load_study("quickstart"), "cpu")
    bad = plan.runs[3].spec
    again = with_reruns(plan, {bad.digest})
    changed = [(a.spec, b.spec) for a, b in zip(plan.runs, again.runs, strict=True) if a != b]
    assert len(changed) == 1
    old, new = changed[0]
    assert (old, new.repeat, new.name) == (bad, RERUNS_FROM, old.name)
    assert new.recipe == old.recipe
    third = with_reruns(plan, {bad.digest, new.digest})
    assert third.runs[3].spec.repeat == RERUNS_FROM + 1, "a rerun that was disturbed too is not taken for good"


def select(**options: Any) -> SelectedPlan:
    return select_plan(GridOptions(**{"study": "quickstart", **options}), "cpu")


def labels(**options: Any) -> set[str]:
    return {run.spec.label for run in select(**options).plan.runs}


def test_levels_are_read_once_for_all_commands() -> None:
    assert parse_levels(("ga=2,4", "amp=bf16")) == {"ga": ("2", "4"), "amp": ("bf16",)}
    assert parse_levels(("ga=2", "ga=8")) == {"ga": ("8",)} and parse_levels(()) == {}


@pytest.mark.parametrize("text", ["ga", "ga=", "ga=2,", "=2", "turbo=2"])
def test_levels_that_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"technique.* is not allowed; allowed: "):
        parse_levels((text,))


def test_techniques_and_their_levels() -> None:
    assert labels(techniques="none") == {"baseline"}
    assert labels(techniques="pm") == {"baseline", "pm"}
    assert labels(techniques="pm", levels=("ga=4",)) == {"baseline", "pm", "ga4", "pm+ga4"}
    assert len(labels(levels=("ga=2,4",))) == 3 * 2 * 2, "beside the study's other techniques"


def test_the_headline_says_what_will_run_and_the_title_what_it_is_about(tmp_path: Path) -> None:
    first, second = select(techniques="pm").headline.splitlines()
    assert first == "study quickstart: 12 cells, 1 block(s), device cpu"
    assert second == load_study("quickstart").title
    path = tmp_path / "plain.yaml"
    path.write_text("extends: quickstart\n")
    assert "\n" not in select(study=str(path)).headline


def test_the_headline_counts_the_sentinels_apart() -> None:
    found = select(study="paper").headline.splitlines()[0]
    assert found.startswith("study paper: 48 cells and 12 sentinels (baselines again, to see drift), 1 block(s)")


def test_what_a_study_does_not_know_has_its_own_recipe() -> None:
    chosen = select(models="test_resnet,timm:convnext_atto", datasets="digits,cifar10", techniques="none")
    recipes = {(run.spec.model, run.spec.dataset): run.spec.recipe for run in chosen.plan.runs}
    known = {(run.spec.model, run.spec.dataset): run.spec.recipe for run in select(techniques="none").plan.runs}
    assert recipes.pop(("test_resnet", "digits")) == known["test_resnet", "digits"], "what it knows keeps the study's"
    assert {pair: recipe.image_size for pair, recipe in recipes.items()} == {
        ("test_resnet", "cifar10"): 160,
        ("timm:convnext_atto", "digits"): 224,
        ("timm:convnext_atto", "cifar10"): 224,
    }
    told = [line for line in chosen.headline.splitlines() if line.startswith("recipe of ")]
    assert len(told) == 3 and any("timm:convnext_atto on cifar10: 224 px (the model's own)" in line for line in told)
    more = select(models="timm:convnext_atto", techniques="none", settings=("image_size=64", "optimizer=sgd"))
    assert {(run.spec.recipe.image_size, run.spec.recipe.optimizer) for run in more.plan.runs} == {(64, "sgd")}
    assert "recipe of timm:convnext_atto on digits: 64 px, " in more.headline
    many = select(models="timm:convnext_atto", datasets="digits,digits100,cifar10,cifar100", techniques="none")
    assert many.headline.splitlines()[-1] == "and 1 more recipes: --dry-run --json has them"


def test_a_study_file_can_ask_for_own_recipes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("models: [test_resnet, test_vit]\ndatasets: [digits]\nown_recipe: [test_vit]\n")
    sizes = {run.spec.model: run.spec.recipe.image_size for run in select(study=str(path)).plan.runs}
    assert sizes == {"test_resnet": 32, "test_vit": 160}
    path.write_text("models: [test_resnet]\ndatasets: [digits]\nown_recipe: [test_vit]\n")
    with pytest.raises(InputError, match="own_recipe: 'test_vit' is not allowed; allowed: test_resnet, digits"):
        select(study=str(path))


def test_overrides_of_what_is_not_chosen_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: quickstart\noverrides: [{model: test_vit, recipe: {epochs: 7}}]\n")
    chosen = select(study=str(path), models="test_resnet", techniques="none")
    assert {run.spec.model for run in chosen.plan.runs} == {"test_resnet"}
    both = select(study=str(path), models="test_resnet,test_vit", techniques="none").plan.runs
    assert {run.spec.recipe.epochs for run in both if run.spec.model == "test_vit"} == {7}


def test_processes_split_a_micro_batch() -> None:
    plan = select(techniques="none", settings=("batch_size=8",)).plan
    assert {run.spec.nproc for run in in_processes(plan, GridOptions(nproc=4)).runs} == {4}
    assert in_processes(plan, GridOptions()) is plan
    with pytest.raises(InputError, match="--nproc"):
        in_processes(plan, GridOptions(nproc=5))


def test_a_target_accuracy_changes_no_run() -> None:
    assert select(target_accuracy=0.9).plan == select().plan


def test_a_target_accuracy_needs_a_validation_part() -> None:
    with pytest.raises(InputError, match=r"--target-accuracy: 0.9 is not allowed; .*--set validation_fraction=0.1"):
        select(target_accuracy=0.9, settings=("validation_fraction=0",))
    with pytest.raises(InputError, match="--target-accuracy"):
        select(study="paper", target_accuracy=0.9)  # that of its ViT alone would do
    assert select(study="paper", target_accuracy=0.9, models="vit_base_patch16_224").plan.runs


def test_what_is_varied_is_off_in_the_baseline() -> None:
    """Of a study whose recipe has it on without varying it; what it had is said."""
    options = GridOptions(models="test_resnet,test_vit", datasets="digits", techniques="channels_last,ga")
    found = select_plan(options, "cpu")
    on = {(run.spec.model, run.spec.label): run.spec.recipe.channels_last for run in found.plan.runs}
    for model in ("test_resnet", "test_vit"):
        assert [on[model, label] for label in ("baseline", "ga", "channels_last", "channels_last+ga")] == [
            False,
            False,
            True,
            True,
        ]
    line = "channels_last is off in the baselines, since it is varied here (study quickstart has channels_last=True)"
    assert line in found.headline.splitlines()
    assert "is off in the baselines" not in select_plan(replace(options, techniques="ga"), "cpu").headline


def test_what_the_command_line_turns_on_is_not_turned_off() -> None:
    options = GridOptions(models="test_resnet", techniques="channels_last", settings=("channels_last=true",))
    with pytest.raises(InputError, match="which already has channels_last=True"):
        select_plan(options, "cpu")
