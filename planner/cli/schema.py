"""`planner schema`: what programs may rely on, as JSON schemas."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from planner.errors import UnknownName
from planner.report import json_text

KINDS = ("scenario", "estimate", "profile")


Which = Annotated[str, typer.Argument(metavar="scenario|estimate|profile", show_default=False)]


def schema(kind: Which = "") -> None:
    """Print the JSON schema of a scenario, an estimate or a hardware profile; of all three without a name."""
    if kind and kind not in KINDS:
        raise UnknownName("schema", kind, KINDS, f"known: {', '.join(KINDS)}")
    schemas = {name: _schema(name) for name in ([kind] if kind else KINDS)}
    print(json_text(schemas[kind] if kind else schemas), end="")


def _schema(kind: str) -> dict[str, Any]:
    from planner.specs.gpu import Profile
    from planner.specs.scenario import Scenario

    if kind == "estimate":
        return _estimate_schema()
    return (Profile if kind == "profile" else Scenario).model_json_schema()


def _estimate_schema() -> dict[str, Any]:
    """A row of an estimate: the scenario's columns as resolved and the estimate's own; null is "no figure"."""
    from planner.estimate.columns import documented
    from planner.specs.scenario import Scenario

    answers = {name: {"description": says} for name, says in documented()}
    columns = Scenario.model_json_schema()["properties"] | answers
    return {"title": "Estimate", "type": "array", "items": {"type": "object", "properties": columns}}
