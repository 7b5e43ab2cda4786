"""Imported by the fork server before the first block; nothing is computed, so a fork finds no threads."""

import pipeline.bench.loops.input_rates
import pipeline.bench.loops.race  # noqa: F401
from pipeline.bench.loops.libraries import preload

preload()
