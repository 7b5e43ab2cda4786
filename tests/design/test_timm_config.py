"""What timm's sources say of an architecture's images; `training/test_models.py` compares it with timm itself."""

from __future__ import annotations

import subprocess
import sys

from pipeline.design import catalog, timm_config
from pipeline.design.timm_config import TimmConfig
from tests.support.ablate import environment


def test_the_default_weights_entry_is_read_and_that_of_a_tag() -> None:
    assert timm_config.timm_config("mobilenetv3_small_050") == TimmConfig("mobilenetv3", 224, "bicubic")
    assert timm_config.timm_config("test_vit") == TimmConfig("vision_transformer", 160, "bicubic")
    assert timm_config.timm_config("ecaresnet200d").image_size == 256, "through a function of a function"
    tagged = timm_config.timm_config("mobilenetv4_conv_small", "e3600_r256_in1k")
    assert (tagged.image_size, timm_config.timm_config("mobilenetv4_conv_small").image_size) == (256, 224)


def test_what_cannot_be_read_is_timms_own_default() -> None:
    assert timm_config.timm_config("nosuch") == TimmConfig("", 224, "bicubic")
    assert timm_config.timm_config("vit_large_patch14_clip_quickgelu_336").image_size == 336, "as its name says"


def test_a_source_that_this_python_cannot_read_is_no_error(monkeypatch: object) -> None:
    patch = monkeypatch.setattr  # type: ignore[attr-defined]
    patch(catalog, "timm_sources", lambda: {"odd": "@register_model\ndef odd_net(:\n"})
    timm_config._tables.cache_clear()
    assert timm_config.timm_config.__wrapped__("odd_net") == TimmConfig("odd", 224, "bicubic")
    timm_config._tables.cache_clear()


def test_nothing_heavy_is_imported_for_it() -> None:
    code = (
        "import sys; from pipeline.design.timm_config import timm_config; timm_config('resnet18');"
        "print(sorted({'timm', 'torch', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
