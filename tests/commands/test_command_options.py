"""The options of all commands, as the command line offers them."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.commands import command_options
from pipeline.design import options as run_options

MODELS = [
    model
    for module in (run_options, command_options)
    for model in vars(module).values()
    if isinstance(model, type) and model.__module__ == module.__name__ and run_options.JsonOptions in model.__mro__
]


@pytest.mark.parametrize("model", [*MODELS, command_options.UiOptions, command_options.DataOptions])
def test_every_option_has_a_help_text_and_every_class_says_what_its_fields_are(model: Any) -> None:
    offered = run_options.offered(model)
    assert offered and all(declared.argument or declared.help for declared in offered.values())
    documented = "".join(str(base.__doc__) for base in model.__mro__)
    assert [name for name in offered if f"\n        {name}: " not in documented] == []


def test_the_default_of_json_comes_last() -> None:
    assert all(list(run_options.offered(model))[-1] == "as_json" for model in MODELS)


def test_a_second_store_is_the_first_ones_unless_it_is_named() -> None:
    options = command_options.CompareOptions(study_a="a", study_b="b")
    assert (options.tracking_uri, options.tracking_uri_b) == (None, None)


def test_the_ui_is_not_shown_to_other_machines_by_itself() -> None:
    assert command_options.UiOptions().host == "127.0.0.1"
