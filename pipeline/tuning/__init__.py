"""Finds the best micro-batch, accumulation and techniques with Optuna, and confirms the winner: `ablate tune`.

A search asks Optuna, runs the cell as a grid would, and tells what came of it; its best are then measured again in
fresh blocks, since the best of many noisy values looks better than it is. A study file comes out.

May import: `design`, `tracking`, `execution` and `analysis`. The only room that imports Optuna. Start with
`session.py`; `space.py` has what is searched, `trials.py` the study that several processes share.
"""
