"""Everything that a GPU is needed for, in the minutes for which one is there: stages with time limits of their own.

    python3 experiments/gpu/run.py [--device cuda|cpu] [--out DIR] [--data PATH] [--work DIR] [--stages A,B]

`STAGES` and `ABLATE_GPU_BUDGET` (seconds) are read from the environment too. Standard library only: before the first
stage nothing is installed. Exit code 0 when every stage that ran is ok, 1 otherwise, 2 for bad input.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tarfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import children
import images
import packing
import studies
from host import Host, LateError, LeftOutError, StageError, commit, facts
from options import BUDGET, Options, parse
from stages import STAGES, Stage, wheels

PACKING = 25.0  # kept back at the end
SLACK = 1.5  # of its share a stage may take so much; the last ones would pay for it
WAITING = 60.0  # for the images, before the first stage that measures
PREPARING = 240.0
QUIET = ("setup", "smoke")  # beside these the images may be unpacked: nothing is measured in them


def limits_of(name: str, later: Sequence[str], left: float, scale: float) -> tuple[float, float]:
    """Seconds that a stage may take, and those of them that it takes from no other.

    The latter are its share, or what the later stages do not need if that is more. The former have some slack, and
    never go past the end.
    """
    share = STAGES[name].share * scale
    fair = min(left, max(share, left - sum(STAGES[other].share for other in later) * scale))
    return min(left, max(fair, share * SLACK)), fair


def lengths_of(options: Options, scale: float) -> float:
    """The scale of lengths: with runs to go on with it is theirs, or every one of them would be another run."""
    note = options.work / "mlruns" / "lengths.txt"
    if note.is_file():
        return float(note.read_text())
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(str(scale))
    return scale


class Run:
    """One call: its stages one after the other, everything packed after each.

    Args:
        options: what is asked for.
        stages: what there is to run, by name.
    """

    def __init__(self, options: Options, stages: Mapping[str, Stage]) -> None:
        self.options = options
        self.rows: list[dict[str, Any]] = []
        self._stages = stages
        self._unpacked = False
        self._installed = threading.Event()
        self._began = time.time()
        self._start = time.monotonic()
        scale = options.budget / BUDGET
        end = self._start + options.budget - PACKING * min(scale, 1.0)
        # runs are gone on with where stages are chosen; files of an earlier call would be taken for this one's
        if not options.chosen:
            shutil.rmtree(options.work / "mlruns", ignore_errors=True)
        shutil.rmtree(options.work / "evidence", ignore_errors=True)
        self.host = Host(options.device, options.work, scale, lengths_of(options, scale), end)
        self.host.evidence.mkdir(parents=True)
        self._fixed = {
            "device": options.device,
            "gpu": "",
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._began)),
            "budget": options.budget,
            **commit(),
            **facts(),
            "argv": sys.argv,
        }

    def run(self) -> int:
        """All stages; returns the exit code."""
        self.host.images = images.Images(self.options.found, self.host.work, self._prepare)
        try:
            if "setup" not in self.options.stages:
                self._install()
            for place, name in enumerate(self.options.stages):
                self._stage(name, self.options.stages[place + 1 :])
                self._pack()
        except KeyboardInterrupt:
            self._pack()
            return 130
        finally:
            self.host.images.close()
            children.stop_all()
            print(self.table(), flush=True)
        return int(self._unpacked or any(row["status"] in ("failed", "timeout") for row in self.rows))

    def _install(self) -> None:
        """What the first stage does for the others."""
        self.host.deadline = self.host.end
        try:
            wheels(self.host)
        except StageError as error:
            print(f"setup: {error}", flush=True)
        self._ready()

    def _ready(self) -> None:
        """Packages are there: the images can be prepared, and the GPU be asked for its name."""
        self._installed.set()
        code = "from pipeline import nvml; print(*[gpu.name for gpu in nvml.gpus()][:1])"
        answer = self.host.work / "gpu.txt"
        if self.host.python("setup", ["-c", code], limit=20, out=answer).code == 0:
            self._fixed["gpu"] = answer.read_text().strip()

    def _prepare(self) -> str:
        """Has the images decoded once; in the images' thread."""
        self._installed.wait()
        words = ["-m", "pipeline", "data", "prepare", studies.IMAGES]
        ended = self.host.python("images", words, limit=PREPARING)
        return children.last_line(self.host.log("images")) if ended.code else ""

    def _stage(self, name: str, later: Sequence[str]) -> None:
        """Runs one stage, whatever becomes of it."""
        stage, host = self._stages[name], self.host
        if name not in QUIET and host.images is not None:
            host.images.ready(min(WAITING, host.end - time.monotonic()))  # nothing may go on beside a measurement
        began = time.monotonic()
        limit, fair = limits_of(name, later, host.end - began, host.scale)
        host.deadline, host.fair = began + limit, began + fair
        print(f"{name}: at most {max(limit, 0):.0f} s", flush=True)
        try:
            status, detail = "ok", self._checked(stage, limit)
        except LeftOutError as error:
            status, detail = "left out", str(error)
        except LateError as error:
            status, detail = "timeout", f"stopped after {limit:.0f} s: {error}"
        except StageError as error:
            status, detail = "failed", str(error)
        except Exception as error:  # a mistake in one stage must not end the others
            traceback.print_exc()
            status, detail = "failed", f"{type(error).__name__}: {error}"
        seconds = round(time.monotonic() - began, 1)
        self.rows.append({"stage": name, "seconds": seconds, "status": status, "detail": " ".join(detail.split())})
        print(f"{name}: {status} after {seconds:.1f} s, {self.rows[-1]['detail']}", flush=True)
        if name == "setup":
            self._ready()

    def _checked(self, stage: Stage, limit: float) -> str:
        """Runs a stage that can be run at all.

        Raises:
            LeftOutError, LateError, StageError: see `Stage`.
        """
        found = self.host.images
        if limit <= 0:
            raise LeftOutError("no time left")
        if stage.images and found is not None:
            if found.absent:
                raise LeftOutError("no images: give --data, or put their archives into data/")
            if not found.ready(0):
                raise StageError("the images are not ready")
            if found.problem:
                raise StageError(f"images: {found.problem}")
        return stage.run(self.host)

    def _pack(self) -> None:
        """Packs all that there is; a failure is told and tried again after the next stage."""
        document = {**self._fixed, "seconds": round(time.monotonic() - self._start, 1), "stages": self.rows}
        try:
            packing.pack(self.options.out, document, self.host.evidence, self.host.state, self.table())
        except (OSError, tarfile.TarError) as error:
            self._unpacked = True
            print(f"packing: {error}", flush=True)
        else:
            self._unpacked = False

    def table(self) -> str:
        """Stage, seconds, ok or what failed."""
        lines = [f"{'stage':<10} {'seconds':>7}  result"]
        for row in self.rows:
            lines.append(f"{row['stage']:<10} {row['seconds']:>7.1f}  {row['status']}: {row['detail']}")
        return "\n".join(lines) + "\n"


def interrupt(_number: int, _frame: object) -> NoReturn:
    """SIGTERM is taken as SIGINT: children are ended, and what there is is packed."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    try:
        options = parse(arguments, os.environ)
    except ValueError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, interrupt)
    return Run(options, STAGES).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
