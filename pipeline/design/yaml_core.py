"""YAML as this program reads and writes it: PyYAML with the core schema of YAML 1.2 instead of YAML 1.1's types.

Besides, whatever could mean something else than it says is refused: keys given twice or that are no text, aliases, tags
of other types, numbers that are not finite.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from pipeline.design import scalars
from pipeline.errors import InputError, first_line, not_allowed
from pipeline.files import reading

MAX_BYTES = 250_000  # PyYAML reads that much in 3 s; a study of a thousand models has a third of it

_PREFIX = "tag:yaml.org,2002:"
# the first one that a scalar matches is its type: 064 is a whole number before it is a float
_TYPES = {
    "null": (scalars.NULL,),
    "bool": (scalars.BOOL,),
    "int": (scalars.INT10, scalars.INT8, scalars.INT16),
    "float": (scalars.FLOAT, scalars.INFINITY, scalars.NAN),
}
_RESOLVERS = [
    (f"{_PREFIX}{name}", re.compile(f"(?:{expression.pattern})$(?!\\n)"))
    for name, expressions in _TYPES.items()
    for expression in expressions
]


class CoreLoader(yaml.SafeLoader):
    """A safe loader with the core schema's types, and no others."""

    yaml_implicit_resolvers = {None: _RESOLVERS}  # noqa: RUF012 - PyYAML's own attribute; None: for any first character
    yaml_constructors = {}  # noqa: RUF012 - none of YAML 1.1's

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuses aliases: nine lines of them can stand for a billion values."""
        if self.check_event(yaml.events.AliasEvent):
            events: Any = self  # its methods have no types
            mark = events.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="an alias (*name), which is not allowed", problem_mark=mark)
        return super().compose_node(parent, index)

    def _mapping(self, node: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if not isinstance(node, yaml.MappingNode):
            raise _problem(node, "not a mapping")
        for key, value in node.value:
            if key.tag != f"{_PREFIX}str" or not isinstance(key, yaml.ScalarNode):
                raise _problem(key, "a key that is no text (a number, null, a boolean, a list)")
            name = self._text(key)
            if name in found:
                raise _problem(key, f"a duplicate key {name[:40]!r}")
            found[name] = self.construct_object(value, deep=True)
        return found

    def _sequence(self, node: Any) -> list[Any]:
        return list(self.construct_sequence(node, deep=True))

    def _text(self, node: Any) -> str:
        try:
            # JSON, which is YAML, writes what is above U+FFFF as a surrogate pair; PyYAML leaves that in two halves
            text = str(self.construct_scalar(node)).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise _problem(node, "a text with half a surrogate pair") from None
        if "\0" in text:  # no file can have such a name
            raise _problem(node, "a text with a NUL")
        return text

    def _scalar(self, node: Any) -> Any:
        """The value of a scalar, whose type has been found or is given by a tag (`!!int 3`)."""
        text = self.construct_scalar(node)
        try:
            value = scalars.scalar(text)
        except ValueError as error:
            raise _problem(node, f"{text[:40]!r}, which is not {error}") from None
        if not any(node.tag == tag and expression.match(text) for tag, expression in _RESOLVERS):
            raise _problem(node, f"{text[:40]!r}, which is no {node.tag.removeprefix(_PREFIX)}")
        return float(value) if isinstance(value, int) and node.tag == f"{_PREFIX}float" else value

    def _other(self, node: Any) -> Any:
        raise _problem(node, f"the tag {node.tag[:60]!r}, which is not allowed")


for _name in _TYPES:
    CoreLoader.add_constructor(f"{_PREFIX}{_name}", CoreLoader._scalar)
CoreLoader.add_constructor(f"{_PREFIX}str", CoreLoader._text)
CoreLoader.add_constructor(f"{_PREFIX}seq", CoreLoader._sequence)
CoreLoader.add_constructor(f"{_PREFIX}map", CoreLoader._mapping)
CoreLoader.add_constructor(None, CoreLoader._other)


class _CoreDumper(yaml.SafeDumper):
    """Quotes every text that a reader of YAML 1.1 or 1.2 would take for something else."""

    yaml_implicit_resolvers = {
        first: [*found, *_RESOLVERS] for first, found in yaml.SafeDumper.yaml_implicit_resolvers.items()
    } | {None: _RESOLVERS}


def _problem(node: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def load(text: str) -> Any:
    """Reads one document of plain values.

    Raises:
        yaml.YAMLError: no YAML, or something that is not allowed.
        RecursionError: nested too deeply.
    """
    return yaml.load(text, Loader=CoreLoader)


def read_file(path: Path) -> Any:
    """Reads one study file safely.

    Raises:
        InputError: unreadable, too large, not UTF-8, or no plain YAML.
    """
    try:
        with reading(path) as stream:
            raw = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        cause = getattr(error, "strerror", None) or error
        raise not_allowed("study file", str(path), f"a readable file ({cause})") from None
    if len(raw) > MAX_BYTES:
        raise InputError(f"study file {path}: too large; allowed: at most {MAX_BYTES} bytes")
    try:
        return load(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise InputError(f"study file {path}: not UTF-8; allowed: YAML in UTF-8") from None
    except RecursionError:
        raise InputError(f"study file {path}: nested too deeply; allowed: plain YAML") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise InputError(f"study file {path}: {place}{problem}; allowed: plain YAML") from None


def dump(content: Any) -> str:
    """Writes plain values as `load` reads them."""
    return yaml.dump(content, Dumper=_CoreDumper, sort_keys=False, width=110, allow_unicode=True)
