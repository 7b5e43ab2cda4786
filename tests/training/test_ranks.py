"""The processes of a run: how it ends when one of them fails."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline.training import ranks, worker
from pipeline.training.data_parallel import ProcessGroup
from tests.support.training import in_run_process, parallel_job


def fail(rank: int, how: str) -> None:
    group = ProcessGroup.join(cuda=False)
    if group.rank == rank:
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        raise MemoryError("no room") if how == "oom" else ValueError("bad luck")
    torch.distributed.barrier()  # would wait for ever


@pytest.mark.parametrize(
    ("how", "outcome", "words"),
    [("oom", "oom", "no room"), ("raise", "failed", "bad luck"), ("die", "failed", "")],
)
def test_a_failing_rank_ends_the_run_with_its_own_outcome(how: str, outcome: str, words: str, tmp_path: Path) -> None:
    end = in_run_process(ranks.run_ranks, parallel_job(tmp_path, 2), partial(fail, 1, how), worker.classify)
    assert end.outcome == outcome and end.error and words in end.error
    if how == "die":  # told by the agent, or by the rank that has lost its peer, whichever notices first
        assert "rank 1 ended with signal SIGKILL" in end.error or "peer" in end.error
