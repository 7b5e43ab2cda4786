"""ablate: designed experiments on training-acceleration techniques."""

__version__ = "0.1.0"
DISTRIBUTION = "ablate-training"  # what pip calls it; its `ablate` is another project
