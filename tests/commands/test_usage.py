"""The command line: help, exit codes, one clear line for every bad input, precedence, dry runs."""

from __future__ import annotations

import re
import shlex
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import click
import pytest

from pipeline import cli
from pipeline.design.spec import Recipe, RunSpec
from tests.support.ablate import Result, command_line, environment, run_ablate

DRY = ("grid", "--study", "quickstart", "--device", "cpu", "--dry-run")


def commands() -> list[tuple[str, ...]]:
    """Every command, by its words."""
    found: list[tuple[str, ...]] = [()]
    for name, command in cli.cli.commands.items():
        found.append((name,))
        found += [(name, sub) for sub in command.commands] if isinstance(command, click.Group) else []
    return found


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_help_of_every_command(words: tuple[str, ...], flag: str, ablate: Any) -> None:
    found = ablate(*words, flag)
    assert found.code == 0 and found.err == ""
    assert found.out.startswith(" ".join(("Usage: ablate", *words)))
    assert len(found.out.splitlines()) > 4


def test_the_contracts_commands_and_options_exist() -> None:
    assert {"grid", "run", "status", "doctor", "sync", "ui", "data"} <= set(cli.cli.commands)
    wanted = {
        *("--study", "--models", "--datasets", "--techniques", "--technique", "--seeds", "--set", "--device"),
        *("--launcher", "--jobs", "--data-dir", "--tracking-uri", "--dry-run", "--json", "--fresh", "--timeout"),
    }
    assert wanted <= {name for option in cli.cli.commands["grid"].params for name in option.opts}
    single = (wanted - {"--models", "--datasets"}) | {"--model", "--dataset"}
    assert single <= {name for option in cli.cli.commands["run"].params for name in option.opts}


def test_version(ablate: Any) -> None:
    found = ablate("--version")
    assert found.code == 0 and re.search(r"ablate.* \d+\.\d+", found.out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        # usage
        (("nonsense",), ("nonsense",)),
        (("grid", "--nonsense"), ("--nonsense",)),
        (("grid", "stray"), ("stray",)),
        (("run", "--dataset", "digits"), ("--model",)),
        (("run", "--model", "test_vit"), ("--dataset",)),
        ((*DRY, "--device", "tpu"), ("--device", "tpu", "cuda")),
        ((*DRY, "--launcher", "slurm"), ("--launcher", "slurm", "local")),
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
        # numbers
        ((*DRY, "--seeds", "0"), ("--seeds", "0", "1<=x")),
        ((*DRY, "--seeds", "-3"), ("--seeds", "-3", "1<=x")),
        ((*DRY, "--seeds", "two"), ("--seeds", "'two'", "integer")),
        ((*DRY, "--seeds", "1.5"), ("--seeds", "'1.5'", "integer")),
        ((*DRY, "--jobs", "0"), ("--jobs", "0", "1<=x")),
        ((*DRY, "--timeout", "0"), ("--timeout", "0", "x>0")),
        ((*DRY, "--timeout", "-1"), ("--timeout", "-1", "x>0")),
        ((*DRY, "--timeout", "soon"), ("--timeout", "'soon'", "float")),
        # recipe fields
        ((*DRY, "--set", "epochs"), ("--set", "'epochs'", "FIELD=VALUE")),
        ((*DRY, "--set", "epochs=0"), ("--set", "epochs", "0", "greater than or equal to 1")),
        ((*DRY, "--set", "epochs=-2"), ("--set", "epochs", "-2", "greater than or equal to 1")),
        ((*DRY, "--set", "epochs=many"), ("--set", "epochs", "'many'", "valid integer")),
        ((*DRY, "--set", "epochs=1.5"), ("--set", "epochs", "1.5", "integer")),
        ((*DRY, "--set", "epochs=[1"), ("--set", "epochs", "'[1'")),
        ((*DRY, "--set", "epochs="), ("--set", "epochs", "integer")),
        ((*DRY, "--set", "batchsize=3"), ("--set", "'batchsize'", "batch_size")),
        ((*DRY, "--set", "learning_rate=.nan"), ("--set", "learning_rate", "nan", "finite")),
        ((*DRY, "--set", "learning_rate=0"), ("--set", "learning_rate", "0", "greater than 0")),
        ((*DRY, "--set", "schedule=step"), ("--set", "schedule", "'step'", "'onecycle'")),
        ((*DRY, "--set", "weights=absent.pt"), ("recipe.weights", "'absent.pt'", "readable file")),
        ((*DRY, "--set", "patch_size=3"), ("patch_size", "3", "allowed")),
        # folders
        (("data", "prepare", "nonsense"), ("dataset", "'nonsense'", "digits")),
        (("data", "verify", "nonsense"), ("dataset", "'nonsense'", "digits")),
        (("data", "prepare"), ("NAMES",)),
        (("ui", "--port", "0"), ("--port", "0", "1<=x<=65535")),
        (("status", "quickstart"), ("tracking store", "mlruns/mlflow.db", "no such file")),
        (("status", "--tracking-uri", "file:/nowhere"), ("--tracking-uri", "'file:/nowhere'", "sqlite:///FILE")),
        (("sync", "--tracking-uri", "ftp://host"), ("--tracking-uri", "'ftp://host'", "sqlite:///FILE")),
    ],
    ids=lambda value: " ".join(value).replace("\0", "NUL") if isinstance(value, tuple) else None,
)
def test_bad_input_is_one_clear_line(
    arguments: tuple[str, ...], words: tuple[str, ...], ablate: Any, tmp_path: Path
) -> None:
    found = ablate(*arguments)
    assert found.code == 2
    assert found.line.startswith("ablate: ")
    for word in words:
        assert word in found.line
    assert found.out == "" and list(tmp_path.iterdir()) == []


