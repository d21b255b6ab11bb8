"""One option per column of a record, made from the columns themselves."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer
from pydantic.fields import FieldInfo

from planner.catalog.values import plain_type
from planner.specs.scenario import Scenario

_PANELS = {  # the column with which a group of options begins
    "name": "What to serve",
    "gpu": "Hardware",
    "gpu_memory_utilization": "Engine",
    "n_ubatch": "llama.cpp",
    "input_tokens": "Load",
    "ttft_slo_ms": "Objectives",
}
_METAVARS = {str: "TEXT", int: "N", float: "X", bool: "yes|no"}


class Flag(NamedTuple):
    """An option that takes text, by the name of its column."""

    name: str
    says: str | None
    metavar: str
    panel: str


def grouped_flags(fields: Mapping[str, FieldInfo], panels: Mapping[str, str]) -> tuple[Flag, ...]:
    """A flag for every field of a record; `panels` name the fields with which a group of options begins."""
    panel, found = "", []
    for name, field in fields.items():
        panel = panels.get(name, panel)
        found.append(Flag(name, field.description, _METAVARS[plain_type(field.annotation)], panel))
    return tuple(found)


def with_flags(flags: Sequence[Flag]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command these options; it receives those that are given as the mapping `flags`."""
    options = [_option(flag) for flag in flags]

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(**given: Any) -> Any:
            texts = {flag.name: text for flag in flags if (text := given.pop(flag.name)) is not None}
            return command(flags=texts, **given)

        own = [item for item in inspect.signature(command, eval_str=True).parameters.values() if item.name != "flags"]
        wrapped.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
        wrapped.__annotations__ = {item.name: item.annotation for item in (*own, *options)}
        del wrapped.__wrapped__
        return wrapped

    return decorated


def _option(flag: Flag) -> inspect.Parameter:
    option = typer.Option(
        f"--{flag.name.replace('_', '-')}",
        help=flag.says,
        metavar=flag.metavar,
        rich_help_panel=flag.panel,
        show_default=False,
    )
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(flag.name, kind, default=None, annotation=Annotated[str | None, option])


with_scenario_flags = with_flags(grouped_flags(Scenario.model_fields, _PANELS))


def with_choices(choices: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options that are the fields of a NamedTuple; it receives them as `choices`."""
    hints, defaults = get_type_hints(choices, include_extras=True), choices._field_defaults
    kind = inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter(name, kind, default=defaults[name], annotation=hints[name]) for name in hints]

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(**given: Any) -> Any:
            return command(choices=choices(*(given.pop(name) for name in choices._fields)), **given)

        own = [item for item in inspect.signature(command, eval_str=True).parameters.values() if item.name != "choices"]
        signature = inspect.Signature([*options, *(item.replace(kind=kind) for item in own)])
        wrapped.__signature__ = signature  # type: ignore[attr-defined]
        del wrapped.__wrapped__
        return wrapped

    return decorated
