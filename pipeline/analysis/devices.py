"""Peak throughput of known devices, for model FLOPs utilisation.

Dense peaks in TFLOP/s from the vendors' data sheets (sparsity halved out). A device that is not here has no
peak, and
then no utilisation is reported: a guess would look like a measurement.
"""

from __future__ import annotations

import re

# First match wins: the more special name stands first. Columns: fp32, tf32, fp16 and bf16 with fp32
# accumulation.
_PEAKS: tuple[tuple[str, dict[str, float]], ...] = (
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


def peak_flops(gpu_name: str, precision: str) -> float | None:
    """Look up a device's dense peak in FLOP/s for one precision; None for an unknown device or precision."""
    for pattern, peaks in _PEAKS:
        if re.search(pattern, gpu_name, re.IGNORECASE):
            tera = peaks.get(precision)
            return None if tera is None else tera * 1e12
    return None
