"""The answer in words: what to use, then one sentence for each technique."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.analysis.answer import ALONE, AVERAGE, TOGETHER, Advice, Estimated, OnTop, Part, StudyAnswer, answer_of
from pipeline.analysis.break_even import of_answer
from pipeline.analysis.effects import Effects
from pipeline.analysis.frame import BASELINE
from pipeline.analysis.machines import NextMachine
from pipeline.analysis.pooling import ALL
from pipeline.analysis.recommendation import points
from pipeline.analysis.report.report import Report
from pipeline.analysis.time_to_target import contrary
from pipeline.analysis.verdicts import CHANCE, COSTS, NO_EFFECT, PAYS, UNDECIDED
from pipeline.design.techniques import TECHNIQUES
from pipeline.shown import counted

VERDICT_WORDS = {
    "pays": "pays",
    "costs": "costs",
    "no_effect": "no effect",
    "undecided": "undecided",
    "not_engaged": "not engaged",
    "not_trained": "not trained",
}
_KIND_WORDS = {ALONE: " alone", AVERAGE: " on average over the others' settings", TOGETHER: " together"}
MOST_GROUPS = 12  # that the terminal tells of
HOW_CHOSEN = (
    "The settings to use are the fastest whose speed-up is shown. Their interval holds for all settings that were "
    "compared together (Bonferroni); every other interval is for itself. Verdicts are corrected for all comparisons of "
    "their kind (Holm); that accuracy is not worse is tested of each faster setting (one-sided, Bonferroni)."
)


def spelled_out(name: str) -> str:
    """Says what a technique is, in a few words; empty for one that has no row in the table.

    Examples:
        >>> spelled_out("ga"), spelled_out("mine")
        ('gradient accumulation, micro-batch fixed', '')
    """
    row = TECHNIQUES.get(name)
    return re.split(r"[:;]|, (?:where|for) ", row.description)[0] if row else ""


def speed_words(speed: Estimated) -> str:
    """Writes a speed-up with its interval.

    Examples:
        >>> speed_words(Estimated(1.5, 1.25, 1.8, "pays"))
        '1.500x as fast [1.250, 1.800]'
    """
    return f"{speed.value:.3f}x as fast{_interval(speed, '.3f')}"


def _interval(measured: Estimated, form: str) -> str:
    return "" if math.isnan(measured.low) else f" [{measured.low:{form}}, {measured.high:{form}}]"


def verdict_words(measured: Estimated, neutral: float = 1.0) -> str:
    """Says a verdict; also why it is open where the effect's own interval would settle it.

    Args:
        measured: The effect.
        neutral: Its value where there is none.

    Examples:
        >>> verdict_words(Estimated(1.5, 1.25, 1.8, "pays")), verdict_words(Estimated(1.1, 0.9, 1.3, "undecided"))
        ('pays', 'undecided')
        >>> verdict_words(Estimated(1.1, 1.05, 1.15, "undecided"))
        'undecided with all comparisons counted'
    """
    settled = measured.low > neutral or measured.high < neutral
    counted_in = " with all comparisons counted" if measured.verdict == UNDECIDED and settled else ""
    return VERDICT_WORDS[measured.verdict] + counted_in


def _points(accuracy: Estimated) -> str:
    return f"{accuracy.value:+.2f} points{_interval(accuracy, '+.2f')}"


def _accuracy(accuracy: Estimated, margin: float) -> str:
    words = {PAYS: "better", COSTS: "worse", NO_EFFECT: f"within {points(margin)}"}
    return f"accuracy {_points(accuracy)}, {words.get(accuracy.verdict) or verdict_words(accuracy, 0.0)}"


def _memory(part: Part) -> str:
    if part.memory is not None:
        exact = part.memory.high - part.memory.low < 5e-4  # it repeats to the byte
        return f"; memory {part.memory.value:.3f}x{'' if exact else _interval(part.memory, '.3f')}"
    return "" if math.isnan(part.host_mib) else f"; host memory {round(part.host_mib) + 0:+d} MiB"


def undecided(part: Part, speed: Estimated) -> str:
    """Says what would decide a speed-up of a part."""
    noun = "round" if part.in_rounds else "block"
    if math.isnan(speed.low) and part.in_rounds:
        return "these rounds cannot say: make more (--min-rounds)"
    if math.isnan(speed.low):
        return f"{'one seed' if part.blocks == 1 else 'these runs'} cannot say: run more blocks (--seeds)"
    if math.isnan(speed.further_blocks):
        return f"more {noun}s will hardly decide it"
    return (
        f"about {counted(int(speed.further_blocks), f'more {noun}')} would decide it ({10 * CHANCE:.0f} chances in 10)"
    )


def _on_top(each: OnTop) -> str:
    if math.isnan(each.speed):
        return f"; with {each.others} it depends"
    itself = {PAYS: ", which itself pays", COSTS: ", which itself costs"}.get(each.verdict, "")
    return f"; on top of {each.others} {each.speed:.3f}x as fast{itself}"


def _synergy(part: Part) -> str:
    """Says how the single speed-ups add up, where that is shown."""
    if part.synergy is None or part.speed is None:
        return ""
    said = f"{part.synergy.value:.3f}x what the single speed-ups multiply to{_interval(part.synergy, '.3f')}"
    if part.synergy.verdict == COSTS:
        return f"; they get in each other's way: {said}"
    if part.synergy.verdict == PAYS and part.speed.value < 1:
        return f"; they soften each other: {said}, but together still {part.speed.value:.3f}x"
    if part.synergy.verdict == PAYS:
        return f"; they help each other: {said}"
    return "; the single speed-ups multiply" if part.synergy.verdict == NO_EFFECT else ""


def part_line(part: Part, margin: float, explained: str = "") -> str:
    """Says what one technique does, or all together, in one sentence.

    Args:
        part: Which.
        margin: Margin of accuracy, percentage points.
        explained: What the technique is, where that is said here.
    """
    name = part.term + (f" ({explained})" if explained else "")
    if part.not_engaged:
        return f"{name}: not engaged: {part.not_engaged}."
    if part.speed is None:
        return f"{name}{_KIND_WORDS[part.kind]}: no estimate, a cell that it needs has no data."
    speed, verdict = speed_words(part.speed), verdict_words(part.speed)
    if part.on_top and part.kind == ALONE and part.speed.verdict in (NO_EFFECT, UNDECIDED):
        shown = "nothing alone" if part.speed.verdict == NO_EFFECT else "nothing shown alone"
        said = f"{name}: {shown} ({speed}, {verdict})"
    else:
        said = f"{name}{_KIND_WORDS[part.kind]}: {speed}, {verdict}"
    if part.control and part.speed.verdict in (PAYS, COSTS):
        name += _KIND_WORDS[part.kind]
        return f"{name}: {speed}, although it can do nothing here: effects of this size cannot be trusted."
    if part.control:
        return f"{said} (an A/A control here: any effect would be noise)."
    if part.speed.verdict == UNDECIDED and not part.on_top:
        said += f"; {undecided(part, part.speed)}"
    said += "".join(map(_on_top, part.on_top)) + _synergy(part)
    if part.accuracy is not None:
        said += f"; {_accuracy(part.accuracy, margin)}"
    return said + _memory(part) + "."


def _but(part: Part, left_out: str, margin: float) -> str:
    """Says why a fast cell is not the one to use."""
    if left_out == "memory":
        return "but it needs more memory than the limit"
    if part.accuracy is None:
        return "but its accuracy was not measured"
    if part.accuracy.verdict == COSTS:
        return f"but it costs accuracy: {_points(part.accuracy)}"
    return f"but its accuracy is not shown to be within {points(margin)}: {_points(part.accuracy)}"


def _keep_line(advice: Advice, margin: float) -> str:
    best = advice.fastest_part
    if not advice.compared:
        return "nothing to compare: the baseline, or every other setting, has no finished run."
    if best is None or best.speed is None:
        return "keep the baseline: nothing that was tried is shown to be faster."
    if advice.chosen.left_out == "not shown":
        alone = any(part.term == best.term and part.speed and part.speed.verdict == PAYS for part in advice.parts)
        together = " once all settings are counted together" if alone else ""
        return (
            f"keep the baseline: nothing that was tried is shown to be faster{together}; fastest so far is "
            f"{best.term}, {speed_words(best.speed)}; {undecided(best, best.speed)}."
        )
    return f"keep the baseline: {best.term} is {speed_words(best.speed)}, {_but(best, advice.chosen.left_out, margin)}."


def advice_line(advice: Advice, margin: float) -> str:
    """Says what to use for one model and data set.

    Args:
        advice: Which.
        margin: Margin of accuracy, percentage points.
    """
    chosen, part = advice.chosen, advice.chosen_part
    if chosen.cell == BASELINE or part is None or part.speed is None:
        said = _keep_line(advice, margin)
        return said.removesuffix(".") + f"; accuracy not judged: {advice.untrained}." if advice.untrained else said
    judged = advice.judged and not advice.untrained and part.accuracy is not None
    said = f"{'use' if judged else 'fastest is'} {part.term}: {speed_words(part.speed)}"
    if advice.untrained:
        said += f"; accuracy not judged: {advice.untrained}"
    elif not advice.judged or part.accuracy is None:
        said += "; accuracy was not measured"
    else:
        said += f", accuracy not worse by more than {points(margin)} ({_points(part.accuracy)})"
    said += _memory(part)
    if chosen.compared > 2 and f"{1 / chosen.expected:.2f}" != f"{part.speed.value:.2f}":
        said += f"; as the best of {chosen.compared} it looks too good: expect {1 / chosen.expected:.3f}x"
    best = advice.fastest_part
    if best is not None and best.speed is not None and chosen.left_out != "not shown":
        said += f"; faster still is {best.term}, {speed_words(best.speed)}, {_but(best, chosen.left_out, margin)}"
    return said + "."


@dataclass(frozen=True)
class GroupText:
    """The answer for one model and data set: what to use, the flags that set it, and a sentence for each part."""

    model: str
    dataset: str
    line: str
    settings: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class AnswerText:
    """The answer in words.

    Attributes:
        groups: One for each model and data set.
        title: What the averages are over; empty where there are none.
        averages: A sentence for each part, over all models and data sets.
        further: What else a reader must know, a sentence each.
        notes: How it was judged.
    """

    groups: tuple[GroupText, ...]
    title: str
    averages: tuple[str, ...]
    further: tuple[str, ...]
    notes: tuple[str, ...]


def answer_text(answer: StudyAnswer, effects: Effects) -> AnswerText:
    """Puts the answer in words; what a technique is is said where it comes first."""
    explained = {name: spelled_out(name) for name in answer.techniques}

    def said(parts: tuple[Part, ...], names: dict[str, str]) -> tuple[str, ...]:
        return tuple(part_line(part, answer.margin_points, names.pop(part.term.split("=")[0], "")) for part in parts)

    averages = said(answer.averages, dict(explained))
    groups = tuple(
        GroupText(
            each.chosen.model,
            each.chosen.dataset,
            advice_line(each, answer.margin_points),
            each.chosen.set_line,
            said(each.parts, dict(explained) if number == 0 else {}),
        )
        for number, each in enumerate(answer.groups)
    )
    over = f"{counted(answer.models, 'model')} and {counted(answer.datasets, 'data set')}"
    used = any(each.chosen_part is not None for each in answer.groups)
    notes = (HOW_CHOSEN,) if used else ()
    return AnswerText(groups, f"over {over}" if averages else "", averages, tuple(contrary(effects.table)), notes)


def answer_document(answer: StudyAnswer, text: AnswerText) -> dict[str, Any]:
    """The answer as the value of `answer` in report.json: words and numbers."""
    groups = []
    for each, words in zip(answer.groups, text.groups, strict=True):
        parts = [{**asdict(part), "line": line} for part, line in zip(each.parts, words.lines, strict=True)]
        groups.append(
            {
                "model": words.model,
                "dataset": words.dataset,
                "cell": each.chosen.cell,
                "settings": words.settings,
                "line": words.line,
                "use": asdict(each.chosen_part) if each.chosen_part else None,
                "fastest": asdict(each.fastest_part) if each.fastest_part else None,
                "not_trained": str(each.untrained) if each.untrained else "",
                "parts": parts,
            }
        )
    averages = [{**asdict(part), "line": line} for part, line in zip(answer.averages, text.averages, strict=True)]
    return {
        "groups": groups,
        "averages": {"title": text.title, "parts": averages},
        "further": list(text.further),
        "names": {name: spelled_out(name) for name in answer.techniques},
        "notes": list(text.notes),
    }


def answer_lines(text: AnswerText) -> list[str]:
    """The answer as lines for a terminal: first what to use, then each technique."""
    lines = []
    for group in text.groups[:MOST_GROUPS]:
        lines.append(f"{group.model} on {group.dataset}: {group.line}")
        lines += [f"    {group.settings}"] if group.settings else []
        if not text.averages:
            lines += [f"  {line}" for line in group.lines]
    if len(text.groups) > MOST_GROUPS:
        lines.append(f"and {len(text.groups) - MOST_GROUPS} more in the report")
    if text.averages:
        lines += [f"{text.title}:", *(f"  {line}" for line in text.averages)]
    return lines + list(text.further)


def headlines(effects: Effects) -> list[str]:
    """The lines of `answer_lines` of these estimates."""
    return answer_lines(answer_text(answer_of(effects), effects))


def next_machine_line(row: NextMachine) -> str:
    """Says one effect for these machines and for the next."""
    where = "" if row.model == row.dataset == ALL else f"{row.model} / {row.dataset}: "
    name = row.term + {"main": "", "synergy": " synergy"}.get(row.kind, _KIND_WORDS.get(row.kind, ""))
    these = f"{where}{name}: {1 / row.estimate:.3f}x as fast on these {row.machines} {row.unit}s"
    if not math.isnan(row.low):
        these += f" [{1 / row.high:.3f}, {1 / row.low:.3f}]"
    if math.isnan(row.next_low):
        return these + f"; two {row.unit}s cannot tell what it is on the next one."
    return these + f"; on the next {row.unit} like them [{1 / row.next_high:.3f}, {1 / row.next_low:.3f}]."


def machine_lines(report: Report) -> list[str]:
    """Says main and combined effects for the next machine, at the widest average."""
    rows = [row for row in report.machines if row.kind != "simple"]
    pooled = [row for row in rows if row.model == row.dataset == ALL]
    return [next_machine_line(row) for row in pooled or rows]


def summary_lines(report: Report) -> list[str]:
    """Returns the terminal summary: the answer and the cautions."""
    runs = report.effects.study.runs
    parts = ", ".join(f"{n} {name}" for name, n in runs["outcome"].value_counts().items()) or "no runs"
    if report.study.runs is report.study.rounds:  # nothing but `ablate speed`
        cells = len(runs[["model", "dataset", "cell"]].drop_duplicates())
        lines = [f"study {report.study.name}: {counted(cells, 'cell')}, which took turns"]
    else:
        lines = [f"study {report.study.name}: {parts}, {counted(report.effects.study.n_blocks, 'block')}"]
    lines += [f"  caution: {alarm}" for alarm in report.trust.alarms]  # first, since an answer may not be trusted
    text = answer_text(report.answer, report.effects)
    lines += [f"  {line}" for line in answer_lines(text)]
    lines += [f"  {line}" for line in machine_lines(report)]
    told = of_answer(report.break_evens, report.effects.study.factors)
    lines += [f"  {even.model} / {even.dataset}: {even}" for even in told[:12]]
    lines += [f"  note: {note}" for note in (*text.notes, *report.effects.notes)]
    # Control characters in a stored name could drive the terminal.
    return ["".join(c if c.isprintable() else "?" for c in line) for line in lines]
