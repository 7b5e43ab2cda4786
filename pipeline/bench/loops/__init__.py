"""What runs inside a raced process: the workload, the loops of ablate and of the others, and their turns.

The only part of `bench` with torch. Start with `race.py`; `contenders.py` has our own loops, `libraries.py` those of
other libraries.
"""
