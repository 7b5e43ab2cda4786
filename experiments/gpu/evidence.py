"""What a run on a GPU brought back, read.

The evidence is untrusted in one sense only: a stage may have died while it wrote. So nothing but run.json has to be
there, and a file that is cut off is a problem to tell of, never a crash.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from unpacking import files_of

from pipeline.analysis.frame import Tidy, text, tidy
from pipeline.errors import InputError, not_allowed
from pipeline.tracking.study_data import StudyData

_STUDY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
STUDY_FILES = ("report.json", "report.md", "effects.csv", "runs.csv")


class Stage(BaseModel):
    """One stage of the run, as run.json has it."""

    model_config = ConfigDict(frozen=True)

    stage: str
    status: str
    seconds: float = 0.0
    detail: str = ""


class Run(BaseModel):
    """run.json: what ran, on what, and how each stage ended."""

    model_config = ConfigDict(frozen=True)

    device: Literal["cuda", "cpu"]
    began: AwareDatetime
    gpu: str = ""
    seconds: float = 0.0
    budget: float = 0.0
    commit: str = ""
    dirty: bool = False
    python: str = ""
    torch: str = ""
    argv: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = Field(default=())

    def why_absent(self, stage: str) -> str:
        """Says why a stage's result is not there, as far as run.json knows."""
        for found in self.stages:
            if found.stage == stage:
                if found.status == "ok":
                    return f"stage {stage} ended ok, but there is nothing of it that can be published"
                detail = f" ({found.detail})" if found.detail else ""
                return f"stage {stage}: {found.status}{detail}"
        return f"no stage {stage} in run.json"


@dataclass(frozen=True)
class Effect:
    """A row of effects.csv; what has no number there is None."""

    model: str
    dataset: str
    response: str
    term: str
    kind: str
    verdict: str
    estimate: float | None
    low: float | None
    high: float | None
    blocks: int


@dataclass(frozen=True)
class Study:
    """One study of the evidence.

    Attributes:
        name: Its folder's name.
        folder: Where its files are.
        effects: The rows of effects.csv.
        runs: runs.csv as the analysis reads it; None where it is unreadable.
        report: report.json; empty where it is unreadable.
        problems: What is missing or unreadable.
        withheld: Why its figures are not a GPU's; empty where they may be published.
    """

    name: str
    folder: Path
    effects: tuple[Effect, ...]
    runs: Tidy | None
    report: dict[str, Any]
    problems: tuple[str, ...]
    withheld: str = ""


@dataclass(frozen=True)
class Evidence:
    """Everything that was packed.

    Attributes:
        root: The folder with the files.
        run: run.json.
        raw: The same, as it stands in the file.
        studies: By name, in order of their names.
        problems: What cannot be read, apart from the studies' own problems.
    """

    root: Path
    run: Run
    raw: dict[str, Any]
    studies: dict[str, Study]
    problems: list[str] = field(default_factory=list)

    def json(self, name: str) -> Any:
        """Gives a JSON file's content; None where it is absent or cut off, and then that is a problem to tell of."""
        if not (self.root / name).is_file():
            return None
        try:
            return json.loads((self.root / name).read_text(encoding="utf-8"))
        except ValueError:
            self.problems.append(f"{name} is there, but is not JSON")
            return None

    def digests(self) -> list[dict[str, Any]]:
        """Gives path, size and SHA-256 of every file, published or not."""
        found = []
        for path in sorted(p for p in self.root.rglob("*") if p.is_file()):
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            name = path.relative_to(self.root).as_posix()
            found.append({"path": name, "bytes": path.stat().st_size, "sha256": digest})
        return sorted(found, key=lambda entry: str(entry["path"]))


def open_evidence(packed: Sequence[Path], scratch: Path) -> Evidence:
    """Joins and unpacks the parts, or takes an unpacked folder, and reads it.

    Args:
        packed: The parts in any order, or one folder that holds them, or one that holds the unpacked files.
        scratch: An empty folder for what is unpacked.

    Raises:
        InputError: A part is missing or damaged, a member is unsafe, or run.json is not what it has to be.
    """
    root = files_of(packed, scratch)
    raw, run = _run(root)
    folders = sorted(path for path in (root / "studies").glob("*") if path.is_dir())
    for folder in folders:
        if not _STUDY.fullmatch(folder.name):
            raise not_allowed("studies", folder.name, "names of letters, digits, '.', '_' and '-'")
    return Evidence(root, run, raw, {folder.name: _study(folder, run) for folder in folders})


