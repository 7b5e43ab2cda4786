"""`ablate list`: what there is to choose from, techniques, models, data sets, studies and fields of the recipe."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pipeline.commands.command_options import ListOptions
from pipeline.commands.techniques import TECHNIQUE_COLUMNS, technique_document
from pipeline.design import catalog
from pipeline.design.spec import Recipe
from pipeline.design.techniques import TECHNIQUES
from pipeline.errors import AblateError, not_allowed, suggest
from pipeline.shown import printable

_Row = dict[str, Any]


@dataclass(frozen=True)
class _Kind:
    """A kind of thing that can be listed.

    Attributes:
        rows: the options -> all rows; each has a `name`.
        columns: keys of the rows that people are shown, in order.
        hint: what to do with a row, one line.
    """

    rows: Callable[[ListOptions], list[_Row]]
    columns: tuple[str, ...]
    hint: str


def list_names(options: ListOptions) -> int:
    """Prints what there is of a kind, one row for each.

    Args:
        options: of the command.

    Returns:
        The exit code.

    Raises:
        InputError: no name fits the pattern, or no such store.
    """
    kind = _KINDS[options.kind]
    rows = _fitting(kind.rows(options), options.pattern)
    if options.as_json:
        print(json.dumps({options.kind: rows}, indent=1))
        return 0
    cells = [[_text(column, row[column]) for column in kind.columns] for row in rows]
    if sys.stdout.isatty():
        _draw(kind, cells)
    else:  # one line for each, for other programs
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            print("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _draw(kind: _Kind, cells: list[list[str]]) -> None:
    from rich import box
    from rich.table import Table

    from pipeline.console import make_console

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(kind.columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")  # a name is typed as it stands
    for row in cells:
        table.add_row(*row)
    table.columns[0].overflow = "fold"  # a name is there to be copied
    make_console().print(table)
    print(kind.hint)


def _fitting(rows: list[_Row], pattern: str | None) -> list[_Row]:
    """The rows whose name fits: with `*`, `?` or `[` as a file name would, and else those that contain the text."""
    if pattern is None:
        return rows
    wild = any(character in pattern for character in "*?[")
    found = [row for row in rows if (fnmatchcase(row["name"], pattern) if wild else pattern in row["name"])]
    if not found:
        raise not_allowed(
            "PATTERN", pattern, suggest(pattern, [row["name"] for row in rows]) or "none: there is nothing"
        )
    return found


def _text(column: str, value: Any) -> str:
    if column == "default":  # as --set takes it
        return value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return printable("" if value is None else str(value))


def _techniques(_options: ListOptions) -> list[_Row]:
    return [
        {**technique_document(technique), "level": TECHNIQUE_COLUMNS["level"](technique)}
        for technique in TECHNIQUES.values()
    ]


def _models(options: ListOptions) -> list[_Row]:
    """The catalog's; with a pattern timm's, too, of which there are more than a thousand."""
    tags = catalog.timm_tags()
    rows = [
        {"name": name, "timm": row.timm_name, "weights": list(tags.get(row.timm_name, ()))}
        for name, row in catalog.MODELS.items()
    ]
    if options.pattern:
        rows += [
            {"name": f"timm:{name}", "timm": name, "weights": list(tags.get(name, ()))}
            for name in catalog.timm_architectures()
        ]
    return rows


def _datasets(_options: ListOptions) -> list[_Row]:
    rows: list[_Row] = [
        {
            "name": name,
            "classes": row.classes,
            "train images": row.train_images,
            "where from": "scikit-learn's digits, offline" if row.embedded else "download, checksums checked",
        }
        for name, row in catalog.DATASETS.items()
    ]
    here = [path for path in sorted(Path().iterdir()) if Path(path, "train").is_dir() and not path.name.startswith(".")]
    unknown = {"classes": None, "train images": None}
    return rows + [{"name": f"{catalog.IMAGEFOLDER}{path}", **unknown, "where from": "this folder"} for path in here]


def _studies(options: ListOptions) -> list[_Row]:
    """Study files, and the experiments of the store that have runs of ours."""
    from pipeline.design.study import study_folders
    from pipeline.tracking.experiments import stored_studies

    rows: dict[str, _Row] = {}
    for path in (path for folder in study_folders() for path in sorted(folder.glob("*.yaml"))):
        # the first of a name is the one that --study finds
        rows.setdefault(path.stem, {"name": path.stem, "runs": None, "file": str(path), "title": _title(path)})
    for study in stored_studies(options.tracking_uri):
        rows.setdefault(study.name, {"name": study.name, "runs": None, "file": None, "title": ""})["runs"] = study.runs
    return list(rows.values())


def _title(path: Path) -> str:
    """What a study file is about; nothing where it cannot be read."""
    from pipeline.design import yaml_core

    try:
        content = yaml_core.read_file(path)
    except AblateError:
        return ""
    return " ".join(str(content.get("title", "")).split()) if isinstance(content, dict) else ""


def _fields(_options: ListOptions) -> list[_Row]:
    meanings = recipe_meanings()
    schema: Mapping[str, Mapping[str, Any]] = Recipe.model_json_schema()["properties"]
    return [
        {
            "name": name,
            "type": _type(schema[name]),
            "allowed": _allowed(schema[name]),
            "default": schema[name].get("default"),
            "what it does": meanings.get(name, ""),
        }
        for name in Recipe.model_fields
    ]


def recipe_meanings() -> dict[str, str]:
    """Field of the recipe -> what it does, from the docstring of `Recipe`."""
    text = (Recipe.__doc__ or "").partition("Attributes:")[2]
    meanings: dict[str, str] = {}
    for entry in re.split(r"\n {8}(?=\S)", text):
        names, colon, words = entry.strip().partition(": ")
        if colon:
            meanings |= dict.fromkeys(names.split(", "), " ".join(words.replace("None", "null").split()))
    return meanings


def _choices(schema: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The alternatives of a field: `anyOf` where null is one."""
    alternatives: Sequence[Mapping[str, Any]] = schema.get("anyOf", [schema])
    return alternatives


_TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "switch", "null": "null"}


def _type(schema: Mapping[str, Any]) -> str:
    return " or ".join(_TYPES.get(str(each.get("type")), "any") for each in _choices(schema))


def _allowed(schema: Mapping[str, Any]) -> str:
    words: list[str] = []
    for each in _choices(schema):
        if "enum" in each:
            words += [str(value) for value in each["enum"]]
        elif each.get("type") == "boolean":
            words += ["true", "false"]
        elif each.get("type") in ("null", "string"):
            words.append({"null": "null", "string": "a text"}[each["type"]])
        elif bounds := _bounds(each):
            words.append(bounds)
    return ", ".join(words)


def _bounds(schema: Mapping[str, Any]) -> str:
    signs = (("minimum", ">="), ("ge", ">="), ("gt", ">"), ("maximum", "<="), ("le", "<="), ("lt", "<"))
    return " and ".join(f"{sign} {schema[name]:,}" for name, sign in signs if name in schema)


_KINDS: Mapping[str, _Kind] = {
    "techniques": _Kind(
        _techniques, ("name", "level", "description"), "ablate grid --techniques A,B; levels: --technique NAME=VALUE"
    ),
    "models": _Kind(
        _models, ("name", "timm", "weights"), "ablate grid --models A,B; timm's: ablate list models 'timm:*convnext*'"
    ),
    "datasets": _Kind(
        _datasets,
        ("name", "classes", "train images", "where from"),
        "ablate grid --datasets A,B; a folder with train/CLASS/* and test/CLASS/*: imagefolder:DIR",
    ),
    "studies": _Kind(_studies, ("name", "runs", "title", "file"), "ablate grid --study NAME; ablate status NAME"),
    "fields": _Kind(
        _fields, ("name", "allowed", "default", "what it does"), "ablate grid --set FIELD=VALUE, or recipe: in a study"
    ),
}