def test_a_cuda_device_that_is_absent_is_outside(ablate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.nvml.gpus", list)
    found = ablate("grid", "--device", "cuda", "--dry-run")
    assert found.code == 3 and "device cuda" in found.line and "--device cpu" in found.line


BOMB = "a: &a [x,x,x,x]\n" + "".join(
    f"{b}: &{b} [*{a},*{a},*{a},*{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)
GOOD = "models: [test_resnet]\ndatasets: [digits]\nrecipe: {image_size: 16}\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD + "technics: [amp]\n", ("field", "'technics'", "techniques")),
        (GOOD.replace("image_size", "imagesize"), ("recipe", "'imagesize'", "image_size")),
        (GOOD.replace("16", "sixteen"), ("recipe", "image_size", "'sixteen'", "integer")),
        (GOOD.replace("16", "4"), ("recipe", "image_size", "4", "greater than or equal to 8")),
        (GOOD.replace("test_resnet", "test_resnets"), ("model", "'test_resnets'", "test_resnet")),
        (GOOD.replace("[digits]", "[digit]"), ("dataset", "'digit'", "digits")),
        (GOOD.replace("[digits]", "[digits, digits]"), ("datasets", "without duplicates")),
        (GOOD.replace("[digits]", "[]"), ("datasets", "at least 1")),
        ("models: [test_resnet]\n", ("datasets", "missing")),
        (GOOD + "techniques: {turbo: 3}\n", ("technique", "'turbo'", "ga")),
        (GOOD + "techniques: {ga: 1}\n", ("technique ga", "'1'", "from 2 up")),
        (GOOD + "techniques: [amp, bf16]\n", ("'amp'", "'bf16'", "precision")),
        (GOOD + "seeds: 0\n", ("seeds", "0", "greater than or equal to 1")),
        (GOOD + "seeds: -1\n", ("seeds", "-1", "greater than or equal to 1")),
        (GOOD + "seeds: some\n", ("seeds", "'some'", "integer")),
        (GOOD + "design: half\n", ("design", "'half'", "full")),
        (GOOD + "name: ../evil\n", ("name", "'../evil'")),
        (GOOD + "overrides: [{model: test_vit, recipe: {epochs: 2}}]\n", ("overrides", "'test_vit'", "test_resnet")),
        (GOOD + "overrides: [{recipe: {epoch: 2}}]\n", ("overrides", "'epoch'", "epochs")),
        (GOOD + "seeds: 2\nseeds: 3\n", ("line", "duplicate")),
        (BOMB, ("alias",)),
        ("models: !!python/object/apply:os.system [id]\n", ("python/object",)),
        ("[1, 2]", ("not a mapping", "models")),
        ("", ("not a mapping",)),
        ("models: [", ("line",)),
        ("a" * 1_000_001, ("too large", "1000000")),
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
        (lambda root: shutil.rmtree(root / "test"), ("test", "no such folder")),
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


def test_dry_run_has_every_field_of_every_cell(ablate: Any, tmp_path: Path) -> None:
    document = plan_of(ablate(*DRY, "--json"))
    assert document["study"] == "quickstart" and document["device"] == "cpu" and len(document["cells"]) == 48
    for cell in document["cells"]:
        assert set(cell) >= {"position", "block", "kind", "name", "digest", *RunSpec.model_fields}
        assert set(cell["recipe"]) == set(Recipe.model_fields)
        spec = RunSpec.model_validate({name: cell[name] for name in RunSpec.model_fields})
        assert (spec.digest, spec.name) == (cell["digest"], cell["name"])
    assert list(tmp_path.iterdir()) == [], "a dry run writes nothing"


def test_dry_run_in_words(ablate: Any) -> None:
    found = ablate(*DRY)
    lines = found.out.splitlines()
    assert found.code == 0 and found.err == ""
    assert lines[0] == "study quickstart: 48 cells, 1 block(s), device cpu"
    assert lines[1] == "Quickstart: tiny ResNet, ViT and EfficientNet on handwritten digits", "the study's title"
    assert len(lines) == 50 and sum("/baseline/s" in line for line in lines) == 6


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


def test_precedence(ablate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blocks(*arguments: str) -> tuple[int, int]:
        cells = plan_of(ablate("grid", "--device", "cpu", "--dry-run", "--json", *arguments))["cells"]
        return len({cell["block"] for cell in cells}), cells[0]["recipe"]["epochs"]

    file = tmp_path / "mine.yaml"
    file.write_text(GOOD)
    assert blocks("--study", "mine.yaml") == (1, Recipe().epochs), "defaults"
    file.write_text(GOOD.replace("{", "{epochs: 12, ") + "seeds: 2\n")
    assert blocks("--study", "mine.yaml") == (2, 12), "the study file is above the defaults"
    monkeypatch.setenv("ABLATE_SEEDS", "3")
    monkeypatch.setenv("ABLATE_SET", "epochs=13")
    assert blocks("--study", "mine.yaml") == (3, 13), "the environment is above the study file"
    assert blocks("--study", "mine.yaml", "--seeds", "4", "--set", "epochs=14") == (4, 14), "flags are above all"
    monkeypatch.setenv("ABLATE_STUDY", "mine.yaml")
    assert blocks() == (3, 13)
    assert blocks("--study", "quickstart", "--models", "test_resnet") == (3, 13)


@pytest.mark.parametrize(("name", "value"), [("ABLATE_SEEDS", "0"), ("ABLATE_DEVICE", "tpu"), ("ABLATE_MODELS", "x")])
def test_bad_environment_variables_are_refused(
    name: str, value: str, ablate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    found = ablate("grid", "--study", "quickstart", "--dry-run")
    assert found.code == 2 and value in found.line


@pytest.mark.parametrize(
    ("arguments", "goal"), [(("--help",), 0.3), (("grid", "--study", "quickstart", "--dry-run"), 1.0)]
)
def test_speed_of_the_start(arguments: tuple[str, ...], goal: float, tmp_path: Path) -> None:
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        assert run_ablate(*arguments, cwd=tmp_path).code == 0
        seconds.append(time.perf_counter() - began)
    print(arguments, [round(value, 3) for value in seconds])
    assert statistics.median(seconds) < 3 * goal, "three times the goal, for noise"


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    line = shlex.join(command_line("grid", "--study", "quickstart", "--seeds", "40", "--dry-run", "--json"))
    found = subprocess.run(
        ["bash", "-c", f"{line} | head -1"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "{\n" and "Traceback" not in found.stderr and "Broken" not in found.stderr


def test_the_command_that_goes_on_holds_no_password() -> None:
    from pipeline.execution.interrupt import resume_command

    words = ["grid", "--fresh", "--tracking-uri", "postgresql://me:secret@db.example/runs", "--models", "all"]
    assert resume_command(words) == "ablate grid --tracking-uri postgresql://db.example/runs --models all"
