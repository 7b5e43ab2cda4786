"""`ablate grid` and `ablate run`: bad input, dry runs, and whole commands against a real store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.analysis.stopping import MainEffectPrecision
from pipeline.commands.grid import precision_of_plan
from pipeline.design.options import GridOptions
from pipeline.design.plan import Plan
from pipeline.design.selection import select_plan
from pipeline.execution.listener import GridOutcome
from pipeline.execution.session import Session
from pipeline.tracking.study_data import load_study_data
from tests.support.ablate import Result, ablate_in_process, run_ablate
from tests.support.commands import DRY, SMALL, STUDY, TARGET, assert_refused, files_of, store_of
from tests.support.launchers import ListenerLog


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        # names
        ((*DRY, "--models", "resnet51"), ("model", "'resnet51'", "resnet50")),
        ((*DRY, "--models", "timm:resnet51"), ("model", "'timm:resnet51'", "did you mean")),
        ((*DRY, "--models", "test_vit,test_vit"), ("--models", "'test_vit,test_vit'", "each once")),
        ((*DRY, "--models", ""), ("--models", "''", "all")),
        ((*DRY, "--datasets", "digit"), ("dataset", "'digit'", "digits")),
        ((*DRY, "--datasets", "imagefolder:"), ("dataset", "'imagefolder:'", "DIR")),
        ((*DRY, "--datasets", "imagefolder:absent"), ("absent", "no such folder", "train/CLASS")),
        ((*DRY, "--techniques", "turbo"), ("technique", "'turbo'", "ga, amp, pm")),
        ((*DRY, "--techniques", "amp,bf16"), ("techniques", "'amp'", "'bf16'", "precision")),
        ((*DRY, "--study", "quickstar"), ("--study", "'quickstar'", "quickstart")),
        ((*DRY, "--study", "absent.yaml"), ("absent.yaml", "a readable file")),
        ((*DRY, "--study", "\0"), ("--study", "allowed")),
        # levels
        ((*DRY, "--technique", "ga"), ("--technique", "'ga'", "NAME=VALUE")),
        ((*DRY, "--technique", "ga="), ("--technique", "'ga='", "NAME=VALUE")),
        ((*DRY, "--technique", "ga=0"), ("technique ga", "'0'", "whole number from 2")),
        ((*DRY, "--technique", "ga=-4"), ("technique ga", "'-4'", "whole number from 2")),
        ((*DRY, "--technique", "ga=x"), ("technique ga", "'x'", "whole number from 2")),
        ((*DRY, "--technique", "amp=fp8"), ("technique amp", "'fp8'", "fp16, bf16")),
        ((*DRY, "--technique", "ga=2,2"), ("technique ga", "'2,2'", "without duplicates")),
        ((*DRY, "--technique", "turbo=2"), ("technique", "'turbo'", "allowed")),
        ((*DRY, "--set", "precision=bf16"), ("technique amp", "differs from the baseline")),
        # recipe fields
        ((*DRY, "--set", "epochs"), ("--set", "'epochs'", "FIELD=VALUE")),
        ((*DRY, "--set", "epochs=0"), ("--set", "epochs", "0", "greater than or equal to 1")),
        ((*DRY, "--set", "epochs=-2"), ("--set", "epochs", "-2", "greater than or equal to 1")),
        ((*DRY, "--set", "epochs=many"), ("--set", "epochs", "'many'", "valid integer")),
        ((*DRY, "--set", "epochs=1.5"), ("--set", "epochs", "1.5", "integer")),
        ((*DRY, "--set", "epochs=[1"), ("--set", "epochs", "'[1'")),
        ((*DRY, "--set", "epochs="), ("--set", "epochs", "a value")),
        ((*DRY, "--set", "batchsize=3"), ("--set", "'batchsize'", "batch_size")),
        ((*DRY, "--set", "learning_rate=.nan"), ("--set", "learning_rate", "nan", "finite")),
        ((*DRY, "--set", "learning_rate=0"), ("--set", "learning_rate", "0", "greater than 0")),
        ((*DRY, "--set", "schedule=step"), ("--set", "schedule", "'step'", "'onecycle'")),
        ((*DRY, "--set", "weights=absent.pt"), ("recipe.weights", "'absent.pt'", "readable file")),
        ((*DRY, "--set", "patch_size=3"), ("patch_size", "3", "allowed")),
        ((*DRY, "--target-accuracy", "90"), ("--target-accuracy", "90", "0<x<=1")),
        (
            (*DRY, "--target-accuracy", "0.9", "--set", "validation_fraction=0"),
            ("--target-accuracy", "0.9", "held out"),
        ),
        (
            ("run", "--model", "test_vit", "--dataset", "digits", "--target-accuracy", "0.9"),
            ("--target-accuracy", "No such option"),
        ),
    ],
    ids=lambda value: " ".join(value).replace("\0", "NUL") if isinstance(value, tuple) else None,
)
def test_bad_input_is_one_clear_line(
    arguments: tuple[str, ...], words: tuple[str, ...], ablate: Any, tmp_path: Path
) -> None:
    assert_refused(ablate(*arguments), words, tmp_path)


def test_a_cuda_device_that_is_absent_is_outside(ablate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.nvml.gpus", list)
    found = ablate("grid", "--device", "cuda", "--dry-run")
    assert found.code == 3 and "device cuda" in found.line and "--device cpu" in found.line


BOMB = "a: &a [x,x,x,x]\n" + "".join(
    f"{b}: &{b} [*{a},*{a},*{a},*{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (STUDY + "technics: [amp]\n", ("field", "'technics'", "techniques")),
        (STUDY.replace("image_size", "imagesize"), ("recipe", "'imagesize'", "image_size")),
        (STUDY.replace("16", "sixteen"), ("recipe", "image_size", "'sixteen'", "integer")),
        (STUDY.replace("16", "4"), ("recipe", "image_size", "4", "greater than or equal to 8")),
        (STUDY.replace("test_resnet", "test_resnets"), ("model", "'test_resnets'", "test_resnet")),
        (STUDY.replace("[digits]", "[digit]"), ("dataset", "'digit'", "digits")),
        (STUDY.replace("[digits]", "[digits, digits]"), ("datasets", "without duplicates")),
        (STUDY.replace("[digits]", "[]"), ("datasets", "at least 1")),
        ("models: [test_resnet]\n", ("datasets", "missing")),
        (STUDY + "techniques: {turbo: 3}\n", ("technique", "'turbo'", "ga")),
        (STUDY + "techniques: {ga: 1}\n", ("technique ga", "'1'", "from 2 up")),
        (STUDY + "techniques: [amp, bf16]\n", ("'amp'", "'bf16'", "precision")),
        (STUDY + "seeds: 0\n", ("seeds", "0", "greater than or equal to 1")),
        (STUDY + "seeds: -1\n", ("seeds", "-1", "greater than or equal to 1")),
        (STUDY + "seeds: some\n", ("seeds", "'some'", "integer")),
        (STUDY + "design: half\n", ("design", "'half'", "full")),
        (STUDY + "name: ../evil\n", ("name", "'../evil'")),
        (STUDY + "overrides: [{model: test_vit, recipe: {epochs: 2}}]\n", ("overrides", "'test_vit'", "test_resnet")),
        (STUDY + "overrides: [{recipe: {epoch: 2}}]\n", ("overrides", "'epoch'", "epochs")),
        (STUDY + "seeds: 2\nseeds: 3\n", ("line", "duplicate")),
        (BOMB, ("alias",)),
        ("models: !!python/object/apply:os.system [id]\n", ("python/object",)),
        ("[1, 2]", ("not a mapping", "models")),
        ("", ("not a mapping",)),
        ("models: [", ("line",)),
        ("a" * 250_001, ("too large", "250000")),
        (b"\xff\xfe\x00binary\x00", ("UTF-8",)),
        ("models: \0", ("allowed",)),
        ("[" * 5000, ("allowed: plain YAML",)),
    ],
    ids=range(29),
)
def test_bad_study_files(content: str | bytes, words: tuple[str, ...], ablate: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = ablate("grid", "--study", "mine.yaml", "--device", "cpu", "--dry-run")
    assert found.code == 2 and found.out == "" and len(found.line) < 2000
    for word in words:
        assert word in found.line
    assert "mine" in found.line or "technique ga" in found.line, "says where: levels may also come from flags"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_folder_is_no_study_file(ablate: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").mkdir()
    found = ablate("grid", "--study", "mine.yaml", "--dry-run")
    assert found.code == 2 and "mine.yaml" in found.line and "a readable file" in found.line


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda root: shutil.rmtree(root / "test"), ("class 'cat' has one image",)),
        (lambda root: shutil.rmtree(root / "train"), ("train", "no such folder")),
        (lambda root: (root / "train/cat/a.png").unlink(), ("cat", "no images")),
        (lambda root: (root / "train/cat").rename(root / "train/lion"), ("cat", "not in train/")),
        (lambda root: [shutil.rmtree(root / part / "cat") for part in ("train", "test")], ("train", "no class folder")),
    ],
)
def test_bad_image_folders(break_it: Any, words: tuple[str, ...], ablate: Any, tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    for part in ("train", "test"):
        (root / part / "cat").mkdir(parents=True)
        (root / part / "cat" / "a.png").write_bytes(b"not looked at yet")
    break_it(root)
    found = ablate(*DRY, "--datasets", f"imagefolder:{root}")
    assert found.code == 2 and found.out == ""
    for word in (*words, "pictures", "allowed"):
        assert word in found.line


def plan_of(found: Result) -> dict[str, Any]:
    """The one document of a dry run."""
    return dict(found.json())


def test_the_first_line_says_which_study_and_why(ablate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.nvml.gpus", list)
    first = ablate("grid", "--models", "all", "--dry-run").out.splitlines()[0]
    assert first.startswith("study quickstart (no CUDA device") and "--study paper forces the other" in first
    monkeypatch.setattr("pipeline.nvml.gpus", lambda: [object()])
    first = ablate("grid", "--models", "all", "--dry-run").out.splitlines()[0]
    assert first.startswith("study paper (a CUDA device is present") and "--study quickstart" in first


def test_flags_choose_the_cells(ablate: Any) -> None:
    document = plan_of(
        ablate(*DRY, "--json", "--models", "test_vit,timm:mobilenetv3_small_050", "--datasets", "digits",
               "--techniques", "ga,channels_last", "--technique", "ga=4", "--seeds", "2", "--set", "learning_rate=1e-3")
    )  # fmt: skip
    cells = document["cells"]
    assert len(cells) == 2 * 4 * 2
    assert {cell["model"] for cell in cells} == {"test_vit", "timm:mobilenetv3_small_050"}
    assert {tuple(cell["techniques"]) for cell in cells} == {
        (),
        ("ga=4",),
        ("channels_last",),
        ("ga=4", "channels_last"),
    }
    assert {cell["recipe"]["learning_rate"] for cell in cells} == {1e-3}
    assert {cell["recipe"]["patch_size"] for cell in cells if cell["model"] == "test_vit"} != {None}, "its protocol"


def test_techniques_none_is_the_baseline(ablate: Any) -> None:
    cells = plan_of(ablate(*DRY, "--json", "--techniques", "none"))["cells"]
    assert len(cells) == 6 and all(cell["techniques"] == [] for cell in cells)


def test_an_estimate_trains_each_model_for_a_moment_and_stores_nothing(tmp_path: Path, digits_dir: Path) -> None:
    words = ("--models", "test_vit,test_resnet", "--datasets", "digits", "--techniques", "ga")
    known = run_ablate("grid", *SMALL, *words, "--dry-run", cwd=tmp_path, data_dir=digits_dir)
    assert known.out.splitlines()[-1].endswith("; --estimate trains each model for a moment to know")
    found = run_ablate("grid", *SMALL, *words, "--estimate", cwd=tmp_path, data_dir=digits_dir)
    last = found.out.splitlines()[-1]
    assert last.startswith("time for 4 cells: about ") and "(4 judged by other cells" in last, found.err
    assert [line for line in found.out.splitlines() if line.startswith("training test_vit on digits for 10 s")]
    assert not (tmp_path / "mlruns" / "mlflow.db").exists() and not list((tmp_path / "mlruns").glob("journal/*"))
    (tmp_path / "other").mkdir()
    one = ("--models", "test_resnet", "--datasets", "digits", "--techniques", "ga", "--tuned")
    found = run_ablate("grid", *SMALL, *one, "--estimate", cwd=tmp_path / "other", data_dir=digits_dir)
    assert "not tuned yet: test_resnet on digits" in found.out, "nothing is tuned for an estimate"


def test_a_single_run(ablate: Any) -> None:
    words = ("run", "--study", "quickstart", "--device", "cpu", "--dry-run", "--json")
    cells = plan_of(ablate(*words, "--model", "test_vit", "--dataset", "digits", "--techniques", "amp,pm"))["cells"]
    assert [cell["techniques"] for cell in cells] == [["amp", "pm"]]
    cells = plan_of(ablate(*words, "--model", "test_vit", "--dataset", "digits"))["cells"]
    assert [cell["techniques"] for cell in cells] == [[]]
    cells = plan_of(ablate(*words, "--model", "test_vit", "--dataset", "digits", "--technique", "ga=8"))["cells"]
    assert [cell["techniques"] for cell in cells] == [["ga=8"]]
    found = ablate(*words, "--model", "test_vit", "--dataset", "digits", "--technique", "ga=2,4")
    assert found.code == 2 and "one level" in found.err.splitlines()[-1]
    found = ablate(*words, "--model", "test_vit,test_resnet", "--dataset", "digits")
    assert found.code == 2 and "one model" in found.err.splitlines()[-1]


def picture_folder(root: Path) -> Path:
    random = np.random.default_rng(1)
    for part, count in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


def truncated(root: Path) -> Path:
    file = root / "test" / "dog" / "1.png"
    file.write_bytes(file.read_bytes()[:60])
    return file


def no_image(root: Path) -> Path:
    file = root / "train" / "cat" / "2.png"
    file.write_text("no image")
    return file


@pytest.mark.parametrize("damage", [truncated, no_image])
def test_an_unreadable_image_is_found_before_any_run(
    damage: Any, finished: tuple[Path, dict[str, Any]], digits_dir: Path, tmp_path: Path
) -> None:
    place, _ = finished
    root = picture_folder(tmp_path / "pictures")
    bad = damage(root)
    before, names = store_of(place), files_of(place)
    found = ablate_in_process(
        "grid", *SMALL, "--models", "test_resnet", "--datasets", f"imagefolder:{root}",
        "--techniques", "none",
        cwd=place, data_dir=digits_dir,
    )  # fmt: skip
    assert found.code == 2, found.err
    assert len(found.err.splitlines()) == 1 and str(bad.relative_to(root)) in found.err
    assert "started" not in found.out
    assert store_of(place) == before and files_of(place) == names


def test_the_time_to_a_target_is_a_metric_of_the_runs_that_reach_it(finished: tuple[Path, dict[str, Any]]) -> None:
    """What has been finished without a target is finished with one, and the other way round: `test_grid_text`."""
    study, _ = load_study_data("quickstart", f"sqlite:///{finished[0]}/mlruns/mlflow.db", finished[0], curves=True)
    assert study.target_accuracy == float(TARGET), "the tag of the parent run"
    assert set(study.runs["tags.ablate.target_accuracy"]) == {TARGET}, "of a run that misses it, too"
    reached = study.runs["metrics.val/accuracy"] >= float(TARGET)
    assert reached.any()
    expected = study.runs["metrics.train/epoch_seconds"].where(reached)  # of the one epoch that they have
    assert study.runs["metrics.time/target_seconds"].equals(expected)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--tracking-uri", "file:/nowhere"), 2, ("--tracking-uri", "'file:/nowhere'", "sqlite:///FILE")),
        (("--tracking-uri", "nonsense"), 2, ("--tracking-uri", "'nonsense'", "sqlite:///FILE")),
        (("--set", "pretrained=true", "--models", "resnet50"), 3, ("resnet50", "pretrained", "weights=FILE")),
        (("--set", "max_train_samples=5"), 2, ("5 of 1347 images", "allowed")),
        (
            ("--set", "max_train_samples=129"),
            2,
            ("recipe.batch_size: 32", "another batch_size, or max_train_samples=128"),
        ),
        (("--set", "image_size=32", "--models", "timm:crossvit_tiny_240"), 2, ("recipe.image_size: 32", "crossvit")),
    ],
)
def test_refusals_leave_the_store_as_it_was(
    arguments: tuple[str, ...],
    code: int,
    words: tuple[str, ...],
    finished: tuple[Path, dict[str, Any]],
    digits_dir: Path,
) -> None:
    place, _ = finished
    before, names = store_of(place), files_of(place)
    flags = ("--models", "test_resnet", "--datasets", "digits", "--techniques", "none")
    found = ablate_in_process("grid", *SMALL, *flags, *arguments, cwd=place, data_dir=digits_dir)
    assert found.code == code, found.err
    assert len(found.err.splitlines()) == 1
    for word in words:
        assert word in found.err
    assert store_of(place) == before and files_of(place) == names


def test_a_failed_run_is_exit_code_1(migrated_store: Callable[[Path], str], digits_dir: Path, tmp_path: Path) -> None:
    migrated_store(tmp_path / "mlruns" / "mlflow.db")
    found = ablate_in_process(
        "run", *SMALL, "--model", "test_resnet", "--dataset", "digits", "--retries", "0",
        "--set", "optimizer=sgd", "--set", "learning_rate=1e38", "--set", "epochs=3", "--json",
        cwd=tmp_path, data_dir=digits_dir,
    )  # fmt: skip
    assert found.code == 1, found.err
    document = json.loads(found.out)
    assert (document["cells"], document["failed"], document["finished"]) == (1, 1, 0)
    assert "loss is" in found.err


class StoreOf:
    """A store that has some runs."""

    def __init__(self, runs: pd.DataFrame) -> None:
        self._runs = runs

    def frame(self) -> pd.DataFrame:
        return self._runs


def stored(plan: Plan, noise: float, seed: int = 0) -> pd.DataFrame:
    """Rows of a plan's finished runs; their times scatter by `noise`."""
    rows = []
    for run in plan.runs:
        values = np.random.default_rng([seed, int(run.spec.digest[:8], 16)])
        row = {
            "run_id": run.spec.digest, "status": "FINISHED", "start_time": 0, "end_time": 1,
            "tags.ablate.digest": run.spec.digest, "tags.ablate.kind": "run", "tags.ablate.block": str(run.block),
            "tags.ablate.outcome": "finished", "params.model": run.spec.model, "params.dataset": run.spec.dataset,
            "params.techniques": run.spec.label, "params.device": run.spec.device,
            "params.recipe.batch_size": str(run.spec.recipe.batch_size),
            "metrics.time/train_seconds": float(np.exp(values.normal(0, noise))),
        }  # fmt: skip
        switches = {"params.ga": "ga", "params.pm": "pm"}
        rows.append(row | {name: "on" if value in run.spec.techniques else "off" for name, value in switches.items()})
    return pd.DataFrame(rows)