def _run(root: Path) -> tuple[dict[str, Any], Run]:
    """Reads run.json, without which nothing can be said of anything else."""
    try:
        raw = json.loads((root / "run.json").read_text(encoding="utf-8"))
        run = Run.model_validate(raw)
    except FileNotFoundError:
        raise InputError("PACKED: there is no run.json in it") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "document"
        raise InputError(f"run.json: {place}: {first['msg']}, got {str(first['input'])[:60]!r}") from None
    except ValueError as error:
        raise InputError(f"run.json: not JSON ({error})") from None
    if run.device == "cuda" and not re.search(r"[A-Za-z0-9]", run.gpu):
        raise not_allowed("run.json: gpu", run.gpu, "the GPU's name, as device is 'cuda'")
    return raw, run


def _study(folder: Path, run: Run) -> Study:
    """Reads a study's files, each on its own: one may be there without the others."""
    problems = [f"no {name}" for name in STUDY_FILES if not (folder / name).is_file()]
    report: dict[str, Any] = {}
    effects: tuple[Effect, ...] = ()
    runs = None
    try:
        if (folder / "report.json").is_file():
            report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except ValueError:
        problems.append("report.json is cut off")
    try:
        if (folder / "effects.csv").is_file():
            effects = _effects(folder / "effects.csv")
    except (ValueError, KeyError, TypeError):
        problems.append("effects.csv cannot be read")
    try:
        if (folder / "runs.csv").is_file():
            runs = _frame(folder, tuple(report.get("techniques", ())))
    except (ValueError, KeyError):  # pandas' parser errors are ValueErrors
        problems.append("runs.csv cannot be read")
    withheld = ""
    if run.device == "cuda":
        withheld = _not_of_this_gpu(runs, run.gpu) if runs is not None else "without its raw rows its GPU is unknown"
    return Study(folder.name, folder, effects, runs, report, tuple(problems), withheld)


def _effects(path: Path) -> tuple[Effect, ...]:
    with path.open(encoding="utf-8", newline="") as stream:
        return tuple(_effect(row) for row in csv.DictReader(stream))


def _effect(row: dict[str, str]) -> Effect:
    def number(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    return Effect(
        model=row["model"],
        dataset=row["dataset"],
        response=row["response"],
        term=row["term"],
        kind=row["kind"],
        verdict=row["verdict"],
        estimate=number("estimate"),
        low=number("low"),
        high=number("high"),
        blocks=int(float(row["blocks"])),
    )


def _frame(folder: Path, techniques: tuple[str, ...]) -> Tidy:
    """Reads the raw rows as the analysis does: repeats resolved, one model per setting that varies within a cell."""
    columns = pd.read_csv(folder / "runs.csv", nrows=0).columns
    # a tag or parameter is text whatever it looks like: a seed '01' stays '01'
    texts = {name: str for name in columns if str(name).startswith(("tags.", "params."))}
    runs = pd.read_csv(folder / "runs.csv", dtype={**texts, "run_id": str})
    for name in ("start_time", "end_time"):
        if name in runs and not pd.api.types.is_numeric_dtype(runs[name]):
            runs[name] = pd.to_datetime(runs[name], format="ISO8601", utc=True)
    data = tidy(StudyData(folder.name, runs, techniques=techniques))
    batches = dict(zip(runs["run_id"], text(runs, "params.recipe.batch_size"), strict=True))
    for rows in (data.runs, data.sentinels):
        rows["batch_size"] = rows["run_id"].map(batches)
    return data


def _not_of_this_gpu(runs: Tidy, gpu: str) -> str:
    """Says which rows were not measured on the GPU that run.json names.

    One such row and no figure of the study is published: means and effects have it in them.
    """
    rows = pd.concat([runs.runs, runs.sentinels])
    elsewhere = int((~rows["device"].str.startswith("cuda")).sum())
    if elsewhere:
        return f"{elsewhere} of {len(rows)} rows do not say that they ran on a GPU"
    others = sorted(set(rows["gpu_name"]) - {gpu, ""})
    if others:
        return f"rows ran on {', '.join(others)}, run.json says {gpu}"
    # a run that died early may have no name yet, but it has no figures either
    nameless = int((rows["gpu_name"].eq("") & rows["outcome"].eq("finished")).sum())
    return f"{nameless} of {len(rows)} rows do not name their GPU" if nameless else ""
