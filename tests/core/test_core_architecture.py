"""The rules of the architecture, read from the sources: who imports whom, and who knows what."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pipeline
from pipeline.techniques import TECHNIQUES

ROOT = Path(pipeline.__file__).parent
SOURCES = {
    ".".join(["pipeline", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
HEAVY = {"torch", "torchvision", "timm", "mlflow", "sklearn", "statsmodels", "matplotlib", "optuna", "ray"}
CHILD = {
    "worker",
    "trainer",
    "step",
    "optim",
    "precision",
    "models",
    "clocks",
    "device_memory",
    "onednn",
    "meter",
    "metrics",
    "confusion",
    "warmup",
    "length",
    "losses",
    "steady",
    "graphs",
    "recompute",
    "checkpoint",
    "team",
    "distributed",
    "launchers.preload",
    *(f"bench.{name}" for name in ("work", "contenders", "peers", "race", "feeding", "preload", "turns")),
    *(name.removeprefix("pipeline.") for name in SOURCES if name.startswith("pipeline.data.")),
} - {"data.listing", "data.contents"}
SHARED = {
    "spec",
    "errors",
    "requires",
    "nvml",
    "catalog",
    "environment",
    "data.listing",
    "data",
    "bench",
    "bench.cases",
    "",
}
MIDDLE = {
    *("study", "plan", "techniques", "results", "grid", "book", "delivery", "journal", "ownership"),
    *("tracker", "writing", "attempts", "history"),
    *("stores", "tables"),
    *("launchers.local", "launchers.child", "launchers.process"),
    *("launchers.ray", "launchers.ray_node", "launchers.cluster"),
    *(f"tuning.{n}" for n in ("space", "objective", "finding", "sampler", "ledger", "storage", "search", "confirm")),
    *(f"tuning.{n}" for n in ("outcome", "tables", "plots", "recipes", "urls")),
    *(name.removeprefix("pipeline.") for name in SOURCES if name.startswith("pipeline.analysis.")),
}
FRONT = {
    *("cli", "commands", "session", "display", "doctor", "serve", "bench.command", "bench.suite", "__main__"),
    *("tuning.command", "tuning.setup", "tuning.tuning"),
}
# imported by commands that tune, inside functions
OPTUNA = {f"tuning.{name}" for name in ("sampler", "ledger", "storage", "search", "plots", "tuning")}


class Imports(ast.NodeVisitor):
    """Modules that a source imports: at its top level, and inside functions."""

    def __init__(self, tree: ast.AST) -> None:
        self.top: set[str] = set()
        self.lazy: set[str] = set()
        self._depth = 0
        self.visit(tree)

    @property
    def all(self) -> set[str]:
        return self.top | self.lazy

    def _nested(self, node: ast.AST) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_FunctionDef = visit_AsyncFunctionDef = _nested  # noqa: N815

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in ast.dump(node.test):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self._add(*(alias.name for alias in node.names))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0 and node.module, "relative imports are not used here"
        inside = [f"{node.module}.{alias.name}" for alias in node.names]
        self._add(*(name if name in SOURCES else node.module for name in inside))

    def _add(self, *names: str) -> None:
        (self.lazy if self._depth else self.top).update(names)


IMPORTS = {name: Imports(ast.parse(path.read_text())) for name, path in SOURCES.items()}


def own(found: set[str]) -> set[str]:
    return {name for name in found if name in SOURCES}


def outside(found: set[str]) -> set[str]:
    return {name.split(".")[0] for name in found if name not in SOURCES}


def short(name: str) -> str:
    return name.removeprefix("pipeline").removeprefix(".")


def graph(lazy: bool) -> dict[str, set[str]]:
    return {name: own(found.all if lazy else found.top) for name, found in IMPORTS.items()}


def test_the_visitor_sees_imports() -> None:
    found = Imports(ast.parse("import torch\ndef f():\n    from pipeline import spec\n    import mlflow.client\n"))
    assert found.top == {"torch"} and found.lazy == {"pipeline.spec", "mlflow.client"}
    assert "pipeline.step" in IMPORTS["pipeline.trainer"].top and "mlflow" in outside(IMPORTS["pipeline.tracker"].lazy)


def test_no_module_imports_upward() -> None:
    TopologicalSorter(graph(lazy=False)).prepare()  # raises CycleError
    outer = {
        name: {found for found in names if not found.startswith("pipeline.analysis.")}
        for name, names in graph(lazy=True).items()
    }
    TopologicalSorter(outer).prepare()


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("spec", set()),
        ("errors", set()),
        ("requires", {"errors", "spec"}),
        ("techniques", {"errors", "requires", "spec"}),
        ("catalog", {"errors"}),
        ("step", {"precision", "spec"}),
        ("losses", {"step"}),
        ("metrics", set()),
        ("clocks", set()),
        ("meter", {"clocks", "device_memory", "nvml"}),
        ("precision", {"spec"}),
        (
            "trainer",
            {
                "checkpoint",
                "data.inputs",
                "device_memory",
                "graphs",
                "length",
                "losses",
                "meter",
                "metrics",
                "optim",
                "precision",
                "spec",
                "step",
                "warmup",
                "team",
            },
        ),
        ("team", {"step"}),
        ("distributed", {"environment", "spec"}),
        ("launchers.places", set()),
        ("launchers.cluster", {"errors", "nvml"}),
        ("launchers.ray_node", {"data.listing", "environment", "errors", "gates", "launchers.local", "nvml", "spec"}),
        ("launchers.ray", {"errors", "launchers.cluster", "launchers.places", "launchers.ray_node", "spec"}),
        ("launchers.child", {"errors", "spec", "worker"}),
        ("launchers.local", {"environment", "errors", "launchers.child", "launchers.process", "nvml", "spec"}),
        ("launchers.process", set()),
    ],
)
def test_what_a_module_may_import(name: str, allowed: set[str]) -> None:
    assert {short(found) for found in own(IMPORTS[f"pipeline.{name}"].all)} <= allowed


def test_the_child_half_knows_nothing_of_the_parent_half() -> None:
    for name in CHILD:
        found = {short(module) for module in own(IMPORTS[f"pipeline.{name}"].all)}
        assert found <= CHILD | SHARED, f"{name} imports {sorted(found - CHILD - SHARED)}"


def test_nothing_below_the_command_line_imports_it() -> None:
    for name in MIDDLE | CHILD | SHARED - {""}:
        assert not {short(found) for found in own(IMPORTS[f"pipeline.{name}"].all)} & FRONT, name


def test_analysis_and_plan_stay_out_of_execution() -> None:
    running = {"grid", "book", "tracker", "stores", "delivery", "journal", "launchers.local", "worker", "trainer"}
    for name, imports in IMPORTS.items():
        if name.startswith("pipeline.analysis.") or short(name) in ("plan", "study", "techniques", "results"):
            assert not {short(found) for found in own(imports.all)} & running, name


def test_only_the_tracker_imports_mlflow() -> None:
    assert [name for name, found in IMPORTS.items() if "mlflow" in outside(found.all)] == ["pipeline.tracker"]


def test_the_parent_half_imports_nothing_heavy_at_its_top() -> None:
    for name, imports in IMPORTS.items():
        if short(name) not in CHILD and not name.startswith("pipeline.analysis."):
            allowed = {"optuna"} if short(name) in OPTUNA else set()
            assert not outside(imports.top) & (HEAVY | {"pandas", "scipy", "numpy"}) - allowed, name
    for name, imports in IMPORTS.items():
        if short(name) not in OPTUNA:
            assert not {short(found) for found in own(imports.top)} & OPTUNA, name


def test_the_parent_half_imports_no_torch_anywhere() -> None:
    # environment's lower half runs in workers, as its docstring says
    for name, imports in IMPORTS.items():
        if short(name) not in CHILD | {"environment"}:
            assert not outside(imports.all) & {"torch", "torchvision", "timm"}, name


@pytest.mark.parametrize("module", ["trainer", "step", "losses", "precision", "optim", "meter", "clocks"])
def test_no_technique_has_a_name_in_training(module: str) -> None:
    tree = ast.parse(SOURCES[f"pipeline.{module}"].read_text())
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


@pytest.mark.parametrize("module", ["trainer", "step"])
def test_no_module_of_training_imports_the_table(module: str) -> None:
    assert "pipeline.techniques" not in IMPORTS[f"pipeline.{module}"].all


def test_no_wait_for_the_device_inside_a_window() -> None:
    text = SOURCES["pipeline.step"].read_text()
    assert not any(word in text for word in (".item()", ".cpu()", "synchronize", "print(", "float(", ".tolist()", "%"))


LOADED = """
import sys
from pipeline.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
print()
print("loaded:", code, *sorted({name.split(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize(
    ("arguments", "code", "never"),
    [
        ("--help", "0", HEAVY | {"numpy", "pandas", "scipy", "pydantic", "yaml", "rich"}),
        ("grid --help", "0", HEAVY | {"numpy", "pandas", "scipy", "pydantic", "yaml"}),
        ("grid --study quickstart --dry-run", "0", HEAVY | {"numpy", "pandas", "scipy"}),
        ("grid --study quickstart --dry-run --json", "0", HEAVY | {"numpy", "pandas", "scipy"}),
        ("run --model test_vit --dataset digits --study quickstart --dry-run", "0", HEAVY | {"numpy"}),
        ("grid --models nonsense", "2", HEAVY | {"numpy"}),
        ("status quickstart", "2", {"torch", "torchvision", "timm", "optuna", "ray"}),
        ("sync", "0", {"torch", "torchvision", "timm", "mlflow"}),
        ("doctor --help", "0", HEAVY),
        ("ui --help", "0", HEAVY),
        ("bench --help", "0", HEAVY | {"numpy", "pydantic"}),
        ("bench --only nonsense", "2", HEAVY | {"numpy"}),
        ("data --help", "0", HEAVY),
        ("tune --help", "0", HEAVY | {"numpy", "pydantic"}),
        ("tune --model test_vit --dataset digits --study quickstart --dry-run", "0", HEAVY | {"pandas", "scipy"}),
        ("tune --model test_vit --dataset nonsense", "2", HEAVY | {"numpy"}),
    ],
)
def test_modules_of_a_command(arguments: str, code: str, never: set[str], tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments.split()],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    last = found.stdout.splitlines()[-1].split()
    assert last[:2] == ["loaded:", code], found.stderr
    assert not set(last[2:]) & never
