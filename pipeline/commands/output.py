"""What commands share: defaults, and how an interrupted one ends."""

from __future__ import annotations

import os
import sys

from pipeline.execution import device, interrupt


def interrupted() -> int:
    print(f"ablate: interrupted; go on with: {interrupt.resume_command()}", file=sys.stderr)
    return 130


def default_study() -> str:
    """The study that `ablate grid` without `--study` runs here."""
    return os.environ.get("ABLATE_STUDY") or ("paper" if device.resolve_device("auto") == "cuda" else "quickstart")


def experiment_of(study: str | None) -> str:
    """The experiment that a study's runs are in."""
    name = study or default_study()
    if name.endswith((".yaml", ".yml")):
        from pipeline.design.study import load_study

        name = load_study(name).name
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or name
