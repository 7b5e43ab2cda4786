"""Figures of the effects: speed-ups, interactions, and what is worth its time, accuracy and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis import verdicts
from pipeline.analysis.effects import Effects
from pipeline.analysis.frame import BASELINE, OFF, Factor
from pipeline.analysis.pooling import ALL
from pipeline.analysis.report import drawing
from pipeline.analysis.report.drawing import FG, GRID, MARKERS, MUTED, NEUTRAL, SERIES, Drawing, plain, ratio_text
from pipeline.analysis.report.labels import GroupLabels, shortened

_VERDICT_STYLE = {
    "pays": (drawing.GOOD, "o", "pays"),
    "costs": (drawing.BAD, "s", "costs"),
    "no_effect": (NEUTRAL, "D", "no effect"),
    "undecided": (MUTED, "^", "undecided"),
    "not_engaged": (MUTED, "x", "not engaged"),
    "not_trained": (MUTED, "+", "not trained"),
}

_MAX_ROWS, _MAX_PANELS = 42, 6


def _limits(speed: np.ndarray, ends: np.ndarray) -> tuple[float, float]:
    """Chooses a range of a log axis: every estimate is on it, and of an enormous interval what there is room for."""
    shown = np.concatenate([speed, np.clip(ends[np.isfinite(ends)], 0.05, 20.0), [0.9, 1.1]])
    return float(shown.min() / 1.05), float(shown.max() * 1.05)


def forest_of(key: str, title: str, rows: pd.DataFrame, labels: Sequence[str], caption: str) -> Drawing | None:
    """Draws effects on time as speed-ups (1 / ratio) with intervals, one row each."""
    rows = rows.assign(label=[shortened(label) for label in labels])
    rows = rows[rows["estimate"].notna()]
    total = len(rows)
    if not total:
        return None
    rows = rows.head(_MAX_ROWS)
    left = drawing.text_width(list(rows["label"])) + 0.2
    size = 1.05 + 0.26 * len(rows)
    fig, (ax,) = drawing.figure(drawing.WIDTH, size, left=left, bottom=0.85, right=1.8)
    speed = (1 / rows["estimate"]).to_numpy(dtype=float)
    low, high = (1 / rows["high"]).to_numpy(dtype=float), (1 / rows["low"]).to_numpy(dtype=float)
    y = np.arange(len(rows))[::-1]
    ax.axvline(1, color=FG, linewidth=1)
    for name, (colour, marker, label) in _VERDICT_STYLE.items():
        at = rows["verdict"].eq(name).to_numpy()
        if at.any():
            ax.hlines(y[at], low[at], high[at], color=colour, linewidth=1.8)
            ax.plot(speed[at], y[at], marker, color=colour, markersize=6, label=label, linestyle="none")
    drawing.ratio_axis(ax.xaxis, *_limits(speed, np.concatenate([low, high])))
    ax.set_yticks(y, [plain(text) for text in rows["label"]])
    ax.set_ylim(-0.8, len(rows) - 0.2)
    ax.grid(axis="x", color=GRID, linewidth=0.5)
    ax.set_xlabel("speed-up of training, time off / time on (right of 1 is faster)")
    said = [
        ratio_text(s) + ("" if math.isnan(a) else f" ({ratio_text(a)} to {ratio_text(b)})")
        for s, a, b in zip(speed, low, high, strict=True)
    ]
    for place, words in zip(y, said, strict=True):
        ax.text(1.01, place, words, transform=ax.get_yaxis_transform(), color=FG, fontsize=8.5, va="center")
    drawing.legend(fig, loc="lower center", ncols=5)
    alt = "; ".join(f"{label}: {words}" for label, words in zip(rows["label"], said, strict=True))
    if total > len(rows):
        caption += f" The first {len(rows)} of {total} rows; effects.csv has them all."
    return drawing.drawn(fig, key, title, alt, caption)


def forest(effects: Effects) -> Drawing | None:
    """Draws every technique's main effect and the combination on training time, per group and pooled."""
    table = effects.table
    rows = table[table["response"].eq("train_seconds") & table["kind"].isin(["main", "combined"])]
    if rows.empty:
        return None
    # Averages over only models or only datasets are left to the table.
    rows = rows[rows["model"].eq(ALL) == rows["dataset"].eq(ALL)]
    names = GroupLabels.of(zip(rows["model"], rows["dataset"], strict=True))
    if names.shared.count("/") or len(names.models) * len(names.datasets) == 1:  # the average is the group's own
        rows = rows[rows["model"].ne(ALL)]
    ranks = {name: i for i, name in enumerate(rows["term"].unique())}
    rows = rows.assign(_term=rows["term"].map(ranks), _each=rows["model"].ne(ALL))
    if len(rows) > _MAX_ROWS:  # pooled rows say most
        rows = rows.sort_values(["_each", "_term"], kind="stable")
    else:
        rows = rows.sort_values(["_term", "_each"], kind="stable")
    control = effects.details.loc[rows.index, "control"].to_numpy()
    labels = []
    for r, c in zip(rows.itertuples(), control, strict=True):
        where = names.label(str(r.model), str(r.dataset))
        labels.append(f"{r.term}{' (A/A)' if c else ''}" + (f", {where}" if where else ""))
    level = f"{100 * effects.options.confidence:g} %"
    caption = (
        f"Speed-up of training by each technique (averaged over all settings of the others) and by all "
        f"together, with {level} intervals. Shape and colour give the verdict."
    )
    return forest_of("forest", names.title("Speed-ups"), rows, labels, caption)


