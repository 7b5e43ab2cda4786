"""Small questions to a device, each in a process of its own, so that none can spoil another.

    python probes.py --device cuda|cpu --out FILE       all of them; FILE is written after each
    python probes.py --device cuda|cpu --one NAME       one; its answer is the last line

An answer is a JSON object: `error` where the question failed, `absent` where there is nothing to ask here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import speeds
from driver import elastic_rank, first_line, watch

Answer = dict[str, Any]
SECONDS = {"cuda": 60.0, "cpu": 300.0}  # of one question; a rehearsal may share its cores, and nothing waits for it


def syncs(device_name: str) -> Answer:
    """How often the host waits for the device in an epoch of updates: ablate's step beside a plain loop."""
    from synchronisations import steps

    return steps(device_name)


def peer_syncs(device_name: str) -> Answer:
    """The same of other loops' epochs in `ablate bench`."""
    from synchronisations import peer_epochs

    return peer_epochs(device_name)


PROBES: dict[str, Callable[[str], Answer]] = {
    "syncs": syncs,
    "peer_syncs": peer_syncs,
    "elastic": elastic_rank,
    "first_use": speeds.first_use,
    "matmul": speeds.matmul,
    "resnet50_224": speeds.resnet50_224,
    "nvml": watch,
}
UNTIMED = ("syncs", "peer_syncs", "elastic")  # nothing is timed in them: asked all at once


def ask(name: str, device: str) -> Answer:
    """One question's answer, from a process of its own."""
    words = [sys.executable, str(Path(__file__).resolve()), "--device", device, "--one", name]
    began = time.perf_counter()
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=SECONDS[device], check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {SECONDS[device]:.0f} s"}
    lines = done.stdout.strip().splitlines()
    try:
        answer: Answer = json.loads(lines[-1])
    except (IndexError, ValueError):
        answer = {"error": f"exit status {done.returncode}"}
    return {**answer, "process_seconds": round(time.perf_counter() - began, 2)}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--one", choices=list(PROBES))
    what.add_argument("--out")
    given = parser.parse_args()
    if given.one:
        try:
            answer = PROBES[given.one](given.device)
        except Exception as error:
            import traceback

            traceback.print_exc()
            answer = {"error": first_line(error)}
        print(json.dumps(answer), flush=True)
        return
    found: dict[str, Answer] = {}
    with ThreadPoolExecutor(len(UNTIMED)) as together:
        for name, answer in zip(UNTIMED, together.map(lambda name: ask(name, given.device), UNTIMED), strict=True):
            _keep(found, name, answer, given.out)
    for name in PROBES:
        if name not in UNTIMED:
            _keep(found, name, ask(name, given.device), given.out)


def _keep(found: dict[str, Answer], name: str, answer: Answer, out: str) -> None:
    """Adds an answer and writes all there are: the next question may be the last."""
    found[name] = answer
    temporary = Path(f"{out}.tmp")
    temporary.write_text(json.dumps(found, indent=1))
    temporary.replace(out)


if __name__ == "__main__":
    main()
