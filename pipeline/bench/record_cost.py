"""What a record costs the training process: from the record to the pipe. In a child process."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from statistics import median

from pipeline.children import process_context
from pipeline.design.records import Progress
from pipeline.execution.local.child import sender


def record_seconds(records: int) -> float:
    """Seconds of making and sending one record, while another process reads them: the median over bursts of 100.

    Args:
        records: how many. A burst fits the pipe: a run sends one now and then, and never finds it full.
    """
    context = process_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_drain, args=(reader, writer), daemon=True)
    process.start()
    reader.close()
    emit = sender(writer)
    spent: list[float] = []
    for _ in range(max(records // 100, 1)):
        began = time.perf_counter()
        for number in range(100):
            emit(_record(number))
        spent.append((time.perf_counter() - began) / 100)
        time.sleep(0.005)
    writer.close()
    process.join(10)
    return median(spent)


def _record(number: int) -> Progress:
    return Progress(
        time=time.time(),
        epoch=1,
        epochs=10,
        update=number,
        updates=1000,
        images_per_second=12345.6,
        loss=1.25,
    )


def _drain(reader: Connection, writer: Connection) -> None:
    writer.close()
    try:
        while True:
            reader.recv_bytes()
    except EOFError:
        return
