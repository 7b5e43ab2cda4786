"""The local launcher: one process for each run, forked from a server that has torch imported.

`launcher` and `process` run in the command's own process, `preload` in the fork server, `child` in the worker, where
alone torch is. Start reading at `launcher.LocalLauncher.launch`; on the other side it goes on at `child.run_child`.

May import what execution may; `child` and `preload` also import training.
"""
