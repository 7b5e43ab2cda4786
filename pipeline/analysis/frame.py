"""A study as a tidy data frame.

The tracking store hands over one row per run under MLflow's own column names (`params.model`,
`metrics.time/train_seconds`, `tags.ablate.block`). Everything else in this package works on the frame
made here: one row per run, numeric responses under short names, one level column per technique. Only names of
the public contract are read, and every one of them may be absent, so a store that another program filled
works too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.analysis.responses import INFINITE, RATIO, RESPONSES
from pipeline.design.names import (
    BATCHNORM_TAG,
    BLOCK_TAG,
    BUDGET_PHASES,
    CLASSES_TAG,
    COMPILE_SECONDS,
    CPU_BF16_TAG,
    DATASET_PARAM,
    DEVICE_PARAM,
    ENGAGEMENT_TAG,
    EPOCH_RATE,
    EPOCH_SECONDS,
    ERROR_TAG,
    FAILED_STATE,
    FINISHED_STATE,
    FLOPS_PER_IMAGE,
    GPU_JOULES,
    GPU_PEAK_ALLOCATED,
    GPU_PEAK_RESERVED,
    HOST_PEAK_RSS,
    IMAGES_PER_SECOND,
    KILLED_STATE,
    KIND_TAG,
    LAUNCH_BOUND,
    LEVEL_PARAM,
    MODEL_PARAM,
    NOT_ENGAGED_TAG,
    NPROC_PARAM,
    OUTCOME_TAG,
    POSITION_TAG,
    RECIPE_IMAGES,
    RECIPE_PARAM,
    RUNNING_STATE,
    SEED_PARAM,
    SKIPPED_STEPS,
    STEP_P50_MS,
    TAINTED_TAG,
    TECHNIQUES_PARAM,
    TEST_ACCURACY,
    TEST_F1,
    TEST_IMAGES_TAG,
    TEST_MAJORITY,
    TRAIN_SECONDS,
    UPDATES,
    VAL_ACCURACY,
    WARMUP_SECONDS,
    budget_seconds,
)
from pipeline.design.techniques import TECHNIQUES
from pipeline.tracking.study_data import StudyData

_RECIPE = f"params.{RECIPE_PARAM}"
OFF = "off"
ON = "on"
BASELINE = "baseline"

SUMMARY_METRICS = {
    "train_seconds": TRAIN_SECONDS,
    "images_per_second": IMAGES_PER_SECOND,
    "gpu_peak_allocated_mib": GPU_PEAK_ALLOCATED,
    "gpu_joules": GPU_JOULES,
    "accuracy": TEST_ACCURACY,
    "f1_macro": TEST_F1,
    "gpu_peak_reserved_mib": GPU_PEAK_RESERVED,
    "host_peak_rss_mib": HOST_PEAK_RSS,
    "step_p50_ms": STEP_P50_MS,
    "updates": UPDATES,
    "skipped_steps": SKIPPED_STEPS,
    "flops_per_image": FLOPS_PER_IMAGE,
    "launch_bound": LAUNCH_BOUND,
    "val_accuracy": VAL_ACCURACY,
    "test_majority": TEST_MAJORITY,
}

_OUTCOME_OF_STATUS = {
    FINISHED_STATE: "finished",
    FAILED_STATE: "failed",
    KILLED_STATE: "interrupted",
    RUNNING_STATE: "running",
}
# Recipe fields that may differ between blocks without making another experiment of them.
IGNORED_RECIPE_FIELDS = frozenset({"seed", "data_seed", "order_seed"})


@dataclass(frozen=True)
class Factor:
    """One technique as an experimental factor.

    Attributes:
        name: Its name.
        levels: Its on-levels; `("on",)` where there is only one.
    """

    name: str
    levels: tuple[str, ...]

    def term(self, level: str) -> str:
        """Names this factor at one level: `ga`, or `ga=4` where the study has several levels."""
        return self.name if len(self.levels) < 2 else f"{self.name}={level}"


@dataclass(frozen=True)
class Tidy:
    """A normalised study.

    Attributes:
        name: The study's name.
        runs: One row per cell and block, repeats resolved (see `_latest`), sentinels apart. Columns:
            run_id, name, model, dataset, block, position, seed, outcome, error, tainted, device, host, machine,
            processes, engagement and not_engaged (as their tags are), start and end (UTC), cell, one
            `level.TECHNIQUE` a factor, the keys of `SUMMARY_METRICS`, `budget.PHASE`, compile_seconds,
            first_use_seconds and epoch_images (float, NaN = absent), and for each response that is a ratio
            `invalid.RESPONSE` (text, see `Response.invalid`).
        sentinels: The same columns for sentinel baselines.
        factors: The techniques with their on-levels.
        superseded: How many runs were set aside because a later run repeated the same cell of the same block.
        strata: Recipe fields that vary within one cell; each of their settings is analysed as a model of its
            own.
    """

    name: str
    runs: pd.DataFrame
    sentinels: pd.DataFrame
    factors: tuple[Factor, ...]
    superseded: int
    strata: tuple[str, ...]

    @property
    def n_blocks(self) -> int:
        """Number of blocks with a run of their own."""
        return int(self.runs["block"].nunique())


def text(runs: pd.DataFrame, column: str, default: str = "") -> pd.Series:
    """Returns a column as clean text; an absent column or value gives `default`."""
    if column not in runs:
        return pd.Series(default, index=runs.index, dtype=object)
    values = runs[column]
    return values.where(values.notna(), default).astype(str).astype(object)


def number(runs: pd.DataFrame, column: str) -> pd.Series:
    """Returns a column as float; an absent column, an unreadable value or an infinity gives NaN."""
    if column not in runs:
        return pd.Series(np.nan, index=runs.index, dtype=float)
    values = pd.to_numeric(runs[column], errors="coerce").astype(float)
    return values.where(values.abs() < INFINITE)


def technique_names(study: StudyData) -> tuple[str, ...]:
    """Names the study's techniques.

    Returns:
        The names as given, else every param that is on or off, else the parts of `params.techniques`.
    """
    if study.techniques:
        return study.techniques
    found = []
    for column in study.runs.columns:
        name = str(column)
        if not name.startswith("params.") or "." in name[len("params.") :]:
            continue
        values = {str(v).lower() for v in study.runs[column].dropna().unique()}
        if values and values <= {ON, OFF}:
            found.append(name[len("params.") :])
    if not found:
        joined = text(study.runs, f"params.{TECHNIQUES_PARAM}", BASELINE)
        parts = {p for value in joined for p in value.split("+")} - {BASELINE, "", "none"}
        found = sorted(parts)
    return tuple(found)


def _levels(runs: pd.DataFrame, technique: str) -> pd.Series:
    """Returns each run's level of one technique: `off`, `on`, or the value of `params.level.TECHNIQUE`."""
    switch = text(runs, f"params.{technique}").str.lower()
    if f"params.{technique}" not in runs:
        parts = text(runs, f"params.{TECHNIQUES_PARAM}", BASELINE).str.split("+")
        switch = parts.map(lambda names: ON if technique in names else OFF)
    level = text(runs, f"params.{LEVEL_PARAM}{technique}", ON).str.replace(r"\.0$", "", regex=True)
    return level.where(switch == ON, OFF)


