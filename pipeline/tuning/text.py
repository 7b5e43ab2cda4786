"""A tuning's outcome as text and tables, for the terminal and for the parent run's description."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.shown import markdown_cell
from pipeline.tuning.confirmation import Measurement, ranked
from pipeline.tuning.objective import Quantity
from pipeline.tuning.result import BETTER, TIE, WORSE, TuningResult, fields, ga_sentence, measured
from pipeline.tuning.space import Config

BEST_ROWS = 10


def headings(outcome: TuningResult) -> tuple[str, ...]:
    """Of the table of the best."""
    names = [
        f"{response.name}{f' [{response.unit}]' if response.unit else ''}" for response in outcome.objective.responses
    ]
    return ("trial", "configuration", *names, "search / baseline", "confirmed / baseline")


def rows(outcome: TuningResult) -> list[tuple[str, ...]]:
    """The best configurations of the search, and all that was confirmed."""
    found = measured(outcome.findings)
    ratios = {c.measured.config: c.ratios.get(outcome.response.name) for c in outcome.candidates}
    order = ranked(outcome.objective, found)[:BEST_ROWS]
    shown = [one for one in order if one.config != outcome.space.baseline]
    listed = {one.config for one in shown}
    shown += [c.measured for c in outcome.candidates if c.measured.config not in listed]
    baseline = [one for one in found if one.config == outcome.space.baseline] or [Measurement(outcome.space.baseline)]
    base = baseline[0].values
    made = []
    for one in [*shown, *baseline]:
        ratio = ratios.get(one.config)
        name = one.config.label + (" (baseline)" if one.config == outcome.space.baseline else "")
        values = (
            [_value(v, r) for v, r in zip(one.values, outcome.objective.responses, strict=True)] if one.values else []
        )
        values = values or ["–"] * len(outcome.objective.responses)
        searched = f"x{one.values[0] / base[0]:.3f}" if one.values and base and base[0] else "–"
        made.append(
            ("–" if one.number is None else str(one.number), name, *values, searched, str(ratio) if ratio else "–")
        )
    return made


def _value(value: float, response: Quantity) -> str:
    if response.unit == "":
        return f"{value:.4f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ga_rows(outcome: TuningResult) -> list[tuple[str, ...]]:
    """Best accumulation by micro-batch."""
    return [
        (
            "+".join([f"b{row.batch_size}", *(n + v for n, v in row.levels if v != "off")]),
            str(row.best_steps),
            f"x{row.ratio:.3f}",
        )
        for row in outcome.ga
    ]


GA_HEADINGS = ("micro-batch", "best accumulation steps above 1", "images/s over 1 step (search)")


def sentences(outcome: TuningResult) -> list[str]:
    """The conclusions, one sentence a line."""
    lines = [_counts(outcome), _winner(outcome)]
    if outcome.optimistic is not None:
        lines.append(
            f"the search alone would have claimed x{outcome.optimistic:.3f}: a value picked for being the best of many "
            "noisy ones, so the claim above rests on fresh measurements alone"
        )
    if outcome.ties and outcome.verdict == BETTER:
        lines.append(f"tied with the winner (not shown to differ): {_labels(outcome.ties)}")
    if ga_sentence(outcome):
        lines.append(ga_sentence(outcome))
    if outcome.importances:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in outcome.importances.items())
        lines.append(f"importances (fANOVA): {shares}")
    return [line for line in lines if line]


def _counts(outcome: TuningResult) -> str:
    pruned = sum(finding.outcome == "pruned" for finding in outcome.findings)
    parts = [f"{len(outcome.findings)} trials of {len(outcome.space.configs)} configurations"]
    parts += [f"{outcome.infeasible} infeasible"] if outcome.infeasible else []
    parts += [f"{pruned} pruned"] if pruned else []
    parts += [f"{outcome.failed} failed"] if outcome.failed else []
    return ", ".join(parts)


def _winner(outcome: TuningResult) -> str:
    first = outcome.response
    if outcome.best is None:
        return "no configuration could be confirmed"
    if outcome.ratio is None:
        return f"{outcome.best.label}: nothing to compare it with"
    text = f"{outcome.best.label}: {first.name} {outcome.ratio} of the baseline {outcome.space.baseline.label}"
    blocks = f"{outcome.ratio.blocks} fresh blocks"
    if outcome.verdict == BETTER:
        return f"winner {text}, in {blocks}: {first.better}"
    if outcome.verdict == TIE:
        return f"tie: {text}, in {blocks}; not shown to be {first.better}, keep the baseline"
    if outcome.verdict == WORSE:
        return f"nothing is {first.better} than the baseline; the best other is {text}, in {blocks}"
    return f"best {text}"


def _labels(configs: Sequence[Config]) -> str:
    return ", ".join(config.label for config in configs)


def tuning_markdown(outcome: TuningResult) -> str:
    """Everything, for the parent run's description."""
    parts = ["\n".join(f"- {line}" for line in sentences(outcome)), _table(headings(outcome), rows(outcome))]
    if outcome.ga:
        parts.append(_table(GA_HEADINGS, ga_rows(outcome)))
    recommended = ", ".join(f"{k}={v}" for k, v in fields(outcome.space, outcome.recommended).items())
    parts.append(f"recommended: {recommended}")
    return "\n\n".join(parts)


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    made = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    return "\n".join([*made, *("| " + " | ".join(markdown_cell(cell) for cell in line) + " |" for line in lines)])


def show_tuning(outcome: TuningResult) -> None:
    """Prints tables and sentences."""
    from rich.table import Table

    from pipeline.console import make_console

    console = make_console(width=120)
    tables = [(f"{outcome.model} on {outcome.dataset}: {outcome.objective.name}", headings(outcome), rows(outcome))]
    if outcome.ga:
        tables.append(("gradient accumulation by micro-batch", GA_HEADINGS, ga_rows(outcome)))
    for title, heads, listed in tables:
        table = Table(title=title, title_justify="left")
        for number, heading in enumerate(heads):
            table.add_column(heading, justify="left" if number == 1 else "right")
        for cells in listed:
            table.add_row(*cells)
        console.print(table)
    for line in sentences(outcome):
        print(line)
