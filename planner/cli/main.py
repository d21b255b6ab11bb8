"""The `planner` program: its commands, and how every error leaves it."""

from __future__ import annotations

import gc
import io
import itertools
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, TextIO

import typer
from typer.exceptions import Abort, TyperException

from planner import __version__
from planner.catalog.values import columns
from planner.cli.exits import BAD_INPUT, BROKEN_PIPE, FAULT, INTERRUPTED
from planner.cli.output import NO_VALUE
from planner.errors import PlannerError

TRACEBACK = "PLANNER_TRACEBACK"  # environment variable for whoever looks for a fault
COMMANDS = {  # and the modules of this package that hold them
    "estimate": "estimate",
    "recommend": "recommend",
    "simulate": "simulate",
    "finetune": "finetune",
    "models": "lists",
    "gpus": "lists",
    "formats": "lists",
    "engines": "lists",
    "import-model": "import_model",
    "compare-log": "compare_log",
    "observe": "observe",
    "quality-check": "quality_check",
    "schema": "schema",
    "accuracy": "accuracy",
    "calibrate": "calibrate",
    "runs": "runs",
    "validate": "validate",
    "app": "app",
}


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def planner(
    version: Annotated[
        bool,
        typer.Option("--version", metavar=NO_VALUE, callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Which model, at which precision, fits and serves a load on given GPUs, how fast, and how sure that is."""


def program(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The program with these commands; the modules of others are not imported."""
    cli = typer.Typer(
        name="planner",
        help="Which model, at which precision, fits and serves a load on given GPUs, how fast, and how sure that is.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    cli.callback()(planner)
    for name in names:
        cli.command(name=name)(getattr(_module(name), name.replace("-", "_")))
    return cli


def _module(command: str) -> ModuleType:
    return import_module(f"planner.cli.{COMMANDS[command]}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and leave with its exit code; every expected failure is one line on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.stdout, sys.stderr = _writable(sys.stdout), _writable(sys.stderr)
    gc.disable()  # imports leave no garbage, and what they make stays: looking through it takes a sixth of a short run
    for command in COMMANDS.keys() & given[:1]:
        _module(command)
    gc.freeze()
    gc.enable()
    sys.exit(run(given))


def run(arguments: list[str]) -> int:
    """Exit code of the program with these arguments."""
    try:
        cli = program(arguments[:1] if arguments[:1] and arguments[0] in COMMANDS else COMMANDS)
        code = cli(args=_with_values(arguments or ["--help"]), prog_name="planner", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except PlannerError as error:
        return _refused(str(error))
    except TyperException as error:
        return _refused(error.format_message())
    except (KeyboardInterrupt, Abort):
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):  # Typer and rich leave so when the reader of a pipe has gone
        _silence()
        return BROKEN_PIPE
    except OSError as error:  # a full disk under standard output; files have errors of their own
        _silence()
        return _refused(f"{error.filename or 'standard output'}: {error.strerror or error}")
    except Exception as error:
        if TRACEBACK in os.environ:
            raise
        return _refused(f"a fault of the planner ({type(error).__name__}: {error}); {TRACEBACK}=1 shows where", FAULT)


def _silence() -> None:
    """Standard output goes nowhere: the interpreter flushes once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _writable(stream: TextIO | None) -> TextIO:
    """A stream that takes every character, escaped where its encoding lacks it; nowhere, if it was closed."""
    if stream is None:
        return Path(os.devnull).open("w")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def _refused(message: str, code: int = BAD_INPUT) -> int:
    line = " ".join(message.split())
    print("error:", "".join(c if c.isprintable() else repr(c)[1:-1] for c in line), file=sys.stderr)
    return code


def _with_values(arguments: list[str]) -> list[str]:
    """`--enforce-eager` alone means yes and `--no-enforce-eager` no, as engines spell it."""
    known = {f"--{name.replace('_', '-')}" for name, kind in columns().items() if kind is bool}
    if arguments[0] == "finetune":
        from planner.cli.finetune import switches

        known |= switches()
    spelt = []
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue="-"):
        positive = argument.replace("--no-", "--", 1)
        if positive in known and positive != argument:
            spelt.append(f"{positive}=no")
        elif argument in known and following.startswith("-"):
            spelt.append(f"{argument}=yes")
        else:
            spelt.append(argument)
    return spelt