def _level_order(level: str) -> tuple[int, float, str]:
    try:
        return (0, float(level), level)
    except ValueError:
        return (1, 0.0, level)


def _blocks(runs: pd.DataFrame, cell_keys: list[str], frame: pd.DataFrame) -> pd.Series:
    """Finds each run's block: the tag, else the seed (one seed is one replicate), else a count within the cell."""
    block = text(runs, f"tags.{BLOCK_TAG}")
    block = block.where(block != "", text(runs, "params.seed"))
    if (block == "").any():
        counted = frame.groupby(cell_keys, sort=False, dropna=False).cumcount().astype(str)
        block = block.where(block != "", counted)
    return block.str.replace(r"\.0$", "", regex=True)


def _strata(runs: pd.DataFrame, keys: pd.DataFrame) -> tuple[str, ...]:
    """Finds recipe fields that differ between runs of one and the same cell: they make it two experiments."""
    names = []
    key = keys.agg("\x1f".join, axis=1) if len(keys) else pd.Series(dtype=str)
    for column in runs.columns:
        name = str(column)
        if (
            not name.startswith(f"params.{RECIPE_PARAM}")
            or name[len(f"params.{RECIPE_PARAM}") :] in IGNORED_RECIPE_FIELDS
        ):
            continue
        values = text(runs, name)
        if values.nunique() > 1 and (values.groupby(key).nunique() > 1).any():
            names.append(name[len(f"params.{RECIPE_PARAM}") :])
    return tuple(names)


def _latest(frame: pd.DataFrame) -> pd.DataFrame:
    """Keeps one run per cell and block: finished first, then untainted, then the latest start."""
    order = frame.assign(
        _finished=frame["outcome"].eq("finished"), _clean=frame["tainted"].eq(""), _n=np.arange(len(frame))
    ).sort_values(["_finished", "_clean", "start", "_n"], na_position="first", kind="stable")
    kept = order.drop_duplicates(["model", "dataset", "cell", "block"], keep="last").index
    return frame.loc[frame.index.isin(kept)]


