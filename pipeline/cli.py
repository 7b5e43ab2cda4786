"""The command line: parsing only.

Options come from the classes of `design.options` and `commands.command_options`. The work is in `commands.NAME`, which
is imported when the command runs: `--help` is quick.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
import typing
from collections.abc import Callable
from typing import Any

import click

from pipeline import __version__, streams
from pipeline.commands import calls, command_options, crash_log
from pipeline.design import options as run_options
from pipeline.design import scalars
from pipeline.errors import AblateError
from pipeline.import_path import leave_folder
from pipeline.shown import printable, redacted

_COMPLETION = "_ABLATE_COMPLETE"
_FEW = 12  # options that need no headings
_COLUMN = 25  # the widest option whose text stands beside it
_SECTIONS = {
    "Measure": ("grid", "speed", "run", "tune"),
    "Read what was measured": ("report", "compare", "status", "ui"),
    "Look up": ("list", "techniques", "doctor"),
    "Data and store": ("data", "sync", "rename", "delete", "clean"),
    "Other measurements": ("ab", "bench"),
}


class _InterruptedError(Exception):
    """A signal ended the command."""


class _Option(click.Option):
    """An option with older names, which are understood and not shown.

    Args:
        older: the older names, with their dashes.
        heading: under which help shows it.
        settings: what `click.Option` takes.
    """

    def __init__(self, *names: Any, older: tuple[str, ...] = (), heading: str = "", **settings: Any) -> None:
        super().__init__(*names, **settings)
        self._older = older
        self.heading = heading

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Adds the names to Click's parser."""
        shown = self.opts
        self.opts = [*shown, *self._older]
        super().add_to_parser(parser, ctx)
        self.opts = shown


class _Command(click.Command):
    """A command whose help has its options under headings, where there are many."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options."""
        shown = [
            (getattr(param, "heading", "") or run_options.OUTPUT, record)
            for param in self.get_params(ctx)
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx))
        ]
        if len(shown) <= _FEW:
            shown = [("Options", record) for _, record in shown]
        width = max(len(term) for _, (term, _) in shown if len(term) <= _COLUMN)  # one column for all sections
        for heading in ("Options", *run_options.HELP_HEADINGS):
            if records := [(f"{term:<{width}}", text) for place, (term, text) in shown if place == heading]:
                with formatter.section(heading):
                    formatter.write_dl(records, col_max=width)


class _Group(click.Group):
    """A group whose help has its commands under headings, with the whole of their first sentences."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the commands."""
        under = _SECTIONS if ctx.parent is None else {"Commands": tuple(self.commands)}
        width = max(map(len, self.commands))
        for heading, names in under.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:<{width}}", self.commands[name].help or "") for name in names])


class _Whole(click.IntRange):
    """A whole number in decimal digits: Python's `int` takes 1_000 and the digits of every script, too."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, within its range."""
        return super().convert(_read(self, scalars.whole, value, "a valid integer", param, ctx), param, ctx)


class _Finite(click.FloatRange):
    """A finite number; nothing is less or greater than nan, so that every range has it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, within its range."""
        return super().convert(
            _read(self, scalars.finite, value, "a valid float, decimal and finite", param, ctx), param, ctx
        )


class _Text(click.ParamType[str]):
    """A text of one line; an empty one is a shell's variable that is not set."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as it is."""
        return str(_read(self, scalars.line, value, "allowed; allowed: a text of one line in UTF-8", param, ctx))


