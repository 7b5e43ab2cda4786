"""Claims about speed on a GPU: what is public, how the same thing is found in our results, and whether they agree.

The claims are data (claims.yaml). A verdict is computed from the numbers by the claim's rule and by nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import yaml
from evidence import Effect, Run, Study
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from pipeline.analysis import student_t
from pipeline.analysis.responses import BY_NAME
from pipeline.errors import InputError

CONFIDENCE = 0.95
_VERDICTS = ("pays", "costs", "no_effect")
Verdict = Literal["agrees", "differs", "undecided", "nothing to compare", "not measured"]
_WITH_SETTINGS = re.compile(r"(?P<model>.*?) \[(?P<settings>.*)\]")


class Strict(BaseModel):
    """A model that refuses unknown keys, so that a misspelt one cannot be silently without effect."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Where(Strict):
    """Which rows of a study: its model, the settings that vary within a cell, the start of the data set's name."""

    study: str
    model: str
    settings: tuple[str, ...] = ()
    dataset: str = "imagefolder:"
    response: Literal["train_seconds", "images_per_second", "gpu_peak_allocated_mib", "gpu_joules"]

    def matches(self, model: str, dataset: str) -> bool:
        """Says whether a row of that model and data set is meant."""
        found = _WITH_SETTINGS.fullmatch(model)
        name, settings = (found["model"], found["settings"].split(", ")) if found else (model, [])
        return name == self.model and set(self.settings) <= set(settings) and dataset.startswith(self.dataset)


class EffectOf(Where):
    """An effect: a row of effects.csv."""

    kind: Literal["main", "interaction", "simple", "combined", "synergy"]
    term: str


class CellOf(Where):
    """A cell's geometric mean over its blocks, or its ratio to another cell's in the same blocks."""

    cell: str
    over: str = ""


class ProbeOf(Strict):
    """A figure of a probe: `figure` in the document `probe` of probes.json."""

    probe: str
    figure: str


def _kind_of_place(place: Any) -> str:
    """Tells the kinds of places apart by the one field that only they have."""
    if not isinstance(place, dict):
        return "effect" if isinstance(place, EffectOf) else "cell" if isinstance(place, CellOf) else "probe"
    return "effect" if "term" in place else "cell" if "cell" in place else "probe"


Place = Annotated[
    Annotated[EffectOf, Tag("effect")] | Annotated[CellOf, Tag("cell")] | Annotated[ProbeOf, Tag("probe")],
    Discriminator(_kind_of_place),
]


class Public(Strict):
    """The public figure: in words, and the range that agrees with it (none where it is no number)."""

    says: str
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Public:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("low is above high")
        return self


class Claim(Strict):
    """One claim.

    Attributes:
        id: Its name.
        sentence: What is claimed.
        ours: Where our figure is.
        public: The public figure.
        rule: `range`: ours lies within the public range; `pays`, `costs`, `no_effect`: so is our verdict on the
            effect; `none`: nobody published the figure, ours is the first.
        unit: Of both figures.
        source: Who published it, where and when, and what exactly was measured.
    """

    id: str = Field(pattern=r"[a-z0-9]+(-[a-z0-9]+)*")
    sentence: str
    ours: Place
    public: Public
    rule: Literal["range", "pays", "costs", "no_effect", "none"]
    unit: Literal["ratio", "images/s", "TFLOP/s"]
    source: str

    @model_validator(mode="after")
    def _consistent(self) -> Claim:
        if (self.rule == "range") == (self.public.low is None and self.public.high is None):
            raise ValueError("rule range needs a bound, the other rules have none")
        if self.rule in _VERDICTS and not isinstance(self.ours, EffectOf):
            raise ValueError(f"rule {self.rule} is for effects")
        return self


@dataclass(frozen=True)
class Ours:
    """Our figure: estimate, 95 % interval (None without replicates), blocks, the effect's verdict, the batch size."""

    estimate: float
    low: float | None = None
    high: float | None = None
    blocks: int | None = None
    verdict: str = ""
    batch: str = ""


@dataclass(frozen=True)
class Finding:
    """A claim with our figure beside it, or with the reason why there is none."""

    claim: Claim
    verdict: Verdict
    ours: Ours | None = None
    why: str = ""


