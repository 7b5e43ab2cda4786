"""What errors of stores mean."""

from __future__ import annotations

import sqlite3

import pytest
import sqlalchemy.exc as sa
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR, INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE

from pipeline.tracking.mlflow_errors import cause, is_answer, is_missing, is_permanent


def caused(code: int, cause: Exception) -> MlflowException:
    """An error as MLflow's stores raise it."""
    try:
        raise MlflowException(str(cause), error_code=code) from cause
    except MlflowException as error:
        return error


def of_sqlite(kind: type[sa.DBAPIError], text: str) -> Exception:
    return kind("INSERT", {}, sqlite3.OperationalError(text))


@pytest.mark.parametrize(
    ("error", "permanent", "answer"),
    [
        (MlflowException("bad", error_code=INVALID_PARAMETER_VALUE), True, False),
        (caused(BAD_REQUEST, of_sqlite(sa.DataError, "out of range")), True, False),
        (caused(INTERNAL_ERROR, OverflowError("int too large")), True, True),
        (caused(INTERNAL_ERROR, UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates")), True, True),
        (caused(BAD_REQUEST, of_sqlite(sa.DatabaseError, "database disk image is malformed")), False, False),
        (caused(TEMPORARILY_UNAVAILABLE, of_sqlite(sa.OperationalError, "database is locked")), False, False),
        (ConnectionError("refused"), False, False),
        (RestException({"error_code": "INTERNAL_ERROR", "message": "oops"}), False, True),
        (RestException({"error_code": "INTERNAL_ERROR", "message": "database is locked"}), False, False),
        (MlflowException("API request to http://h failed with exception refused"), False, False),
        (MlflowException("API request to h failed with exception: too many 500 error responses"), False, True),
        (MlflowException("API request to h failed with exception: too many 503 error responses"), False, False),
    ],
)
def test_for_good_or_for_now(error: Exception, permanent: bool, answer: bool) -> None:
    assert (is_permanent(error), is_answer(error)) == (permanent, answer)


def test_what_is_missing() -> None:
    assert is_missing(RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no run"}))
    assert not is_missing(ValueError("no run"))


def test_what_the_database_said_is_the_cause() -> None:
    text = "(raised as a result of Query-invoked autoflush)\n(sqlite3.OperationalError) database is locked"
    error = caused(TEMPORARILY_UNAVAILABLE, of_sqlite(sa.OperationalError, "database is locked"))
    error.args = (text,)
    assert cause(error) == "database is locked"
    assert cause(ValueError("one\ntwo")) == "one"
