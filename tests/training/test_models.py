"""From a catalog row to a module: stems, sizes, weights files, and what is refused."""

from __future__ import annotations

import hashlib
import os
import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from pipeline.design import catalog, timm_config
from pipeline.design.spec import Recipe
from pipeline.errors import InputError, OutsideError
from pipeline.training import models

TINY = Recipe(image_size=16)


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Calls of timm's factory."""
    calls: list[tuple[str, dict[str, Any]]] = []
    original = timm.create_model

    def spy(name: str, **options: Any) -> nn.Module:
        calls.append((name, options))
        return original(name, **options)

    monkeypatch.setattr(timm, "create_model", spy)
    return calls


@pytest.mark.parametrize(("image_size", "cifar"), [(32, True), (95, True), (96, False), (224, False)])
def test_resnet_has_a_cifar_stem_below_96_px(image_size: int, cifar: bool) -> None:
    with torch.device("meta"):
        model = models.build_model("resnet50", Recipe(image_size=image_size), 10)
    stem = model.conv1
    assert isinstance(stem, nn.Conv2d)
    assert (stem.kernel_size, stem.stride) == (((3, 3), (1, 1)) if cifar else ((7, 7), (2, 2)))
    assert isinstance(model.maxpool, nn.Identity) == cifar
    assert model.fc.out_features == 10
    with torch.device("meta"):
        features = model.forward_features(torch.empty(1, 3, image_size, image_size))
    assert features.shape[-1] == -(-image_size // (8 if cifar else 32))


def test_other_families_keep_their_stem() -> None:
    with torch.device("meta"):
        model = models.build_model("efficientnet_b0", Recipe(image_size=32), 10)
    assert model.conv_stem.stride == (2, 2)


def test_only_transformers_get_a_size(created: list[tuple[str, dict[str, Any]]]) -> None:
    models.build_model("test_vit", Recipe(image_size=16, patch_size=8), 10)
    models.build_model("test_resnet", TINY, 10)
    models.build_model("test_efficientnet", TINY, 10)
    assert [set(options) & {"img_size", "patch_size"} for _, options in created] == [
        {"img_size", "patch_size"},
        set(),
        set(),
    ]
    assert created[0][1]["img_size"] == 16 and created[0][1]["patch_size"] == 8
    assert all(options["pretrained"] is False for _, options in created)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_tiny_models_train_on_small_images(name: str) -> None:
    recipe = Recipe(image_size=16, patch_size=8 if name == "test_vit" else None)
    output = models.build_model(name, recipe, 100)(torch.zeros(2, 3, 16, 16))
    assert output.shape == (2, 100)


def test_any_architecture_of_timm() -> None:
    model = models.build_model("timm:mobilenetv3_small_050", Recipe(image_size=32), 7)
    assert model.default_cfg["architecture"] == "mobilenetv3_small_050"
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    sized = models.build_model("timm:test_vit2", Recipe(image_size=32), 7)
    assert sized(torch.zeros(2, 3, 32, 32)).shape == (2, 7), "a transformer gets its size without a row"


@pytest.mark.parametrize("name", ["resnet51", "timm:", "timm:resnet51", "", "TEST_RESNET"])
def test_unknown_models_are_refused(name: str) -> None:
    with pytest.raises(InputError) as caught:
        models.build_model(name, TINY, 10)
    assert repr(name) in str(caught.value) and "allowed: " in str(caught.value)


def test_architectures_are_known_without_importing_timm() -> None:
    assert set(catalog.timm_architectures()) <= set(timm.list_models()) | set(timm.list_modules())
    assert len(catalog.timm_architectures()) > 0.9 * len(timm.list_models())


def test_tags_are_known_without_importing_timm() -> None:
    known = {tuple(name.split(".", 1)) for name in timm.list_models("*.*", include_tags=True)}
    written = {(name, tag) for name, tags in catalog.timm_tags().items() for tag in tags}
    registered = {pair for pair in written if pair[0] in catalog.timm_architectures()}
    assert registered <= known and len(registered) > 0.9 * len(known)
    assert not {name for name, _ in known - written} & set(catalog.timm_tags()), "all tags of a model, or none"


def test_sizes_are_known_without_importing_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every architecture whose entry timm writes out, which are nearly all."""
    monkeypatch.setattr(timm_config, "_tables", lru_cache(timm_config._tables.__wrapped__))  # each module once
    other = []
    names = catalog.timm_architectures()
    for name in names[:: 1 if len(names) < 300 else 5]:
        written, known = timm_config.timm_config.__wrapped__(name), timm.get_pretrained_cfg(name)
        if known is not None and (written.image_size, written.interpolation) != (
            known.input_size[1],
            known.interpolation,
        ):
            other.append(name)
    assert len(other) < 0.01 * len(names), other
    assert not [name for name in other if not name.startswith(("qwen3_vit", "deepseek_vit"))]


@pytest.mark.parametrize("name", ["timm:qwen3_vit_306m_enc.nonsense", "timm:nf_regnet_b0.nonsense"])
def test_tags_that_timm_computes_are_looked_up_in_it(name: str) -> None:
    assert catalog.model(name).pretrained_tag == "nonsense"
    with pytest.raises(InputError, match=f"^model: '{name}' is not allowed; allowed: "):
        models.build_model(name, TINY, 10)


@pytest.mark.parametrize("name", ["timm:nf_regnet_b0", "timm:convnext_atto_rms", "timm:resnet50_mlp.untrained"])
def test_weights_that_there_are_none_of_are_wrong_input_and_no_matter_of_the_network(name: str) -> None:
    with pytest.raises(InputError, match=r"^recipe\.pretrained: True is not allowed; allowed: false for model"):
        models.build_model(name, Recipe(image_size=32, pretrained=True), 10)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_file_is_loaded(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = models.build_model("test_resnet", TINY, 10)
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": source.state_dict()}, file)
    else:
        from safetensors.torch import save_file

        save_file(source.state_dict(), file)
    torch.manual_seed(2)
    loaded = models.build_model("test_resnet", TINY.model_copy(update={"weights": str(file)}), 10)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in source.state_dict().items())


def test_classifier_of_another_width_is_left_as_initialised(tmp_path: Path) -> None:
    source = models.build_model("test_resnet", TINY, 10)
    file = tmp_path / "weights.pt"
    torch.save(source.state_dict(), file)
    recipe = TINY.model_copy(update={"weights": str(file)})
    torch.manual_seed(3)
    expected = models.build_model("test_resnet", TINY, 100)
    torch.manual_seed(3)
    loaded = models.build_model("test_resnet", recipe, 100)
    head = models.classifier_names(loaded)[0]
    for name, value in loaded.state_dict().items():
        reference = expected if name.startswith(head) else source
        assert torch.equal(value, reference.state_dict()[name]), name


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_that_changed_after_the_plan_are_not_loaded(suffix: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / f"weights{suffix}"
    digests = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = models.build_model("test_resnet", TINY, 10).state_dict()
        torch.save(state, file) if suffix == ".pt" else save_file(state, file)
        digests.append(hashlib.sha256(file.read_bytes()).hexdigest())
    planned, there = ({"weights": str(file), "weights_sha256": digest} for digest in digests)
    models.build_model("test_resnet", TINY.model_copy(update=there), 10)
    with pytest.raises(InputError, match=r"^recipe\.weights: .*does not change between plan and run"):
        models.build_model("test_resnet", TINY.model_copy(update=planned), 10)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


def _wrong_shapes(file: Path) -> None:
    state = models.build_model("test_resnet", TINY, 10).state_dict()
    name = next(key for key, value in state.items() if value.ndim == 4)
    torch.save({**state, name: torch.zeros(1, 2, 3, 4)}, file)


def _incomplete(file: Path) -> None:
    state = models.build_model("test_resnet", TINY, 10).state_dict()
    torch.save(dict(list(state.items())[:3]), file)


def _numbers(file: Path) -> None:
    state = models.build_model("test_resnet", TINY, 10).state_dict()
    torch.save(dict.fromkeys(state, 3), file)


@pytest.mark.parametrize(
    ("write", "allowed"),
    [
        (_wrong_shapes, "weights that fit this model"),
        (_incomplete, "weights that fit this model"),
        (lambda file: torch.save({"other": torch.zeros(2)}, file), "this model's parameter names"),
        (lambda file: torch.save([torch.zeros(2)], file), "this model's parameter names"),
        (lambda file: file.write_bytes(b"no weights"), "a state dict of tensors"),
        (lambda file: file.write_bytes(b""), "a state dict of tensors"),
        (lambda file: file.mkdir(), "a state dict of tensors"),
        (lambda file: os.mkfifo(file), "a state dict of tensors (not a regular file)"),
        (lambda file: file.symlink_to("/dev/zero"), "a state dict of tensors (not a regular file)"),
        (lambda file: torch.save({"conv1.weight": 3}, file), "this model's parameter names"),
        (_numbers, "weights that fit this model"),
    ],
)
def test_weights_files_that_are_refused(write: Any, allowed: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    write(file)
    with pytest.raises(InputError) as caught:
        models.build_model("test_resnet", TINY.model_copy(update={"weights": str(file)}), 10)
    message = str(caught.value)
    assert message.startswith("recipe.weights: ") and allowed in message and "\n" not in message


@pytest.mark.parametrize("save", [torch.save, lambda value, file: file.write_bytes(pickle.dumps(value))])
def test_code_in_a_weights_file_is_not_run(save: Any, tmp_path: Path) -> None:
    file, made = tmp_path / "weights.pt", tmp_path / "made"
    save({"conv1.weight": Trap(made)}, file)
    with pytest.raises(InputError, match=r"recipe\.weights: .*not allowed; allowed: a state dict of tensors"):
        models.build_model("test_resnet", TINY.model_copy(update={"weights": str(file)}), 10)
    assert not made.exists()


def test_pretrained_weights_offline_say_the_cause() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(OutsideError) as caught:
        models.build_model("resnet50", Recipe(image_size=224, pretrained=True), 10)
    message = str(caught.value)
    assert caught.value.exit_code == 3 and "\n" not in message
    assert "model resnet50: pretrained weights cannot be fetched (" in message and "weights=FILE" in message
    assert "offline" in message.lower() or "cache" in message.lower()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "timm:mobilenetv3_small_050"])
def test_flops_are_positive_and_cost_no_memory(name: str) -> None:
    flops = models.training_flops_per_image(name, Recipe(image_size=32), 10)
    assert flops is not None and flops > 1e4


def test_flops_of_a_known_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10, bias=False))
    monkeypatch.setattr(models, "build_model", lambda *_: layer.to("meta"))
    flops = models.training_flops_per_image("test_resnet", Recipe(image_size=8), 10)
    assert flops == pytest.approx(2 * 2 * 192 * 10), "forward and the gradient of the weight; none of the input"


def test_batchnorm_is_noticed() -> None:
    assert models.has_batchnorm(models.build_model("test_resnet", TINY, 10))
    assert not models.has_batchnorm(models.build_model("test_vit", Recipe(image_size=16, patch_size=8), 10))


def test_initial_weights_follow_the_seed() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(models.build_model("test_efficientnet", TINY, 10).state_dict())
    same = [all(torch.equal(states[0][name], other[name]) for name in other) for other in states[1:]]
    assert same == [True, False]
