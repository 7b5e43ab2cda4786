"""Names and addresses of studies, before anything heavy is imported."""

from __future__ import annotations

import re

from pipeline.tracking.uri import absolute_uri

DEFAULT = "sqlite:///mlruns/optuna.db"
_SCHEMES = ("sqlite", "postgresql", "mysql", "mariadb", "mssql", "oracle")


def resolve(url: str | None) -> str:
    """Makes a storage's URL absolute and checks its kind.

    Raises:
        InputError: nothing that Optuna could keep a shared study in.
    """
    allowed = "sqlite:///FILE, postgresql://, mysql://, or another database URL"
    return absolute_uri(url or DEFAULT, "--storage", _SCHEMES, allowed)


def study_name(model: str, dataset: str, objective: str, digest: str) -> str:
    """The default name of a study: legible, unique by its digest, and fit for a file."""
    parts = [re.sub(r"[^A-Za-z0-9_]+", "-", part).strip("-")[-36:].strip("-") for part in (model, dataset)]
    return "-".join([*(part for part in parts if part), objective, digest[:8]])
