"""docs/nomenclature.md: every column in and out, and the symbols of the equations (make docs); a test checks it."""

from __future__ import annotations

from pathlib import Path

from planner.catalog.files import write_atomically
from planner.estimate import documented
from planner.specs.scenario import Scenario

PAGE = Path(__file__).resolve().parent / "nomenclature.md"
HEAD = """# Nomenclature

One vocabulary everywhere: these are the columns of a CSV, the flags of `planner estimate` (with dashes), the
parameters of a link to the calculator and the attributes in Python. The unit is part of the name: `_gib` is 2^30
bytes per GPU on the worst rank, `_ms` milliseconds, `_per_s` per second of the whole deployment. Inside the library
everything is bytes, seconds, FLOPs and tokens. Blank means the default; the estimate repeats every value as resolved.

Words: a *deployment* is a model in a weight and a KV format, on GPUs divided in one way, under an engine; a
*scenario* is a deployment and its load; *TTFT* is the time to the first token, *TPOT* (end-to-end - TTFT) /
(output tokens - 1); *prefill* reads the prompt, *decode* writes the answer.
"""


def table(title: str, rows: list[tuple[str, str]]) -> str:
    """One section with its table."""
    lines = [f"## {title}", "", "| column | meaning |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {says.replace('|', '/')} |" for name, says in rows), ""])


def page() -> str:
    """The whole page."""
    given = [(name, field.description or "") for name, field in Scenario.model_fields.items()]
    return "\n".join([HEAD, table("Scenario columns", given), table("Estimate columns", list(documented()))])


if __name__ == "__main__":
    write_atomically(PAGE, page())
