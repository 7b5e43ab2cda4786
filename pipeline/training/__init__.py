"""One run in its own process: a job comes in, records go out.

It imports `design` and the hall (`errors`, `host`, `nvml`, `paths`), no other room: a run knows neither journal, MLflow
nor command line. It is the room with torch, torchvision and timm. Techniques are fields of the recipe here; none has a
name in `trainer` or `step`.

Start with `worker.run_job` (job -> records), then `trainer.train` (epochs) and `step.optimizer_step` (one update).
`meter` and `clocks` measure from outside; `data` has data sets and input pipelines.
"""
