"""Gradient checkpointing: less memory, more arithmetic, and otherwise the very same training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.design.spec import Recipe
from pipeline.errors import InputError
from pipeline.training import models
from tests.support.training import end_of, per_epoch, reproducible, run_in_process, small_spec, summary

MODELS = ("test_resnet", "test_vit", "test_efficientnet")


def build(name: str, *, on: bool, size: int = 32) -> nn.Module:
    torch.manual_seed(1)
    return models.build_model(name, Recipe(image_size=size, grad_checkpoint=on), 10).double().train()


def batch(seed: int, count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 32, 32, generator=generator, dtype=torch.double)
    return images, torch.randint(10, (count,), generator=generator)


def step(model: nn.Module, seed: int) -> torch.Tensor:
    images, labels = batch(seed)
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("name", MODELS)
def test_gradients_and_statistics_are_the_same(name: str) -> None:
    plain, checked = build(name, on=False), build(name, on=True)
    for seed in (1, 2):
        torch.manual_seed(seed)  # drop path, where a model has it
        expected = step(plain, seed)
        torch.manual_seed(seed)
        torch.testing.assert_close(step(checked, seed), expected, atol=0, rtol=1e-12)
        for (key, one), (_, other) in zip(plain.named_parameters(), checked.named_parameters(), strict=True):
            assert one.grad is not None and other.grad is not None, key
            torch.testing.assert_close(other.grad, one.grad, atol=1e-11, rtol=1e-9, msg=key)
        for (key, buffer), (_, same) in zip(plain.named_buffers(), checked.named_buffers(), strict=True):
            torch.testing.assert_close(same, buffer, atol=1e-12, rtol=1e-12, msg=key)
    assert set(plain.state_dict()) == set(checked.state_dict())


def test_without_the_guard_the_statistics_would_be_updated_twice() -> None:
    """What the guard is for: timm's own switch, as it comes."""
    plain, twice = build("test_resnet", on=False), build("test_resnet", on=False)
    twice.set_grad_checkpointing(True)
    step(plain, 1)
    step(twice, 1)
    counts = {int(value) for key, value in twice.named_buffers() if key.endswith("num_batches_tracked")}
    assert counts == {1, 2}
    assert any(not torch.allclose(a, b) for a, b in zip(plain.buffers(), twice.buffers(), strict=True))


def saved_bytes(model: nn.Module) -> int:
    """Bytes of the distinct activations that the forward pass keeps for the backward pass."""
    kept: dict[int, int] = {}
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    images, labels = batch(3, 16)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = nn.functional.cross_entropy(model(images), labels)
    total = sum(kept.values())
    loss.backward()
    return total


@pytest.mark.parametrize("name", MODELS)
def test_fewer_activations_are_kept(name: str) -> None:
    assert saved_bytes(build(name, on=True)) < 0.8 * saved_bytes(build(name, on=False))


def test_evaluation_updates_nothing_and_errors_leave_the_guard_closed() -> None:
    model = build("test_resnet", on=True)
    before = [buffer.clone() for buffer in model.buffers()]
    model.eval()
    with torch.inference_mode():
        model(batch(1)[0])
    model.train()
    with pytest.raises(RuntimeError):
        model(torch.zeros(2, 5, 32, 32, dtype=torch.double))
    layer = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    layer(torch.zeros(2, layer.num_features, 4, 4, dtype=torch.double))  # outside of the model's forward
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))


@pytest.mark.parametrize(
    ("name", "precision"), [("test_resnet", "fp32"), ("test_resnet", "bf16"), ("test_vit", "fp16")]
)
def test_a_run_with_it_equals_one_without(name: str, precision: str, digits_dir: Path, tmp_path: Path) -> None:
    # 44 samples in micro-batches of 16, two per window: a short micro-batch in a partial window
    fields: dict[str, Any] = {
        "precision": precision,
        "epochs": 2,
        "accumulation_steps": 2,
        "batch_size": 16,
        "max_train_samples": 44,
        "validation_fraction": 0.0,
        "scaler_init_scale": 1024.0,
    }
    runs = {}
    for on in (False, True):
        records = run_in_process(small_spec(name, grad_checkpoint=on, **fields), digits_dir, tmp_path / str(on))
        assert end_of(records).outcome == "finished"
        runs[on] = {**reproducible(summary(records)), **reproducible(per_epoch(records)[2])}
    assert runs[True] == pytest.approx(runs[False], rel=1e-6)


def test_flops_are_the_models() -> None:
    recipe = Recipe(image_size=16)
    again = recipe.model_copy(update={"grad_checkpoint": True})
    plain, checked = (models.training_flops_per_image("test_resnet", r, 10) for r in (recipe, again))
    assert plain == checked and plain is not None


def test_a_model_without_it_is_refused() -> None:
    with pytest.raises(InputError, match=r"recipe.grad_checkpoint of timm:.*timm has no gradient checkpointing"):
        models.build_model("timm:dla46_c", Recipe(image_size=32, grad_checkpoint=True), 10)