def _crossed(effects: Effects, a: Factor, b: Factor) -> pd.DataFrame:
    """Speeds of two techniques' settings over that with both off, with what is known of them from the blocks.

    Returns:
        One row for each level of a and b: speed (a ratio), low and high (95 %; NaN with one block).
    """
    runs = effects.study.runs
    runs = runs[runs["outcome"].eq("finished") & runs["train_seconds"].gt(0)]
    levels = [f"level.{a.name}", f"level.{b.name}"]
    means = -np.log(runs["train_seconds"]).groupby([runs[k] for k in ("model", "dataset", "block", *levels)]).mean()
    wide = means.unstack(levels)  # one row for each block of a group
    if (OFF, OFF) not in wide:
        return pd.DataFrame(columns=["speed", "low", "high"])
    gains = wide.sub(wide[(OFF, OFF)], axis=0)
    of_group = gains.groupby(["model", "dataset"])
    mean, count, variance = of_group.mean(), of_group.count(), of_group.var()
    se = np.sqrt((variance / count).sum(min_count=1)) / count.gt(0).sum()
    dof = (count - 1).clip(lower=0).sum()
    half = verdicts.half_widths(se, dof, effects.options.confidence)
    log = mean.mean()
    return pd.DataFrame({"speed": np.exp(log), "low": np.exp(log - half), "high": np.exp(log + half)})


