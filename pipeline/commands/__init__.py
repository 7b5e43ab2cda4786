"""One module per command: each joins the rooms below, prints, and gives the exit code.

`cli` parses the command line into an options class (`design.options` for what trains, `command_options` for the rest)
and calls `NAME.run_NAME(options)`. Shared are `output` (who shows what happens, how a call ends) and `display` (what
people see while runs train). Every room may be imported from here; only `cli` imports this one.
Start reading at `grid`: it is the whole walk of the package.
"""
