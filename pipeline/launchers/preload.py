"""Imported by the fork server before the first run. CUDA stays untouched: a fork after it could not use it."""

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import sklearn.metrics  # noqa: F401

import pipeline.worker  # noqa: F401
