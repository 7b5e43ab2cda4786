"""Data sets and input pipelines: a name of the catalog becomes batches on the device.

It imports `design` and the hall, and nothing of the rest of `training`, so that it can be read and tested alone.
`store.prepare_dataset` makes checked arrays on disk, once (from `digits`, `cifar` or `imagefolder`, by `array_files`);
`split` says which images a run sees, and in which order; `inputs.build_inputs` makes one of three pipelines of it:
`loader`, `gather` or `device`. `evaluation` serves validation and test images, `transforms` is the same for all.
"""
