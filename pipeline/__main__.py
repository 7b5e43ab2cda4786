"""`python -m pipeline` is `ablate`."""

from pipeline.cli import program

if __name__ == "__main__":
    program()
