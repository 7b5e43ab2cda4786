"""Keeps what happens: every record goes to a journal first, from there to MLflow, and studies are read back.

It also knows who is at work: which controllers live, and who of them holds a cell. The room may import `design` and the
hall. Only its modules called `mlflow_*` know MLflow. Start reading at `recorder` (what a controller does), then
`journal` and `delivery` (how it gets to the store), `claims` and `liveness` (why no cell runs twice), and
`study_data` (what an analysis gets).
"""
