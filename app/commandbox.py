"""An engine's start command as the page's deployment; the GPU and the load stay the page's."""

from __future__ import annotations

from typing import Any, NamedTuple

from answers import rows
from fields import COLUMNS, MAIN
from links import Names, known_name
from logbox import LOAD, NAMES
from planner.catalog.commands import scenario_from_command
from planner.catalog.logs import name_of
from planner.errors import BadValue
from planner.estimate import Library
from planner.specs.scenario import Scenario


class Read(NamedTuple):
    """Columns that a command sets, and a sentence about what it says beyond them."""

    update: dict[str, Any]
    told: str


def read(command: str, page: Scenario, library: Library) -> Read:
    """The deployment that a start command describes, on the page's GPU. Raises PlannerError with one line.

    A name that the command leaves to the engine, such as the format of the checkpoint, is set to what the estimate
    takes for it, so that every input shows what the answer rests on. A path is taken for its last part; none
    is looked at here.
    """
    found = scenario_from_command(command, on_disk=False)
    stated = found.scenario.model_dump(exclude_none=True)
    names = Names(frozenset(library.models), frozenset(library.gpus))
    if "model" not in stated:
        raise BadValue("the command names no model: paste all of it, from the program's name on")
    stated["model"] = name_of(stated["model"])
    stated |= {name: known_name(name, str(stated[name]), names) for name in NAMES if name in stated}
    beyond = sorted({*stated} - {*COLUMNS})
    kept = {name: getattr(page, name) for name in (*LOAD, "gpu")}
    row = rows([Scenario(**(kept | {name: value for name, value in stated.items() if name in COLUMNS}))], library)[0]
    if row["error"]:
        raise BadValue(row["error"])
    update = {name: stated.get(name) for name in COLUMNS if name not in kept}
    update |= {name: row[name] for name in MAIN if name not in kept}
    ignored = ", ".join((*found.not_considered, *beyond))
    told = "Set as the command says; GPU and load are the page's."
    return Read(update, f"{told} Not considered: {ignored}." if ignored else told)
