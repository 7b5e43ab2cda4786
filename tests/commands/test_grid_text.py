"""What a grid prints: the plan of a dry run and the results, in words and as documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.design.spec import Recipe, RunSpec
from tests.support.ablate import ablate_in_process
from tests.support.commands import DRY, SMALL


def test_dry_run_has_every_field_of_every_cell(ablate: Any, tmp_path: Path) -> None:
    document = ablate(*DRY, "--json").json()
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
    assert lines[1].startswith("Quickstart: tiny ResNet"), "the study's title"
    assert len(lines) == 51 and sum("/baseline/s" in line for line in lines) == 6
    unknown = "time for 48 cells: not known yet, no run like them is in the store"
    assert lines[-1] == f"{unknown}; --estimate trains each model for a moment to know", "no number is made up"


def test_dry_run_tells_repeated_baselines_apart(ablate: Any) -> None:
    lines = ablate("grid", "--study", "paper", "--device", "cpu", "--dry-run").out.splitlines()
    assert lines[0].startswith("study paper: 48 cells and 12 sentinels (baselines again, to see drift)")


def test_dry_run_knows_the_time_of_cells_that_have_run(finished: tuple[Path, dict[str, Any]]) -> None:
    words = ("grid", *SMALL, "--models", "test_resnet", "--datasets", "digits", "--techniques", "ga", "--dry-run")
    text = ablate_in_process(*words, cwd=finished[0]).out
    assert text.splitlines()[-1].startswith("time for 2 cells: about ") and "same cells" in text
    estimate = ablate_in_process(*words, "--json", cwd=finished[0]).json()["estimate"]
    assert estimate["seconds"] > 0 and (estimate["cells"], estimate["unknown"], estimate["jobs"]) == (2, 0, 1)


def test_json_is_one_document(finished: tuple[Path, dict[str, Any]]) -> None:
    _, document = finished
    assert (document["study"], document["cells"], document["finished"]) == ("quickstart", 2, 2)
    assert all(document[name] == 0 for name in ("failed", "oom", "timeout", "interrupted", "pending"))
    rows = {row["label"]: row for row in document["results"]}
    assert set(rows) == {"baseline", "ga"} and rows["ga"]["runs"] == 1
    assert rows["baseline"]["time_ratio"] == 1.0 and rows["ga"]["seconds"] > 0


def test_quiet_is_the_answer_alone_and_verbose_names_files(finished: tuple[Path, dict[str, Any]]) -> None:
    words = ("grid", *SMALL, "--models", "test_resnet", "--datasets", "digits", "--techniques", "ga")
    found = ablate_in_process(*words, "-q", cwd=finished[0])
    assert found.code == 0 and found.err == "" and "  ga (gradient accumulation" in found.out
    assert not any(word in found.out for word in ("study quickstart:", "resuming", "┃", "│"))
    loud = ablate_in_process(*words, "-v", "--dry-run", cwd=finished[0])
    assert f"state {finished[0]}/mlruns" in loud.line and "mlflow.db" in loud.line


def test_a_fraction_is_shown_with_its_aliases(ablate: Any) -> None:
    techniques = "ga,amp,pm,grad_checkpoint,fused,device_data"
    words = (*DRY, "--models", "test_resnet", "--datasets", "digits", "--techniques", techniques)
    lines = ablate(*words, "--design", "fractional").out.splitlines()
    assert len([line for line in lines if " block 0 " in line]) == 16, "a quarter of 64"
    aliases = lines[lines.index("aliases of the fraction:") + 1 :]
    assert "  ga = amp:pm:fused = amp:grad_checkpoint:device_data" in aliases
    assert "aliases" not in ablate(*words).out


def test_results_in_words(finished: tuple[Path, dict[str, Any]], digits_dir: Path) -> None:
    """The same call again runs nothing, and shows the same table."""
    again = ("grid", *SMALL, "--models", "test_resnet", "--datasets", "digits", "--techniques", "ga")
    found = ablate_in_process(*again, cwd=finished[0], data_dir=digits_dir)
    assert found.code == 0 and "resuming: 2 of 2 cells are done already, 0 to go" in found.out
    assert "test_resnet on digits" in found.out and "started" not in found.out
    assert "the answer:" in found.out.splitlines() and "  ga (gradient accumulation" in found.out
    assert found.out.splitlines()[-4:] == [
        "2 cells: 2 finished",
        "nothing to do: all 2 cells have finished already; --fresh repeats them",
        "compare the runs: ablate ui",
        "why, and what to use: ablate report quickstart",
    ]
