"""Imported by the fork server before the first run. CUDA stays untouched: a fork after it could not use it."""

import atexit
import gc
import os
import sys
import threading

from pipeline.host import leave_signals_to_parent

_SERVES = any("multiprocessing.forkserver" in word for word in sys.orig_argv)
if _SERVES:
    leave_signals_to_parent()  # runs end with their server: a signal to the whole group would make failures of them
    gc.disable()  # a million objects that all stay: going through them again and again is a fifth of the imports

import PIL.PngImagePlugin  # noqa: E402, F401
import sklearn.metrics  # noqa: E402, F401

import pipeline.training.worker  # noqa: E402, F401

if (bars := sys.modules.get("tqdm")) is not None:
    # torch.compile shows progress with tqdm, whose own lock is a semaphore of the whole system: a run, which leaves
    # without exit functions, would leave it to Python's resource tracker, which complains to the user at the end. Each
    # run is one process, and so a lock of its threads is enough.
    bars.tqdm.set_lock(threading.RLock())

if _SERVES:
    # No run's garbage collection goes through what was imported here: that took half a second each time, in the midst
    # of a measurement, and copied the pages that all runs share.
    gc.freeze()
    gc.enable()
    # Tearing torch down takes seconds, and as long as the server lives it holds the command's standard output open:
    # whoever reads that through a pipe would wait. Runs are forked from here and end by themselves, without atexit.
    atexit.register(os._exit, 0)
