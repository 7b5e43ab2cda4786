"""Figures of what the runs themselves did: time budgets, learning curves, the order of the runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.analysis.effects import Effects
from pipeline.analysis.frame import BASELINE
from pipeline.analysis.report import drawing
from pipeline.analysis.report.drawing import BG, FG, GRID, MARKERS, SERIES, Drawing, plain
from pipeline.analysis.report.labels import GroupLabels, shortened
from pipeline.analysis.time_budget import Budget
from pipeline.analysis.trust import Trust
from pipeline.design.names import BUDGET_PHASES, TRAIN_LOSS, VAL_ACCURACY

_MAX_POINTS, _MAX_PANELS = 1500, 6
_MAX_BUDGETS, _MAX_BARS = 12, 16  # groups, and cells of each
_INFINITE = 1e300


def budget_bars(budgets: Sequence[Budget], effects: Effects) -> Drawing | None:
    """Draws the stacked time budget of every cell, one panel per group, its length the time over the baseline's."""
    groups: dict[tuple[str, str], list[Budget]] = {}
    for budget in budgets:
        groups.setdefault((budget.model, budget.dataset), []).append(budget)
    shown = dict(list(groups.items())[:_MAX_BUDGETS])
    if not shown:
        return None
    times = effects.cells[effects.cells["response"].eq("train_seconds")]
    ratio = {(r.model, r.dataset, r.cell): float(r.estimate) for r in times.itertuples()}  # type: ignore[arg-type]
    cells = list(dict.fromkeys(b.cell for part in shown.values() for b in part))[:_MAX_BARS]
    names, columns = GroupLabels.of(groups), min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    fig, axes = drawing.figure(
        drawing.WIDTH,
        (0.22 * len(cells) + 0.75) * lines + 0.75,
        lines,
        columns,
        left=min(drawing.text_width([shortened(cell, 40) for cell in cells]) + 0.35, 3.6),
        bottom=0.8,
        top=0.3,
        gap=(0.25, 0.75),
        sharey=True,
        sharex=True,
    )
    bounded, widest = False, 1.0
    for ax, (group, part) in zip(axes, shown.items(), strict=False):
        rows = [b for b in part if b.cell in cells]
        length = np.array([ratio.get((*group, b.cell), 1.0) for b in rows])
        length = np.where(np.isnan(length), 1.0, length)
        y = np.array([len(cells) - 1 - cells.index(b.cell) for b in rows])
        bounded |= _bars(ax, rows, length, y)
        widest = max(widest, float(length.max()))
        ax.axvline(1, color=FG, linewidth=0.8)
        ax.set_title(plain(shortened(names.label(*group), 40)), fontsize=9)
    for ax in axes[len(shown) :]:
        ax.set_visible(False)
    axes[0].set_yticks(range(len(cells)), [plain(shortened(cell, 40)) for cell in reversed(cells)])
    axes[0].set_ylim(-0.8, len(cells) - 0.2)
    axes[0].set_xlim(0, 1.03 * widest)
    for ax in axes[max(0, len(shown) - columns) : len(shown)]:
        ax.set_xlabel("time of a step, baseline = 1")
    handles, said = axes[0].get_legend_handles_labels()
    drawing.legend(fig, handles=handles, labels=said, loc="lower center", ncols=7, columnspacing=1.2, handlelength=1.6)
    alt = "; ".join(
        f"{b.cell} of {b.model} / {b.dataset}: bound by {b.bound}, {b.bound_share:.0%}" for b in budgets[:64]
    )
    caption = "Where the time of a step goes, per cell; a bar's length is the cell's training time over the baseline's."
    if bounded:
        caption += " Thin bar: as much of forward, backward and optimizer as only kept up with the host's launches."
    if len(groups) > len(shown) or len(cells) == _MAX_BARS:
        caption += f" The first {len(shown)} of {len(groups)} groups, and at most {_MAX_BARS} cells of each."
    return drawing.drawn(fig, "budget", names.title("Time budget"), alt, caption)


def _bars(ax: Any, rows: Sequence[Budget], length: NDArray[np.float64], y: NDArray[np.intp]) -> bool:
    """Draws the bars of one group, (n,) lengths at (n,) heights; returns whether launches bound any of it."""
    from matplotlib.collections import PolyCollection

    def add(start: NDArray[np.float64], end: NDArray[np.float64], half: float, colour: str, label: str) -> None:
        # One collection per phase: hundreds of single bars would be most of the report's time.
        corners = np.array([[start, end, end, start], [y - half, y - half, y + half, y + half]])
        bars = list(corners.transpose(2, 1, 0))
        ax.add_collection(PolyCollection(bars, facecolors=colour, edgecolors=BG, linewidths=0.4, label=label))

    edge = np.zeros(len(rows))
    for i, phase in enumerate(BUDGET_PHASES):
        width = np.array([b.shares.get(phase, 0.0) for b in rows]) * length
        if width.any():
            add(edge, edge + width, 0.38, SERIES[i], phase)
            edge = edge + width
    bounded = np.array([b.parts.get("launch", 0.0) - b.shares.get("idle", 0.0) for b in rows]) * length
    if (bounded > 0).any():  # beside idle time, so that both together are what launching takes
        end = edge - np.array([b.shares.get("idle", 0.0) for b in rows]) * length
        add(end - bounded, end, 0.1, FG, "launch-bound")
    return bool((bounded > 0).any())


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
    if key == VAL_ACCURACY:
        means["value"] *= 100
    groups = list(means[["model", "dataset"]].drop_duplicates().itertuples(index=False, name=None))
    shown, names = groups[:_MAX_PANELS], GroupLabels.of(groups)
    if not shown:
        return None
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    cells = list(dict.fromkeys(means["cell"]))[:16]
    cells.sort(key=lambda c: (c != BASELINE, c.count("+"), c))
    fig, axes = drawing.figure(
        drawing.WIDTH,
        2.7 * lines + 0.9,
        lines,
        columns,
        bottom=0.6 + 0.2 * math.ceil(len(cells) / 6),
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
        ax.set_title(plain(shortened(names.label(model, dataset), 40)), fontsize=9)
        ax.set_xlabel("epoch")
        ax.grid(color=GRID, linewidth=0.5)
        first, last = int(part["step"].min()), int(part["step"].max())
        ax.set_xlim(first - 0.3, last + 0.3)
        ax.set_xticks(range(first, last + 1, max(1, math.ceil((last - first) / 8))))
    for ax in axes[len(shown) :]:
        ax.set_visible(False)
    said = {VAL_ACCURACY: "validation accuracy, %", TRAIN_LOSS: "training loss"}[key]
    for ax in axes[0 : len(shown) : columns]:
        ax.set_ylabel(said)
    found = dict(kv for ax in axes for kv in zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    drawing.legend(fig, handles=list(found.values()), labels=[plain(n) for n in found], loc="lower center", ncols=6)
    alt = f"Last values of {said}. " + "; ".join(ends)
    caption = f"{said.capitalize()} after each epoch, mean over blocks."
    if len(groups) > len(shown):
        caption += f" The first {len(shown)} of {len(groups)} groups."
    return drawing.drawn(fig, "curves", names.title("Learning curves"), alt, caption)


def run_order_figure(trust: Trust) -> Drawing | None:
    """Draws each run's deviation from what its cell and block predict, in run order."""
    order = trust.order
    if order.empty:
        return None
    step = math.ceil(len(order) / _MAX_POINTS)
    fig, (ax,) = drawing.figure(drawing.WIDTH, 3.2, bottom=0.85)
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
    return drawing.drawn(fig, "order", "Run order and drift", alt, caption)
