"""Execution: takes the cells of a plan to a launcher, watches the machine, and knows what is left.

`session.Session` puts a grid call together, `controller.Controller` runs it on the threads of `pool.RunPool`, and what
can run a cell is a `launcher.Launcher`: `local/` on this machine, `ray/` on a cluster. Start reading at `launcher` (the
protocol and its life story), then `controller`.

May import design, tracking and the hall. Only `local/child.py` and `local/preload.py`, which run in the worker's
process, import training; only `ray/` imports Ray.
"""
