"""`ablate rename` and `ablate delete`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.ablate import Result, ablate_in_process
from tests.support.recorded import record_study

MigratedStore = Callable[[Path], str]
Ablate = Callable[..., Result]


def states(ablate: Ablate, study: str) -> tuple[int, int]:
    """Exit code of `ablate status`, and how many cells are finished."""
    found = ablate("status", study, "--json")
    return found.code, found.json()["finished"] if found.code == 0 else 0


def test_a_renamed_study_is_the_old_one_under_its_name(
    ablate: Ablate, tmp_path: Path, migrated_store: MigratedStore
) -> None:
    record_study(tmp_path, "mine", migrated_store)
    assert states(ablate, "mine") == (0, 2)
    plan = ablate("rename", "mine", "ours", "--dry-run")
    assert plan.code == 0 and "study mine with 2 runs becomes ours" in plan.out
    assert states(ablate, "mine") == (0, 2), "a dry run does nothing"
    assert ablate("rename", "mine", "ours", "--yes", "--json").json()["done"] is True
    assert states(ablate, "ours") == (0, 2) and states(ablate, "mine") == (2, 0)
    assert ablate("status", "ours", "--json").json()["study"] == "ours"
    assert (tmp_path / "mlruns/reports/ours/report.html").is_file() and not (tmp_path / "mlruns/reports/mine").exists()
    assert ablate("sync", "--json").json()["entries"] == 0, "nothing is delivered anew"
    assert states(ablate, "mine")[0] == 2 and states(ablate, "ours") == (0, 2), "under neither name"
    record_study(tmp_path, "ours", migrated_store, end=False).close_parent("finished")
    assert states(ablate, "ours") == (0, 2), "its finished cells are known"


def test_a_deleted_study_leaves_its_name_free_and_can_be_restored(
    ablate: Ablate, tmp_path: Path, migrated_store: MigratedStore
) -> None:
    from mlflow import MlflowClient

    record_study(tmp_path, "mine", migrated_store)
    record_study(tmp_path, "other", migrated_store)
    before = ablate("delete", "mine", "--dry-run", "--json").json()
    assert before["runs"] == 2 and before["renamed"] is None
    paths = {Path(each["path"]) for each in before["files"]}
    assert Path("mlruns/reports/mine") in paths and {path.parts[1] for path in paths} == {"reports", "plans", "journal"}
    assert next(each for each in before["files"] if "reports" in each["path"])["bytes"] == 5000
    done = ablate("delete", "mine", "--yes")
    assert done.code == 0 and "mlflow gc" in done.out and "can restore" in done.out
    assert states(ablate, "mine")[0] == 2 and states(ablate, "other") == (0, 2), "only this one"
    assert not any((tmp_path / path).exists() for path in paths)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    (gone,) = [each for each in client.search_experiments(view_type=2) if each.name.startswith("mine (deleted 20")]
    assert len(client.search_runs([gone.experiment_id], run_view_type=3)) == 3
    assert ablate("sync", "--json").json() == {"journals": 0, "entries": 0, "problems": []}, "nothing brings it back"
    record_study(tmp_path, "mine", migrated_store)
    assert states(ablate, "mine") == (0, 2), "the name is free"


def test_a_purged_study_is_gone_for_good(ablate: Ablate, tmp_path: Path, migrated_store: MigratedStore) -> None:
    from mlflow import MlflowClient

    record_study(tmp_path, "mine", migrated_store)
    record_study(tmp_path, "other", migrated_store)
    done = ablate("delete", "mine", "--yes", "--purge")
    assert done.code == 0 and "deleted for good" in done.out, done.err
    client = MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    assert {each.name for each in client.search_experiments(view_type=3)} == {"Default", "other"}
    assert states(ablate, "other") == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("delete", "nosuch", "--yes"), ("STUDY", "'nosuch'", "mine")),
        (("rename", "nosuch", "new", "--yes"), ("STUDY", "'nosuch'")),
        (("rename", "mine", "other", "--yes"), ("NEW", "'other'", "no experiment")),
        (("rename", "mine", "a/b", "--yes"), ("NEW", "a/b")),
        (("delete", "mine"), ("--yes",)),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    arguments: tuple[str, ...], words: tuple[str, ...], changeable: Path
) -> None:
    found = ablate_in_process(*arguments, cwd=changeable)
    assert found.code == 2 and all(word in found.line for word in words), found.err


@pytest.fixture(scope="module")
def changeable(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Path:
    """A folder with two studies, which no test changes."""
    place = tmp_path_factory.mktemp("studies")

    def put(database: Path) -> str:
        database.parent.mkdir(parents=True, exist_ok=True)
        database.write_bytes(migrated_database.read_bytes())
        return f"sqlite:///{database}"

    for name in ("mine", "other"):
        record_study(place, name, put)
    return place


@pytest.mark.parametrize("command", [("delete", "busy"), ("rename", "busy", "new")])
def test_a_study_that_somebody_works_on_is_left_alone(
    command: tuple[str, ...], ablate: Ablate, tmp_path: Path, migrated_store: MigratedStore
) -> None:
    recorder = record_study(tmp_path, "busy", migrated_store, end=False)
    assert recorder.outbox.wait(20.0)
    found = ablate(*command, "--yes")
    assert found.code == 2 and "no controller is at work" in found.line
    recorder.close_parent("finished")
    assert recorder.drain(20.0) and states(ablate, "busy") == (0, 2)
