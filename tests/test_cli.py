"""The command line: help, exit codes, one clear line for bad usage, precedence, and the options classes behind it."""

from __future__ import annotations

import re
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest

from pipeline import cli
from pipeline.design.options import GridOptions, RunOptions
from pipeline.design.spec import Recipe
from tests.support.ablate import command_line, environment, run_ablate
from tests.support.commands import DRY, STUDY, assert_refused


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


def help_of(*words: str) -> str:
    """What `--help` prints on a terminal of 80 columns."""
    return run_ablate(*words, "--help", cwd=Path.cwd(), env={"COLUMNS": "80"}).out


def test_commands_stand_under_headings_with_whole_sentences() -> None:
    text = help_of()
    sections = re.findall(r"^(\S[^:\n]*):$", text, re.MULTILINE)
    assert sections[0] == "Options" and {"Measure", "Read what was measured", "Data and store"} <= set(sections)
    assert "..." not in text.partition("\n")[2] and max(map(len, text.splitlines())) <= 80
    for name, command in cli.cli.commands.items():
        assert re.search(rf"^  {name} +\S", text, re.MULTILINE), f"every command is there: {name}"
        assert " ".join(str(command.help).split()) in " ".join(text.split())


def test_many_options_stand_under_headings_and_few_do_not() -> None:
    text = help_of("grid")
    sections = dict(re.findall(r"^(\S[^:\n]*):\n((?:  .*\n)+)", text, re.MULTILINE))
    wanted = {
        "What is run": ("--study", "--models", "--datasets", "--techniques", "--set"),
        "How often and how long": ("--seeds", "--until-decided", "--timeout", "--fresh"),
        "Where": ("--device", "--jobs", "--data-dir", "--nproc"),
        "Tuning": ("--tuned",),
        "Tracking": ("--tracking-uri",),
        "Output": ("--dry-run", "--json", "-h, --help"),
    }
    assert set(sections) == set(wanted)
    for heading, names in wanted.items():
        assert all(re.search(rf"^  {name} ", sections[heading], re.MULTILINE) for name in names), heading
    shown = {option for line in text.splitlines() for option in re.findall(r"^  (?:-\w, )?(--[\w-]+)", line)}
    offered_names = {each.opts[-1] for each in cli.cli.commands["grid"].params}
    assert shown == {*offered_names, "--help"} and max(map(len, text.splitlines())) <= 80
    assert "\nOptions:\n" in help_of("status")


def test_help_of_one_cell_leaves_out_what_only_several_have(ablate: Any) -> None:
    text = help_of("run")
    assert not re.search(r"--(seeds|jobs|retries|until-decided)\b", text)
    words = ("run", "--model", "test_vit", "--dataset", "digits", *DRY[1:], "--seeds", "1", "--jobs", "1")
    assert ablate(*words).code == 0, "they are understood all the same"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_words(shell: str, tmp_path: Path) -> None:
    script = run_ablate(cwd=tmp_path, env={"_ABLATE_COMPLETE": f"{shell}_source"})
    assert script.code == 0 and "_ABLATE_COMPLETE" in script.out and script.err == ""
    typed = {"COMP_WORDS": "ablate list mod", "COMP_CWORD": "mod" if shell == "fish" else "2"}
    found = run_ablate(cwd=tmp_path, env={"_ABLATE_COMPLETE": f"{shell}_complete", **typed})
    assert found.code == 0 and "models" in found.out and "studies" not in found.out