def planned(**changes: Any) -> Plan:
    options = {
        "models": "test_resnet",
        "datasets": "digits",
        "techniques": "pm",
        "study": "quickstart",
        "device": "cpu",
    }
    return select_plan(GridOptions(**(options | {"seeds": 9} | changes)), "cpu").plan


def test_only_the_runs_of_the_plan_count_towards_its_precision() -> None:
    plan = planned()
    quiet = stored(plan, 0.001)
    alone = precision_of_plan(StoreOf(quiet), plan, 0.02)
    assert [(e.name, e.at_least) for e in alone] == [("pm on test_resnet/digits", 0)]
    others = [
        planned(models="test_vit"),
        planned(techniques="ga"),
        planned(settings=("batch_size=16",)),
        planned(seeds=20),
    ]
    noisy = [stored(other, 0.3, seed) for seed, other in enumerate(others, 1)]
    crowd = pd.concat([quiet, *noisy], ignore_index=True).drop_duplicates("run_id")
    assert precision_of_plan(StoreOf(crowd), plan, 0.02) == alone
    vit = planned(models="test_vit,test_resnet")
    assert {e.model for e in precision_of_plan(StoreOf(crowd), vit, 0.02) if e.at_least} == {"test_vit"}


class StoredGrid:
    """A controller that puts its runs into a store, as far as they are not there; may be interrupted."""

    def __init__(self, plan: Plan, rows: dict[str, Any], last: int | None = None) -> None:
        self.plan = plan
        self._rows = rows
        self._last = last
        self.recorder = SimpleNamespace(error=None, outbox=SimpleNamespace(wait=lambda _: True))

    def extend(self, more: Plan) -> None:
        self.plan = replace(self.plan, runs=(*self.plan.runs, *more.runs))

    def run(self) -> GridOutcome:
        for run in self.plan.runs:
            if self._last is not None and len(self._rows) >= self._last:
                return GridOutcome(interrupted=True)
            self._rows.setdefault(run.spec.digest, stored(replace(self.plan, runs=(run,)), 0.012).iloc[0])
        return GridOutcome()


