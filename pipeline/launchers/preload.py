"""Imported by the fork server before the first run. CUDA stays untouched: a fork after it could not use it."""

import atexit
import os
import sys

import PIL.PngImagePlugin  # noqa: F401
import sklearn.metrics  # noqa: F401

import pipeline.worker  # noqa: F401

if any("multiprocessing.forkserver" in word for word in sys.orig_argv):
    # Tearing torch down takes seconds, and as long as the server lives it holds the command's standard output open:
    # whoever reads that through a pipe would wait. Runs are forked from here and end by themselves, without atexit.
    atexit.register(os._exit, 0)
