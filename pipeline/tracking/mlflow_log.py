"""What MLflow and the libraries under it log goes to a file: on a terminal one line tells what failed."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from pipeline.files import appending
from pipeline.paths import STATE_DIR
from pipeline.shown import redacted

LIMIT = 5 * 2**20  # bytes; nobody reads more
_LIBRARIES = ("mlflow", "alembic", "sqlalchemy", "urllib3")


class StoreLog(logging.Handler):
    """Appends to a file in a folder that is there; where it cannot, what is logged is dropped.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(logging.WARNING)
        self._path = path
        self.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record, with its traceback."""
        with contextlib.suppress(OSError, ValueError), appending(self._path) as stream:
            if os.fstat(stream.fileno()).st_size < LIMIT:
                stream.write(f"{redacted(self.format(record))}\n".encode(errors="backslashreplace"))


def log_to_file(folder: Path = STATE_DIR) -> None:
    """Sends what the libraries log to `store.log`; to be called behind each import of MLflow, which sets its own.

    Args:
        folder: Where the file is; made by nobody who only reads.
    """
    handler = StoreLog(folder / "store.log")
    for name in _LIBRARIES:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.WARNING)
