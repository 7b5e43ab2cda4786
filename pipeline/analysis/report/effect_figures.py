"""Figures of the effects: speed-ups, interactions, and what is worth its time, accuracy and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from pipeline.analysis.effects import Effects
from pipeline.analysis.frame import BASELINE, OFF
from pipeline.analysis.pooling import ALL
from pipeline.analysis.report import drawing
from pipeline.analysis.report.drawing import FG, GRID, MARKERS, MUTED, NEUTRAL, SERIES, Drawing, plain

_VERDICT_STYLE = {
    "pays": (drawing.GOOD, "o", "pays"),
    "costs": (drawing.BAD, "s", "costs"),
    "no_effect": (NEUTRAL, "D", "no effect"),
    "undecided": (MUTED, "^", "undecided"),
    "not_engaged": (MUTED, "x", "not engaged"),
}

_MAX_ROWS, _MAX_PANELS = 42, 6


def _where(model: str, dataset: str) -> str:
    """Names a group as people say it."""
    if model == ALL and dataset == ALL:
        return "all"
    return f"{model} / {dataset}"


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Chooses a range on the log axis that shows the estimates even when one interval is enormous."""
    finite = [v for v in values if math.isfinite(v) and v > 0]
    low, high = min([0.9, *finite]), max([1.1, *finite])
    return max(low / 1.03, 0.05), min(high * 1.03, 20.0)


def forest_of(key: str, title: str, rows: pd.DataFrame, labels: Sequence[str], caption: str) -> Drawing | None:
    """Draws effects on time as speed-ups (1 / ratio) with intervals, one row each."""
    rows = rows.assign(label=list(labels))
    rows = rows[rows["estimate"].notna()]
    total = len(rows)
    if not total:
        return None
    rows = rows.head(_MAX_ROWS)
    left = drawing.text_width(list(rows["label"])) + 0.2
    fig, (ax,) = drawing.figure(7.2, 1.05 + 0.24 * len(rows), left=min(left, 4.0), bottom=0.85)
    speed = (1 / rows["estimate"]).to_numpy(dtype=float)
    low, high = (1 / rows["high"]).to_numpy(dtype=float), (1 / rows["low"]).to_numpy(dtype=float)
    y = np.arange(len(rows))[::-1]
    ax.axvline(1, color=FG, linewidth=1)
    for name, (colour, marker, label) in _VERDICT_STYLE.items():
        at = rows["verdict"].eq(name).to_numpy()
        if at.any():
            ax.hlines(y[at], low[at], high[at], color=colour, linewidth=1.8)
            ax.plot(speed[at], y[at], marker, color=colour, markersize=6, label=label, linestyle="none")
    ax.set_xscale("log")
    edges = _limits([*speed, *np.where(np.isnan(low), speed, low), *np.where(np.isnan(high), speed, high)])
    ax.set_xlim(*edges)
    _ratio_ticks(ax)
    ax.set_yticks(y, [plain(text) for text in rows["label"]])
    ax.set_ylim(-0.8, len(rows) - 0.2)
    ax.grid(axis="x", color=GRID, linewidth=0.5)
    ax.set_xlabel("speed-up of training, off / on (right of 1 is faster)")
    drawing.legend(fig, loc="lower center", ncols=5)
    alt = "; ".join(
        f"{t}: {s:.3f}" + ("" if math.isnan(a) else f" ({a:.3f} to {b:.3f})")
        for t, s, a, b in zip(rows["label"], speed, low, high, strict=True)
    )
    if total > len(rows):
        caption += f" The first {len(rows)} of {total} rows; effects.csv has them all."
    return Drawing(key, title, drawing.render(fig, key, title, f"Speed-ups with intervals. {alt}"), alt, caption)


def _ratio_ticks(ax: object) -> None:
    """Labels a log axis of ratios with plain numbers."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    axis = ax.xaxis  # type: ignore[attr-defined]
    axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def forest(effects: Effects) -> Drawing | None:
    """Draws every technique's main effect and the combination on training time, per group and pooled."""
    table = effects.table
    rows = table[table["response"].eq("train_seconds") & table["kind"].isin(["main", "combined"])]
    if rows.empty:
        return None
    # Averages over only models or only datasets are left to the table.
    rows = rows[rows["model"].eq(ALL) == rows["dataset"].eq(ALL)]
    ranks = {name: i for i, name in enumerate(rows["term"].unique())}
    rows = rows.assign(_term=rows["term"].map(ranks), _each=rows["model"].ne(ALL))
    if len(rows) > _MAX_ROWS:  # pooled rows say most
        rows = rows.sort_values(["_each", "_term"], kind="stable")
    else:
        rows = rows.sort_values(["_term", "_each"], kind="stable")
    control = effects.details.loc[rows.index, "control"].to_numpy()
    labels = [
        f"{r.term}{' (A/A)' if c else ''}, {_where(str(r.model), str(r.dataset))}"
        for r, c in zip(rows.itertuples(), control, strict=True)
    ]
    level = f"{100 * effects.options.confidence:g} %"
    caption = (
        f"Speed-up of training by each technique (averaged over all settings of the others) and by all "
        f"together, with {level} intervals. Shape and colour give the verdict."
    )
    return forest_of("forest", "Speed-ups", rows, labels, caption)


