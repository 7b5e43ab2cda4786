"""The training time to a target accuracy, from the records of a run: the run itself knows nothing of a target."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator

from pipeline.design.names import EPOCH_SECONDS, TARGET_SECONDS, TARGET_TAG, VAL_ACCURACY
from pipeline.design.records import Metrics, Record, Tags


def timed_to_target(records: Iterable[Record], target: float | None) -> Iterator[Record]:
    """Passes a run's records on; behind the first epoch whose validation reaches the target comes the time to it.

    Args:
        records: what the run tells.
        target: validation accuracy, as a fraction; None adds nothing.

    Yields:
        The records, and of a run that is asked for a target its tag, which tells a run that missed it from one that was
        not asked. The time is the sum of the epochs' training times, s; a run that misses has none.
    """
    if target is None:
        yield from records
        return
    yield Tags(time=time.time(), values={TARGET_TAG: str(target)})
    seconds, reached = 0.0, False
    for record in records:
        yield record
        if isinstance(record, Metrics) and record.step is not None and not reached:
            seconds += record.values.get(EPOCH_SECONDS, math.nan)
            reached = record.values.get(VAL_ACCURACY, math.nan) >= target
            if reached and math.isfinite(seconds):  # an epoch without a time leaves it unknown
                yield Metrics(time=record.time, values={TARGET_SECONDS: seconds})
