"""What takes turns to be compared: ablate and other libraries (`ablate bench`), any two commands (`ablate ab`).

Every contender does the same work (`loops/`), each in a process that nothing has run in before; blocks pair them, and
ratios come with intervals. Costs that no race shows (records, runs, plans, reports, a whole grid) are measured beside.

May import: `design`, `tracking`, `execution`, `analysis` and `training`. Start with `suite.py`, which has the parts
and their order; `entry.py` is what the processes run. `commands_in_turn.py` is all of `ablate ab` but its words.
"""
