"""What a tuning found: the winner with its interval, what ties with it, and what accumulation does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.tuning.confirmation import Measurement, PairedRatio, Values, contrast, ranked
from pipeline.tuning.objective import THROUGHPUT, VALIDATION_ACCURACY, Objective, Quantity
from pipeline.tuning.space import Config, Space
from pipeline.tuning.trials import TrialResult

GA_MARGIN = 0.01
BETTER, TIE, WORSE, UNKNOWN = "better", "tie", "worse", "unknown"


@dataclass(frozen=True)
class Candidate:
    """A confirmed configuration.

    Attributes:
        measured: what the search saw.
        ratios: response -> its ratio to the baseline.
        blocks: blocks in which it has a value of every objective, of how many it was run in.
    """

    measured: Measurement
    ratios: Mapping[str, PairedRatio]
    blocks: tuple[int, int]


@dataclass(frozen=True)
class GaRow:
    """The best accumulation of one micro-batch (and techniques), from the search's own, single measurements."""

    batch_size: int
    levels: tuple[tuple[str, str], ...]
    best_steps: int
    ratio: float


@dataclass(frozen=True)
class TuningResult:
    """The result of a tuning.

    Attributes:
        best: the winner among the confirmed; the baseline where nothing else was feasible; None where nothing was.
        ratio: the winner over the baseline in the first response.
        verdict: whether the winner is `better` than the baseline, a `tie`, `worse`, or `unknown`.
        ties: confirmed configurations that the winner was not shown to beat.
        recommended: the winner where it is better, else the baseline.
        optimistic: the ratio that the search alone would have claimed: its best trial over its baseline trial.
    """

    model: str
    dataset: str
    objective: Objective
    space: Space
    findings: tuple[TrialResult, ...]
    candidates: tuple[Candidate, ...]
    best: Config | None
    ratio: PairedRatio | None
    verdict: str
    ties: tuple[Config, ...]
    recommended: Config
    optimistic: float | None
    ga: tuple[GaRow, ...]
    ga_contrast: PairedRatio | None
    importances: Mapping[str, float] = field(default_factory=dict)

    @property
    def response(self) -> Quantity:
        """The response that decides."""
        return self.objective.responses[0]

    @property
    def infeasible(self) -> int:
        """Trials that violated a constraint."""
        return sum(not finding.feasible for finding in self.findings)

    @property
    def failed(self) -> int:
        """Trials that have failed for good."""
        return sum(finding.outcome in ("failed", "timeout") for finding in self.findings)


def measured(findings: Sequence[TrialResult]) -> list[Measurement]:
    """Feasible findings with values."""
    return [Measurement(f.config, f.number, f.objectives) for f in findings if f.feasible and f.objectives is not None]


def conclude(
    model: str,
    dataset: str,
    objective: Objective,
    space: Space,
    findings: Sequence[TrialResult],
    chosen: Sequence[Measurement],
    values: Values,
    importances: Mapping[str, float],
) -> TuningResult:
    """Draws the conclusions.

    Args:
        model: the tuned model.
        dataset: the data set that it was tuned on.
        objective: what it was tuned for.
        space: the configurations.
        findings: results of the search's trials.
        chosen: what was confirmed, without the baseline.
        values: of the confirmation: configuration -> block -> metrics.
        importances: of the parameters.
    """
    confirmed = [_candidate(objective, space, one, values, len(chosen)) for one in chosen]
    best = _winner(objective, [candidate for candidate in confirmed if candidate.ratios])
    first = objective.responses[0]
    ratio = best.ratios.get(first.name) if best else None
    verdict = UNKNOWN
    if ratio is not None and ratio.low is not None:
        verdict = BETTER if ratio.better(first) else WORSE if ratio.known else TIE
    winner = best.measured.config if best else _fallback(space, chosen, values, first)
    others = [c.measured.config for c in confirmed if best and c.measured.config != best.measured.config]
    pairs = len(chosen) * (len(chosen) - 1) // 2  # the winner is found by comparing each with each
    ties = [other for other in others if winner and _tied(values, winner, other, first, pairs)]
    return TuningResult(
        model,
        dataset,
        objective,
        space,
        tuple(findings),
        tuple(confirmed),
        winner,
        ratio,
        verdict,
        tuple(ties),
        winner if winner and verdict == BETTER else space.baseline,
        _optimistic(objective, space, measured(findings)),
        _ga_rows(objective, measured(findings)),
        _ga_contrast(space, values, chosen, first),
        importances,
    )


def _candidate(objective: Objective, space: Space, one: Measurement, values: Values, family: int) -> Candidate:
    ratios = {}
    for response in objective.responses:
        found = contrast(values, one.config, space.baseline, response, family)
        if found is not None:
            ratios[response.name] = found
    runs = values.get(one.config, {})
    complete = sum(objective.values(metrics) is not None for metrics in runs.values())
    return Candidate(one, ratios, (complete, len(runs)))


def _winner(objective: Objective, confirmed: Sequence[Candidate]) -> Candidate | None:
    """The best mean ratio among those that have a value in every block.

    Of a Pareto front it is the one with the best first objective among those whose validation accuracy has not been
    shown to be lower than the baseline's.
    """
    first = objective.responses[0]
    whole = [c for c in confirmed if c.blocks[0] == c.blocks[1]] or list(confirmed)
    if len(objective.responses) > 1:
        whole = [c for c in whole if not _loses_accuracy(c)] or whole
    sign = 1 if first.higher_is_better else -1
    ranked = [c for c in whole if first.name in c.ratios]
    return max(ranked, key=lambda c: sign * c.ratios[first.name].ratio, default=None)


