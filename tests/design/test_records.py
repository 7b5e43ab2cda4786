"""Records keep what they say through JSON, and what is no record is refused."""

from __future__ import annotations

import pytest

from pipeline.design.records import Artifact, End, Metrics, Phase, Progress, Tags, parse_record


def test_records_round_trip() -> None:
    for record in (
        Phase(time=1.5, name="train"),
        Progress(time=1.5, epoch=1, epochs=2, update=3, updates=9, images_per_second=10.0, loss=float("nan")),
        Metrics(time=1.5, step=3, values={"train/loss": 0.1 + 0.2}),
        Tags(time=1.5, values={"env.cpu": "a \u2603"}),
        Artifact(time=1.5, path="confusion.png", folder="figures"),
        End(time=1.5, outcome="oom", error="out of memory"),
    ):
        back = parse_record(record.model_dump_json())
        assert type(back) is type(record) and back.model_dump_json() == record.model_dump_json()


def test_records_keep_what_is_no_finite_number() -> None:
    record = Metrics(time=1.0, values={"a": float("nan"), "b": float("inf")})
    back = parse_record(record.model_dump_json())
    assert isinstance(back, Metrics) and back.values["a"] != back.values["a"] and back.values["b"] == float("inf")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "[]",
            "{}",
            '{"type": "spec"}',
            '{"type": "end", "time": 1}',
            "nonsense",
            "3",
            '{"type": {}}',
            '{"type": []}',
        ),
        *(
            f'{{"type": "metrics", "time": {time}, "values": {{}}}}'
            for time in ("NaN", "Infinity", "1e400", "1e30", "-1")
        ),
        *(f'{{"type": "metrics", "time": 1, "step": {step}, "values": {{}}}}' for step in ("-1", "1e400", str(2**63))),
        "[" * 100_000,
    ],
)
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_record(text)
