"""Peak throughput of devices."""

import pytest

from pipeline.analysis.peak_flops import achieved_flops, peak_flops

SXM = "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("gpu", "precision", "peak", "achieved"),
    [
        (SXM, "fp32", 66.9e12, 52.0e12),
        (SXM, "tf32", 494.7e12, 406.7e12),
        (SXM, "fp16", 989.4e12, 799.3e12),
        (SXM, "bf16", 989.4e12, 783.3e12),
        (SXM, "", None, None),
        ("NVIDIA A100-SXM4-80GB", "fp16", 312e12, 289.3e12),
        ("NVIDIA A100 80GB PCIe", "fp16", 312e12, 252.8e12),
        ("NVIDIA A100-SXM4-40GB", "fp16", 312e12, None),
        ("NVIDIA H100 PCIe", "bf16", 756e12, None),
        ("NVIDIA H100 NVL", "bf16", 835.5e12, None),
        ("NVIDIA H200", "bf16", 989.4e12, None),
        (f"{SXM} MIG 1g.10gb", "bf16", None, None),
        ("Tesla T4", "bf16", None, None),
        ("Quantum 9000", "fp32", None, None),
    ],
)
def test_a_device_has_the_figures_of_its_own_name_only(gpu, precision, peak, achieved):
    assert peak_flops(gpu, precision) == pytest.approx(peak)
    assert achieved_flops(gpu, precision) == pytest.approx(achieved)
