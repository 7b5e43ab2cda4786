"""What a record costs the training process."""

from __future__ import annotations

from pipeline.bench.record_cost import record_seconds


def test_a_record_costs_the_training_process_microseconds() -> None:
    # 20 is what is promised on a quiet machine; a step of the smallest model is a thousand times longer than this
    assert 0 < record_seconds(2_000) < 400e-6
