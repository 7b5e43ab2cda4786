"""The rooms of the package, read from the sources: who may import whom, where a library belongs, who knows what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pipeline
from pipeline.design.techniques import TECHNIQUES

ROOT = Path(pipeline.__file__).parent
SOURCES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
MODULES = {
    ".".join(["pipeline", *Path(file).with_suffix("").parts]).removesuffix(".__init__"): file for file in SOURCES
}
MAY_IMPORT: dict[str, set[str]] = {  # besides itself and the hall
    "design": set(),
    "training": {"design"},
    "tracking": {"design"},
    "execution": {"design", "tracking"},
    "analysis": {"design", "tracking"},
    "tuning": {"design", "tracking", "execution", "analysis"},
    "bench": {"design", "tracking", "execution", "analysis", "training"},
    "commands": {"design", "tracking", "execution", "analysis", "training", "tuning", "bench"},
    "cli": {"commands", "design"},  # the options
    "__main__": {"cli"},
}
# they run in the process of a run, which is training's
CHILD_ENTRY = {"execution/local/child.py", "execution/local/preload.py"}
HOME = {
    "torch": ("training/", "bench/loops/"),
    "torchvision": ("training/",),
    "timm": ("training/", "bench/loops/"),
    "lightning": ("bench/loops/",),
    "accelerate": ("bench/loops/",),
    "mlflow": ("tracking/mlflow_",),
    "optuna": ("tuning/",),
    "ray": ("execution/ray/",),
    "click": ("cli.py",),
    "jinja2": ("analysis/report/",),
    "markupsafe": ("analysis/report/",),
    "matplotlib": ("analysis/report/", "tuning/plots.py"),
}


@dataclass(frozen=True)
class Import:
    """One name that a file imports, wherever in the file: `nested` within a function or for the type checker alone."""

    file: str
    name: str
    nested: bool


def imports_of(file: str, tree: ast.AST) -> Iterator[Import]:
    def walk(node: ast.AST, nested: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(file, alias.name, nested) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0 and child.module, f"{file}: relative imports are not used here"
                yield from (Import(file, f"{child.module}.{alias.name}", nested) for alias in child.names)
            else:
                inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
                yield from walk(child, nested or inner or typing)

    yield from walk(tree, False)


IMPORTS = [found for file, path in SOURCES.items() for found in imports_of(file, ast.parse(path.read_text()))]


def module_of(name: str) -> str | None:
    """The module of this package that an imported name is, or lies in."""
    if name in MODULES:
        return name
    parent = name.rpartition(".")[0]
    return parent if parent in MODULES else None


def test_the_reader_sees_every_import() -> None:
    text = "import torch\ndef f():\n    from pipeline import design\nif TYPE_CHECKING:\n    import mlflow.client\n"
    found = [(one.name, one.nested) for one in imports_of("x.py", ast.parse(text))]
    assert found == [("torch", False), ("pipeline.design", True), ("mlflow.client", True)]


def test_rooms_import_downwards() -> None:
    wrong = set()
    for one in IMPORTS:
        if not one.name.startswith("pipeline.") or one.file in CHILD_ENTRY:
            continue
        here, there = one.file.split("/")[0].removesuffix(".py"), one.name.split(".")[1]
        if there in MAY_IMPORT and there != here and there not in MAY_IMPORT.get(here, set()):
            wrong.add(f"{one.file} imports {one.name}")
    assert not wrong


def test_every_library_has_a_home() -> None:
    wrong = set()
    for one in IMPORTS:
        homes = HOME.get(one.name.split(".")[0])
        if homes is not None and not one.file.startswith(homes):
            wrong.add(f"{one.file} imports {one.name.split('.')[0]}")
    assert not wrong


def test_no_module_imports_in_a_circle() -> None:
    """Neither at its top, nor in a function, nor for the type checker."""
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    names = {file: name for name, file in MODULES.items()}
    for one in IMPORTS:
        if (there := module_of(one.name)) and there != names[one.file]:
            graph[names[one.file]].add(there)
    TopologicalSorter(graph).prepare()  # raises CycleError


def defined_in(tree: ast.Module) -> set[str]:
    """The names that a module makes itself, at its top level."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return names


def test_a_name_is_imported_from_where_it_is_made() -> None:
    made = {name: defined_in(ast.parse(SOURCES[file].read_text())) for name, file in MODULES.items()}
    wrong = set()
    for one in IMPORTS:
        home, _, name = one.name.rpartition(".")
        if home in made and one.name not in MODULES and name not in made[home]:
            wrong.add(f"{one.file} imports {one.name}")
    assert not wrong


@pytest.mark.parametrize("module", ["trainer", "step", "losses", "precision", "optimizer", "meter", "clocks"])
def test_no_technique_has_a_name_in_training(module: str) -> None:
    tree = ast.parse(SOURCES[f"training/{module}.py"].read_text())
    words: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            words.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            words.add(node.name)
        elif isinstance(node, ast.alias):
            words.add(node.asname or node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and module in ("trainer", "step"):
            words.add(node.value)
        elif isinstance(node, ast.Attribute) and not _is_recipe_field(node) and module in ("trainer", "step"):
            words.add(node.attr)
    allowed = set() if module in ("trainer", "step") else {"fused", "tf32"}  # arguments of PyTorch's own functions
    assert not words & set(TECHNIQUES) - allowed


def _is_recipe_field(node: ast.Attribute) -> bool:
    """`recipe.channels_last` and `torch.channels_last` are a field and a constant, not the technique."""
    return isinstance(node.value, ast.Name) and node.value.id in ("recipe", "torch")


def test_no_module_of_training_imports_the_table_of_techniques() -> None:
    assert [one.file for one in IMPORTS if one.file.startswith("training/") and "design.techniques" in one.name] == []


def test_no_wait_for_the_device_inside_a_window() -> None:
    text = SOURCES["training/step.py"].read_text()
    assert not any(word in text for word in (".item()", ".cpu()", "synchronize", "print(", "float(", ".tolist()", "%"))


def test_no_public_name_stands_in_two_modules() -> None:
    """A name says one thing; a command's function in cli.py is called as the command is."""
    homes: dict[str, set[str]] = {}
    for file, path in SOURCES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names = [node.name]
            elif isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            else:
                names = []
            for name in names:
                if not name.startswith("_"):
                    homes.setdefault(name, set()).add(file)
    assert {name: sorted(files) for name, files in homes.items() if len(files) > 1} == {}