def interactions(effects: Effects) -> Drawing | None:
    """Draws, for each pair of techniques, the time with both off, one on, both on, relative to baseline."""
    runs = effects.study.runs
    runs = runs[runs["outcome"].eq("finished") & runs["train_seconds"].gt(0)]
    factors = [f for f in effects.study.factors if f.levels]
    pairs = list(combinations(factors, 2))[:_MAX_PANELS]
    if not pairs or runs.empty:
        return None
    keys = [runs["model"], runs["dataset"], runs["block"]]
    relative = np.log(runs["train_seconds"]) - np.log(runs["train_seconds"]).groupby(keys).transform("mean")
    columns = min(3, len(pairs))
    lines = math.ceil(len(pairs) / columns)
    fig, axes = drawing.figure(7.2, 2.65 * lines + 0.3, lines, columns, bottom=0.5, gap=(0.2, 0.55), sharey=True)
    words = []
    for ax, (a, b) in zip(axes, pairs, strict=False):
        means = relative.groupby([runs[f"level.{a.name}"], runs[f"level.{b.name}"]]).mean()
        steps = [OFF, *a.levels]
        for i, level in enumerate((OFF, *b.levels)):
            values = [math.exp(means.get((step, level), math.nan)) for step in steps]
            style = "-" if level == OFF else "--"
            name = f"{b.name} {level}"
            ax.plot(
                range(len(steps)),
                values,
                style,
                marker=MARKERS[i % 8],
                color=SERIES[i % 8],
                label=plain(name),
            )
            words.append(f"{name}: " + ", ".join(f"{a.name} {s} {v:.3f}" for s, v in zip(steps, values, strict=True)))
        # on two lines, and small where the name is long: neighbours must not touch, nor the last be cut off
        size = min(9.0, 100 / len(a.name))
        ax.set_xticks(range(len(steps)), [plain(f"{a.name}\n{s}") for s in steps], size=size)
        ax.set_xlim(-0.25, len(steps) - 0.75)
        ax.grid(axis="y", color=GRID, linewidth=0.5)
        drawing.legend(ax)
    for ax in axes[len(pairs) :]:
        ax.set_visible(False)
    axes[0].set_ylabel("time / block mean")
    alt = "Training time relative to the block mean. " + "; ".join(words)
    caption = "Parallel lines: the two techniques multiply without interacting. Averaged over models and datasets."
    title = "Interactions"
    return Drawing("interactions", title, drawing.render(fig, "interactions", title, alt), alt, caption)


def front(points: np.ndarray) -> np.ndarray:
    """Marks the points (n, d), all smaller-is-better, that no other point dominates."""
    keep = np.ones(len(points), dtype=bool)
    for i, point in enumerate(points):
        better = (points <= point).all(axis=1) & (points < point).any(axis=1)
        keep[i] = not better.any()
    return keep


def pareto(effects: Effects) -> Drawing | None:
    """Draws time against accuracy and memory, relative to baseline; ringed cells are on the front of all three."""
    cells = effects.cells
    if cells.empty:
        return None
    index = ["model", "dataset", "cell"]
    wide = cells.pivot_table(index=index, columns="response", values="estimate", aggfunc="first", sort=False)
    base = {"train_seconds": 1.0, "gpu_peak_allocated_mib": 1.0, "accuracy": 0.0}
    wide = wide.reindex(columns=[c for c in base if c in wide.columns])
    panels = [c for c in ("accuracy", "gpu_peak_allocated_mib") if c in wide]
    if "train_seconds" not in wide or not panels:
        return None
    groups = list(dict.fromkeys((m, d) for m, d, _ in wide.index))
    shown = groups[:8]
    fig, axes = drawing.figure(
        7.2,
        3.3 + 0.2 * math.ceil(len(shown) / 2),
        1,
        len(panels),
        bottom=0.65 + 0.2 * math.ceil(len(shown) / 2),
        gap=(0.75, 0),
    )
    best = []
    for g, group in enumerate(shown):
        part = wide.loc[group].copy()
        part.loc[BASELINE] = [base[c] for c in part.columns]
        part = part.dropna()
        if part.empty:
            continue
        costs = part.assign(**({"accuracy": -part["accuracy"]} if "accuracy" in part else {})).to_numpy()
        winners = front(costs)
        best += [f"{cell} of {group[0]} / {group[1]}" for cell in part.index[winners]]
        for ax, response in zip(axes, panels, strict=True):
            x, y = part["train_seconds"], part[response]
            label = plain(f"{group[0]} / {group[1]}")
            ax.plot(x, y, MARKERS[g % 8], color=SERIES[g % 8], label=label, linestyle="none", markersize=5)
            ax.plot(x[winners], y[winners], "o", mfc="none", mec=FG, linestyle="none", markersize=10, mew=0.8)
    for ax, response in zip(axes, panels, strict=True):
        ax.set_xlabel("training time / baseline")
        ax.set_ylabel("accuracy - baseline, points" if response == "accuracy" else "peak memory / baseline")
        ax.grid(color=GRID, linewidth=0.5)
    handles, names = axes[0].get_legend_handles_labels()
    drawing.legend(fig, handles=handles, labels=names, loc="lower center", ncols=2)
    alt = "Not dominated: " + ", ".join(best)
    caption = "Left is faster. Ringed cells: no other cell of their model and dataset is better in every respect."
    if len(groups) > len(shown):
        caption += f" The first {len(shown)} of {len(groups)} groups."
    title = "Time, accuracy, memory"
    return Drawing("pareto", title, drawing.render(fig, "pareto", title, alt), alt, caption)
