"""`python -m pipeline` is `ablate`."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
