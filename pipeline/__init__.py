"""ablate: designed experiments on training-acceleration techniques."""

__version__ = "0.1.0"
