r"""Tables for a paper: LaTeX with booktabs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.analysis.report.overview import CONTROL_LETTERS, LETTERS, Overview, mark
from pipeline.analysis.report.render import effect, interval_text, p_text, quantity_text
from pipeline.shown import printable

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "×": r"$\times$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def latex_text(value: object) -> str:
    r"""Escapes text for LaTeX, on one line.

    Examples:
        >>> print(latex_text("50 % of a_b"))
        50 \% of a\_b
    """
    line = printable(str(value).replace("\r", " ").replace("\n", " "))
    return "".join(_SPECIAL.get(character, character) for character in line)


def latex_table(caption: str, label: str, columns: Mapping[str, str], rows: Sequence[Sequence[str]]) -> str:
    """Writes a floating table.

    Args:
        caption: Above it; plain text, as all that follows but the label.
        label: For references.
        columns: Title of each column -> its alignment (l, r or c).
        rows: The cells.
    """

    def line(cells: Sequence[str]) -> str:
        return "  " + " & ".join(latex_text(cell) for cell in cells) + r" \\"

    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{latex_text(caption)}}}",
            rf"  \label{{{label}}}",
            rf"  \begin{{tabular}}{{{''.join(columns.values())}}}",
            r"  \toprule",
            line(list(columns)),
            r"  \midrule",
            *[line(row) for row in rows],
            r"  \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or row["estimate"] is None:
        return "–"
    plain = dict(row)
    span = f" [{interval_text(plain, 2).replace(' to ', ', ')}]" if row["low"] is not None else ""
    return f"{effect(plain, 2)}{span} {mark(row)}"


def latex_tables(document: Mapping[str, Any], overview: Overview | None) -> str:
    """Writes tables.tex: the overview, and the main effects averaged most widely.

    Args:
        document: The content of report.json.
        overview: Its overview.
    """
    level = f"{100 * document['options']['confidence']:g} %"
    parts = ["% needs \\usepackage{booktabs}"]
    if overview is not None:
        letters = ", ".join(f"{letter}: {verdict.replace('_', ' ')}" for verdict, letter in LETTERS.items())
        letters += f", {CONTROL_LETTERS}: cannot act here"
        what = "each technique alone and all together" if overview.alone else "each technique, averaged over the others"
        caption = f"Speed-up of training by {what} [{level} interval]. {letters}."
        columns = {"model / data set": "l"} | dict.fromkeys(overview.columns, "l")
        rows = [[label, *[_cell(pair[0]) for pair in pairs]] for label, pairs in overview.rows]
        parts.append(latex_table(caption, "tab:overview", columns, rows))
    main = [row for row in document["effects"] if row["kind"] == "main"]
    for wanted in (("all", "all"), None):
        chosen = [row for row in main if wanted is None or (row["model"], row["dataset"]) == wanted]
        if chosen:
            break
    if chosen:
        columns = {"technique": "l", "model": "l", "data set": "l", "on": "l", "effect": "r", level: "r"}
        columns |= {"p (Holm)": "r", "verdict": "l"}
        rows = []
        for row in chosen[:60]:
            shown = [effect(row), interval_text(row), p_text(row["p_adjusted"]), row["verdict"].replace("_", " ")]
            rows.append([row["term"], row["model"], row["dataset"], quantity_text(row["response"]), *shown])
        parts.append(latex_table("Main effects, averaged over all settings.", "tab:main", columns, rows))
    return "\n\n".join(parts) + "\n"
