"""Command lines: one word a line, everything but training, serving and downloading."""

from __future__ import annotations

import os
from pathlib import Path

from tests.fuzz.checks import Guard, command, preload

COMMANDS = (("grid", "--dry-run"), ("run", "--dry-run"), ("tune", "--dry-run"), ("status",), ("report",), ("compare",),
            ("techniques",), ("sync",), ("data", "verify"))  # fmt: skip
WORDS = """
    --set --technique --techniques --models --datasets --model --dataset --study --seeds --design --nproc
    --json --tracking-uri --storage --batch-sizes --accumulation --interval-width --timeout --target-accuracy
    --memory-limit quickstart paper test_resnet test_vit digits timm: imagefolder: epochs= batch_size=
    learning_rate= weights= ga=2,4 amp compile all none sqlite:///x.db http://u:p@h/ --jobs --retries --device
    cpu --tuned --name --budget-samples --trials --margin
"""
_SEEDS = (
    "\0grid\n--study\nquickstart\n--set\nepochs=1\n--technique\nga=2,4\n--models\ntest_resnet\n--datasets\ndigits\n--json",
    "\1run\n--model\ntest_vit\n--dataset\ndigits\n--study\nquickstart\n--set\npatch_size=4\n--techniques\nga,amp",
    "\2tune\n--model\ntest_resnet\n--dataset\ndigits\n--batch-sizes\n8,16\n--accumulation\n1,2\n--technique\namp=bf16",
    "\0\n--study\nquickstart\n--set\nvalidation_fraction=0.1\n--target-accuracy\n0.9\n--seeds\n3\n--design\nfractional",
    "\3\nquickstart\n--tracking-uri\nsqlite:///x.db", "\5\nquickstart\npaper", "\6\n--json", "\7\n--tracking-uri\nhttp://u:p@h/",
    "\10\ndigits\nimagefolder:x",
)  # fmt: skip


def seeds(_cache: Path) -> list[bytes]:
    """A line for each command."""
    return [text.encode() for text in _SEEDS]


class Target:
    """Runs a command in this process.

    Args:
        folder: to work in.
        _cache: what targets share.
    """

    def __init__(self, folder: Path, _cache: Path) -> None:
        preload(
            "mlflow.store.tracking.sqlalchemy_store",
            ".tracking.mlflow_store",
            ".training.data.store",
            ".tuning.session",
            ".analysis.report.files",
            ".analysis.comparison",
        )
        self._folder = folder
        self._guard = Guard(folder)

    def __call__(self, data: bytes) -> None:
        """Tries one line; its first byte is the command, what follows up to the line's end is a remark."""
        head, *rest = data.split(b"\n")
        words = [os.fsdecode(word.replace(b"\0", b"")) for word in rest]  # no program is given a NUL
        if any("timm:hf" in word or "hf_hub" in word or "hf-hub" in word for word in words):
            return  # would be looked up elsewhere
        start = COMMANDS[(head[0] if head else 0) % len(COMMANDS)]
        with self._guard.watching(lenient=True):
            command(*start, *words, cwd=self._folder, codes=(0, 1, 2, 3) if start == ("data", "verify") else (0, 2, 3))
