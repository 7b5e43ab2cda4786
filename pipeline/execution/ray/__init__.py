"""The launcher for a Ray cluster: one task for each run, all runs of a block on one node.

`launcher` fulfils the protocol with `membership` (which nodes take runs), `vetting` (whether they can), `placement`
(which node a block is on; without Ray) and `stream` (a run as a task); `cluster` connects; `node` is what runs on the
nodes, with a local launcher of its own. Start reading at `launcher.RayLauncher`.

May import what execution may, and `execution.local`. Ray is imported here alone, inside functions: every command
starts without it.
"""
