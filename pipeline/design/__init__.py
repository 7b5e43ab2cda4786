"""What is run: recipes, cells, techniques, study files, and the plan that is made of them.

Pure data and pure functions: no torch, no MLflow, and nothing of another room but the hall. Everything that can
change a result is a field here and in a cell's digest. A technique is one row of `techniques`, and the names of the
public contract are in `names`. Start reading at `study` (what a file says), then `plan` (study -> cells) and `spec`
(what a cell is); `selection` puts the command line on top, `records` is what a run says back.
"""
