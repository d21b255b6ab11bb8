"""One option per scenario column, made from the columns themselves."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from planner.catalog.values import columns
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


def with_scenario_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option per scenario column; it receives the given ones as the mapping `flags`."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> Any:
        flags = {name: text for name in columns() if (text := given.pop(name)) is not None}
        return command(flags=flags, **given)

    own = [item for item in inspect.signature(command, eval_str=True).parameters.values() if item.name != "flags"]
    wrapped.__signature__ = inspect.Signature([*own, *_options()])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {item.name: item.annotation for item in (*own, *_options())}
    del wrapped.__wrapped__
    return wrapped


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


@functools.lru_cache(maxsize=1)
def _options() -> tuple[inspect.Parameter, ...]:
    panel, options = "", []
    for name, kind in columns().items():
        panel = _PANELS.get(name, panel)
        option = typer.Option(
            f"--{name.replace('_', '-')}",
            help=Scenario.model_fields[name].description,
            metavar=_METAVARS[kind],
            rich_help_panel=panel,
            show_default=False,
        )
        options.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
            )
        )
    return tuple(options)
