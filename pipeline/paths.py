"""TODO(charter)."""

from __future__ import annotations

import os
from pathlib import Path

STATE_DIR = Path("mlruns")  # of this folder: the default store, journals, artifacts, reports


def default_data_dir() -> Path:
    """Where data sets are kept when nobody says: `$XDG_CACHE_HOME/ablate/data` or `~/.cache/ablate/data`."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG specification says that a relative path is invalid and to be ignored
    base = Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache"
    return base / "ablate" / "data"
