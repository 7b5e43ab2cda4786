"""Imported by the fork server before the first block; nothing is computed, so a fork finds no threads."""

import pipeline.bench.feeding
import pipeline.bench.race  # noqa: F401
from pipeline.bench.peers import preload

preload()