def _loses_accuracy(candidate: Candidate) -> bool:
    found = candidate.ratios.get(VALIDATION_ACCURACY.name)
    agreed = found is not None and found.low is None and found.blocks > 1
    return found is not None and (found.known or agreed) and found.ratio < 1.0


def _fallback(space: Space, chosen: Sequence[Measurement], values: Values, first: Quantity) -> Config | None:
    """Without a comparison: a confirmed configuration where the baseline has no value, else the baseline."""
    for config in (space.baseline, *(one.config for one in chosen)):
        if any(first.value(metrics) is not None for metrics in values.get(config, {}).values()):
            return config
    return None


def _tied(values: Values, one: Config, other: Config, response: Quantity, family: int) -> bool:
    found = contrast(values, one, other, response, family)
    return found is not None and not found.known


def _optimistic(objective: Objective, space: Space, found: Sequence[Measurement]) -> float | None:
    seen = {one.config: one.values[0] for one in found if one.values}
    order, base = ranked(objective, found), seen.get(space.baseline)
    return seen[order[0].config] / base if order and base else None


def _ga_rows(objective: Objective, found: Sequence[Measurement]) -> tuple[GaRow, ...]:
    """Best accumulation for each micro-batch that was measured both without and with it."""
    if objective.responses[0] is not THROUGHPUT:
        return ()
    grouped: dict[tuple[int, tuple[tuple[str, str], ...]], dict[int, float]] = {}
    for one in found:
        if one.values:
            key = (one.config.batch_size, one.config.levels)
            grouped.setdefault(key, {})[one.config.accumulation_steps] = one.values[0]
    rows = []
    for (size, levels), by_steps in sorted(grouped.items()):
        more = {steps: value for steps, value in by_steps.items() if steps > 1}
        if 1 in by_steps and more:
            best = max(more, key=lambda steps: more[steps])
            rows.append(GaRow(size, levels, best, more[best] / by_steps[1]))
    return tuple(rows)


def _ga_contrast(space: Space, values: Values, chosen: Sequence[Measurement], first: Quantity) -> PairedRatio | None:
    """With accumulation over without, at the micro-batch of the search's best."""
    if first is not THROUGHPUT or not chosen:
        return None
    top = chosen[0].config
    for one in [*(c.config for c in chosen[1:]), space.baseline]:
        if (one.batch_size, one.levels) != (top.batch_size, top.levels):
            continue
        if (one.accumulation_steps == 1) == (top.accumulation_steps > 1):
            on, off = (top, one) if top.accumulation_steps > 1 else (one, top)
            return contrast(values, on, off, first, 1)
    return None


def ga_sentence(outcome: TuningResult) -> str:
    """What accumulation does to images/s, plainly; empty for other objectives."""
    if outcome.response is not THROUGHPUT:
        return ""
    found = outcome.ga_contrast
    if found is not None and found.low is not None and found.high is not None:
        if found.high < 1 + GA_MARGIN:
            within = "within 1 %" if found.low > 1 - GA_MARGIN else "it costs" if found.high < 1 else "no gain"
            return f"GA does not raise images/s here: {within} (with / without: {found})"
        if found.low > 1:
            return f"GA raises images/s here (with / without: {found})"
        return f"GA: whether it raises images/s here is undecided (with / without: {found})"
    if outcome.ga and all(row.ratio < 1 + GA_MARGIN for row in outcome.ga):
        best = max(row.ratio for row in outcome.ga)
        return f"GA did not raise images/s in the search: at best x{best:.3f} (single measurements, no interval)"
    return ""


def document(outcome: TuningResult, study_file: str | None, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The document of `ablate tune --json`."""
    ratio = outcome.ratio
    return {
        "model": outcome.model,
        "dataset": outcome.dataset,
        "objective": outcome.objective.name,
        "trials": len(outcome.findings),
        "infeasible": outcome.infeasible,
        "best": fields(outcome.space, outcome.best) if outcome.best else None,
        "ratio": ratio.ratio if ratio else None,
        "low": ratio.low if ratio else None,
        "high": ratio.high if ratio else None,
        "study_file": study_file,
        "verdict": outcome.verdict,
        "blocks": ratio.blocks if ratio else 0,
        "search_ratio": outcome.optimistic,
        "ties": [fields(outcome.space, config) for config in outcome.ties],
        "baseline": fields(outcome.space, outcome.space.baseline),
        "recommended": fields(outcome.space, outcome.recommended),
        "failed": outcome.failed,
        "pruned": sum(finding.outcome == "pruned" for finding in outcome.findings),
        "confirmed": [
            {
                "config": fields(outcome.space, candidate.measured.config),
                "trial": candidate.measured.number,
                "ratios": {name: vars(found) for name, found in candidate.ratios.items()},
            }
            for candidate in outcome.candidates
        ],
        "ga": [{**vars(row), "levels": dict(row.levels)} for row in outcome.ga],
        "ga_confirmed": vars(outcome.ga_contrast) if outcome.ga_contrast else None,
        "ga_sentence": ga_sentence(outcome),
        "importances": dict(outcome.importances),
        **extra,
    }


def fields(space: Space, config: Config) -> dict[str, Any]:
    """The recipe fields that a configuration sets: the sizes, and what its techniques change."""
    base, made = space.recipe.model_dump(), space.recipe_of(config).model_dump()
    changed = {name: value for name, value in made.items() if value != base[name]}
    return {"batch_size": config.batch_size, "accumulation_steps": config.accumulation_steps, **changed}
