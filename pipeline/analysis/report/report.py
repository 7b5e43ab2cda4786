"""What a report says, as data; `files.py` writes it."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.analysis import time_budget
from pipeline.analysis.anchors import Anchor, anchors
from pipeline.analysis.answer import StudyAnswer, answer_of
from pipeline.analysis.break_even import BreakEven, break_evens
from pipeline.analysis.comparison import provenance
from pipeline.analysis.effects import Effects
from pipeline.analysis.engagement import Seen, seen
from pipeline.analysis.machines import NextMachine, next_machine
from pipeline.analysis.paper.audit import Audit
from pipeline.analysis.recommendation import Recommendation
from pipeline.analysis.trust import Trust, examine
from pipeline.tracking.study_data import StudyData


@dataclass(frozen=True)
class Report:
    """Everything the report of a study says.

    Attributes:
        study: The study as stored.
        effects: The estimates.
        trust: The trust checks.
        budgets: The time budget of every cell that has one.
        throughput: What every cell reaches of its device; empty where operations were not counted.
        reasons: One sentence per technique, model and dataset.
        answer: What to use, and what each technique does.
        break_evens: When cells have paid back what they take before training; empty where none takes much.
        engagement: What was seen of each cell's techniques; empty where runs did not tell.
        machines: Effects for the next machine; empty where one machine ran everything.
        provenance: Name of an `env` tag -> its values.
        audit: The audit of the paper, where it was asked for.
        memory_limit_mib: The limit that the recommendation keeps to, MiB.
    """

    study: StudyData
    effects: Effects
    trust: Trust
    budgets: list[time_budget.Budget]
    throughput: list[Anchor]
    reasons: list[time_budget.Reason]
    answer: StudyAnswer
    machines: list[NextMachine]
    break_evens: list[BreakEven]
    engagement: list[Seen]
    provenance: dict[str, tuple[str, ...]]
    audit: Audit | None = None
    memory_limit_mib: float | None = None

    @property
    def recommendations(self) -> list[Recommendation]:
        """What is recommended, one for each model and data set."""
        return [advice.chosen for advice in self.answer.groups]


def build_report(
    study: StudyData, effects: Effects, *, memory_limit_mib: float | None = None, audit: Audit | None = None
) -> Report:
    """Collects what the report of a study says.

    Args:
        study: The study as the tracking store gives it.
        effects: Its estimates.
        memory_limit_mib: Largest peak GPU memory of a recommended cell, MiB; None for no limit.
        audit: The audit of the paper, to be part of the report.

    Returns:
        The report; it has its notes even where nothing finished.
    """
    budgets = time_budget.budgets(effects)
    return Report(
        study,
        effects,
        examine(effects.study, effects.idle, effects.timed, effects.detailed),
        budgets,
        anchors(effects),
        time_budget.reasons(effects, budgets),
        answer_of(effects, memory_limit_mib),
        next_machine(effects),
        break_evens(effects),
        seen(effects.timed),
        provenance(study),
        audit,
        memory_limit_mib,
    )
