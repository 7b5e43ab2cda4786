"""Evidence of a run on a GPU that never was: real reports of simulated studies, packed as the runner packs them."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "experiments" / "gpu"))  # as Python does for a script

from pipeline.analysis.effects import estimate  # noqa: E402
from pipeline.analysis.report.files import write_report  # noqa: E402
from pipeline.analysis.report.report import build_report  # noqa: E402
from tests.support.planted import planted  # noqa: E402

H100 = "NVIDIA H100 80GB HBM3"
LAYOUT_TRUTH = {"amp": -0.8, "channels_last": 0.0, "cuda_graph": 0.0, "amp:channels_last": -0.4}
RUN = {
    "device": "cuda",
    "gpu": H100,
    "began": "2026-11-26T23:30:00Z",
    "seconds": 431.5,
    "budget": 540.0,
    "commit": "c760aa26a3d2a1ac1a4e06fa8392c82e87a1500b",
    "dirty": False,
    "python": "3.12.3",
    "torch": "2.11.0+cu130",
    "argv": ["run.py", "--device", "cuda"],
    "stages": [
        {"stage": "smoke", "seconds": 98.2, "status": "ok", "detail": ""},
        {"stage": "paper32", "seconds": 120.0, "status": "ok", "detail": ""},
        {"stage": "launch", "seconds": 60.0, "status": "timeout", "detail": "60 s | limit"},
        {"stage": "bench", "seconds": 0.0, "status": "left out", "detail": "no time left"},
    ],
}
SMOKE = '<testsuites><testsuite name="pytest" tests="20" failures="1" errors="1" skipped="3" time="98.2"/></testsuites>'


def paper224_frame(device: str = "cuda", gpu: bool = True) -> pd.DataFrame:
    """Two models over two input pipelines: the analysis makes a model of its own of each setting."""
    frames = []
    for pipeline in ("loader", "gather"):
        found = planted(
            models=("vit_base_patch16_224", "efficientnet_b0"), datasets=("imagefolder:CIFAR",), blocks=2, seed=7,
            device=device, gpu=gpu,
        ).runs  # fmt: skip
        found["run_id"] += pipeline
        frames.append(found.assign(**{"params.recipe.input_pipeline": pipeline, "params.recipe.batch_size": "96"}))
    return pd.concat(frames, ignore_index=True)


def write_studies(root: Path, device: str = "cuda", gpu: bool = True) -> None:
    """Analyses three simulated studies into `studies/`."""
    settings = {"datasets": ("imagefolder:CIFAR",), "device": device, "gpu": gpu}
    studies = {
        "paper32": planted(models=("resnet50",), blocks=3, **settings),
        "layout32": planted(
            models=("resnet50",), blocks=3, seed=3, techniques=("amp", "channels_last", "cuda_graph"),
            truth=LAYOUT_TRUTH, **settings,
        ),
        "paper224": replace(planted(), runs=paper224_frame(device, gpu), history=pd.DataFrame()),
    }  # fmt: skip
    for name, study in studies.items():
        study.runs["tags.env.gpu_driver"] = "580.65"
        named = replace(study, name=name)
        write_report(build_report(named, estimate(named)), root / "studies" / name)


def write_rest(root: Path, run: dict | None = None) -> None:
    """Writes everything but the studies."""
    files = {
        "run.json": json.dumps(run or RUN),
        "doctor.json": json.dumps({"checks": [{"name": "cuda", "status": "ok", "detail": H100, "remedy": ""}]}),
        "smoke.txt": "".join(f"line {number}\n" for number in range(100)),
        "smoke.xml": SMOKE,
        "probes.json": json.dumps({"matmul": {"bf16_tflops": 731.25, "ok": True}, "syncs": {"fp16": {"count": 2}}}),
        "logs/paper32.txt": "a log\n",
        "mlruns/mlflow.db": "raw",
        "mlruns/journal/1.jsonl": "{}\n",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def pack(root: Path, out: Path, parts: int = 4, extra: tuple[tarfile.TarInfo, ...] = ()) -> list[Path]:
    """Packs a folder into parts of equal size; `extra` members go in as they are."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for path in sorted(root.rglob("*")):
            archive.add(path, path.relative_to(root).as_posix(), recursive=False)
        for member in extra:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    data, out = stream.getvalue(), out
    out.mkdir(parents=True, exist_ok=True)
    size = -(-len(data) // parts)
    made = []
    for number in range(parts):
        made.append(out / f"results.tar.gz.{number + 1}")
        made[-1].write_bytes(data[number * size : (number + 1) * size])
    return made


def tree(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows_of(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    lines = text.split(f"{heading}\n", 1)[1].splitlines()
    rows = []
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.replace("\\|", "\0").strip("|").split("|")])
        elif rows:
            break
    return rows[2:]
