"""One run in several processes: torch's elastic agent starts the ranks in this process's group and watches them.

The ranks are forked, so they import nothing again; the agent touches no device. When a rank fails the agent stops
the others, which would wait for it for ever.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.design.records import End, Job, Outcome
from pipeline.host import die_with_parent, oom_kills
from pipeline.paths import write_atomically

Classify = Callable[[BaseException], tuple[Outcome, str]]


def run_ranks(job: Job, body: Callable[[], None], classify: Classify) -> End:
    """Runs `body` in `job.spec.nproc` processes and waits for all of them.

    Args:
        job: the run; a failing rank leaves its message in the run's folder.
        body: what each rank does, with torchrun's environment variables set.
        classify: outcome and message of what a rank raises.

    Returns:
        The run's last record: the first failure's outcome, if any.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    folder = Path(job.work_dir)
    for old in folder.glob("rank*.json"):
        old.unlink()
    # ranks of one machine find each other on loopback, whatever its host name resolves to
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=job.spec.nproc,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        start_method="fork",
        max_restarts=0,
        monitor_interval=0.1,
    )
    kills = oom_kills()
    try:
        elastic_launch(config, _rank)(body, classify, str(folder))
    except ChildFailedError as error:
        if oom_kills() > kills:
            return End(time=time.time(), outcome="oom", error="killed by the kernel's out-of-memory killer")
        return _died(error) or _first_failure(folder)
    return End(time=time.time(), outcome="finished")


def _rank(body: Callable[[], None], classify: Classify, folder: str) -> None:
    """One rank: dies with the agent, and leaves a message where it fails."""
    die_with_parent()
    try:
        body()
    except BaseException as error:
        outcome, message = classify(error)
        content = json.dumps({"time": time.monotonic(), "outcome": outcome, "message": message})
        write_atomically(Path(folder, f"rank{os.environ['RANK']}.json"), content)
        raise


def _died(error: Any) -> End | None:
    """The end of a run that lost a rank to a signal; None where ranks raised something."""
    for rank, failure in sorted(error.failures.items()):
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
            name = signal.Signals(-failure.exitcode).name
            return End(time=time.time(), outcome="failed", error=f"rank {rank} ended with signal {name}")
    return None


def _first_failure(folder: Path) -> End:
    """The earliest failure that a rank has reported: later ones are of ranks that lost their peer."""
    failures = [json.loads(path.read_text()) for path in folder.glob("rank*.json")]
    if not failures:
        return End(time=time.time(), outcome="failed", error="a rank ended without a message")
    first = min(failures, key=lambda failure: float(failure["time"]))
    return End(time=time.time(), outcome=first["outcome"], error=first["message"])
