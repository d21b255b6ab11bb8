"""`planner schema`: what programs may rely on, as JSON schemas."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from planner.errors import UnknownName
from planner.report import json_text

KINDS = ("scenario", "estimate", "run", "profile")


Which = Annotated[str, typer.Argument(metavar="scenario|estimate|run|profile", show_default=False)]


def schema(kind: Which = "") -> None:
    """Print the JSON schema of a scenario, an estimate, a run or a hardware profile; of all of them without a name."""
    if kind and kind not in KINDS:
        raise UnknownName("schema", kind, KINDS, f"known: {', '.join(KINDS)}")
    schemas = {name: _schema(name) for name in ([kind] if kind else KINDS)}
    print(json_text(schemas[kind] if kind else schemas), end="")


def _schema(kind: str) -> dict[str, Any]:
    from planner.specs.base import Spec
    from planner.specs.gpu import Profile
    from planner.specs.run import Run
    from planner.specs.scenario import Scenario

    if kind == "estimate":
        return _estimate_schema()
    kinds: dict[str, type[Spec]] = {"profile": Profile, "run": Run, "scenario": Scenario}
    return kinds[kind].model_json_schema()


def _estimate_schema() -> dict[str, Any]:
    """A row of an estimate: the scenario's columns as resolved and the estimate's own; null is "no figure"."""
    from planner.estimate.columns import documented
    from planner.specs.scenario import Scenario

    answers = {name: {"description": says} for name, says in documented()}
    columns = Scenario.model_json_schema()["properties"] | answers
    return {"title": "Estimate", "type": "array", "items": {"type": "object", "properties": columns}}