def _base(runs: pd.DataFrame) -> pd.DataFrame:
    """Collects the columns that need no knowledge of the factors."""
    host, gpu = text(runs, "tags.env.hostname"), text(runs, "tags.env.gpu_uuid")
    status = text(runs, "status").str.upper().map(_OUTCOME_OF_STATUS).fillna("unknown")
    outcome = text(runs, f"tags.{OUTCOME_TAG}")
    frame = pd.DataFrame(
        {
            "run_id": text(runs, "run_id"),
            "name": text(runs, "tags.mlflow.runName"),
            "kind": text(runs, f"tags.{KIND_TAG}", "run"),
            "model": text(runs, f"params.{MODEL_PARAM}", "unknown"),
            "dataset": text(runs, f"params.{DATASET_PARAM}", "unknown"),
            "seed": text(runs, f"params.{SEED_PARAM}"),
            "position": number(runs, f"tags.{POSITION_TAG}"),
            "outcome": outcome.where(outcome != "", status),
            "error": text(runs, f"tags.{ERROR_TAG}"),
            "tainted": text(runs, f"tags.{TAINTED_TAG}"),
            "batchnorm": text(runs, f"tags.{BATCHNORM_TAG}").str.lower(),
            "engagement": text(runs, f"tags.{ENGAGEMENT_TAG}"),
            "not_engaged": text(runs, f"tags.{NOT_ENGAGED_TAG}"),
            "test_images": number(runs, f"tags.{TEST_IMAGES_TAG}"),
            "test_classes": number(runs, f"tags.{CLASSES_TAG}"),
            "precision": text(runs, f"params.{RECIPE_PARAM}precision"),
            "cpu_bf16": text(runs, f"tags.{CPU_BF16_TAG}"),
            "processes": number(runs, f"params.{NPROC_PARAM}").fillna(1.0),
            "device": text(runs, f"params.{DEVICE_PARAM}").where(
                text(runs, f"params.{DEVICE_PARAM}") != "", text(runs, "tags.env.device")
            ),
            "gpu_name": text(runs, "tags.env.gpu_name"),
            "host": host,
            # the UUID alone: the same GPU is on another host whenever a container is started anew
            "machine": gpu.where(gpu != "", host + " " + text(runs, "tags.env.gpu_name")),
        },
        index=runs.index,
    )
    for side in ("start", "end"):
        column = runs[f"{side}_time"] if f"{side}_time" in runs else pd.Series(pd.NaT, index=runs.index)
        if pd.api.types.is_numeric_dtype(column):
            column = pd.to_datetime(column, unit="ms", utc=True)
        frame[side] = pd.to_datetime(column, utc=True, errors="coerce")
    for short, metric in SUMMARY_METRICS.items():
        frame[short] = number(runs, f"metrics.{metric}")
    for response in RESPONSES:
        if response.unit == RATIO:
            raw = f"metrics.{SUMMARY_METRICS.get(response.name)}"
            frame[f"invalid.{response.name}"] = response.invalid(runs[raw]) if raw in runs else ""
    for phase in BUDGET_PHASES:
        frame[f"budget.{phase}"] = number(runs, f"metrics.{budget_seconds(phase)}")
    frame["compile_seconds"] = number(runs, f"metrics.{COMPILE_SECONDS}")
    frame["first_use_seconds"] = number(runs, f"metrics.{WARMUP_SECONDS}")
    # of the last epoch; a row of rounds has what all epochs have
    epochs = number(runs, f"params.{RECIPE_PARAM}epochs")
    in_rounds = number(runs, f"metrics.{RECIPE_IMAGES}") / epochs
    frame["epoch_images"] = in_rounds.fillna(
        number(runs, f"metrics.{EPOCH_SECONDS}") * number(runs, f"metrics.{EPOCH_RATE}")
    )
    frame["seconds_to_target"] = np.nan  # no metric: `time_to_target` has it of a target that is asked for
    return frame


