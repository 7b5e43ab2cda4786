"""Figures of what the runs themselves did: time budgets, learning curves, the order of the runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.effects import Effects
from pipeline.analysis.frame import BASELINE
from pipeline.analysis.report import drawing
from pipeline.analysis.report.drawing import BG, FG, GRID, MARKERS, SERIES, Drawing, plain
from pipeline.analysis.time_budget import Budget
from pipeline.analysis.trust import Trust
from pipeline.design.names import BUDGET_PHASES, TRAIN_LOSS, VAL_ACCURACY

_MAX_POINTS, _MAX_PANELS = 1500, 6
_INFINITE = 1e300


def budget_bars(budgets: Sequence[Budget], effects: Effects) -> Drawing | None:
    """Draws the stacked time budget of every cell, its length the cell's time over the baseline's."""
    from matplotlib.collections import PolyCollection

    shown = list(budgets)[:64]
    if not shown:
        return None
    cells = effects.cells[effects.cells["response"].eq("train_seconds")]
    ratio = {(r.model, r.dataset, r.cell): float(r.estimate) for r in cells.itertuples()}  # type: ignore[arg-type]
    names = [f"{b.cell}, {b.model} / {b.dataset}" for b in shown]
    left = drawing.text_width(names, 8) + 0.2
    fig, (ax,) = drawing.figure(7.2, 1.0 + 0.2 * len(shown), left=min(left, 4.0), bottom=0.8)
    y = np.arange(len(shown))[::-1]
    length = np.array([ratio.get((b.model, b.dataset, b.cell), 1.0) for b in shown])
    length = np.where(np.isnan(length), 1.0, length)
    edge = np.zeros(len(shown))
    for i, phase in enumerate(BUDGET_PHASES):
        width = np.array([b.shares.get(phase, 0.0) for b in shown]) * length
        if width.any():
            hatch = ("", "//", "", "\\\\", "", "..")[i]
            # One collection per phase: hundreds of single bars would be most of the report's time.
            corners = np.array([[edge, edge + width, edge + width, edge], [y - 0.4, y - 0.4, y + 0.4, y + 0.4]])
            bars = PolyCollection(
                list(corners.transpose(2, 1, 0)),
                facecolors=SERIES[i],
                edgecolors=BG,
                hatch=hatch,
                linewidths=0.4,
                label=phase,
            )
            ax.add_collection(bars)
            edge += width
    bounded = np.array([b.parts.get("launch", 0.0) - b.shares.get("idle", 0.0) for b in shown]) * length
    if (bounded > 0).any():  # beside idle time, so that both together are what launching takes
        end = edge - np.array([b.shares.get("idle", 0.0) for b in shown]) * length
        corners = np.array([[end - bounded, end, end, end - bounded], [y - 0.1, y - 0.1, y + 0.1, y + 0.1]])
        ax.add_collection(
            PolyCollection(
                list(corners.transpose(2, 1, 0)), facecolors=FG, edgecolors=BG, linewidths=0.4, label="launch-bound"
            )
        )
    ax.set_yticks(y, [plain(name) for name in names])
    ax.tick_params(axis="y", labelsize=8)
    ax.set_ylim(-0.8, len(shown) - 0.2)
    ax.set_xlim(0, 1.03 * float(edge.max()))
    ax.set_xlabel("time of a step, baseline = 1")
    drawing.legend(fig, loc="lower center", ncols=7, columnspacing=1.2, handlelength=1.6)
    alt = "; ".join(f"{b.cell} of {b.model} / {b.dataset}: bound by {b.bound}, {b.bound_share:.0%}" for b in shown)
    caption = "Where the time of a step goes, per cell."
    if (bounded > 0).any():
        caption += " Thin bar: as much of forward, backward and optimizer as only kept up with the host's launches."
    if len(budgets) > len(shown):
        caption += f" The first {len(shown)} of {len(budgets)} cells."
    return Drawing("budget", "Time budget", drawing.render(fig, "budget", "Time budget", alt), alt, caption)


def curves(effects: Effects, history: pd.DataFrame) -> Drawing | None:
    """Draws mean learning curves of each cell, one panel per group."""
    if history.empty or "key" not in history:
        return None
    key = next((k for k in (VAL_ACCURACY, TRAIN_LOSS) if history["key"].eq(k).any()), None)
    if key is None:
        return None
    runs = effects.study.runs[["run_id", "model", "dataset", "cell"]]
    points = history[history["key"].eq(key)].merge(runs, on="run_id")
    # a diverged run has infinite losses, which MLflow keeps as the largest number: no axis goes that far
    points = points[points["value"].abs() < _INFINITE]
    means = points.groupby(["model", "dataset", "cell", "step"])["value"].mean().reset_index()
    groups = list(means[["model", "dataset"]].drop_duplicates().itertuples(index=False, name=None))
    shown = groups[:_MAX_PANELS]
    if not shown:
        return None
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    cells = list(dict.fromkeys(means["cell"]))[:16]
    cells.sort(key=lambda c: (c != BASELINE, c.count("+"), c))
    fig, axes = drawing.figure(
        7.2,
        2.3 * lines + 0.9,
        lines,
        columns,
        bottom=0.6 + 0.2 * math.ceil(len(cells) / 4),
        top=0.3,
        gap=(0.45, 0.75),
    )
    ends = []
    for ax, (model, dataset) in zip(axes, shown, strict=False):
        part = means[means["model"].eq(model) & means["dataset"].eq(dataset)]
        for i, cell in enumerate(cells):
            line = part[part["cell"].eq(cell)].sort_values("step")
            if len(line):
                style = ("-", "--")[i // 8 % 2]
                ax.plot(
                    line["step"],
                    line["value"],
                    style,
                    marker=MARKERS[i % 8],
                    color=SERIES[i % 8],
                    label=cell,
                )
                ax.lines[-1].set_markersize(3.5)
                ends.append(f"{cell} of {model} / {dataset}: {line['value'].iloc[-1]:.3f}")
        ax.set_title(plain(f"{model} / {dataset}"), fontsize=min(9.0, 9.0 * 26 / len(f"{model} / {dataset}")))
        ax.set_xlabel("epoch")
        ax.grid(color=GRID, linewidth=0.5)
        if part["step"].nunique() > 2:
            ax.locator_params(axis="x", integer=True)
        else:  # too short an axis for whole numbers to be found on it
            ax.set_xticks(sorted(part["step"].unique()))
    for ax in axes[len(shown) :]:
        ax.set_visible(False)
    axes[0].set_ylabel(key)
    found = dict(kv for ax in axes for kv in zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    drawing.legend(fig, handles=list(found.values()), labels=[plain(n) for n in found], loc="lower center", ncols=4)
    alt = f"Last values of {key}. " + "; ".join(ends)
    caption = f"{key} by epoch, mean over blocks."
    if len(groups) > len(shown):
        caption += f" The first {len(shown)} of {len(groups)} groups."
    return Drawing("curves", "Learning curves", drawing.render(fig, "curves", "Learning curves", alt), alt, caption)


def run_order_figure(trust: Trust) -> Drawing | None:
    """Draws each run's deviation from what its cell and block predict, in run order."""
    order = trust.order
    if order.empty:
        return None
    step = math.ceil(len(order) / _MAX_POINTS)
    fig, (ax,) = drawing.figure(7.2, 3.0, bottom=0.85)
    percent = 100 * np.expm1(order["deviation"].to_numpy(dtype=float))
    place = np.arange(len(order))
    codes = order["block"].factorize()[0]
    for parity, label in enumerate(("1st, 3rd, ... block", "2nd, 4th, ... block")):
        at = (codes % 2 == parity) & (place % step == 0)
        look: Any = {"color": SERIES[parity], "marker": MARKERS[parity], "linestyle": "none", "markersize": 4}
        if at.any():
            ax.plot(place[at] + 1, percent[at], label=label, **look)
    bad = order["tainted"].ne("").to_numpy()
    if bad.any():
        ax.plot(place[bad] + 1, percent[bad], "x", color=drawing.BAD, markersize=9, label="tainted", linestyle="none")
    ax.axhline(0, color=FG, linewidth=0.8)
    ax.grid(axis="y", color=GRID, linewidth=0.5)
    ax.set_xlabel("run, in the order of the runs")
    ax.set_ylabel("time off its cell and block, %")
    drawing.legend(fig, loc="lower center", ncols=3)
    drift = "" if trust.drift is None else f" Drift over a block: {100 * (trust.drift.value - 1):+.1f} %."
    spread = f"standard deviation {percent.std():.2f} %, largest {np.abs(percent).max():.2f} %"
    alt = f"{len(order)} runs; {spread}.{drift}"
    caption = "A slope within a block is drift: warm-up, throttling, a neighbour." + drift
    if step > 1:
        caption += f" Every {step}th run is drawn."
    title = "Run order and drift"
    return Drawing("order", title, drawing.render(fig, "order", title, alt), alt, caption)
