"""Real processes on one study: killed, interrupted, and joined by others. Nothing is lost, nothing is stuck."""

from __future__ import annotations

import contextlib
import re
import signal
import sqlite3
import subprocess
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from pipeline.tuning.storage import existing
from tests.support.ablate import run_ablate, start_ablate
from tests.support.processes import until
from tests.support.servers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PATIENCE = 280.0
SMALL = [
    *("tune", "--model", "test_resnet", "--dataset", "digits", "--study", "quickstart", "--device", "cpu"),
    *("--batch-sizes", "16,64,256", "--accumulation", "1,2", "--trial-seconds", "1.0", "--confirm-blocks", "2"),
    *("--top", "1", "--name", "shared"),
]


@contextlib.contextmanager
def started(folder: Path, data_dir: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = start_ablate(*words, cwd=folder, data_dir=data_dir)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def study_in(folder: Path) -> optuna.Study | None:
    with contextlib.suppress(Exception):
        return existing(f"sqlite:///{folder}/mlruns/optuna.db", "shared")
    return None


def running_of(folder: Path, pid: int, younger_than: float = 1e6) -> list[int]:
    """Numbers of the trials that a process is at work on, by plain SQL: opening a storage takes too long to poll.

    Args:
        folder: of the call.
        pid: of the process.
        younger_than: only trials that began less than so many seconds ago.
    """
    query = (
        "select t.number from trials t "
        "join trial_user_attributes o on o.trial_id = t.trial_id and o.key = 'ablate.owner' "
        "join trial_user_attributes d on d.trial_id = t.trial_id and d.key = 'ablate.digest' "
        "where t.state = 'RUNNING' and o.value_json like ? and t.datetime_start > ?"
    )
    since = str(datetime.now() - timedelta(seconds=younger_than))  # as Optuna writes it
    database = folder / "mlruns" / "optuna.db"
    if not database.is_file():
        return []
    with contextlib.closing(sqlite3.connect(database, timeout=10)) as connection:
        return [row[0] for row in connection.execute(query, (f"%.{pid}.%", since))]


def statuses(folder: Path) -> list[tuple[str, str, str]]:
    """(kind, status, phase) of every run in MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    found = client.get_experiment_by_name("quickstart")
    assert found is not None
    runs = client.search_runs([found.experiment_id], max_results=1000)
    return [(r.data.tags["ablate.kind"], r.info.status, r.data.tags.get("tune.phase", "")) for r in runs]


def assert_complete(folder: Path) -> None:
    """Every configuration was measured exactly once, and nothing is open anywhere."""
    study = study_in(folder)
    assert study is not None
    states = [trial.state for trial in study.trials]
    assert TrialState.RUNNING not in states and TrialState.WAITING not in states
    complete = [tuple(sorted(t.params.items())) for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(complete) == 6 == len(set(complete))
    rows = statuses(folder)
    assert "RUNNING" not in {status for _, status, _ in rows}
    assert [(kind, phase, status) for kind, status, phase in rows].count(("run", "search", "FINISHED")) == 6
    assert [kind for kind, _, _ in rows].count("tune") == 1


def test_one_of_two_processes_is_killed_in_mid_trial(tmp_path: Path, digits_dir: Path) -> None:
    words = [*SMALL, "--trial-seconds", "4", "--interval-width", "0.0001", "--join", "--json"]
    with started(tmp_path, digits_dir, *words) as one, started(tmp_path, digits_dir, *words) as other:
        until(lambda: running_of(tmp_path, other.pid), PATIENCE)
        lost = until(lambda: running_of(tmp_path, one.pid, younger_than=3.5), PATIENCE)  # they take 4 and more
        one.kill()
        out, err = other.communicate(timeout=400)
        assert other.returncode == 0, err
    assert '"trials": 6' in out
    assert_complete(tmp_path)
    study = study_in(tmp_path)
    assert study is not None
    failed = [t for t in study.trials if t.state == TrialState.FAIL]
    assert [t.number for t in failed if not t.user_attrs.get("ablate.withdrawn")] == lost
    assert failed[0].params in [t.params for t in study.trials if t.state == TrialState.COMPLETE]
    assert ("run", "KILLED", "search") in statuses(tmp_path)


def test_an_interrupted_call_says_how_to_go_on_and_does(tmp_path: Path, digits_dir: Path) -> None:
    with started(tmp_path, digits_dir, *SMALL) as process:
        until(lambda: running_of(tmp_path, process.pid), PATIENCE)
        refused = run_ablate(*SMALL, cwd=tmp_path, data_dir=digits_dir)
        assert refused.code == 2 and "--join" in refused.err.splitlines()[-1]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 130, err
    assert re.search(r"interrupted; go on with: ablate tune .*--name shared", err)
    assert "RUNNING" not in {status for _, status, _ in statuses(tmp_path)}
    found = run_ablate(*SMALL, "--json", cwd=tmp_path, data_dir=digits_dir).json()
    assert found["trials"] == 6
    assert_complete(tmp_path)


def test_a_grid_tunes_once_and_freezes_the_recipe(tmp_path: Path, digits_dir: Path) -> None:
    (tmp_path / "small.yaml").write_text(
        "models: {test_resnet: {epochs: 1}}\ndatasets: [digits]\ntechniques: [ga]\n"
        "recipe: {image_size: 16, batch_size: 64, max_train_samples: 128, max_test_samples: 50}\n"
    )
    words = ["grid", "--study", "small.yaml", "--device", "cpu", "--tuned", "--tune-trials", "3", "--json"]
    words += ["--tune-seconds", "0.5"]
    first = run_ablate(*words, cwd=tmp_path, data_dir=digits_dir)
    assert first.json()["finished"] == 2
    assert "tune test_resnet on digits" in first.err
    chosen = re.search(r"tuned test_resnet on digits \(\w+\): batch_size=(\d+), accumulation_steps=(\d+)", first.err)
    assert chosen is not None
    again = run_ablate(*words, cwd=tmp_path, data_dir=digits_dir)
    assert again.json()["finished"] == 2 and "tune test_resnet on digits" not in again.err
    plan = run_ablate(*words, "--dry-run", cwd=tmp_path, data_dir=digits_dir).json()
    sizes = {(cell["recipe"]["batch_size"], cell["recipe"]["accumulation_steps"]) for cell in plan["cells"]}
    batch, steps = int(chosen[1]), int(chosen[2])
    assert sizes == {(batch, steps), (batch, 2 * steps)}


def test_the_dashboard_shows_the_studies(tmp_path: Path, digits_dir: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    missing = run_ablate("ui", "--optuna", cwd=tmp_path, data_dir=digits_dir)
    assert missing.code == 2 and "--storage" in missing.err
    from pipeline.tuning.storage import open_study

    url = f"sqlite:///{tmp_path}/mlruns/optuna.db"
    open_study(url, "shown-in-the-dashboard", "identity", ["maximize"], None, lock=tmp_path / "lock").ask()
    port = free_port()
    with started(tmp_path, digits_dir, "ui", "--optuna", "--port", str(port)) as process:

        def answer() -> str:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies") as page:
                return str(page.read().decode())
            return ""

        assert "shown-in-the-dashboard" in until(answer, 90.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_another_seed_names_the_same_winner_or_a_tie(tmp_path: Path, digits_dir: Path) -> None:
    words = [
        *(
            "tune",
            "--model",
            "test_resnet",
            "--dataset",
            "digits",
            "--study",
            "quickstart",
            "--device",
            "cpu",
            "--json",
        ),
        *("--batch-sizes", "16,64,256", "--accumulation", "1", "--trial-seconds", "0.7", "--top", "2"),
        *("--confirm-blocks", "4"),
    ]
    found = [run_ablate(*words, "--seed", seed, cwd=tmp_path, data_dir=digits_dir).json() for seed in ("0", "7")]
    assert found[0]["name"] != found[1]["name"]
    for one in found:
        low, high = one["low"], one["high"]
        assert one["verdict"] == ("better" if low > 1 else "worse" if high < 1 else "tie")
        slow = next(c["ratios"]["throughput"] for c in one["confirmed"] if c["config"]["batch_size"] == 16)
        assert slow["ratio"] < 1, "small batches are slow on every machine"
    same = found[0]["best"] == found[1]["best"]
    tied = any(one["verdict"] == "tie" or other["best"] in one["ties"] for one, other in (found, found[::-1]))
    assert same or tied