def tidy(study: StudyData) -> Tidy:
    """Normalises a study.

    Args:
        study: The study as the tracking store gives it.

    Returns:
        The tidy study; with no runs at all, an empty one.
    """
    runs = study.runs.reset_index(drop=True)
    frame = _base(runs)
    names = technique_names(study)
    factors = []
    labels: list[pd.Series] = []
    for name in names:
        levels = _levels(runs, name)
        on = tuple(sorted(set(levels) - {OFF}, key=_level_order))
        if len(on) == 1:  # a single level needs no number in its name, whatever its value is
            levels = levels.where(levels == OFF, ON)
            on = (ON,)
        factor = Factor(name, on)
        factors.append(factor)
        frame[f"level.{name}"] = levels
        labels.append(levels.map({OFF: "", **{v: factor.term(v) for v in on}}))
    cells = pd.DataFrame(dict(enumerate(labels)), index=frame.index)
    joined = ["+".join(part for part in row if part) for row in cells.itertuples(index=False, name=None)]
    joined = joined or [""] * len(frame)
    frame["cell"] = pd.Series([name or BASELINE for name in joined], index=frame.index, dtype=object)
    sentinel = frame["kind"].eq("sentinel")
    strata = _strata(runs[~sentinel], frame.loc[~sentinel, ["model", "dataset", "cell"]])
    if strata:
        setting = pd.DataFrame({s: s + "=" + text(runs, f"params.{RECIPE_PARAM}{s}") for s in strata})
        frame["model"] = frame["model"] + " [" + setting.agg(", ".join, axis=1) + "]"
    frame["block"] = _blocks(runs, ["model", "dataset", "cell", "kind"], frame)
    # One order everywhere: groups by name, baseline first, then by the number of techniques that are on.
    frame["_size"] = frame["cell"].where(frame["cell"] != BASELINE, "").str.count(r"[^+]+")
    frame = frame.sort_values(["model", "dataset", "_size", "cell"], kind="stable").drop(columns="_size")
    sentinel = frame["kind"].eq("sentinel")
    cellular = _latest(frame[~sentinel])
    return Tidy(
        study.name,
        cellular.reset_index(drop=True),
        frame[sentinel].reset_index(drop=True),
        tuple(factors),
        int((~sentinel).sum() - len(cellular)),
        strata,
    )


def on_gpu(runs: pd.DataFrame) -> bool:
    """Says whether any run of a tidy frame used a GPU: by its device, else by metrics that only a GPU gives."""
    devices = set(runs["device"].str.lower()) - {""}
    if devices:
        return any(not d.startswith("cpu") for d in devices)
    return bool(runs[["gpu_peak_allocated_mib", "gpu_joules"]].notna().any().any())


def recipes(study: StudyData) -> dict[str, dict[str, str]]:
    """Returns the recipe fields of every run, by run id; a field that was not recorded is empty text."""
    runs = study.runs
    names = sorted(str(c) for c in runs.columns if str(c).startswith(_RECIPE))
    fields = {name[len(_RECIPE) :]: text(runs, name).tolist() for name in names}
    ids = text(runs, "run_id")
    return {run: {f: v[i] for f, v in fields.items()} for i, run in enumerate(ids)}


# Recipe fields that change what is learned, and neither a step's work nor its memory
TIMELESS_FIELDS = frozenset(("learning_rate", "lr_scaling", "schedule", "warmup"))


def timeless(study: Tidy, source: StudyData) -> frozenset[str]:
    """Names the techniques that cannot change a time or the memory: their runs are A/A controls of these.

    A technique that has no row in the table is known by the fields in which its runs differ from the baseline's.

    Args:
        study: The tidy study.
        source: The same as stored.
    """
    found = set()
    for factor in study.factors:
        row = TECHNIQUES.get(factor.name)
        fields = frozenset(row.owns) if row is not None else _changed_fields(study, factor, recipes(source))
        if factor.levels and fields and fields <= TIMELESS_FIELDS:
            found.add(factor.name)
    return frozenset(found)


def _changed_fields(study: Tidy, factor: Factor, known: Mapping[str, Mapping[str, str]]) -> frozenset[str]:
    """Returns the recipe fields in which cells with one technique alone differ from the baseline of their block."""
    keys = ["model", "dataset", "block"]
    alone = study.runs["cell"].isin([factor.term(level) for level in factor.levels])
    base = study.runs[study.runs["cell"].eq(BASELINE)]
    both = study.runs[alone].merge(base, on=keys, suffixes=("", "_base"))
    fields: set[str] = set()
    for mine, other in zip(both["run_id"], both["run_id_base"], strict=True):
        chosen, plain = known.get(mine, {}), known.get(other, {})
        fields |= {field for field, value in chosen.items() if value != plain.get(field)}
    return frozenset(fields - IGNORED_RECIPE_FIELDS)


def inert(study: Tidy) -> frozenset[str]:
    """Names the techniques that cannot act on the study's devices, so that their runs are A/A controls."""
    device = "cuda" if on_gpu(study.runs) else "cpu"
    rows = (TECHNIQUES.get(factor.name) for factor in study.factors)
    return frozenset(row.name for row in rows if row is not None and device in row.inert_on)