def test_a_call_that_was_interrupted_stops_where_it_would_have_without(tmp_path: Path) -> None:
    options = GridOptions(models="test_resnet", datasets="digits", techniques="pm", study="quickstart", device="cpu",
                          until_decided=True, max_blocks=30)  # fmt: skip

    def call(rows: dict[str, Any], last: int | None = None) -> tuple[set[str], bool, list[str]]:
        def precision(_: Any, plan: Plan, width: float) -> list[MainEffectPrecision]:
            return precision_of_plan(StoreOf(pd.DataFrame([*rows.values()])), plan, width)

        listener, plan = ListenerLog(), select_plan(options, "cpu")
        session = Session(options, plan, listener, tmp_path / "mlruns", precision=precision)
        grid = StoredGrid(session.plan, rows, last)
        outcome = session._until_precise(grid, grid.run())
        return {run.spec.digest for run in grid.plan.runs}, outcome.interrupted, listener.notes

    whole: dict[str, Any] = {}
    digests, _, notes = call(whole)
    blocks = len(digests) // 2
    assert 9 < blocks < 30 and notes[-1].startswith(f"precise to 2 % after {blocks} blocks")
    parts: dict[str, Any] = {}
    assert call(parts, 1)[1] and call(parts, 13)[1], "interrupted within blocks"
    again, _, notes_again = call(parts)
    assert again == digests == set(parts) == set(whole) and notes_again == notes
    assert call(parts)[2] == notes, "and a call upon a finished one says the same"