def _read(
    kind: click.ParamType[Any],
    read: Callable[[str], Any],
    value: Any,
    wanted: str,
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> Any:
    if not isinstance(value, str):  # a default
        return value
    try:
        return read(value)
    except ValueError:
        shown = printable(redacted(repr(value) if len(value) <= 80 else f"{value[:77]!r}..."))
        kind.fail(f"{shown} is not {wanted}.", param, ctx)


def _parameter(name: str, declared: run_options.Option, kind: Any, default: Any) -> click.Parameter:
    """Click's parameter for one field; flags win over environment variables (`ABLATE_NAME`), those over study files.

    Args:
        name: of the field.
        declared: how it appears.
        kind: its type.
        default: its default, or `dataclasses.MISSING`.
    """
    required = default is dataclasses.MISSING
    many = typing.get_origin(kind) is tuple
    if declared.argument:
        return click.Argument([name], required=required, nargs=-1 if many else 1, type=_type(declared, kind))
    long = declared.name or "--" + name.replace("_", "-")
    settings: dict[str, Any] = {"help": declared.help, "heading": declared.heading, "hidden": declared.hidden}
    if kind is bool:
        settings.update(is_flag=True)
    else:
        settings.update(type=_type(declared, kind), metavar=_metavar(declared, kind), multiple=many, required=required)
        variables = [_variable(each) for each in (long, *declared.aliases)]
        settings["envvar"] = variables if declared.aliases else variables[0]
    if not required and not many and kind is not bool and default is not None:
        settings.update(default=default, show_default=True)
    return _Option([*filter(None, [declared.short]), long, name], older=declared.aliases, **settings)


def _variable(long: str) -> str:
    return "ABLATE_" + long[2:].upper().replace("-", "_")


def _metavar(declared: run_options.Option, kind: Any) -> str | None:
    """What stands for the value; Click's own for a number is `INTEGER RANGE`."""
    numbers = {int, float} & {kind, *typing.get_args(kind)}
    return declared.metavar or (("N" if int in numbers else "X") if numbers and not declared.choices else None)


def _type(declared: run_options.Option, kind: Any) -> click.ParamType[Any]:
    if declared.choices:
        return click.Choice(declared.choices)
    number = {int, float} & {kind, *typing.get_args(kind)}
    if not number:
        return _Text()
    allowed = declared.allowed
    bounds = (allowed.low, allowed.high, allowed.low_open, allowed.high_open) if allowed else ()
    return _Whole(*bounds) if number == {int} else _Finite(*bounds)


def _command(
    model: type, group: click.Group, name: str | None = None, *, works: bool = False
) -> Callable[[Callable[[Any], int]], click.Command]:
    """Makes a command of a function that takes the options and returns the exit code.

    Args:
        model: the options class.
        group: what the command belongs to.
        name: of the command; None for the function's.
        works: whether it does more than print: its work goes on when nobody reads any more.
    """
    kinds = typing.get_type_hints(model)
    defaults = {field.name: field.default for field in dataclasses.fields(model)}

    def decorate(function: Callable[[Any], int]) -> click.Command:
        def call(**values: Any) -> None:
            options = model(**values)
            shown = click.get_current_context().find_object(streams.Streams)
            if shown is not None:
                shown.works = works and not getattr(options, "dry_run", False)
                shown.document = getattr(options, "as_json", False)
            try:
                code = function(options)
            except KeyboardInterrupt:  # Click would put an empty line before ours
                raise _InterruptedError from None
            if code:
                raise click.exceptions.Exit(code)

        params = [
            _parameter(field, declared, kinds[field], defaults[field])
            for field, declared in run_options.offered(model).items()
        ]
        command = _Command(name or function.__name__, callback=call, params=params, help=function.__doc__)
        group.add_command(command)
        return command

    return decorate


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ablate")
def cli() -> None:
    """Which training-acceleration technique pays, by how much, with what error bars, and do they combine?"""


@cli.group(cls=_Group)
def data() -> None:
    """Prepare or verify data sets."""


@_command(run_options.GridOptions, cli, works=True)
def grid(options: run_options.GridOptions) -> int:
    """Run a designed experiment: every combination of techniques, blocked, shuffled, tracked in MLflow."""
    from pipeline.commands.grid import run_grid

    return run_grid(options)


@_command(run_options.SpeedOptions, cli, works=True)
def speed(options: run_options.SpeedOptions) -> int:
    """Measure speed alone, to one percent, in minutes: all cells are alive at once and take turns."""
    from pipeline.commands.speed import run_speed

    return run_speed(options)


@_command(run_options.RunOptions, cli, works=True)
def run(options: run_options.RunOptions) -> int:
    """Run one cell."""
    from pipeline.commands.grid import run_grid

    return run_grid(options)


@_command(run_options.TuneOptions, cli, works=True)
def tune(options: run_options.TuneOptions) -> int:
    """Find the best accumulation factor and batch size, and confirm it against the baseline in fresh blocks."""
    from pipeline.commands.tune import run_tune

    return run_tune(options)


@_command(command_options.StatusOptions, cli)
def status(options: command_options.StatusOptions) -> int:
    """Show how far a study is."""
    from pipeline.commands.status import show_status

    return show_status(options)


@_command(command_options.DoctorOptions, cli)
def doctor(options: command_options.DoctorOptions) -> int:
    """Check this machine: Python, torch, GPU, memory locks, disk, data, tracking store."""
    from pipeline.commands.doctor import run_doctor

    return run_doctor(options)


@_command(command_options.BenchArguments, cli, works=True)
def bench(options: command_options.BenchArguments) -> int:
    """Measure ablate's own loop, input and overhead beside a bare loop, Accelerate, Lightning and timm."""
    from pipeline.commands.bench import run_bench

    return run_bench(options)


@_command(command_options.ReportOptions, cli)
def report(options: command_options.ReportOptions) -> int:
    """Effects with intervals, why, and what to use: HTML, Markdown, JSON and CSV."""
    from pipeline.commands.report import run_report

    return run_report(options)


@_command(command_options.CompareOptions, cli)
def compare(options: command_options.CompareOptions) -> int:
    """Compare the same cells of two studies: machines, versions or dates."""
    from pipeline.commands.compare import run_compare

    return run_compare(options)


@_command(command_options.AbOptions, cli, works=True)
def ab(options: command_options.AbOptions) -> int:
    """Run two commands in turn: is B slower than A? Exit code 1 if it was shown to be, 0 if not."""
    from pipeline.commands.ab import run_ab

    return run_ab(options)


@_command(command_options.ListOptions, cli, "list")
def list_(options: command_options.ListOptions) -> int:
    """List what there is: techniques, models (timm's, too, with a PATTERN), data sets, studies, recipe fields."""
    from pipeline.commands.listing import list_names

    return list_names(options)


@_command(run_options.JsonOptions, cli)
def techniques(options: run_options.JsonOptions) -> int:
    """List the techniques: levels, requirements, what each preserves and what it can save."""
    from pipeline.commands.techniques import list_techniques

    return list_techniques(options)


@_command(command_options.SyncOptions, cli, works=True)
def sync(options: command_options.SyncOptions) -> int:
    """Deliver journals that are not wholly in the tracking store; harmless to repeat."""
    from pipeline.commands.sync import sync_journals

    return sync_journals(options)


@_command(command_options.RenameOptions, cli, works=True)
def rename(options: command_options.RenameOptions) -> int:
    """Give a study another name: experiment, journals and reports."""
    from pipeline.commands.studies import rename_study

    return rename_study(options)


@_command(command_options.DeleteOptions, cli, works=True)
def delete(options: command_options.DeleteOptions) -> int:
    """Delete a study: its experiment can be restored with MLflow, its files in this folder are gone."""
    from pipeline.commands.studies import delete_study

    return delete_study(options)


@_command(command_options.CleanOptions, cli, "clean", works=True)
def clean_(options: command_options.CleanOptions) -> int:
    """Remove what can be made again: prepared images, work folders of finished runs, caches of the compiler."""
    from pipeline.commands.clean import clean_up

    return clean_up(options)


@_command(command_options.UiOptions, cli, works=True)
def ui(options: command_options.UiOptions) -> int:
    """Open MLflow's web interface on the tracking store, or Optuna's on the tunings."""
    from pipeline.commands.ui import run_ui

    return run_ui(options)


@_command(command_options.DataOptions, data, "prepare", works=True)
def data_prepare(options: command_options.DataOptions) -> int:
    """Download or build data sets."""
    from pipeline.commands.data import prepare_data

    return prepare_data(options)


@_command(command_options.DataOptions, data, "verify")
def data_verify(options: command_options.DataOptions) -> int:
    """Check prepared data sets against their checksums."""
    from pipeline.commands.data import verify_data

    return verify_data(options)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: every failure is one line on standard error, with the contract's exit code."""
    # The imports, and the runs that are read, are a million objects that nearly all stay: with the interpreter's 700,
    # going through them again and again is a quarter of a short command's time.
    gc.set_threshold(50_000, 20, 20)
    if _COMPLETION in os.environ:  # a shell asks: Click answers in bytes, which our streams do not take, and exits
        cli.main(args=arguments, prog_name="ablate", complete_var=_COMPLETION)
    with streams.guarded() as shown, calls.stoppable(), crash_log.kept():
        code = shown.settled(_ended(arguments, shown))
    sys.exit(code)


def _ended(arguments: list[str] | None, shown: streams.Streams) -> int:
    """Runs a command; returns its exit code, or that of its failure, which is told."""
    try:
        code = cli.main(args=arguments, prog_name="ablate", standalone_mode=False, obj=shown)
    except (_InterruptedError, click.exceptions.Abort, KeyboardInterrupt):
        return calls.interrupted()
    except click.ClickException as error:
        return _failed(_usage(error), 2)
    except AblateError as error:
        return _failed(str(error), error.exit_code)
    except OSError as error:
        return _failed(f"{error.filename or 'system'}: {error.strerror or error}", 3)
    except Exception as error:
        return _failed(crash_log.told(error), 1)
    return code if isinstance(code, int) else 0


def program() -> None:
    """What `ablate` is: `main`, without taking what was imported to pieces at the end."""
    leave_folder()
    try:
        main()
    finally:
        # The interpreter's last collection would go through MLflow's million objects, only to free what the system
        # frees anyway: of CPU time, 0.9 s of the 3.7 s of `ablate status`, 0.4 s of the 3.6 s of `ablate report`
        # (medians of 5). Exit functions are called as ever.
        gc.freeze()


def _usage(error: click.ClickException) -> str:
    """Click's message on one line, with the command that explains more."""
    text = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    return f"{text} (see: {context.command_path} --help)" if context is not None else text


def _failed(text: str, code: int) -> int:
    line = " ".join(text.split())
    print(f"ablate: {line}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    program()
