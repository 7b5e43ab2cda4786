"""The plan: which cells, in which order, with which seeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.design import plan as planning
from pipeline.design import study as studies
from pipeline.design.plan import Plan, build_plan
from pipeline.design.spec import Recipe
from pipeline.design.study import Study
from pipeline.errors import InputError
from tests.support.data import write_folder

MODELS = ["test_resnet", "test_vit", "test_efficientnet"]


def make(**fields: Any) -> Study:
    defaults = {"name": "made", "models": ["test_resnet"], "datasets": ["digits"], "recipe": {"image_size": 16}}
    return Study.model_validate({**defaults, **fields})


def order(plan: Plan, block: int) -> list[str]:
    return [run.spec.name.rpartition("/")[0] for run in plan.runs if run.block == block]


def test_quickstart_has_48_unique_cells() -> None:
    plan = build_plan(studies.load_study("quickstart"), "cpu")
    assert (
        len(plan.cells) == 48 == len({run.spec.digest for run in plan.cells}) == len({r.spec.name for r in plan.cells})
    )
    cells = Counter((run.spec.model, run.spec.dataset) for run in plan.cells)
    assert cells == {(model, dataset): 8 for model in MODELS for dataset in ("digits", "digits100")}
    labels = {run.spec.label for run in plan.cells}
    assert labels == {"baseline", "ga", "amp", "pm", "ga+amp", "ga+pm", "amp+pm", "ga+amp+pm"}
    assert [run.position for run in plan.runs] == list(range(len(plan.runs)))


@pytest.mark.parametrize("name", ["paper", "quickstart", "heldout", "paper-c1"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_shipped_studies_make_plans(name: str, device: Any) -> None:
    study = studies.load_study(name)
    plan = build_plan(study, device)
    expected = len(study.models) * len(study.datasets) * 8 * study.seeds
    assert len(plan.cells) == expected == len({run.spec.digest for run in plan.cells})
    assert {run.spec.device for run in plan.cells} == {device}


def test_blocks_and_paired_seeds() -> None:
    study = make(models=MODELS[:2], techniques=["ga", "amp"], seeds=3, base_seed=40)
    plan = build_plan(study, "cpu")
    assert len(plan.runs) == 3 * 2 * 4
    assert [run.block for run in plan.runs] == sorted(run.block for run in plan.runs), "one block after the other"
    for block in range(3):
        specs = [run.spec for run in plan.runs if run.block == block]
        assert {spec.seed for spec in specs} == {40 + block}
        assert len({(spec.model, spec.label) for spec in specs}) == 8
    assert len({run.spec.digest for run in plan.runs}) == 24


def test_order_is_decided_by_the_order_seed_alone() -> None:
    fields: dict[str, Any] = {"models": MODELS, "techniques": ["ga", "amp", "pm"], "seeds": 3}
    plan = build_plan(make(**fields), "cpu")
    assert build_plan(make(**fields), "cpu").runs == plan.runs
    assert order(plan, 0) != order(plan, 1) != order(plan, 2) != order(plan, 0)
    assert sorted(order(plan, 0)) == sorted(order(plan, 1)) == sorted(order(plan, 2))
    other = build_plan(make(**fields, order_seed=1), "cpu")
    assert order(other, 0) != order(plan, 0) and sorted(order(other, 0)) == sorted(order(plan, 0))
    assert order(build_plan(make(**fields, base_seed=9), "cpu"), 0) == order(plan, 0)
    assert order(plan, 0) != sorted(order(plan, 0)), "shuffled"
    models = [name.split("/")[0] for name in order(plan, 0)]
    assert any(a != b for a, b in zip(models, sorted(models), strict=True)), "over models, too"


def test_order_is_the_same_in_another_process() -> None:
    code = (
        "from pipeline.design import plan, study; "
        "print('\\n'.join(r.spec.digest for r in plan.build_plan(study.load_study('quickstart'), 'cpu').runs))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [run.spec.digest for run in build_plan(studies.load_study("quickstart"), "cpu").runs]


def test_more_blocks_keep_the_first_ones() -> None:
    few, many = (build_plan(make(techniques=["ga", "amp"], seeds=seeds), "cpu") for seeds in (2, 5))
    assert many.runs[: len(few.runs)] == few.runs
    later = build_plan(make(techniques=["ga", "amp"], seeds=5), "cpu", blocks=range(2, 5))
    assert [r.spec.digest for r in later.runs] == [r.spec.digest for r in many.runs[len(few.runs) :]]


def test_a_further_block_keeps_the_order_of_the_ones_before() -> None:
    study = studies.load_study("quickstart")
    both = build_plan(study.model_copy(update={"seeds": 2}), "cpu")
    second = build_plan(study, "cpu", blocks=range(1, 2))
    assert [r.spec.digest for r in both.runs[48:]] == [r.spec.digest for r in second.runs]
    assert [r.spec.label for r in both.runs[:48]] != [r.spec.label for r in second.runs], "blocks differ in order"


def test_sentinels_repeat_the_baselines_at_both_ends() -> None:
    plan = build_plan(make(models=MODELS[:2], techniques=["amp"], seeds=2, sentinels=True), "cpu")
    assert len(plan.cells) == 8 and len(plan.runs) == 8 + 2 * 2 * 2
    for block in range(2):
        runs = [run for run in plan.runs if run.block == block]
        kinds = [run.kind for run in runs]
        assert kinds == ["sentinel"] * 2 + ["run"] * 4 + ["sentinel"] * 2
        assert {run.spec.repeat for run in runs[:2]} == {1} and {run.spec.repeat for run in runs[-2:]} == {2}
        assert all(run.spec.techniques == () for run in runs if run.kind == "sentinel")
    assert len({run.spec.digest for run in plan.runs}) == len(plan.runs)


def test_variants_have_names_that_differ() -> None:
    study = make(techniques=["pm"], sentinels=True, variants={"label_smoothing": [0.0, 0.1], "channels_last": [True]})
    plan = build_plan(study, "cpu")
    assert len({run.name for run in plan.runs}) == len(plan.runs) == 2 * (2 + 2)
    told = {run.spec.recipe.label_smoothing: run for run in plan.cells if not run.spec.techniques}
    assert told[0.1].name == f"{told[0.1].spec.name}/label_smoothing=0.1, channels_last=True"
    assert told[0.1].model == f"{told[0.1].spec.model} [label_smoothing=0.1, channels_last=True]"
    plain = build_plan(make(techniques=["pm"]), "cpu").runs[0]
    assert (plain.name, plain.model, plain.variant) == (plain.spec.name, plain.spec.model, "")


def test_what_a_plan_crosses_is_said_the_same_for_the_same_cells() -> None:
    def factors(**fields: Any) -> str:
        return build_plan(make(**fields), "cpu").factors

    assert factors(techniques=["ga", "pm"]) == factors(techniques={"ga": ["2"], "pm": []}, seeds=3) == "ga,pm"
    assert factors(techniques=["pm", "ga"]) == "pm,ga" and factors() == "baseline"
    assert factors(techniques={"ga": [2, 8]}) == "ga=2,ga=8"
    assert factors(techniques=["ga"], variants={"batch_size": [32, 64]}) == "ga x batch_size"


def test_several_levels_multiply_the_design() -> None:
    plan = build_plan(make(techniques={"ga": [2, 4, 8], "amp": []}), "cpu")
    assert sorted(run.spec.label for run in plan.cells) == sorted(
        ["baseline", "ga2", "ga4", "ga8", "amp", "ga2+amp", "ga4+amp", "ga8+amp"]
    )
    steps = {run.spec.label: run.spec.recipe.accumulation_steps for run in plan.cells}
    assert steps["ga8"] == 8 and steps["ga8+amp"] == 8 and steps["amp"] == 1


def test_the_default_level_has_the_plain_name() -> None:
    for levels in ([], ["2"]):
        plan = build_plan(make(techniques={"ga": levels}), "cpu")
        assert {run.spec.techniques for run in plan.cells} == {(), ("ga",)}
    assert {run.spec.label for run in build_plan(make(techniques={"ga": ["4"]}), "cpu").cells} == {"baseline", "ga4"}


def test_a_baseline_that_has_the_technique_is_refused() -> None:
    for fields, technique in (({"precision": "bf16"}, "amp"), ({"pin_memory": True, "non_blocking": True}, "pm")):
        with pytest.raises(InputError, match=f"technique {technique}: .*differs from the baseline"):
            build_plan(make(techniques=[technique], recipe={"image_size": 16, **fields}), "cpu")


def test_cells_with_equal_recipes_are_refused() -> None:
    with pytest.raises(InputError, match="without duplicates"):
        build_plan(make(techniques={"ga": ["2", "2"]}), "cpu")
    with pytest.raises(InputError, match="not allowed together"):
        build_plan(make(variants={"batch_size": [64, 64]}), "cpu")


def test_fraction_of_six_techniques() -> None:
    names = ["ga", "amp", "pm", "channels_last", "fused", "device_data"]
    plan = build_plan(make(techniques=names, design="fractional", recipe={"image_size": 16, "batch_size": 64}), "cpu")
    assert len(plan.cells) == 16 == len({run.spec.digest for run in plan.cells}), "a quarter of 64"
    for name in names:
        on = [run for run in plan.cells if any(tag.partition("=")[0] == name for tag in run.spec.techniques)]
        assert len(on) == 8, "balanced"
    assert any(run.spec.techniques == () for run in plan.cells), "the baseline is in it"
    chains = [text.split(" = ") for text in plan.alias]
    assert {chain[0] for chain in chains} >= set(names), "what cannot be told apart is said"
    # resolution IV: no main effect is aliased with another one or with a pair
    assert all(other.count(":") >= 2 for chain in chains if ":" not in chain[0] for other in chain[1:])
    full = build_plan(make(techniques=names, recipe={"image_size": 16, "batch_size": 64}), "cpu")
    assert len(full.cells) == 64 and full.alias == ()


def test_a_fractions_cells_are_cells_of_the_full_design() -> None:
    fields: dict[str, Any] = {"techniques": ["ga", "amp", "pm", "channels_last", "fused", "device_data"]}
    fraction, full = (build_plan(make(**fields, design=design), "cpu") for design in ("fractional", "full"))
    assert {run.spec.digest for run in fraction.cells} < {run.spec.digest for run in full.cells}


def test_a_fraction_takes_one_level_each() -> None:
    with pytest.raises(InputError, match="one level in a fractional design"):
        build_plan(make(techniques={"ga": ["2", "4"], "amp": []}, design="fractional"), "cpu")


def test_layers_of_a_recipe() -> None:
    study = make(
        models={"test_resnet": {"epochs": 2, "learning_rate": 0.5}, "test_vit": {"patch_size": 4}},
        datasets=["digits", "digits100"],
        recipe={"image_size": 16, "epochs": 1, "batch_size": 8},
        overrides=[
            {"dataset": "digits100", "recipe": {"batch_size": 9, "epochs": 5}},
            {"model": "test_vit", "dataset": "digits100", "recipe": {"batch_size": 10}},
        ],
    )
    assert study.recipe_for("test_resnet", "digits") == Recipe(image_size=16, epochs=2, learning_rate=0.5, batch_size=8)
    assert study.recipe_for("test_resnet", "digits100").batch_size == 9
    assert study.recipe_for("test_vit", "digits100").batch_size == 10
    assert study.recipe_for("test_vit", "digits100", {"batch_size": 11}).batch_size == 11
    assert study.recipe_for("test_resnet", "digits100").epochs == 5


def test_recipe_fields_are_checked_against_each_other() -> None:
    with pytest.raises(InputError, match=r"recipe.patch_size of test_resnet: 4 .*no vision transformer"):
        build_plan(make(recipe={"patch_size": 4}), "cpu")
    with pytest.raises(InputError, match=r"recipe.patch_size of test_vit: 5 .*divisor of image_size 16"):
        build_plan(make(models=["test_vit"], recipe={"image_size": 16, "patch_size": 5}), "cpu")


def test_a_weights_file_is_part_of_the_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a message cuts a long path, and this one's length is not the test's affair
    file = tmp_path / "weights.pt"
    digests = []
    for content in (b"first", b"second"):
        file.write_bytes(content)
        digests.append(build_plan(make(), "cpu", {"weights": str(file)}).cells[0].spec.digest)
    assert digests[0] != digests[1]
    with pytest.raises(InputError, match=r"recipe.weights: .*absent.* not allowed; allowed: a readable file"):
        build_plan(make(), "cpu", {"weights": "absent"})
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match=r"recipe.weights: .*allowed: a readable file \(not a regular file\)"):
        build_plan(make(), "cpu", {"weights": str(tmp_path / "fifo")})
    with pytest.raises(InputError, match="no weights file together with pretrained"):
        build_plan(make(), "cpu", {"weights": str(file), "pretrained": True})


def test_too_many_cells_are_refused_at_once() -> None:
    with pytest.raises(InputError, match="not allowed; allowed: at most"):
        build_plan(make(techniques=["ga", "amp", "pm", "fused"], seeds=100_000), "cpu")


LARGE = """
import json, re, time
from pathlib import Path
from pipeline.design import plan, study
made = study.load_study("quickstart")
made = study.replace(made, seeds=2084)
began = time.process_time()
found = plan.build_plan(made, "cpu")
seconds = time.process_time() - began
digests = {run.spec.digest for run in found.runs}
print(json.dumps({"cells": len(found.runs), "unique": len(digests), "seconds": seconds,
    "mib": int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024}))
