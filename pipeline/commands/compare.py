"""`ablate compare`: the same cells of two studies."""

from __future__ import annotations

from pipeline.commands.command_options import CompareOptions
from pipeline.paths import STATE_DIR
from pipeline.tracking.study_data import load_study_data


def run_compare(options: CompareOptions) -> int:
    """Prints B against A, cell by cell and effect by effect, and ends with the conclusion.

    Args:
        options: of the command.

    Returns:
        The exit code.

    Raises:
        InputError: a study is not there, or the two have no cell in common.
    """
    from pipeline.analysis import comparison

    uri_b = options.tracking_uri_b or options.tracking_uri
    first, _ = load_study_data(options.study_a, options.tracking_uri, STATE_DIR, curves=False)
    second, _ = load_study_data(options.study_b, uri_b, STATE_DIR, curves=False)
    compared = comparison.compare_studies(first, second)
    print(compared.to_json() if options.as_json else compared.to_markdown())
    return 0
