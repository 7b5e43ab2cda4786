"""What an error of a store means: it is away, it refuses one thing for good, or it is another store."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.errors import first_line

_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"}
# a value that cannot be written, whoever asks; a damaged or locked database is none of these
_OF_VALUES = ("DataError", "IntegrityError", "UnicodeError", "OverflowError", "TypeError")
_OF_DATABASES = ("OperationalError", "DatabaseError", "InterfaceError", "InternalError", "DisconnectionError")
_PASSING = ("operationalerror", "locked", "disk", "full", "readonly", "read-only", "no space", "unable to open")


class UndeliverableError(Exception):
    """The store refuses an entry for good; trying again cannot help."""


class StoreChangedError(Exception):
    """The store is not the one that was opened: lost, replaced, or an older state of it."""


def cause(error: BaseException, limit: int = 300) -> str:
    """Why a store failed, in one line without credentials: what the database said, where one did."""
    drivers = (getattr(each, "orig", None) for each in _chain(error))
    return first_line(next((said for said in drivers if isinstance(said, Exception)), error), limit)


def is_permanent(error: BaseException) -> bool:
    """Whether a store that raised this refuses for good."""
    from mlflow.exceptions import MlflowException

    kinds = [{base.__name__ for base in type(each).__mro__} for each in _chain(error)]
    if any(kind & set(_OF_VALUES) for kind in kinds):
        return True
    if any(kind & set(_OF_DATABASES) for kind in kinds):
        return False
    return isinstance(error, MlflowException) and error.error_code in _REFUSALS


def is_answer(error: BaseException) -> bool:
    """Whether a store answered with an error of its own (a server: HTTP 500), so that it is there.

    A database behind it that is locked, full or read-only is none: that passes, for all runs alike.
    """
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException) or error.error_code != "INTERNAL_ERROR":
        return False
    text = str(error).lower()
    if "api request to" in text and not ("too many 500 error" in text or "error code 500" in text):
        return False
    return not any(word in text for word in _PASSING)


def is_missing(error: BaseException) -> bool:
    """Whether a store says that there is no such thing."""
    return getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = 0
    while error is not None and seen < 8:
        yield error
        error, seen = error.__cause__ or error.__context__, seen + 1
