"""`python -m pipeline` is `ablate`."""

from pipeline import import_path

import_path.leave_folder()  # before anything is imported that is not Python's innermost

from pipeline.cli import program  # noqa: E402

if __name__ == "__main__":
    program()