"""


def test_a_plan_of_100_000_cells_is_quick_and_small() -> None:
    found = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    figures = json.loads(found.stdout)
    print(figures)
    assert figures["cells"] == figures["unique"] == 2084 * 48 > 100_000
    assert figures["seconds"] < 5 and figures["mib"] < 500


def test_apply_does_not_depend_on_the_order_of_a_setting() -> None:
    base = Recipe(batch_size=64)
    names = ("ga", "amp", "pm", "channels_last", "compile", "fused", "device_data")
    assert planning.apply(base, names, "cpu") == planning.apply(base, names[::-1], "cpu")


def test_a_folder_that_is_not_whole_is_planned_with_what_was_left_out(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    (root / "train" / "cat" / "zz.jpg").write_text("no picture")
    study = make(datasets=[f"imagefolder:{root}"])
    whole = build_plan(study, "cpu")
    plans = [build_plan(study, "cpu", {"skip_unreadable": most}) for most in (1, 7)]
    for plan in plans:
        assert plan.cells[0].spec.recipe.skip_unreadable == 1, "as many as there are, not as many as there might be"
        assert plan.notes == (
            f"imagefolder:{root}: 1 left out that cannot be decoded: train/cat/zz.jpg (not an image: starts with "
            "'no picture')",
        )
    assert plans[0].cells == plans[1].cells and plans[0].cells[0].spec.data_digest != whole.cells[0].spec.data_digest
    (root / "train" / "cat" / "zz.jpg").unlink()
    sound = [build_plan(study, "cpu", fields).cells[0].spec.digest for fields in ({}, {"skip_unreadable": 7})]
    assert sound[0] == sound[1], "a permission that was not needed changes nothing"
