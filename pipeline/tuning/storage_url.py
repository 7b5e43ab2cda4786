"""Names and addresses of studies, before anything heavy is imported."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import not_allowed
from pipeline.tracking.credentials import without_credentials

DEFAULT = "sqlite:///mlruns/optuna.db"
_SCHEMES = ("sqlite", "postgresql", "mysql", "mariadb", "mssql", "oracle")


def resolve(url: str | None) -> str:
    """Makes a storage's URL absolute and checks its kind.

    Raises:
        InputError: nothing that Optuna could keep a shared study in.
    """
    url = url or DEFAULT
    scheme = url.split("://", 1)[0].split("+", 1)[0]
    if "://" not in url or scheme not in _SCHEMES:
        raise not_allowed(
            "--storage", without_credentials(url), "sqlite:///FILE, postgresql://, mysql://, or another database URL"
        )
    if scheme != "sqlite":
        return url
    path = url.partition(":///")[2]
    if not path or path.startswith((":memory:", "?")):
        raise not_allowed("--storage", url, "sqlite:///FILE")
    return f"sqlite:///{Path(path).resolve()}"


def study_name(model: str, dataset: str, objective: str, digest: str) -> str:
    """The default name of a study: legible, unique by its digest, and fit for a file."""
    parts = [re.sub(r"[^A-Za-z0-9_]+", "-", part).strip("-")[-36:].strip("-") for part in (model, dataset)]
    return "-".join([*(part for part in parts if part), objective, digest[:8]])
