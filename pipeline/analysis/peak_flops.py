"""Peak throughput of known devices: what the data sheet promises, and what large matrix products reach.

Both in TFLOP/s for dense matrices. The precision is that of a recipe: fp32 without TensorFloat-32, tf32, and fp16
and bf16 with fp32 accumulation, as under autocast. A device that is not here has no peak, and a share of it is not
reported then: a guess would look like a measurement.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# From the vendors' data sheets, sparsity halved out. First match wins: the more special name stands first.
_SHEET: tuple[tuple[str, dict[str, float]], ...] = (
    (r"H100.*PCIe", {"fp32": 51.2, "tf32": 378.0, "fp16": 756.0, "bf16": 756.0}),
    (r"H100.*NVL", {"fp32": 60.0, "tf32": 417.5, "fp16": 835.5, "bf16": 835.5}),
    (r"H100|H200|H800", {"fp32": 66.9, "tf32": 494.7, "fp16": 989.4, "bf16": 989.4}),
    (r"A100|A800", {"fp32": 19.5, "tf32": 156.0, "fp16": 312.0, "bf16": 312.0}),
    (r"V100", {"fp32": 15.7, "fp16": 125.0}),
    (r"\bT4\b", {"fp32": 8.1, "fp16": 65.0}),
    (r"\bL40S\b", {"fp32": 91.6, "tf32": 183.0, "fp16": 362.0, "bf16": 362.0}),
    (r"\bL4\b", {"fp32": 30.3, "tf32": 60.0, "fp16": 121.0, "bf16": 121.0}),
    (r"\bA10\b", {"fp32": 31.2, "tf32": 62.5, "fp16": 125.0, "bf16": 125.0}),
    (r"RTX A6000", {"fp32": 38.7, "tf32": 77.4, "fp16": 154.8, "bf16": 154.8}),
    (r"RTX 4090", {"fp32": 82.6, "tf32": 82.6, "fp16": 165.2, "bf16": 165.2}),
    (r"RTX 3090", {"fp32": 35.6, "tf32": 35.6, "fp16": 71.0, "bf16": 71.0}),
)

# Measured by milabench (the repository mila-iqia/milabench): torch.mm of 8192 x 8192 matrices, one of them the
# identity (config/synthetic.yaml, benchmarks/flops/main.py), means over all repeats and devices of a host. Whole names
# only: another memory, form factor or a slice of a device (MIG) is another device.
_ACHIEVED: tuple[tuple[str, dict[str, float]], ...] = (
    # Comments on pull requests #277 (bf16, fp16, fp32; "product: NVIDIA H100 80GB HBM3") and #259 (tf32, in a run whose
    # other three figures are those of #277 within 0.2 %).
    (r"NVIDIA H100 80GB HBM3", {"fp32": 52.0, "tf32": 406.7, "fp16": 799.3, "bf16": 783.3}),
    # README.md, section "Report", "product: NVIDIA A100-SXM4-80GB".
    (r"NVIDIA A100-SXM4-80GB", {"fp32": 19.1, "tf32": 146.6, "fp16": 289.3, "bf16": 293.4}),
    # Branch "reports", 2adad57/NVIDIA_A100_80GB_PCIe/README.md, "product: NVIDIA A100 80GB PCIe".
    (r"NVIDIA A100 80GB PCIe", {"fp32": 19.2, "tf32": 134.9, "fp16": 252.8, "bf16": 273.6}),
)


def peak_flops(gpu_name: str, precision: str) -> float | None:
    """Looks up a device's dense peak by its data sheet.

    Args:
        gpu_name: The device's name, as NVML gives it.
        precision: Precision of a recipe: fp32, tf32, fp16 or bf16.

    Returns:
        FLOP/s; None for an unknown device or precision, and for a slice of a device (MIG).

    Examples:
        >>> peak_flops("NVIDIA A100-SXM4-80GB", "tf32")
        156000000000000.0
    """
    if " MIG " in gpu_name:
        return None
    return _peak((peaks for pattern, peaks in _SHEET if re.search(pattern, gpu_name, re.IGNORECASE)), precision)


def achieved_flops(gpu_name: str, precision: str) -> float | None:
    """Looks up the FLOP/s that large matrix products reach on a device; None for an unknown device or precision."""
    return _peak((peaks for pattern, peaks in _ACHIEVED if re.fullmatch(pattern, gpu_name)), precision)


def _peak(entries: Iterable[dict[str, float]], precision: str) -> float | None:
    """Picks a precision from the first of some entries, in FLOP/s."""
    tera = next(iter(entries), {}).get(precision)
    return None if tera is None else tera * 1e12
