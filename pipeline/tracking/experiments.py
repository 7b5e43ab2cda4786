"""The studies that a tracking store holds: listed, renamed, deleted."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.design.names import STUDY_TAG
from pipeline.errors import InputError, OutsideError, not_allowed
from pipeline.paths import STATE_DIR, write_atomically
from pipeline.tracking import journal, mlflow_sqlite
from pipeline.tracking.attempts import PARENTS, Attempt
from pipeline.tracking.credentials import without_credentials
from pipeline.tracking.delivery import delivered_path, delivered_state, save_offset
from pipeline.tracking.liveness import ENDED, is_alive
from pipeline.tracking.mlflow_store import MlflowStore
from pipeline.tracking.mlflow_writer import MlflowWriter
from pipeline.tracking.refused import refused_path
from pipeline.tracking.replay import earlier_journals, is_left
from pipeline.tracking.trusted import is_key, plan_file
from pipeline.tracking.uri import resolve_uri, sqlite_file


@dataclass(frozen=True)
class StoredStudy:
    """An experiment with runs of this program.

    Attributes:
        name: of the experiment.
        runs: rows of cells, every try counted; None where only a server could count them.
    """

    name: str
    runs: int | None


def stored_studies(tracking_uri: str | None) -> list[StoredStudy]:
    """Lists the studies of a store, by name; none where the default store is not there yet.

    Args:
        tracking_uri: the flag's value.

    Raises:
        InputError: the store that was named is not there.
        OutsideError: it does not answer.
    """
    uri = resolve_uri(tracking_uri)
    file = sqlite_file(uri)
    if file is not None and not file.is_file():
        if tracking_uri is None:
            return []
        raise InputError(
            f"tracking store {without_credentials(uri)}: no such file; allowed: a store with a study in it"
        )
    counted = None if file is None else mlflow_sqlite.count_runs(file)
    if counted is not None:
        return [StoredStudy(name, runs) for name, runs in sorted(counted.items())]
    store = MlflowStore(uri, "ablate", STATE_DIR / "artifacts")
    store.connect(create=False)
    return [StoredStudy(name, None) for name in sorted(store.experiments())]


class HeldStudy:
    """A study that nobody is at work on, with what belongs to it; its journals are kept for this process alone.

    Args:
        store: the store and experiment, connected.
        state_dir: `mlruns`.
        attempts: all tries of the experiment.
        journals: of its controllers in this folder, held.

    Attributes:
        experiment_id: MLflow's.
    """

    def __init__(self, store: MlflowStore, state_dir: Path, attempts: list[Attempt], journals: list[Path]) -> None:
        self.experiment_id = store.connection.experiment_id
        self._store = store
        self._state_dir = state_dir
        self._attempts = attempts
        self._journals = journals

    @property
    def runs(self) -> int:
        """Rows of cells, every try counted."""
        return sum(attempt.kind not in PARENTS for attempt in self._attempts)

    @property
    def reports(self) -> Path:
        """Folder of its reports, which need not be there."""
        return reports_of(self._state_dir, self._store.experiment)

    def files(self) -> list[Path]:
        """What of it lies in this folder beside its artifacts: reports, plans, journals, work folders of its cells."""
        plans = [plan_file(self._state_dir, attempt.key) for attempt in self._attempts if attempt.kind in PARENTS]
        beside = [each(path) for path in self._journals for each in (delivered_path, refused_path)]
        wanted = [self.reports, *filter(None, plans), *self._journals, *beside, *self._work_folders()]
        return [path for path in wanted if path.exists() and not path.is_symlink()]

    def _work_folders(self) -> Iterable[Path]:
        """Those of cells that no other study of this folder has."""
        digests = {attempt.digest for attempt in self._attempts if is_key(attempt.digest)}
        return (self._state_dir / "work" / digest for digest in sorted(digests - self._digests_of_others()))

    def _digests_of_others(self) -> set[str]:
        mine = {attempt.key for attempt in self._attempts}
        found: set[str] = set()
        for path in (self._state_dir / "plans").glob("*.json"):
            if path.stem not in mine:
                try:
                    found |= {str(cell["digest"]) for cell in json.loads(path.read_text())["cells"]}
                except (OSError, ValueError, KeyError, TypeError):
                    continue
        return found

    def rename(self, new: str) -> None:
        """Gives experiment, parent runs, journals and reports another name.

        Args:
            new: the name, which no experiment has.

        Raises:
            InputError: an experiment of the store has it, a deleted one perhaps.
            OutsideError: the store does not take it.
        """
        client, old = self._store.connection.client, self._store.experiment
        if client.get_experiment_by_name(new) is not None:
            raise not_allowed("NEW", new, "a name that no experiment of the store has, a deleted one included")
        if self.reports.exists() and reports_of(self._state_dir, new).exists():
            raise not_allowed("NEW", new, f"a name without a folder {reports_of(self._state_dir, new)}")
        client.rename_experiment(self.experiment_id, new)
        for path in self._journals:
            _rename_in_journal(path, new)
        for attempt in self._attempts:
            if attempt.kind in PARENTS and self._store.tags_of(attempt.run_id).get(STUDY_TAG) == old:
                client.set_tag(attempt.run_id, STUDY_TAG, new)
        if self.reports.exists():
            self.reports.rename(reports_of(self._state_dir, new))

    def delete(self) -> str:
        """Marks the experiment as deleted, under another name, so that its own is free again; returns that name."""
        client = self._store.connection.client
        name = f"{self._store.experiment} (deleted {time.strftime('%Y-%m-%d %H:%M:%S')})"
        client.rename_experiment(self.experiment_id, name)
        client.delete_experiment(self.experiment_id)
        return name


def reports_of(state_dir: Path, study: str) -> Path:
    """Folder of a study's reports.

    Args:
        state_dir: `mlruns`.
        study: its name.
    """
    return state_dir / "reports" / re.sub(r"[^A-Za-z0-9._-]", "_", study)


@contextmanager
def held_study(name: str, tracking_uri: str | None, state_dir: Path) -> Iterator[HeldStudy]:
    """Keeps a study for this process alone while the block runs.

    Args:
        name: of the study.
        tracking_uri: the flag's value.
        state_dir: `mlruns`.

    Raises:
        InputError: no such study, or none of ours, or a controller is at work on it.
        OutsideError: the store does not answer, or a journal is not delivered.
    """
    uri = resolve_uri(tracking_uri)
    store = MlflowStore(uri, name, state_dir / "artifacts")
    store.connect(create=False)
    attempts = store.attempts() if store.connection.experiment_id else []
    if not attempts:
        known = ", ".join(study.name for study in stored_studies(tracking_uri)) or "none: the store has no study"
        raise not_allowed("STUDY", name, f"a study of the tracking store ({known})")
    beats = {owner: beat for attempt in attempts for owner, beat in attempt.heartbeats}
    owners = {attempt.owner for attempt in attempts if not attempt.outcome} | set(beats)
    owners -= {owner for owner, beat in beats.items() if beat == ENDED}
    busy = [owner for owner in sorted(owners) if is_alive(owner, _seconds(beats.get(owner, "")))]
    journals = earlier_journals(state_dir / "journal" / "none", without_credentials(uri), name)
    with ExitStack() as stack:
        left = [path for path in journals if is_left(path, MlflowWriter(store, state_dir))]
        if left:
            raise OutsideError(f"{left[0]}: not wholly in the tracking store; `ablate sync` delivers it")
        free = [stack.enter_context(journal.abandoned(path)) for path in journals]
        if busy or not all(free):
            who = busy[0] if busy else journals[free.index(False)].name
            raise not_allowed("STUDY", name, f"a study that no controller is at work on ({who} is); wait, or end it")
        yield HeldStudy(store, state_dir, attempts, journals)


def _seconds(beat: str) -> float | None:
    return int(beat) / 1000 if beat.isascii() and beat.isdigit() else None


def _rename_in_journal(path: Path, experiment: str) -> None:
    """Writes another experiment into a journal's first entry; what was delivered of it stays so."""
    head, end = next(journal.read_entries(path))
    known, content = delivered_state(path), path.read_bytes()
    line = journal.line_of({**head, "experiment": experiment})
    write_atomically(path, line + content[end:], durable=True)
    path.chmod(0o600)
    save_offset(path, known.offset + len(line) - end, known.token, known.stamp)
