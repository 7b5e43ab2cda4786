"""What timm says of an architecture's images, read from its sources: importing it takes seconds and torch.

timm writes it into a table of each of its modules, `'NAME.TAG': _cfg(input_size=(3, 224, 224), ...)`, where `_cfg` is a
function of the module that returns a dictionary. Nothing is executed here: literals and these calls are read as syntax.
A test compares what is found with timm itself, for every architecture.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pipeline.design import catalog

_TABLE_LIMIT = 400_000  # characters of a module; more is not one of timm's


@dataclass(frozen=True)
class TimmConfig:
    """How images of an architecture's default weights look.

    Attributes:
        module: timm's, which tells the family; empty where there is no such architecture.
        image_size: height and width, pixels; timm's own default, 224, where none could be read.
        interpolation: how they are resized; timm's own default, `bicubic`, likewise.
    """

    module: str = ""
    image_size: int = 224
    interpolation: str = "bicubic"


@lru_cache(maxsize=256)
def timm_config(architecture: str, tag: str = "") -> TimmConfig:
    """Reads the entry of an architecture.

    Args:
        architecture: timm's name.
        tag: of its weights; empty for timm's default ones.
    """
    pattern = re.compile(rf"^@register_model\s*\ndef {re.escape(architecture)}\(", re.MULTILINE)
    for module, source in catalog.timm_sources().items():
        if len(source) < _TABLE_LIMIT and pattern.search(source):
            fields = _entry(_tables(module), architecture, tag)
            size = re.search(r"_(\d{3})$", architecture)  # where the table's entry is computed, the name often says it
            return _of_fields(module, fields or ({"input_size": (3, int(size[1]))} if size else {}))
    return TimmConfig()


def _of_fields(module: str, fields: Mapping[str, Any]) -> TimmConfig:
    size, interpolation = fields.get("input_size"), fields.get("interpolation")
    side = size[1] if isinstance(size, tuple) and len(size) > 1 else None
    return TimmConfig(
        module,
        side if isinstance(side, int) else TimmConfig.image_size,
        interpolation if isinstance(interpolation, str) else TimmConfig.interpolation,
    )


def _entry(tables: Mapping[str, Mapping[str, Any]], architecture: str, tag: str) -> Mapping[str, Any]:
    """The entry of a tag, or of timm's default one: of those with weights the first, or one that is marked with `*`."""
    entries = {name.partition(".")[2]: fields for name, fields in tables.items() if name.split(".")[0] == architecture}
    if tag and tag in entries:
        return entries[tag]
    marked = [fields for name, fields in entries.items() if name.endswith("*")]
    plain = [fields for name, fields in entries.items() if not name and _has_weights(fields)]
    weighted = [fields for fields in entries.values() if _has_weights(fields)]
    return next(iter([*marked, *plain, *weighted, *entries.values()]), {})


def _has_weights(fields: Mapping[str, Any]) -> bool:
    return any(fields.get(name) for name in ("url", "file", "hf_hub_id"))


@lru_cache(maxsize=8)
def _tables(module: str) -> Mapping[str, Mapping[str, Any]]:
    """`NAME.TAG` -> fields, of every table of a module."""
    try:
        tree = ast.parse(catalog.timm_sources()[module])
    except SyntaxError:  # of a later Python
        return {}
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    found: dict[str, Mapping[str, Any]] = {}
    for node in tree.body:
        assigned = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        table = assigned.args[0] if isinstance(assigned, ast.Call) and assigned.args else assigned
        if isinstance(table, ast.Dict):
            for key, value in zip(table.keys, table.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    found[key.value] = _fields(value, functions, {})
    return found


def _fields(node: ast.expr, functions: Mapping[str, ast.FunctionDef], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a dictionary, `dict(...)` or a call of one of the module's functions holds, as far as it is literal."""
    found: dict[str, Any] = {}
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:  # **kwargs
                found |= given if isinstance(value, ast.Name) else _fields(value, functions, given)
            elif isinstance(key, ast.Constant):
                found[str(key.value)] = _literal(value, given)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        function = functions.get(node.func.id)
        for keyword in node.keywords:
            if keyword.arg:
                found[keyword.arg] = _literal(keyword.value, given)
            else:
                found |= given if isinstance(keyword.value, ast.Name) else _fields(keyword.value, functions, given)
        if node.func.id == "dict" and node.args:
            return _fields(node.args[0], functions, given) | found
        if function is not None:
            found |= zip((each.arg for each in function.args.args), map(_literal, node.args), strict=False)
            returned = _returned(function)
            return found if returned is None else _fields(returned, functions, found)
    elif isinstance(node, ast.Name):
        found |= given
    return found


def _returned(function: ast.FunctionDef | None) -> ast.expr | None:
    last = function.body[-1] if function is not None else None
    return last.value if isinstance(last, ast.Return) else None


def _literal(node: ast.expr, given: Mapping[str, Any] | None = None) -> Any:
    if isinstance(node, ast.Name) and given:
        return given.get(node.id)
    try:
        return ast.literal_eval(node)
    except ValueError:  # a name, or something computed
        return None