def load(path: Path) -> tuple[Claim, ...]:
    """Reads the claims.

    Raises:
        InputError: The file is not YAML, or a claim is not one.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = tuple(Claim.model_validate(entry) for entry in document)
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise InputError(f"{path.name}: cannot be read ({' '.join(str(error).split())})") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "claim"
        raise InputError(f"{path.name}: {place}: {first['msg']}, got {str(first['input'])[:60]!r}") from None
    twice = sorted({claim.id for claim in found if sum(other.id == claim.id for other in found) > 1})
    if twice:
        raise InputError(f"{path.name}: id: {twice[0]!r} is there twice")
    return found


def judge(claim: Claim, ours: Ours) -> Verdict:
    """Compares our figure with the public one.

    A range agrees if our whole interval lies in it, differs if our whole interval lies outside, and is undecided if an
    edge of the range is in our interval. Without an interval the estimate alone decides.
    """
    if claim.rule == "none":
        return "nothing to compare"
    if claim.rule in _VERDICTS:
        if ours.verdict not in _VERDICTS:
            return "undecided"
        return "agrees" if ours.verdict == claim.rule else "differs"
    low = -math.inf if claim.public.low is None else claim.public.low
    high = math.inf if claim.public.high is None else claim.public.high
    least, most = (ours.estimate, ours.estimate) if ours.low is None or ours.high is None else (ours.low, ours.high)
    if low <= least and most <= high:
        return "agrees"
    return "differs" if most < low or least > high else "undecided"


def examine(claim: Claim, run: Run, studies: Mapping[str, Study], probes: Any) -> Finding:
    """Finds our figure for one claim and judges it."""
    if run.device == "cpu":
        return Finding(claim, "not measured", why="rehearsal on a CPU")
    place = claim.ours
    if isinstance(place, ProbeOf):
        found = _probe(place, run, probes)
    else:
        study = studies.get(place.study)
        if study is None:
            return Finding(claim, "not measured", why=run.why_absent(place.study))
        if study.withheld:
            return Finding(claim, "not measured", why=f"{study.name} is withheld: {study.withheld}")
        found = _effect(study, place) if isinstance(place, EffectOf) else _cell(study, place)
    if isinstance(found, str):
        return Finding(claim, "not measured", why=found)
    return Finding(claim, judge(claim, found), found)


def _probe(place: ProbeOf, run: Run, probes: Any) -> Ours | str:
    if not isinstance(probes, dict):
        return f"no probes: {run.why_absent('probes')}"
    figures = probes.get(place.probe)
    value = figures.get(place.figure) if isinstance(figures, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return f"no figure {place.figure} of a probe {place.probe}"
    return Ours(float(value))


def _effect(study: Study, place: EffectOf) -> Ours | str:
    rows = [
        row
        for row in study.effects
        if (row.response, row.kind, techniques(row.term)) == (place.response, place.kind, techniques(place.term))
        and place.matches(row.model, row.dataset)
    ]
    chosen = _only(study, rows)
    if isinstance(chosen, str):
        return chosen
    if chosen.estimate is None:
        return f"{study.name}: {chosen.kind} {chosen.term} has no estimate, a cell that it needs has no data"
    batch = _batch(_rows(study, place))
    return Ours(chosen.estimate, chosen.low, chosen.high, chosen.blocks, chosen.verdict, batch)


def techniques(term: str) -> tuple[str, ...]:
    """Gives a term's or a cell's techniques without the study's order of them."""
    return tuple(sorted(re.split(r"[:+]", term)))


def _only(study: Study, rows: list[Effect]) -> Effect | str:
    if len(rows) == 1:
        return rows[0]
    problems = f" ({'; '.join(study.problems)})" if study.problems else ""
    return f"{study.name}: {len(rows)} rows match, one is needed{problems}"


def _rows(study: Study, place: Where) -> pd.DataFrame:
    """Gives the finished raw rows of the place's model and data set."""
    if study.runs is None:
        return pd.DataFrame(columns=["cell", "block", "batch_size", place.response])
    runs = study.runs.runs
    meant = [place.matches(model, dataset) for model, dataset in zip(runs["model"], runs["dataset"], strict=True)]
    return runs[np.array(meant, dtype=bool) & runs["outcome"].eq("finished").to_numpy()]


def _batch(rows: pd.DataFrame) -> str:
    return ", ".join(sorted({str(value) for value in rows["batch_size"] if value}, key=lambda text: (len(text), text)))


def _cell(study: Study, place: CellOf) -> Ours | str:
    rows = _rows(study, place)
    groups = rows[["model", "dataset"]].drop_duplicates() if len(rows) else rows
    if len(groups) != 1:
        return f"{study.name}: {len(groups)} groups of finished rows match, one is needed"
    means = {}  # cell -> logarithms by block
    for name in filter(None, (place.cell, place.over)):
        cell = rows[rows["cell"].map(techniques).map(techniques(name).__eq__)]
        means[name] = BY_NAME[place.response].to_scale(cell[place.response]).groupby(cell["block"]).mean().dropna()
        if means[name].empty:
            return f"{study.name}: no finished row of cell {name} has {place.response}"
    values = means[place.cell]
    if place.over:  # within a block, so that what differs between blocks cancels
        values = (values - means[place.over]).dropna()
        if values.empty:
            return f"{study.name}: no block has both {place.cell} and {place.over}"
    used = rows[rows["cell"].map(techniques).isin([techniques(name) for name in means])]
    low, high = _interval(values)
    return Ours(math.exp(values.mean()), low, high, len(values), batch=_batch(used))


def _interval(logs: pd.Series) -> tuple[float | None, float | None]:
    """Gives Student's interval of a geometric mean over blocks; none for a single block."""
    _, low, high = student_t.mean_interval(logs, CONFIDENCE)
    return (None, None) if math.isnan(low) else (math.exp(low), math.exp(high))
