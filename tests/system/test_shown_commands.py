"""Every command of README and the documents does what it says, on a machine without a GPU.

All of them are parsed, those that make a plan make it, and those of the README that a CPU can run in a minute are run:
as written, in a folder in which the studies have their names and are small, and the data sets are small.
"""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import click
import pytest

from pipeline.cli import cli
from tests.support.ablate import ablate_in_process, ended, run_ablate, start_ablate
from tests.support.data import prepare_small_cifar, write_folder
from tests.support.examples import DOCUMENTS, Example, all_examples, examples

ALL = all_examples()
PLANS = ("grid", "run", "speed", "tune")
# docs/architecture.md shows how these are added
OWN_CODE = {"threads,ga", "noise", "vit_small"}
# as long as the real thing in names only
QUICKSTART = """
models: {test_vit: {image_size: 16, patch_size: 8}}
datasets: [digits]
techniques: [ga, pm]
recipe: {epochs: 1, max_train_samples: 192, max_test_samples: 64, batch_size: 32, eval_batch_size: 64}
"""
PAPER = """
models: {test_resnet: {image_size: 32}}
datasets: [cifar10]
techniques: [ga]
recipe: {epochs: 1, batch_size: 16, max_train_samples: 64, max_test_samples: 20, num_threads: 1}
"""
HELDOUT = """
extends: quickstart
techniques: [ga]
recipe: {epochs: 2, max_train_samples: 192, max_test_samples: 64, batch_size: 32, validation_fraction: 0.2}
"""
SHORTER = {"ABLATE_MAX_SECONDS": "5", "ABLATE_MAX_BLOCKS": "2"}


def named(example: Example) -> str:
    return f"{example.document}:{example.line}"


def test_documents_show_commands() -> None:
    assert len(ALL) > 40
    assert {example.document for example in ALL} >= {"README.md", "docs/speed.md", "docs/tuning.md", "docs/cluster.md"}


@pytest.mark.parametrize("example", ALL, ids=named)
def test_every_command_is_one(example: Example) -> None:
    context = cli.make_context("ablate", list(example.words))
    command: click.Command = cli
    words = example.words
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        context = click.Context(command, parent=context, info_name=name)
        command = found
    command.make_context(command.name, words, parent=context)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: images, old and new scripts."""
    world = tmp_path_factory.mktemp("user")
    write_folder(world / "photos", train=12, test=6)
    script = "import time\ntime.sleep({})\nprint('METRIC images_per_second=100')\n"
    for name, seconds in (("old", 0.05), ("new", 0.05), ("train", 0.05), ("a", 0.05), ("b", 0.05)):
        (world / f"{name}.py").write_text(script.format(seconds))
    return world


# with Ray the cluster says where runs train, so that a plan needs one; tests/system/cluster has a real one
PLANNED = [e for e in ALL if e.words[0] in PLANS and not {*OWN_CODE, "ray"} & set(e.words)]


@pytest.mark.parametrize("example", PLANNED, ids=named)
def test_every_plan_is_made(example: Example, folder: Path) -> None:
    if example.is_a_pattern and "experiments/tuned/NAME.yaml" in example.text:
        pytest.skip("a file that a search writes")
    words = [word for word in example.words if word != "--dry-run"]
    found = ablate_in_process(*words, "--dry-run", cwd=folder, env={**example.variables, "CUDA_VISIBLE_DEVICES": ""})
    assert found.code == 0, f"{example}\n{found.err}"
    assert found.out.strip()


@pytest.fixture(scope="module")
def small(folder: Path) -> Path:
    """The user's folder with small studies of the names that the documents use, and small data sets."""
    studies = folder / "experiments"
    studies.mkdir()
    for name, text in (("quickstart", QUICKSTART), ("paper", PAPER), ("heldout", HELDOUT)):
        (studies / f"{name}.yaml").write_text(text)
    for name in ("cifar10", "cifar100"):
        prepare_small_cifar(name, folder / "data")
    # what a reader has by then: `make grid`, and studies of his own
    for words in (("quickstart",), ("heldout",), ("heldout", "--name", "mine")):
        assert run_ablate("grid", "--study", *words, cwd=folder, data_dir=folder / "data").code == 0
    return folder


def run_example(example: Example, world: Path) -> None:
    """Runs a command as it is written; a path that stands for another machine's is the copy of the store."""
    text = {"sqlite:////mnt/other/mlruns/mlflow.db": f"sqlite:///{world}/other/mlflow.db"}
    words = [text.get(word, word).replace("~/data", str(world / "data")) for word in example.words]
    if words[0] == "rename":  # somebody at a terminal is asked
        words.append("--yes")
    if "--tracking-uri-b" in words:
        (world / "other").mkdir()
        shutil.copy(world / "mlruns" / "mlflow.db", world / "other" / "mlflow.db")
    process = start_ablate(*words, cwd=world, data_dir=world / "data", env={**SHORTER, "CUDA_VISIBLE_DEVICES": ""})
    if words[0] == "ui":
        assert process.stdout is not None
        while not (line := process.stdout.readline()).startswith("ready"):
            assert line or process.poll() is None, "ended without a page"
        process.send_signal(signal.SIGINT)
        ended(process)
        return
    found = ended(process, timeout=300)
    assert found.code == 0, f"{example}\n{found.out}\n{found.err}"
    if example.words[0] == "report":
        study = example.words[1]
        assert json.loads((world / "mlruns" / "reports" / study / "report.json").read_text())


def runs_here(example: Example) -> bool:
    """Whether a CPU can run a command in a minute: of those that train, the ones on a study that is small here."""
    words = set(example.words)
    small_study = "--study" in words or {"--models", "all"} <= words
    trains = example.words[0] in PLANS
    return not (example.is_a_pattern or {"ray", "--nproc"} & words) and (small_study or not trains)


@pytest.mark.slow
@pytest.mark.parametrize("example", [e for e in examples(DOCUMENTS[0]) if runs_here(e)], ids=named)
def test_every_command_of_the_readme_runs(example: Example, small: Path) -> None:
    run_example(example, small)