def interactions(effects: Effects) -> Drawing | None:
    """Draws, for each pair of techniques, the speed with one on and with both on over that with both off."""
    factors = [f for f in effects.study.factors if f.levels]
    pairs = list(combinations(factors, 2))[:_MAX_PANELS]
    tables = [(a, b, found) for a, b in pairs if len(found := _crossed(effects, a, b))]
    if not tables:
        return None
    columns = min(3, len(tables))
    lines = math.ceil(len(tables) / columns)
    fig, axes = drawing.figure(
        drawing.WIDTH, 3.1 * lines + 0.3, lines, columns, bottom=0.5, gap=(0.25, 0.55), sharey=True
    )
    every = pd.concat([found for _, _, found in tables]).to_numpy(dtype=float)
    edges = _limits(every[:, 0][np.isfinite(every[:, 0])], every[:, 1:].ravel())
    words = []
    for ax, (a, b, found) in zip(axes, tables, strict=False):
        steps = [OFF, *a.levels]
        ax.axhline(1, color=FG, linewidth=0.8)
        for i, level in enumerate((OFF, *b.levels)):
            rows = found.reindex(pd.MultiIndex.from_product([steps, [level]]))
            x = np.arange(len(steps)) + 0.04 * i  # beside each other, so that no interval hides another
            style = "-" if level == OFF else "--"
            name = f"{b.name} {level}"
            look: Any = {"color": SERIES[i % 8], "marker": MARKERS[i % 8], "linestyle": style}
            ax.plot(x, rows["speed"], label=plain(name), **look)
            ax.vlines(x, rows["low"], rows["high"], color=SERIES[i % 8], linewidth=1.4)
            values = zip(steps, rows["speed"], strict=True)
            words.append(f"{name}: " + ", ".join(f"{a.name} {s} {v:.3f}" for s, v in values))
        # on two lines, and small where the name is long: neighbours must not touch, nor the last be cut off
        size = min(9.0, 130 / len(a.name))
        ax.set_xticks(range(len(steps)), [plain(f"{a.name}\n{s}") for s in steps], size=size)
        ax.set_xlim(-0.25, len(steps) - 0.75)
        drawing.ratio_axis(ax.yaxis, *edges)
        ax.grid(axis="y", color=GRID, linewidth=0.5)
        drawing.legend(ax)
    for ax in axes[len(tables) :]:
        ax.set_visible(False)
    axes[0].set_ylabel("speed over both off (1: as fast)")
    alt = "Speed of training over that with both techniques off. " + "; ".join(words)
    names = GroupLabels.of(zip(effects.study.runs["model"], effects.study.runs["dataset"], strict=True))
    caption = (
        "Speed of training, with both techniques off as 1; higher is faster. Parallel lines: the two multiply without "
        "interacting; lines that close or cross: what one brings depends on the other. Averaged over the other "
        f"techniques{'' if names.shared.count('/') else ', models and data sets'}; "
    )
    replicated = np.isfinite(every[:, 1:]).any()
    level = f"{100 * effects.options.confidence:g} %"
    caption += (
        f"bars: {level} intervals from the spread between blocks." if replicated else "one block, so no intervals."
    )
    return drawing.drawn(fig, "interactions", names.title("Interactions"), alt, caption)


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
    shown, names = groups[:8], GroupLabels.of(groups)
    legend = 0.2 * math.ceil(len(shown) / 3) if len(shown) > 1 else 0.0
    fig, axes = drawing.figure(drawing.WIDTH, 3.9 + legend, 1, len(panels), bottom=0.6 + legend, gap=(0.75, 0))
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
            x, y = 1 / part["train_seconds"], part[response]
            label = plain(shortened(names.full(*group), 40))
            ax.plot(x, y, MARKERS[g % 8], color=SERIES[g % 8], label=label, linestyle="none", markersize=5)
            ax.plot(x[winners], y[winners], "o", mfc="none", mec=FG, linestyle="none", markersize=10, mew=0.8)
            if len(shown) <= 2:  # room for their names
                for cell, right, up in zip(part.index[winners], x[winners], y[winners], strict=True):
                    spot: Any = {"xytext": (7, 5), "textcoords": "offset points", "fontsize": 8, "color": FG}
                    ax.annotate(plain(cell), (right, up), **spot)
    for ax, response in zip(axes, panels, strict=True):
        ax.set_xlabel("speed-up over the baseline (right is faster)")
        ax.set_ylabel("accuracy - baseline, points" if response == "accuracy" else "peak GPU memory / baseline")
        ax.margins(x=0.12, y=0.1)
        ax.grid(color=GRID, linewidth=0.5)
    if len(shown) > 1:
        handles, said = axes[0].get_legend_handles_labels()
        drawing.legend(fig, handles=handles, labels=said, loc="lower center", ncols=3)
    alt = "Not dominated: " + ", ".join(best)
    caption = "Ringed cells: no other cell of their model and dataset is better in every respect."
    if len(groups) > len(shown):
        caption += f" The first {len(shown)} of {len(groups)} groups."
    title = names.title("Speed, accuracy, memory")
    return drawing.drawn(fig, "pareto", title, alt, caption)
