"""Each technique shows that it acted, and what is made not to act says why."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.design.records import Tags, Turn, TurnOrder
from pipeline.design.spec import Recipe, RunSpec
from pipeline.training import engagement, environment, grad_checkpoint, models, trainer
from pipeline.training.data import inputs, store
from pipeline.training.data.batch import HostBatch
from pipeline.training.data_parallel import SINGLE_PROCESS
from pipeline.training.engagement import Engagement
from pipeline.training.precision import Precision
from pipeline.training.step import plan_windows
from pipeline.training.turns import train_in_turns
from tests.support.training import end_of, run_in_process, small_spec, told

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def told_by(digits_dir: Path, tmp_path: Path, **recipe: Any) -> tuple[dict[str, Any], dict[str, str]]:
    records = run_in_process(small_spec(**recipe), digits_dir, tmp_path)
    assert end_of(records).outcome == "finished"
    return told(records)


@pytest.mark.parametrize(
    ("recipe", "facts"),
    [
        ({}, {"micro_batches_per_update": 1, "products": "float32", "outputs": "float32", "pinned": False}),
        ({"accumulation_steps": 3}, {"micro_batches_per_update": 3}),
        ({"precision": "bf16"}, {"products": "bfloat16", "outputs": "bfloat16"}),
        ({"precision": "fp16", "scaler_init_scale": 8.0}, {"products": "float16"}),
        ({"channels_last": True}, {}),
        ({"fused_optimizer": True}, {}),
        ({"input_pipeline": "device"}, {}),
        ({"model": "test_vit", "grad_checkpoint": True}, {}),
        (
            {"compile": "default", "precision": "bf16"},
            {"outputs": "bfloat16", "graphs": 1, "graph_breaks": 0, "recompiled": 0},
        ),
    ],
    ids=lambda value: next(iter(value), "none") if isinstance(value, dict) else None,
)
def test_what_acts_shows_it(recipe: dict[str, Any], facts: dict[str, Any], digits_dir: Path, tmp_path: Path) -> None:
    seen, missing = told_by(digits_dir, tmp_path, **recipe)
    assert missing == {}
    assert seen.items() >= facts.items() and seen["update_norm"] > 0
    assert ("products" in seen) == ("compile" not in recipe), "a compiler would trace the hook"
    assert seen.get("compiler_cache", "") in ("cold", "warm") if "compile" in recipe else "compiler_cache" not in seen


def test_pinned_pages_of_a_cpu_s_batches_do_not_act(digits_dir: Path, tmp_path: Path) -> None:
    _, missing = told_by(digits_dir, tmp_path, pin_memory=True, non_blocking=True)
    assert missing == dict.fromkeys(
        ("pin_memory", "non_blocking"), "batches need no copy: they lie where the model trains"
    )


def test_windows_with_fewer_micro_batches_than_asked_for_do_not_act(digits_dir: Path, tmp_path: Path) -> None:
    seen, missing = told_by(digits_dir, tmp_path, accumulation_steps=8)  # of 3 that an epoch has
    assert seen["micro_batches_per_update"] == 3
    assert missing == {"accumulation_steps": "an epoch has 3 micro-batches, fewer than 8"}


def without_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Precision, "autocast", lambda _self: nullcontext())


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "compile_model", lambda model, _recipe: model)


def without_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    def update(_self: Any, optimizer: torch.optim.Optimizer, _model: Any, _norm: Any, _then: Any) -> None:
        optimizer.zero_grad()

    monkeypatch.setattr(Precision, "update", update)
    monkeypatch.setattr(Precision, "outcomes", lambda _self: [True] * 3)


def without_recomputation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grad_checkpoint, "switch_on", lambda _model, _name: None)


def without_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer.build_optimizer
    plain = {"fused_optimizer": False}
    monkeypatch.setattr(
        trainer, "build_optimizer", lambda model, name, recipe: made(model, name, recipe.model_copy(update=plain))
    )


@pytest.mark.parametrize(
    ("recipe", "sabotage", "field", "why"),
    [
        ({"precision": "bf16"}, without_autocast, "precision", "products came out as float32"),
        ({"compile": "default"}, without_compiler, "compile", "nothing was compiled"),
        ({"fused_optimizer": True}, without_fused_kernel, "fused_optimizer", "the optimizer has no fused kernel"),
        (
            {"model": "test_vit", "grad_checkpoint": True},
            without_recomputation,
            "grad_checkpoint",
            "nothing was computed again",
        ),
        ({}, without_updates, "weights", "no update changed the weights"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else None,
)
def test_what_is_kept_from_acting_says_why(
    recipe: dict[str, Any],
    sabotage: Callable[[pytest.MonkeyPatch], None],
    field: str,
    why: str,
    digits_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sabotage(monkeypatch)
    assert told_by(digits_dir, tmp_path, **recipe)[1] == {field: why}


def watched(recipe: Recipe, device: torch.device, model: nn.Module, images: torch.Tensor) -> Engagement:
    """A run of which the warm-up alone is seen."""
    found = Engagement(recipe, device, plan_windows(8, 4, recipe.accumulation_steps))
    with found.watching(model):
        model(images)
    return found


CONVOLUTION = nn.Conv2d(3, 4, 3)
IMAGES = torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("model", "images", "why"),
    [
        (nn.Linear(3, 4), torch.zeros(2, 3), "the model has no convolution"),
        (CONVOLUTION, IMAGES, "convolutions are NCHW"),
        (nn.Conv2d(3, 4, 1).to(memory_format=torch.channels_last), IMAGES, None),  # a weight of both layouts
        (nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), IMAGES, None),
    ],
)
def test_a_layout_that_is_not_there_says_so(model: nn.Module, images: torch.Tensor, why: str | None) -> None:
    optimizer = torch.optim.SGD(model.parameters())
    missing = watched(Recipe(channels_last=True), CPU, model, images).missing(model, optimizer)
    assert missing.get("channels_last") == why


def test_weights_alone_tell_of_the_layout_of_a_compiled_model() -> None:
    optimizer = torch.optim.SGD(CONVOLUTION.parameters())
    found = watched(Recipe(channels_last=True, compile="default"), CPU, CONVOLUTION, IMAGES)
    assert found.missing(CONVOLUTION, optimizer)["channels_last"] == "no weight has this layout"


@pytest.mark.parametrize(("made", "why"), [(torch.float32, "outputs came out as float32"), (torch.bfloat16, None)])
def test_outputs_alone_tell_of_the_type_in_a_compiled_model(made: torch.dtype, why: str | None) -> None:
    found = watched(Recipe(precision="bf16", compile="default"), CPU, CONVOLUTION, IMAGES)
    assert found.seeing(nn.CrossEntropyLoss())(torch.zeros(2, 3, dtype=made), torch.zeros(2, dtype=torch.int64)) > 0
    assert found.missing(CONVOLUTION, torch.optim.SGD(CONVOLUTION.parameters())).get("precision") == why


def test_pageable_and_host_batches_of_a_device_say_so() -> None:
    recipe = Recipe(pin_memory=True, non_blocking=True, input_pipeline="device")
    found = watched(recipe, CUDA, CONVOLUTION, IMAGES)
    batches = [HostBatch(torch.zeros(1), torch.zeros(1)), HostBatch(torch.ones(1), torch.zeros(1))]
    assert [float(batch.images) for batch in found.first_seen(iter(batches))] == [0, 1], "none is lost"
    missing = found.missing(CONVOLUTION, torch.optim.SGD(CONVOLUTION.parameters()))
    assert missing["pin_memory"] == "batches lie in pageable memory"
    assert missing["input_pipeline"] == "batches came from the host"
    assert "non_blocking" not in missing
    assert list(found.first_seen(iter(()))) == []


def test_graphs_that_are_never_replayed_do_not_act() -> None:
    found = watched(Recipe(cuda_graph=True), CUDA, CONVOLUTION, IMAGES)
    optimizer = torch.optim.SGD(CONVOLUTION.parameters())
    graphs = found.captured = SimpleNamespace(replays=0)
    assert found.missing(CONVOLUTION, optimizer)["cuda_graph"] == "no graph was replayed"
    graphs.replays = 7
    assert "cuda_graph" not in found.missing(CONVOLUTION, optimizer) and found.facts()["replays"] == 7


def test_products_in_full_precision_are_no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not engagement._products_are_rounded(CPU), "a CPU's are exact"
    optimizer = torch.optim.SGD(CONVOLUTION.parameters())
    for rounded, missing in ((True, None), (False, "products came out in full precision")):
        monkeypatch.setattr(engagement, "_products_are_rounded", lambda _device, rounded=rounded: rounded)
        found = watched(Recipe(precision="tf32"), CUDA, CONVOLUTION, IMAGES)
        assert found.missing(CONVOLUTION, optimizer).get("precision") == missing


def test_what_is_compiled_after_the_warm_up_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.utils import counters

    found = watched(Recipe(compile="default"), CPU, CONVOLUTION, IMAGES)
    assert (found.facts()["graphs"], found.facts()["recompiled"]) == (0, 0)
    monkeypatch.setitem(counters["stats"], "unique_graphs", counters["stats"]["unique_graphs"] + 2)
    assert (found.facts()["graphs"], found.facts()["recompiled"]) == (0, 2)


@pytest.mark.parametrize(
    ("counted", "state"),
    [
        ({"fxgraph_cache_hit": 2}, "warm"),
        ({"fxgraph_cache_hit": 2, "fxgraph_cache_miss": 1}, "cold"),
        ({"fxgraph_cache_bypass": 1}, "cold"),
        ({}, None),
    ],
)
def test_a_cold_cache_is_told_from_a_warm_one(
    counted: dict[str, int], state: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.utils import counters

    found = Engagement(Recipe(compile="default"), CPU, plan_windows(8, 4, 1))
    with found.watching(CONVOLUTION):
        for name, count in counted.items():
            monkeypatch.setitem(counters["inductor"], name, counters["inductor"][name] + count)
    assert found.facts().get("compiler_cache") == state


def test_hooks_are_gone_when_the_warm_up_is_over() -> None:
    found = Engagement(Recipe(grad_checkpoint=True), CPU, plan_windows(8, 4, 1))
    with pytest.raises(KeyError), found.watching(CONVOLUTION):
        assert CONVOLUTION._forward_hooks
        raise KeyError
    assert not CONVOLUTION._forward_hooks


def test_all_processes_windows_count(digits_dir: Path) -> None:
    """Each of two has half of a window's micro-batches."""
    spec = small_spec(accumulation_steps=2, max_train_samples=128)
    model, data = _prepared(spec, digits_dir)
    try:
        group = SINGLE_PROCESS
        halves = SimpleNamespace(
            share=lambda windows: (plan_windows(64, 32, 1), group.share(windows)[1]), wrap=group.wrap
        )
        run = trainer.Run(spec, model, data, CPU, halves)
        assert run.engagement.facts()["micro_batches_per_update"] == 2
    finally:
        data.close()


def _prepared(spec: RunSpec, folder: Path) -> tuple[nn.Module, inputs.Inputs]:
    environment.prepare_process(spec)
    source = store.prepare_dataset(spec.dataset, folder, image_size=spec.recipe.image_size)
    return models.build_model(spec.model, spec.recipe, 10), inputs.build_inputs(spec, source, CPU)


def test_a_cell_that_takes_turns_tells_before_its_first_turn_is_over(digits_dir: Path) -> None:
    spec = small_spec(accumulation_steps=2, max_train_samples=128)
    model, data = _prepared(spec, digits_dir)
    try:
        orders = [TurnOrder(number=number, images=64, head=64) for number in range(3)]
        records = list(train_in_turns(spec, model, data, CPU, orders))
    finally:
        data.close()
    kinds = [type(record).__name__ for record in records]
    first = next(number for number, record in enumerate(records) if isinstance(record, Turn))
    assert isinstance(records[first - 1], Tags) and kinds.count("Tags") == 2, "and once more at the end"
    facts, missing = told(records)
    assert missing == {} and facts["micro_batches_per_update"] == 2 and facts["update_norm"] > 0
