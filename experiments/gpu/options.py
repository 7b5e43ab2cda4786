"""What a call asks for: command line and environment. Standard library only."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import images
from host import REPO, cuda_devices
from stages import STAGES

BUDGET = 600.0  # seconds: what a host lends in one command
LEAST_BUDGET = 60.0
USAGE = """Everything that a GPU is needed for, in the minutes for which one is there: stages with time limits.

STAGES and ABLATE_GPU_BUDGET (seconds, 600) are read from the environment too. See experiments/gpu/README.md."""


@dataclass(frozen=True)
class Options:
    """What is asked for."""

    device: str
    out: Path
    work: Path
    stages: tuple[str, ...]
    chosen: bool
    budget: float
    found: images.Found | None


class Parser(argparse.ArgumentParser):
    """Tells bad input in one line."""

    def error(self, message: str) -> NoReturn:
        """Ends with exit code 2."""
        raise ValueError(message)


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Reads the command line and the environment.

    Raises:
        ValueError: something is not allowed; one line that says what is.
    """
    parser = Parser(prog="run.py", description=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", default=environment.get("OUT") or str(REPO / "gpu-out"))
    parser.add_argument("--work", default=str(REPO / "gpu-work"))
    parser.add_argument("--data")
    parser.add_argument("--stages", default=environment.get("STAGES") or None)
    given = parser.parse_args(arguments)
    names = list(STAGES) if given.stages is None else [name.strip() for name in given.stages.split(",")]
    for name in names:
        if name not in STAGES:
            raise ValueError(f"--stages: {name!r} is not allowed; allowed: {', '.join(STAGES)}")
    text = environment.get("ABLATE_GPU_BUDGET") or str(BUDGET)
    try:
        budget = float(text)
    except ValueError:
        budget = math.nan
    if not LEAST_BUDGET <= budget <= 86_400:
        allowed = f"seconds, {LEAST_BUDGET:.0f} to 86400"
        raise ValueError(f"ABLATE_GPU_BUDGET: {text!r} is not allowed; allowed: {allowed}")
    found = images.find(given.data, REPO)
    if given.device == "cuda" and not cuda_devices():
        raise ValueError("--device: 'cuda' is not allowed, there is no CUDA device; allowed: cpu, as a rehearsal")
    for flag, place in (("--out", given.out), ("--work", given.work)):
        try:
            Path(place).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{flag}: {place!r} is not allowed ({error.strerror}); allowed: a folder") from None
    stages = tuple(name for name in STAGES if name in names)
    paths = Path(given.out).resolve(), Path(given.work).resolve()
    return Options(given.device, *paths, stages, given.stages is not None, budget, found)
