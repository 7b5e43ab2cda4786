"""Fuzzes what comes from outside: study files, command lines, journals, stores, data, records, checkpoints.

    python -m tests.fuzz                       each target for 60 s
    python -m tests.fuzz studies --seconds 600
    python -m tests.fuzz --count 1000000       until so many inputs were tried, in rounds over all targets

Each target has a process of its own (`engine.py`). What is found is printed and kept in the folder of `--out`,
beside the inputs that reached something new, from which the next call starts. An input that broke something belongs
into `tests/fuzz/corpus/TARGET`, where the fast tests try it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.ablate import ROOT, environment

TARGETS = tuple(sorted(path.stem for path in Path(__file__).parent.glob("targets/*.py")))
ARTIFACTS = ("crash", "timeout", "oom", "leak")  # libFuzzer's: the process died of the input


@dataclass
class Findings:
    """What came of one target.

    Attributes:
        inputs: how many were tried.
        seconds: in which they were.
        faults: key of a fault -> how often, its shortest input (hex), and what was seen.
    """

    inputs: int = 0
    seconds: float = 0.0
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, document: dict[str, Any]) -> None:
        """Adds what one process reports."""
        self.inputs += document["inputs"]
        self.seconds += document["seconds"]
        for key, fault in document["findings"].items():
            known = self.faults.setdefault(key, fault)
            if known is not fault:
                known["times"] += fault["times"]
                if len(fault["input"]) < len(known["input"]):
                    known.update(input=fault["input"], text=fault["text"])


def fuzz(target: str, out: Path, *, seconds: float, count: int = 10**9, seed: int = 1) -> Findings:
    """Fuzzes one target in a process.

    Args:
        target: its name.
        out: folder for what is found; kept from call to call.
        seconds: how long.
        count: the most inputs.
        seed: of the mutations.
    """
    out = out.resolve()
    (out / "cache").mkdir(parents=True, exist_ok=True)
    words = ["--cache", str(out / "cache"), "--out", str(out), "--seconds", str(seconds)]
    words += ["--count", str(count), "--seed", str(seed)]
    process = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.engine", target, *words],
        cwd=ROOT,
        env=environment(
            OMP_WAIT_POLICY="passive", OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1", HF_HUB_OFFLINE="1"
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds + 600,
        check=False,
    )
    found = Findings()
    for report in out.glob(f"{target}-*.json"):
        found.add(json.loads(report.read_text()))
        report.unlink()
    dead = [path for path in out.glob(f"{target}-*") if path.name.removeprefix(f"{target}-").startswith(ARTIFACTS)]
    for path in dead:
        kind = path.name.removeprefix(f"{target}-").partition("-")[0]
        found.add(
            {
                "inputs": 0,
                "seconds": 0.0,
                "findings": {kind: {"times": 1, "input": path.read_bytes().hex(), "text": str(path)}},
            }
        )
        path.rename(path.with_name(f"seen-{path.name}"))
    if process.returncode and not dead:
        text = process.stdout.decode(errors="replace")[-3000:]
        found.add(
            {
                "inputs": 0,
                "seconds": 0.0,
                "findings": {f"exit {process.returncode}": {"times": 1, "input": "", "text": text}},
            }
        )
    return found


def main() -> None:
    """Fuzzes the targets in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="all if none is named")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each target in each round")
    parser.add_argument("--count", type=int, default=0, help="rounds until so many inputs; 0 for one round")
    parser.add_argument("--out", type=Path, default=Path("fuzzing"), help="folder for what is found")
    given = parser.parse_args()
    totals = {target: Findings() for target in given.targets or TARGETS}
    rounds = 0
    while True:
        rounds += 1
        for target, total in totals.items():
            found = fuzz(target, given.out, seconds=given.seconds, seed=rounds)
            total.add({"inputs": found.inputs, "seconds": found.seconds, "findings": found.faults})
            print(
                f"round {rounds} {target}: {found.inputs} inputs in {found.seconds:.0f} s, {len(total.faults)} faults",
                flush=True,
            )
            document = {name: vars(one) for name, one in totals.items()}
            (given.out / "findings.json").write_text(json.dumps(document, indent=1))
        if sum(total.inputs for total in totals.values()) >= given.count:
            break
    for target, total in totals.items():
        print(f"{target}: {total.inputs} inputs")
        for key, fault in sorted(total.faults.items()):
            print(f"  {fault['times']} x {key}\n    {fault['text'][:300]!r}\n    {fault['input'][:300]}")
    sys.exit(1 if any(total.faults for total in totals.values()) else 0)


if __name__ == "__main__":
    main()
