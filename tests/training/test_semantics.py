"""What a technique does to training on a CPU: the same result, or one within the bound that its rounding explains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.design.plan import apply
from pipeline.design.requirements import check_recipe
from pipeline.design.spec import Recipe
from pipeline.design.techniques import TECHNIQUES
from tests.support.training import end_of, per_epoch, run_in_process, small_spec, summary

# 44 samples in micro-batches of 16: three a epoch, the last one short. test_vit has no BatchNorm, whose statistics
# would make `ga_fixed` another computation
FIELDS: dict[str, Any] = {
    "batch_size": 16,
    "max_train_samples": 44,
    "validation_fraction": 0.0,
    "epochs": 2,
    "image_size": 32,
    "optimizer": "sgd",
    "learning_rate": 0.02,
    "augmentation": "none",
    "num_workers": 0,
}
# relative bounds on the training loss of each epoch, by what a technique's row says that it preserves
BOUNDS = {"exact": 1e-6, "rounding": 1e-4, "changes": 0.5}
BFLOAT16 = 2**-5  # of techniques whose arithmetic has eight bits
ELSEWHERE = {"compile": "takes minutes: the slow test below", "cuda_graph": "test_cuda_graphs, test_gpu"}
HERE = [name for name in TECHNIQUES if name not in ELSEWHERE]


def curve(techniques: tuple[str, ...], data_dir: Path, work_dir: Path, **changed: Any) -> tuple[list[float], float]:
    spec = small_spec("test_vit", **{**FIELDS, **changed})
    recipe = apply(spec.recipe, techniques, "cpu")
    check_recipe(recipe, "cpu")
    records = run_in_process(spec.model_copy(update={"recipe": recipe}), data_dir, work_dir)
    assert end_of(records).outcome == "finished", end_of(records).error
    return [values["train/loss"] for values in per_epoch(records).values()], summary(records)["updates/count"]


@pytest.fixture(scope="module")
def baseline(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    losses, updates = curve((), digits_dir, tmp_path_factory.mktemp("baseline"))
    assert updates == 6
    return losses


def bound_of(name: str, recipe: Recipe) -> float:
    """Returns the relative bound on the CPU; 0 stands for equal to the last bit, as an A/A control has to be."""
    if "cpu" in TECHNIQUES[name].inert_on:
        return 0.0
    return BFLOAT16 if recipe.precision == "bf16" else BOUNDS[TECHNIQUES[name].preserves]


def test_what_runs_nowhere_here_has_a_test_elsewhere() -> None:
    assert {name for name in TECHNIQUES if "cpu" not in TECHNIQUES[name].devices} <= set(ELSEWHERE) <= set(TECHNIQUES)


@pytest.mark.parametrize("name", HERE)
def test_a_row_says_what_its_technique_preserves(
    name: str, baseline: list[float], digits_dir: Path, tmp_path: Path
) -> None:
    technique = TECHNIQUES[name]
    recipe = apply(small_spec("test_vit", **FIELDS).recipe, (name,), "cpu")
    losses, made = curve((name,), digits_dir, tmp_path)
    assert losses == pytest.approx(baseline, rel=bound_of(name, recipe), abs=0)
    if technique.preserves == "changes":
        assert losses != pytest.approx(baseline, rel=BFLOAT16) or made != 6, "it is another training"
    else:
        assert made == 6, "as many updates as the baseline makes"
    if recipe.precision == "bf16":
        assert losses != baseline, "it has done something"
        assert technique.preserves == "rounding"


@pytest.mark.slow
def test_compiled_training_is_bounded_and_compiles_nothing_after_the_warm_up(
    digits_dir: Path, tmp_path: Path, baseline: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.utils import counters

    from pipeline.training import trainer

    frames: list[int] = []
    original = trainer.Run.warm_up

    def counted(run: Any) -> None:
        original(run)
        frames.append(counters["stats"]["unique_graphs"])

    monkeypatch.setattr(trainer.Run, "warm_up", counted)
    # aot_eager: the same tracing and guards, without minutes of code generation
    compiled = trainer.compile_model

    def traced(model: Any, recipe: Any) -> Any:
        import torch

        assert compiled(model, recipe) is not model
        return torch.compile(model, backend="aot_eager", dynamic=False)

    monkeypatch.setattr(trainer, "compile_model", traced)
    losses, _ = curve(("compile",), digits_dir, tmp_path)
    assert losses == pytest.approx(baseline, rel=1e-4)
    assert frames[0] >= 2, "one graph for each of the two micro-batch sizes"
    assert counters["stats"]["unique_graphs"] == frames[0], "training compiles nothing: the short batch was warmed up"
