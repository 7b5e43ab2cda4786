"""Checkpoints of long runs: written atomically, read back whole, as tensors and plain values only.

A file is one header line (`ablate-checkpoint VERSION SHA256`) and torch's archive. The checksum is ours because
torch's reader does not look at the archive's: a flipped bit in a weight would come back as a weight.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch

from pipeline.errors import first_line
from pipeline.files import reading
from pipeline.paths import write_atomically

Restored = TypeVar("Restored")
CHECKPOINT_VERSION = 3
CHECKPOINT_MAGIC = "ablate-checkpoint"


class Checkpoints:
    """The one checkpoint file of a run.

    Args:
        path: the file; its folder exists.
        digest: identity of the run; a file of another run is not used.
        every: epochs between checkpoints; 0 for none.
    """

    def __init__(self, path: Path, digest: str, every: int) -> None:
        self._path = path
        self._digest = digest
        self._every = every

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether to save after `epoch` (1-based); the last epoch needs none."""
        return self._every > 0 and epoch % self._every == 0 and epoch < epochs

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Saves the state after `epoch` (1-based), durably: a reader sees the old state or the new one, whole.

        Raises:
            OSError: the file cannot be written; the old one is untouched.
        """
        content = {"digest": self._digest, "epoch": epoch, "rng": _rng_state(), **state}
        write_atomically(self._path, _framed(content), durable=True)

    def load(self) -> dict[str, Any] | None:
        """Reads the checkpoint and restores the random generators.

        Returns:
            The state, or None when there is none that is whole and of this run (it then starts afresh).
        """
        if self._every <= 0 or not self._path.is_file():
            return None
        with reading(self._path) as file:
            content = _unframed(file.read())
        if content is None or content.get("digest") != self._digest:
            return None
        before = _rng_state()
        try:
            _restore_rng(content["rng"])
        except Exception as error:  # well framed and foreign: whatever its content makes torch and numpy raise
            _restore_rng(before)
            self._pass_over(error)
            return None
        return content

    def resume(
        self, start: Callable[[], dict[str, Any]], restore: Callable[[dict[str, Any]], Restored]
    ) -> Restored | None:
        """Restores a run from its checkpoint; a file with foreign content leaves the run as it was.

        Args:
            start: the run's state as it is, kept on the host for that case.
            restore: puts a state, that of the checkpoint or the one before, into the run.

        Returns:
            What `restore` has returned for the checkpoint; None when there is none of use.
        """
        random_state = _rng_state()
        state = self.load()
        if state is None:
            return None
        kept = io.BytesIO()
        torch.save(start(), kept)
        try:
            return restore(state)
        except Exception as error:  # see `load`
            kept.seek(0)
            restore(torch.load(kept, map_location="cpu", weights_only=True))
            _restore_rng(random_state)
            self._pass_over(error)
            return None

    def _pass_over(self, error: Exception) -> None:
        """Says in the run's log that the file is not used."""
        print(f"{self._path}: no checkpoint of this run, not used ({type(error).__name__}: {first_line(error)})")

    def discard(self) -> None:
        """Removes the file of a finished run."""
        self._path.unlink(missing_ok=True)


def _framed(content: dict[str, Any]) -> bytes:
    archive = io.BytesIO()
    torch.save(content, archive)
    payload = archive.getvalue()
    return f"{CHECKPOINT_MAGIC} {CHECKPOINT_VERSION} {hashlib.sha256(payload).hexdigest()}\n".encode() + payload


def _unframed(raw: bytes) -> dict[str, Any] | None:
    """The content of a file, or None when it is torn, damaged, or not of this version."""
    header, _, payload = raw.partition(b"\n")
    if header != f"{CHECKPOINT_MAGIC} {CHECKPOINT_VERSION} {hashlib.sha256(payload).hexdigest()}".encode():
        return None
    try:
        content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception:  # foreign: torch.load raises many kinds, all mean that it is of no use
        return None
    return content if isinstance(content, dict) else None


def _rng_state() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state(legacy=True)
    kind, keys, position, has_gauss, cached = numpy_state
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if _cuda_in_use() else [],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "python": [version, list(internal), gauss],
    }


def _restore_rng(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def _cuda_in_use() -> bool:
    """Whether this process has opened a GPU; asking for its random state would open one."""
    return bool(cast(Any, torch.cuda).is_initialized())
