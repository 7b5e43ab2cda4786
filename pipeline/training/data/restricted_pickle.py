"""An unpickler that can make numpy arrays and plain values, and nothing else."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.errors import InputError


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # how Python 3 writes bytes under the old protocols; other codecs could decompress or call code
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"codec {encoding!r}")
    return text.encode("latin1")


def _array_functions() -> dict[tuple[str, str], Callable[..., Any]]:
    # taken from what numpy's own arrays name, since the private module was renamed in numpy 2
    reconstruct = np.zeros(1).__reduce__()[0]
    from_buffer = np.zeros(1).__reduce_ex__(5)[0]
    found: dict[tuple[str, str], Callable[..., Any]] = {}
    for core in ("numpy.core", "numpy._core"):
        found[f"{core}.multiarray", "_reconstruct"] = reconstruct  # type: ignore[assignment]
        found[f"{core}.numeric", "_frombuffer"] = from_buffer  # type: ignore[assignment]
    return found


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    **_array_functions(),
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None


def load_restricted(content: bytes, where: str) -> dict[str, Any]:
    """Loads a pickled dictionary of arrays, lists, numbers and text (bytes read as Latin-1).

    Args:
        content: the pickle.
        where: what it is, for messages.

    Raises:
        InputError: it is damaged, is no dictionary, or names anything but numpy arrays.
    """
    try:
        value = _Restricted(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"dataset: {where} cannot be loaded ({cause}); allowed: arrays and plain values") from None
    if not isinstance(value, dict):
        raise InputError(f"dataset: {where} is a {type(value).__name__}; allowed: a dictionary")
    # numpy arrays pickled by Python 3 have bytes keys where Python 2 wrote text
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): item for key, item in value.items()}
