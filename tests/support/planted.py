"""Simulated studies with a known truth, in the shape that the tracking store hands over."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd

from pipeline.tracking.study_data import StudyData

TECHNIQUES = ("ga", "amp", "pm")
TRUTH = {"ga": np.log(0.9), "amp": np.log(0.7), "pm": 0.0, "ga:amp": np.log(1.05)}


def planted(
    models=("resnet",),
    datasets=("digits",),
    blocks=3,
    techniques=TECHNIQUES,
    truth=TRUTH,
    noise=0.01,
    seed=0,
    device="cuda",
    gpu=True,
    drift=0.0,
    order="random",
    launch_bound=None,
):
    """Simulate a study.

    `truth` maps terms to effects on the log of train_seconds, by the contract's definitions of main effects
    (one name) and interactions (names joined by a colon). `drift` is the log growth over a block;
    `launch_bound` the fraction of the device's time that launches bound, absent where None.
    """
    rng = np.random.default_rng(seed)
    cells = list(product((0, 1), repeat=len(techniques)))
    rows = []
    for block in range(blocks):
        layout = [(m, d, c) for m in models for d in datasets for c in cells]
        if order == "random":
            layout = [layout[i] for i in rng.permutation(len(layout))]
        shift = rng.normal(0, 0.05)
        for position, (model, dataset, cell) in enumerate(layout):
            on = {t: bool(v) for t, v in zip(techniques, cell, strict=True)}
            log_time = np.log(100.0) + shift + rng.normal(0, noise) + effect_of(on, truth)
            log_time += drift * position / max(len(layout) - 1, 1)
            row = _row(rng, block, position, model, dataset, on, log_time, device, gpu)
            if launch_bound is not None:
                row["metrics.step/launch_bound_fraction"] = launch_bound
            rows.append(row)
    return StudyData("planted", pd.DataFrame(rows), history_of(rows), tuple(techniques))


def with_gpu(name, **options):
    """Simulate a study of two blocks on a device of this name."""
    study = planted(blocks=2, **options)
    study.runs["tags.env.gpu_name"] = name
    return study


def effect_of(on, truth):
    """Give a cell's log response: each term's effect spread evenly about zero (half up, half down)."""
    total = 0.0
    for term, value in truth.items():
        sign = np.prod([1 if on.get(name) else -1 for name in term.split(":")])
        total += sign * value / 2 ** len(term.split(":"))
    return total


def _row(rng, block, position, model, dataset, on, log_time, device, gpu):
    names = "+".join(t for t, v in on.items() if v) or "baseline"
    seconds = float(np.exp(log_time))
    start = pd.Timestamp("2026-01-01", tz="UTC") + pd.Timedelta(hours=24 * block) + pd.Timedelta(minutes=3 * position)
    row = {
        "run_id": f"{model}-{dataset}-{names}-{block}",
        "status": "FINISHED",
        "start_time": start,
        "end_time": start + pd.Timedelta(seconds=seconds),
        "tags.mlflow.runName": f"{model}/{dataset}/{names}/s{block}",
        "tags.ablate.kind": "run",
        "tags.ablate.block": str(block),
        "tags.ablate.position": str(position),
        "tags.ablate.outcome": "finished",
        "tags.env.hostname": "host",
        "tags.env.gpu_name": "NVIDIA H100 80GB HBM3" if gpu else None,
        "params.model": model,
        "params.dataset": dataset,
        "params.seed": str(block),
        "params.techniques": names,
        "params.device": device,
        "params.recipe.accumulation_steps": "2" if on.get("ga") else "1",
        "params.recipe.precision": "fp16" if on.get("amp") else "fp32",
        "params.recipe.pin_memory": str(bool(on.get("pm"))),
        "params.recipe.batch_size": "128",
        "metrics.time/train_seconds": seconds,
        "metrics.throughput/images_per_second": 1e6 / seconds,
        "metrics.test/accuracy": 0.9 + rng.normal(0, 0.002) - (0.004 if on.get("amp") else 0.0),
        "metrics.test/f1_macro": 0.89 + rng.normal(0, 0.002),
    }
    row |= {f"params.{t}": "on" if v else "off" for t, v in on.items()}
    shares = {
        "data_wait": 0.1,
        "h2d": 0.02,
        "forward": 0.25,
        "backward": 0.5,
        "optimizer": 0.08,
        "idle": 0.05,
    }
    row |= {f"metrics.budget/{phase}_seconds": seconds * share for phase, share in shares.items()}
    if gpu:
        row["metrics.memory/gpu_peak_allocated_mib"] = 4000.0 * (0.6 if on.get("amp") else 1.0)
        row["metrics.energy/gpu_joules"] = seconds * 300 * float(np.exp(rng.normal(0, 0.01)))
        row["metrics.model/flops_per_image"] = 8e9
    return row


def history_of(rows, epochs=3):
    """Make a short learning curve per run."""
    points = []
    for row in rows:
        for step in range(1, epochs + 1):  # as runs log them: the step is the epoch, from 1
            value = row["metrics.test/accuracy"] * step / epochs
            points.append((row["run_id"], "val/accuracy", step, 1000 * step, value))
            points.append((row["run_id"], "train/loss", step, 1000 * step, 2.0 - (step - 1) / epochs))
    return pd.DataFrame(points, columns=["run_id", "key", "step", "timestamp", "value"])


def rows(effects, **where):
    """Pick rows of the table, with their details, by columns; of the training time unless another is named."""
    table = pd.concat([effects.table, effects.details.drop(columns="blocks")], axis=1)
    where = {"response": "train_seconds", **where}
    for column, value in where.items():
        table = table[table[column].eq(value)]
    return table


def one(effects, **where):
    """Pick the one row that `rows` finds."""
    found = rows(effects, **where)
    assert len(found) == 1, found
    return found.iloc[0]


def without(study, mask):
    """Drop runs of a study."""
    return replace(study, runs=study.runs[~mask].reset_index(drop=True))
