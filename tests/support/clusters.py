"""Real components on loopback: a Ray cluster of several raylets, and PostgreSQL in a folder of its own."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from tests.support.ablate import environment
from tests.support.processes import Row, until
from tests.support.servers import free_port

START_SECONDS = 120


def end_group(process: subprocess.Popen[Any]) -> None:
    """Kills a process with its group, as a crash of the machine would, and reaps it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class RayCluster:
    """A head without slots and any number of nodes, each a `ray start` of its own, with one token."""

    def __init__(self) -> None:
        # short: the sockets' paths have to fit into 107 characters
        self.folder = Path(tempfile.mkdtemp(prefix="abr", dir="/tmp"))
        self.token = self.folder / "token"
        self.token.write_text(secrets.token_hex(32))
        self.token.chmod(0o600)
        self.address = f"127.0.0.1:{free_port()}"
        self._processes: list[subprocess.Popen[bytes]] = []
        port = self.address.rpartition(":")[2]
        self._start("--head", f"--port={port}", "--num-cpus=0", f"--temp-dir={self.folder}/t")

    @property
    def env(self) -> dict[str, str]:
        """What whoever talks to the cluster has to have in its environment."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token), "RAY_USAGE_STATS_ENABLED": "0"}

    def _start(self, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        log = self.folder / f"start{len(self._processes)}.log"
        words = (*words, "--include-dashboard=false") if "--head" in words else words
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *words]
        command += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                env=environment(**self.env, **(env or {})),
                cwd=self.folder,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        until(lambda: "Ray runtime started" in log.read_text() or process.poll() is not None, START_SECONDS, "Ray")
        assert process.poll() is None, log.read_text()
        return process

    def node(self, cpus: int = 2, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts a node; kill it with `end_group`."""
        return self._start(f"--address={self.address}", f"--num-cpus={cpus}", env=env)

    def close(self) -> None:
        """Ends all of it."""
        for process in reversed(self._processes):
            end_group(process)
        shutil.rmtree(self.folder, ignore_errors=True)


class Postgres:
    """A PostgreSQL server from Debian's packages, as an unprivileged user, with password authentication."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.password = secrets.token_hex(16)
        self._folder = Path(tempfile.mkdtemp(prefix="abp", dir="/tmp"))
        self._data = self._folder / "data"
        self._log = folder / "postgres.log"
        folder.mkdir(parents=True, exist_ok=True)
        secret = self._folder / "password"
        secret.write_text(self.password)
        self._user: dict[str, Any] = {}
        if os.getuid() == 0:  # it refuses to run as root
            account = pwd.getpwnam("postgres")
            self._user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            for path in (self._folder, secret):
                os.chown(path, account.pw_uid, account.pw_gid)
        self._run("initdb", "-D", str(self._data), "-U", "ablate", "--auth=scram-sha-256", f"--pwfile={secret}")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def _command(self, name: str) -> str:
        found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")) or [Path(shutil.which(name) or name)]
        return str(found[-1])

    def _run(self, name: str, *words: str) -> None:
        done = subprocess.run(
            [self._command(name), *words], cwd=self._folder, capture_output=True, text=True, timeout=120, **self._user
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Starts it and waits until it answers."""
        words = ["-D", str(self._data), "-p", str(self.port), "-k", str(self._folder), "-h", "127.0.0.1"]
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                [self._command("postgres"), *words],
                cwd=self._folder,
                stdout=out,
                stderr=out,
                start_new_session=True,
                **self._user,
            )
        until(self._answers, START_SECONDS, "PostgreSQL")

    def _answers(self) -> bool:
        with suppress(Exception), closing(self.connect("postgres")):
            return True
        return False

    def connect(self, database: str) -> Any:
        """A connection of psycopg2 that commits every statement."""
        import psycopg2

        found = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="ablate", password=self.password, dbname=database
        )
        found.autocommit = True
        return found

    def create(self, database: str) -> str:
        """Makes a database; returns its URI for SQLAlchemy."""
        with closing(self.connect("postgres")) as connection, connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{database}"')
        return f"postgresql+psycopg2://ablate:{self.password}@127.0.0.1:{self.port}/{database}"

    def size(self, database: str) -> int:
        """Bytes of a database."""
        with closing(self.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_database_size(current_database())")
            return int(cursor.fetchone()[0])

    def rows(self, database: str, kind: str = "run", experiment: str = "") -> list[Row]:
        """Rows of MLflow's tables of a kind, deleted ones left out, read with plain SQL."""
        with closing(self.connect(database)) as connection, connection.cursor() as cursor:

            def all_of(query: str, *values: str) -> list[Any]:
                cursor.execute(query, values)
                return list(cursor.fetchall())

            runs = all_of(
                "SELECT run_uuid, r.name, status FROM runs r JOIN experiments e USING (experiment_id) "
                "WHERE r.lifecycle_stage = 'active' AND (%s = '' OR e.name = %s) ORDER BY start_time",
                experiment,
                experiment,
            )
            found = []
            for run_id, name, status in runs:
                tags = dict(all_of("SELECT key, value FROM tags WHERE run_uuid = %s", run_id))
                if kind and tags.get("ablate.kind") != kind:
                    continue
                params = dict(all_of("SELECT key, value FROM params WHERE run_uuid = %s", run_id))
                points = all_of("SELECT key, step, timestamp, value FROM metrics WHERE run_uuid = %s", run_id)
                latest = dict(all_of("SELECT key, value FROM latest_metrics WHERE run_uuid = %s", run_id))
                found.append(Row(run_id, name, status, tags, params, latest, points))
        return found

    def close(self) -> None:
        """Ends it and removes its data."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # PostgreSQL's immediate shutdown: its children end too
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                end_group(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)


def finished(rows: list[Row]) -> list[Row]:
    """Those that are finished."""
    return [row for row in rows if row.status == "FINISHED"]


def assert_blocks_kept_together(rows: list[Row]) -> None:
    """Cells of a block are on one node; those on a further one, and only they, are marked."""
    nodes: dict[str, str] = {}
    for row in finished(rows):
        node = nodes.setdefault(row.tags["ablate.block"], row.tags["env.ray_node"])
        moved = row.tags["env.ray_node"] != node
        assert bool(row.tags.get("ablate.moved")) == moved, row.name
        assert not moved or row.tags["ablate.moved"] in row.tags["ablate.tainted"]


def wait_ended(processes: list[subprocess.Popen[str]], seconds: float) -> None:
    """Waits until all have ended."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.wait(max(1.0, deadline - time.monotonic()))
