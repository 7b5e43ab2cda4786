"""The tools of neighbouring test folders, for tests of several machines."""

from __future__ import annotations

import sys
from pathlib import Path

for _folder in ("core", "faults"):
    sys.path.insert(0, str(Path(__file__).parent.parent / _folder))
