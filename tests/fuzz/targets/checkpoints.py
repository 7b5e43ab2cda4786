"""Checkpoint files: torn, or sealed again around another content."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from pipeline.training.checkpoint import CHECKPOINT_MAGIC, CHECKPOINT_VERSION, Checkpoints
from tests.fuzz import templates
from tests.fuzz.checks import Guard
from tests.fuzz.choices import NUMBERS, Choices

WORDS = """
    digest epoch rng ablate-checkpoint python numpy torch cuda
"""
VALUES: tuple[Any, ...] = (None, [], {}, "x", torch.zeros(3), torch.zeros(0, dtype=torch.uint8), (1, 2), b"x", *NUMBERS)


def seeds(_cache: Path) -> list[bytes]:
    """Decisions."""
    return [bytes([first, *range(start, start + 16)]) for first in range(3) for start in (0, 40, 90)]


class Target:
    """Loads.

    Args:
        folder: to work in.
        cache: what targets share.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self._file = folder / "checkpoint"
        self._raw = templates.checkpoint(cache)
        payload = self._raw.partition(b"\n")[2]
        self._digest = torch.load(io.BytesIO(payload), weights_only=True)["digest"]
        self._payload = payload
        self._guard = Guard(folder)

    def __call__(self, data: bytes) -> None:
        """Tries one file."""
        choices = Choices(data)
        kind = choices.below(3)
        if kind == 0:
            self._file.write_bytes(choices.damaged(self._raw))
        else:
            payload = choices.damaged(self._payload) if kind == 1 else self._other(choices)
            header = f"{CHECKPOINT_MAGIC} {CHECKPOINT_VERSION} {hashlib.sha256(payload).hexdigest()}\n"
            self._file.write_bytes(header.encode() + payload)
        with self._guard.watching():
            found = Checkpoints(self._file, self._digest, 1).load()
        assert found is None or isinstance(found, dict)

    def _other(self, choices: Choices) -> bytes:
        content = torch.load(io.BytesIO(self._payload), weights_only=True)
        for _ in range(1 + choices.below(3)):
            place: Any = content
            for _depth in range(choices.below(4)):
                inner = place[choices.pick(list(place) if isinstance(place, dict) else range(len(place)))]
                if not isinstance(inner, dict | list) or not inner:
                    break
                place = inner
            if not place:
                continue
            key = choices.pick(sorted(place, key=str) if isinstance(place, dict) else range(len(place)))
            if choices.below(4) == 0:
                del place[key]
            else:
                place[key] = choices.pick(VALUES)
        stream = io.BytesIO()
        torch.save(content, stream)
        return stream.getvalue()
