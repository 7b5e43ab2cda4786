"""The stages: each answers something that only a GPU can. Standard library only."""

from __future__ import annotations

import json
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import studies
from children import last_line
from grids import first_error, grid, rounds
from host import REPO, Host, LateError, LeftOutError, StageError

HERE = Path(__file__).resolve().parent
LAYOUT_SECONDS = {"cuda": 110.0, "cpu": 30.0}  # one block
SPEED_SECONDS = {"cuda": 200.0, "cpu": 30.0}
SPEED_PRECISION = {"cuda": 0.01, "cpu": 0.9}
BENCH_SECONDS = {"cuda": 100.0, "cpu": 30.0}  # a race of one model; with less left it is not begun
ADDRESS_SPACE = 32 * 2**30
NEEDED = ("mlflow", "optuna", "pydantic", "pyDOE3", "greenlet", "sqlalchemy", "torch", "timm")


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        share: seconds of a budget of ten minutes.
        run: does it; returns what is to be said in the table. Raises `StageError`, `LateError`, `LeftOutError`.
        images: whether it needs the images.
    """

    share: float
    run: Callable[[Host], str]
    images: bool = False


def wheels(host: Host) -> str:
    """Installs the wheels of `.whl/` into the work folder where something is missing without them.

    Raises:
        StageError: something is missing.
    """
    missing = _missing(host)
    found = sorted(str(path) for path in (REPO / ".whl").glob("*.whl"))
    if missing and found:
        # what is never imported need not be compiled
        words = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade"]
        ended = host.python("setup", [*words, "--target", str(host.site), *found], limit=120)
        if ended.code:
            raise StageError(f"pip: {last_line(host.log('setup'))}")
        missing = _missing(host)
        if not missing:
            return f"{len(found)} wheels installed; "
    if missing:
        raise StageError(f"not installed: {', '.join(missing)} (experiments/gpu/wheels.sh fetches wheels)")
    return ""


def _missing(host: Host) -> list[str]:
    code = "import importlib.util, sys; print(*[n for n in sys.argv[1:] if importlib.util.find_spec(n) is None])"
    answer = host.work / "missing.txt"
    ended = host.python("setup", ["-c", code, *NEEDED], limit=60, out=answer)
    if ended.code:
        raise StageError(f"python: {last_line(host.log('setup'))}")
    return answer.read_text().split()


def setup(host: Host) -> str:
    """Wheels, then `ablate doctor`."""
    said = wheels(host)
    found = host.evidence / "doctor.json"
    ended = host.python("setup", ["-m", "pipeline", "doctor", "--json"], out=found)
    if ended.late:
        raise LateError(f"{said}doctor did not end")
    try:
        checks = json.loads(found.read_text())["checks"]
    except (OSError, ValueError, KeyError):
        raise StageError(f"doctor: {last_line(host.log('setup'))}") from None
    bad = [f"{check['name']}: {check['detail']}" for check in checks if check["status"] == "fail"]
    if bad or ended.code:
        raise StageError(f"{said}doctor: {'; '.join(bad) or f'exit status {ended.code}'}")
    warnings = [check["name"] for check in checks if check["status"] == "warn"]
    return f"{said}doctor: {len(checks)} checks" + (f", warnings: {', '.join(warnings)}" if warnings else "")


def smoke(host: Host) -> str:
    """The tests that need a CUDA device, six processes at once: most of their time is imports and first uses."""
    # the files by name: others need packages that a GPU host may lack, and collecting them takes its time
    files = [path for path in sorted((REPO / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    junit = host.evidence / "smoke.xml"
    words = ["-m", "pytest", "-m", "gpu", "-n", "6", "--dist", "worksteal", "-v"]
    words += ["--durations", "15", "--timeout", "90"]
    words += ["-p", "no:cacheprovider", f"--junitxml={junit}"]
    out = host.evidence / "smoke.txt"
    ended = host.python("smoke", [*words, *(str(path.relative_to(REPO)) for path in files)], out=out, cwd=REPO)
    if not junit.is_file():
        raise (LateError if ended.late else StageError)(f"pytest: {last_line(out) or last_line(host.log('smoke'))}")
    said, good = _verdict(junit, host.device)
    if ended.late:
        raise LateError(said)
    if not good or ended.code not in (0, 5):
        raise StageError(said)
    return said


def _verdict(junit: Path, device: str) -> tuple[str, bool]:
    """What a JUnit file says, and whether it is what the device should give."""
    cases = list(ElementTree.parse(junit).getroot().iter("testcase"))
    bad = [case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    if bad:
        return f"{len(bad)} of {len(cases)} failed, first {bad[0]}", False
    if device == "cpu":
        return f"{skipped} skipped: no CUDA device", bool(cases) and skipped == len(cases)
    passed = len(cases) - skipped
    return f"{passed} passed" + (f", {skipped} skipped" if skipped else ""), passed > 0


def probes(host: Host) -> str:
    """Small questions, each in a process of its own (`probes.py`)."""
    found = host.evidence / "probes.json"
    ended = host.python("probes", [str(HERE / "probes.py"), "--device", host.device, "--out", str(found)])
    try:
        answers: dict[str, dict[str, Any]] = json.loads(found.read_text())
    except (OSError, ValueError):
        raise (LateError if ended.late else StageError)(f"probes: {last_line(host.log('probes'))}") from None
    bad = [f"{name}: {answer['error']}" for name, answer in answers.items() if "error" in answer]
    if ended.late:
        raise LateError("; ".join([f"{len(answers)} answered", *bad]))
    if bad or ended.code:
        raise StageError("; ".join(bad) or last_line(host.log("probes")))
    absent = [name for name, answer in answers.items() if "absent" in answer]
    return f"{len(answers)} answered" + (f", nothing to measure here: {', '.join(absent)}" if absent else "")


def oom(host: Host) -> str:
    """A batch that cannot fit: the outcome is told, and the memory is free afterwards."""
    wanted = studies.oom(host.device)
    file, answer = host.work / "oom.yaml", host.work / "oom.json"
    file.write_text(json.dumps(wanted, indent=1))
    before = _used(host)
    words = ["-m", "pipeline", "run", "--model", next(iter(wanted["models"])), "--dataset", "digits"]
    words += ["--study", file.name, "--device", host.device, "--tracking-uri", host.store, "--json"]
    memory = ADDRESS_SPACE if host.device == "cpu" else None
    ended = host.python("oom", words, out=answer, memory=memory)
    if ended.late:
        raise LateError("the run did not end")
    try:
        found = json.loads(answer.read_text())
    except ValueError:
        raise StageError(f"exit status {ended.code}: {last_line(host.log('oom'))}") from None
    if ended.code != 1 or found["oom"] != 1:
        outcome = next((name for name in ("finished", "failed", "timeout", "interrupted") if found[name]), "none")
        raise StageError(f"outcome {outcome}, exit status {ended.code}: {first_error(host, wanted['name'])}")
    if host.device == "cpu":
        return "outcome oom, at the limit of the address space"
    until, after = time.monotonic() + 5, _used(host)
    while after > before + 64 and time.monotonic() < until:  # the driver frees a moment after the process has gone
        after = _used(host)
    if after > before + 64:
        raise StageError(f"outcome oom, but {after:.0f} MiB are used after it, {before:.0f} before")
    return f"outcome oom, {before:.0f} MiB used before and {after:.0f} after"


def _used(host: Host) -> float:
    """Device memory in use, MiB; 0 where there is none to ask."""
    answer = host.work / "used.txt"
    code = "from pipeline import nvml; print(sum(gpu.used_mib for gpu in nvml.gpus()))"
    host.python("oom", ["-c", code], limit=20, out=answer)
    return float(answer.read_text() or 0)


def bench(host: Host) -> str:
    """The loop of ablate beside others, model by model as long as there is time for one."""
    least = BENCH_SECONDS[host.device]
    _enough(host, least)
    # 200 windows: NVML is asked between the steps of a timed epoch, which must not weigh
    small = ["--models", "test_resnet", "--windows", "200", "--blocks", "3"]
    races = [[*small, "--only", "over_bare,over_accelerate,over_fabric"]]
    races += [["--models", "resnet50", "--blocks", "2", "--only", "over_bare,over_accelerate"]]
    if host.device == "cpu":
        races = [["--models", "test_resnet", "--windows", "2", "--blocks", "1", "--only", "over_bare"]]
    made: list[str] = []
    for race in races:
        model = race[1]
        if made and host.left < least:
            break
        out = host.evidence / "bench" / ("" if model == "test_resnet" else model)
        ended = host.python("bench", ["-m", "pipeline", "bench", "--device", host.device, *race, "--out", str(out)])
        if ended.late:
            raise LateError(f"{model} was not over; {', '.join(made) or 'nothing'} is")
        if ended.code:
            raise StageError(f"{model}: {last_line(host.log('bench'))}")
        made.append(model)
    return f"raced: {', '.join(made)}"


def speed(host: Host) -> str:
    """All cells of the paper's models in turns: `ablate speed`, as long as there is time."""
    _enough(host, SPEED_SECONDS[host.device])
    return rounds(host, "speed", studies.turns(host.device, host.lengths), SPEED_PRECISION[host.device])


def study(
    name: str, make: Callable[[str, float], list[studies.Study]], least: Mapping[str, float] | None = None
) -> Callable[[Host], str]:
    """The stage that makes a study; with less time left than `least` of the device it is left out."""

    def run(host: Host) -> str:
        _enough(host, (least or {}).get(host.device, 0.0))
        return grid(host, name, make(host.device, host.lengths))

    return run


def _enough(host: Host, least: float) -> None:
    if host.left < least:
        raise LeftOutError(f"{max(host.left, 0):.0f} s left, {least:.0f} needed")


STAGES: dict[str, Stage] = {  # shares as they were needed on an H100 whose disk was cold
    "setup": Stage(25, setup),
    "smoke": Stage(75, smoke),
    "probes": Stage(85, probes),
    "launch": Stage(90, study("launch", studies.launch)),
    "paper32": Stage(130, study("paper32", studies.paper32), images=True),
    "paper224": Stage(150, study("paper224", studies.paper224), images=True),
    "oom": Stage(20, oom),
    "layout32": Stage(0, study("layout32", studies.layout32, LAYOUT_SECONDS), images=True),
    "bench": Stage(0, bench),
    "speed": Stage(0, speed, images=True),
}