def test_version(ablate: Any) -> None:
    found = ablate("--version")
    assert found.code == 0 and re.search(r"ablate.* \d+\.\d+", found.out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nonsense",), ("nonsense",)),
        (("grid", "--nonsense"), ("--nonsense",)),
        (("grid", "stray"), ("stray",)),
        (("run", "--dataset", "digits"), ("--model",)),
        (("run", "--model", "test_vit"), ("--dataset",)),
        ((*DRY, "--device", "tpu"), ("--device", "tpu", "cuda")),
        ((*DRY, "--launcher", "nonsense"), ("--launcher", "nonsense", "local")),
        ((*DRY, "--seeds", "0"), ("--seeds", "0", "1<=x")),
        ((*DRY, "--seeds", "-3"), ("--seeds", "-3", "1<=x")),
        ((*DRY, "--seeds", "two"), ("--seeds", "'two'", "integer")),
        ((*DRY, "--seeds", "1.5"), ("--seeds", "'1.5'", "integer")),
        ((*DRY, "--jobs", "0"), ("--jobs", "0", "1<=x")),
        ((*DRY, "--timeout", "0"), ("--timeout", "0", "0<x")),
        ((*DRY, "--timeout", "-1"), ("--timeout", "-1", "0<x")),
        ((*DRY, "--timeout", "soon"), ("--timeout", "'soon'", "float")),
    ],
    ids=lambda value: " ".join(value).replace("\0", "NUL") if isinstance(value, tuple) else None,
)
def test_bad_usage_is_one_clear_line(
    arguments: tuple[str, ...], words: tuple[str, ...], ablate: Any, tmp_path: Path
) -> None:
    assert_refused(ablate(*arguments), words, tmp_path)


def test_precedence(ablate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blocks(*arguments: str) -> tuple[int, int]:
        cells = ablate("grid", "--device", "cpu", "--dry-run", "--json", *arguments).json()["cells"]
        return len({cell["block"] for cell in cells}), cells[0]["recipe"]["epochs"]

    file = tmp_path / "mine.yaml"
    file.write_text(STUDY)
    assert blocks("--study", "mine.yaml") == (1, Recipe().epochs), "defaults"
    file.write_text(STUDY.replace("{", "{epochs: 12, ") + "seeds: 2\n")
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


@pytest.mark.parametrize(
    ("command", "old", "good", "bad"),
    [
        ("grid --study quickstart --device cpu", "--precision", "0.5", "1.5"),
        ("tune --model test_resnet --dataset digits --study quickstart --device cpu", "--interval", "0.5", "1"),
    ],
)
def test_the_old_names_of_an_intervals_width_still_work_and_are_not_shown(
    command: str, old: str, good: str, bad: str, ablate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Any] = []
    monkeypatch.setattr("pipeline.commands.grid.run_grid", lambda options: taken.append(options) or 0)
    monkeypatch.setattr("pipeline.commands.tune.run_tune", lambda options: taken.append(options) or 0)
    words = command.split()
    for name in ("--interval-width", old):
        assert ablate(*words, name, good).code == 0
        assert taken.pop().interval_width == 0.5
        assert_refused(ablate(*words, name, bad), ("--interval-width", bad), tmp_path)
    for variable in ("ABLATE_INTERVAL_WIDTH", "ABLATE_" + old[2:].upper()):
        monkeypatch.setenv(variable, good)
        assert ablate(*words).code == 0 and taken.pop().interval_width == 0.5
        monkeypatch.delenv(variable)
    text = ablate(words[0], "--help").out
    assert "--interval-width" in text and f"{old} " not in text


def test_what_is_typed_reaches_the_command_whole(ablate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    monkeypatch.setattr("pipeline.commands.grid.run_grid", lambda options: taken.append(options) or 1)
    words = ("--technique", "ga=2", "--technique", "ga=4", "--set", "epochs=2", "--timeout", "3", "--json", "--fresh")
    assert ablate("grid", "--until-decided", "--retries", "0", *words).code == 1, "the command's exit code"
    wanted = GridOptions(
        until_decided=True, retries=0, levels=("ga=2", "ga=4"), settings=("epochs=2",), timeout=3.0, as_json=True,
        fresh=True,
    )  # fmt: skip
    assert taken.pop() == wanted
    ablate("grid")
    assert taken.pop() == GridOptions(), "nothing typed is nothing but defaults"
    ablate("run", "--model", "a", "--dataset", "b")
    assert taken.pop() == RunOptions(models="a", datasets="b")


def test_the_end_of_the_program_calls_exit_functions_and_keeps_the_code(tmp_path: Path) -> None:
    code = "import atexit, runpy; atexit.register(print, 'left'); runpy.run_module('pipeline', run_name='__main__')"
    for words, status in ((("--version",), 0), (("nonsense",), 2)):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
        assert done.returncode == status and done.stdout.splitlines()[-1] == "left"
