"""A storage with rows that make no sense ends a command with one line."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.design.names import HEARTBEAT_ATTRIBUTE, OWNER_TAG, RESULT_ATTRIBUTE
from pipeline.errors import OutsideError
from pipeline.tuning import heartbeats
from pipeline.tuning.reading import result_of, trials_of
from pipeline.tuning.storage import existing, open_study
from pipeline.tuning.trials import SharedStudy
from tests.support.tuning import Device, make_ledger, make_space, search

SPACE = make_space(batches=[16, 32], accumulations=[1, 2])


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with four trials, one of which still runs."""
    folder = tmp_path_factory.mktemp("searched")
    url = f"sqlite:///{folder}/optuna.db"
    study = open_study(url, "shared", "identity", ["maximize"], None, lock=folder / "lock")
    ledger = make_ledger(SPACE, folder, 3, study=study)
    search(Device(), ledger)
    assert len(ledger.findings()) == 3
    study.ask()
    with closing(sqlite3.connect(folder / "optuna.db")) as store:
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder / "optuna.db"


def reopened(database: Path, folder: Path, statement: str) -> SharedStudy:
    copy = folder / "optuna.db"
    copy.write_bytes(database.read_bytes())
    with closing(sqlite3.connect(copy)) as store:
        assert store.execute(statement).rowcount
        store.commit()
    study = existing(f"sqlite:///{copy}", "shared")
    assert study is not None
    return make_ledger(SPACE, folder, 3, study=study)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trials SET state = 'NONSENSE'",
        "UPDATE trials SET number = 'x' WHERE trial_id = 1",
        "UPDATE trials SET datetime_start = 'x'",
        "UPDATE trial_values SET value_type = 'NONSENSE'",
        "UPDATE trial_params SET distribution_json = ''",
        "UPDATE trial_params SET distribution_json = '{}'",
        "UPDATE trial_user_attributes SET value_json = 'x' WHERE trial_id = 1",
        "UPDATE trial_user_attributes SET value_json = '7' WHERE trial_id = 1",
        "UPDATE trial_system_attributes SET value_json = '{\"a\": {}}'",
        "DELETE FROM trial_values",
    ],
)
def test_rows_that_make_no_sense_are_told_in_one_line(statement: str, searched: Path, tmp_path: Path) -> None:
    ledger = reopened(searched, tmp_path, statement)
    with pytest.raises(OutsideError, match=r"^Optuna study shared: it cannot be read \(.+\); mend"):
        ledger.findings()


def test_so_are_those_of_other_processes(searched: Path, tmp_path: Path) -> None:
    ledger = reopened(searched, tmp_path, "UPDATE trials SET state = 'NONSENSE'")
    with pytest.raises(OutsideError, match="cannot be read"):
        heartbeats.working_processes(ledger.study)
    with pytest.raises(OutsideError, match="cannot be read"):
        trials_of(ledger.study)


def test_a_heartbeat_that_is_no_number_is_none(searched: Path, tmp_path: Path) -> None:
    ledger = reopened(searched, tmp_path, "UPDATE studies SET study_name = 'shared'")
    trial = ledger.ask() or ledger.study.ask()
    trial.set_user_attr(OWNER_TAG, "x")
    trial.set_user_attr(HEARTBEAT_ATTRIBUTE, "soon")
    assert heartbeats.working_processes(ledger.study) == []
    ledger.reap()


def test_what_makes_sense_is_read(searched: Path, tmp_path: Path) -> None:
    ledger = reopened(searched, tmp_path, "UPDATE studies SET study_name = 'shared'")
    assert len(ledger.findings()) == 3 and len(trials_of(ledger.study)) == 4


@pytest.mark.parametrize(
    "document",
    [
        '"better"',
        "7",
        "[]",
        "{}",
        '{"recommended": 7, "verdict": "tie"}',
        '{"recommended": {}}',
        "{",
        '["recommended"]',
    ],
)
def test_a_result_that_is_none_is_told_in_one_line(document: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    study = open_study(url, "shared", "identity", ["maximize"], None, lock=tmp_path / "lock")
    study.set_user_attr(RESULT_ATTRIBUTE, {"recommended": {"batch_size": 8}, "verdict": "better", "trials": 3})
    assert result_of(study, "another") is None
    assert result_of(study, "identity") == {"recommended": {"batch_size": 8}, "verdict": "better", "trials": 3}
    with closing(sqlite3.connect(tmp_path / "optuna.db")) as store:
        change = "UPDATE study_user_attributes SET value_json = ? WHERE key = ?"
        assert store.execute(change, (document, RESULT_ATTRIBUTE)).rowcount == 1
        store.commit()
    changed = existing(url, "shared")
    assert changed is not None
    with pytest.raises(OutsideError, match=r"^Optuna study shared: it cannot be read \(.+\); mend"):
        result_of(changed, "identity")
