"""The methods paragraph that a paper could take: design, machine, runs, analysis."""

from __future__ import annotations

from pipeline.analysis.report.conditions import MAIN_FIELDS, Conditions
from pipeline.analysis.report.render import markdown_text
from pipeline.analysis.report.report import Report

_ERRORS = {
    "cr2": "cluster-robust by block (CR2) with Bell-McCaffrey degrees of freedom",
    "hc2": "heteroscedasticity-robust by run (HC2) with Bell-McCaffrey degrees of freedom",
    "lenth": "Lenth's pseudo standard errors, since cells ran once",
}


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _design(report: Report, conditions: Conditions) -> str:
    """Says what was run, in which order, and how much of it finished."""
    effects, tidy = report.effects, report.effects.study
    runs, seeds = tidy.runs, list(conditions.seeds)
    models, datasets = (list(dict.fromkeys(runs[column])) for column in ("model", "dataset"))
    factors = [f"{f.name} ({len(f.levels)} levels)" if len(f.levels) > 1 else f.name for f in tidy.factors if f.levels]
    cells = len(runs[["model", "dataset", "cell"]].drop_duplicates())
    tainted = len(report.trust.tainted)
    return (
        f"We ran a {'fractional' if effects.aliases else 'full'} factorial design over "
        f"{_counted(len(factors), 'technique')}{f' ({_listed(factors)})' if factors else ''} on "
        f"{_counted(len(models), 'model')} ({_listed(models)}) and {_counted(len(datasets), 'data set')} "
        f"({_listed(datasets)}): {_counted(cells, 'cell')} in {_counted(tidy.n_blocks, 'block')}, one seed per block"
        f"{f' ({_listed(seeds)})' if 0 < len(seeds) <= 12 else ''}. Within a block the cells ran in random order, each "
        "in a process of its own; cells of one model and data set shared initial weights and data order. "
        f"{int(runs['outcome'].eq('finished').sum())} of {len(runs)} runs finished"
        f"{f', {tainted} of them disturbed by other load' if tainted else ''}."
    )


def _analysis(report: Report) -> str:
    """Says how effects, intervals and verdicts were made; empty where there is no effect."""
    options, methods = report.effects.options, set(report.effects.details.get("method", ()))
    used = [words for name, words in _ERRORS.items() if name in methods]
    if not used:
        return ""
    return (
        "Effects are contrasts of cell means in an additive model of cell and block per model and data set, times, "
        f"rates, memory and energy on the log scale, with {100 * options.confidence:g} % intervals; standard errors "
        f"are {'; '.join(used)}. Averages weigh models and data sets equally. P-values are corrected by Holm's "
        "method within each family (one response, one kind of effect); effects within "
        f"{100 * options.margin:g} % (accuracy and F1: {options.accuracy_margin_points:g} points) are tested for "
        "equivalence by two one-sided tests."
    )


def methods_text(report: Report, conditions: Conditions) -> str:
    """Writes methods.md; only what was recorded is in it."""
    said = [_design(report, conditions)] if len(report.effects.study.runs) else []
    if len(report.study.rounds) and report.study.rounds is not report.study.runs:
        said.append("Where cells took turns within seconds of each other, training times are from those rounds.")
    recipe = [f"{f.replace('_', ' ')} {v}" for f, v in conditions.recipe.items() if f in MAIN_FIELDS]
    if recipe:
        said.append(f"The baseline's recipe: {', '.join(recipe)}.")
    sizes = [
        f"{where}: {', '.join(f'{n:,} {what}' for what, n in of.items())}" for where, of in conditions.data.items()
    ]
    if sizes:
        said.append(f"Sizes: {'; '.join(sizes)}.")
    if conditions.versions:
        said.append(f"Machine and software: {'; '.join(f'{k} {v}' for k, v in conditions.versions.items())}.")
    said.append(_analysis(report))
    paragraph = markdown_text(" ".join(part for part in said if part)) or "Nothing was run."
    command = "\n".join(f"    {line}" for line in conditions.reproduce.splitlines())
    return f"# Methods\n\n{paragraph}\n" + (f"\n{command}\n" if command else "")
