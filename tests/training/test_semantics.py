"""What a technique does to training on a CPU: the same result, or one within the bound that its rounding explains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.design.plan import apply
from pipeline.design.requirements import check_recipe
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
# (relative bound on the training loss of each epoch, updates): 0 means equal to the last bit
BOUNDS: dict[str, tuple[float, int]] = {
    "ga": (0.5, 4),  # half the updates: another training
    "ga_fixed": (1e-4, 6),
    "amp": (2**-5, 6),
    "bf16": (2**-5, 6),
    "tf32": (0, 6),
    "pm": (0, 6),
    "pin_only": (0, 6),
    "non_blocking_only": (0, 6),
    "channels_last": (1e-4, 6),
    "fused": (1e-4, 6),
    "grad_checkpoint": (1e-6, 6),
    "device_data": (1e-6, 6),
}
ELSEWHERE = {"compile": "takes minutes: the slow test below", "cuda_graph": "test_core_graphs, test_core_gpu"}


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


def test_every_technique_has_a_bound_or_a_test_elsewhere() -> None:
    assert set(BOUNDS) | set(ELSEWHERE) == set(TECHNIQUES)
    inert = {name for name, technique in TECHNIQUES.items() if "cpu" in technique.inert_on}
    assert inert == {name for name, (bound, _) in BOUNDS.items() if bound == 0}, "an A/A control changes nothing"


@pytest.mark.parametrize("name", BOUNDS)
def test_result_against_the_baseline(name: str, baseline: list[float], digits_dir: Path, tmp_path: Path) -> None:
    bound, updates = BOUNDS[name]
    losses, made = curve((name,), digits_dir, tmp_path)
    assert made == updates
    assert losses == pytest.approx(baseline, rel=bound, abs=0)
    if name in ("amp", "bf16", "ga"):
        assert losses != baseline, "it has done something"


@pytest.mark.slow
def test_compiled_training_is_bounded_and_compiles_nothing_after_the_warm_up(
    digits_dir: Path, tmp_path: Path, baseline: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.utils import counters

    from pipeline.training import trainer

    frames: list[int] = []
    original = trainer._Run.warm_up

    def counted(run: Any) -> None:
        original(run)
        frames.append(counters["stats"]["unique_graphs"])

    monkeypatch.setattr(trainer._Run, "warm_up", counted)
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
