"""One fuzzing process: coverage of `pipeline` guides the inputs of one target. `python -m tests.fuzz` starts it.

libFuzzer ends a process as it likes; what has been found is therefore written down at once, and the counts at the end.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HANG_SECONDS = 60  # then libFuzzer ends the process; 10 s are told before, see `checks`


def main() -> None:
    """Fuzzes one target until its time or count is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ablate-fuzz-") as folder:
        fuzz(given, Path(folder))


def fuzz(given: argparse.Namespace, folder: Path) -> None:
    """Fuzzes; does not return.

    Args:
        given: the options.
        folder: for all that targets write.
    """
    import atheris
    import atheris.import_hook as hook

    hook.sys = _Quiet()
    work = folder / "work"
    work.mkdir()
    (folder / "tmp").mkdir()
    tempfile.tempdir = os.environ["TMPDIR"] = str(work)
    os.environ["HOME"] = os.environ["XDG_CACHE_HOME"] = os.environ["XDG_CONFIG_HOME"] = str(work)
    os.chdir(work)
    with atheris.instrument_imports(include=["pipeline"]):
        from tests.fuzz.checks import tried

        module = importlib.import_module(f"tests.fuzz.targets.{given.target}")
        interrupt: Any = importlib.import_module("pipeline.execution.interrupt")
        # libFuzzer looks at the clock with it, every half of HANG_SECONDS: no command is to take it for its end
        interrupt.ENDING_SIGNALS = tuple(each for each in interrupt.ENDING_SIGNALS if each != signal.SIGALRM)
        seeds = folder / "seeds"
        seeds.mkdir()
        kept = given.out / "corpus" / given.target  # what earlier processes have found worth keeping
        kept.mkdir(parents=True, exist_ok=True)
        ours = Path(__file__).parent / "corpus" / given.target
        for number, seed in enumerate(
            [*module.seeds(given.cache), *(path.read_bytes() for path in sorted(ours.glob("*")))]
        ):
            (seeds / f"{number}").write_bytes(seed)
        words = folder / "words"
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in module.WORDS.split()))
        target = module.Target(work, given.cache)
        state: dict[str, Any] = {"target": given.target, "inputs": 0, "seconds": 0.0, "findings": {}}
        report = given.out / f"{given.target}-{os.getpid()}.json"
        began = time.monotonic()

        def one(data: bytes) -> None:
            found = tried(target, data)
            state["inputs"] += 1
            state["seconds"] = time.monotonic() - began
            if found is not None:
                known = state["findings"].setdefault(found.key, {"times": 0, "input": "", "text": str(found)[:2000]})
                known["times"] += 1
                if not known["input"] or len(data) < len(known["input"]) // 2:
                    known["input"] = data.hex()
                    known["text"] = str(found)[:2000]
                    report.write_text(json.dumps(state))
            over = state["inputs"] >= given.count or state["seconds"] >= given.seconds
            if over or state["inputs"] % 256 == 0:
                report.write_text(json.dumps(state))
            if over:
                os.chdir("/")
                import shutil

                shutil.rmtree(folder, ignore_errors=True)
                os._exit(0)

        settings = [
            f"-seed={given.seed}",
            f"-timeout={HANG_SECONDS}",
            "-rss_limit_mb=6000",
            "-max_len=20000",
            "-verbosity=0",
        ]
        settings += [f"-artifact_prefix={given.out}/{given.target}-", f"-dict={words}", "-len_control=10"]
        atheris.Setup([sys.argv[0], *settings, str(kept), str(seeds)], one)
        atheris.Fuzz()


class _Quiet:
    """The module `sys` for Atheris, which would tell of every module on standard error: commands' own lines count."""

    stderr = io.StringIO()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)


def _escaped(word: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word.encode("utf-8", "surrogatepass"))


if __name__ == "__main__":
    main()
