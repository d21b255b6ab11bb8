"""Rankings of the planner against measured ones: `python -m tests.benchmarks.agreement`. Prints, asserts nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from tests.choices import (
    CLOSED,
    Configuration,
    agreements,
    configurations,
    halves,
    plain,
    replicas,
    unshaped,
)


def table(title: str, found: Iterable[Configuration]) -> None:
    """One set of configurations."""
    listed = list(found)
    sys.stdout.write(f"{title}: {len(listed)} configurations\n")
    for line in agreements(listed):
        sys.stdout.write(
            f"  {line.name:26} pairs {line.pairs:5}  right {line.right:6.1%}  groups {line.groups:4}  "
            f"within 10 % of the best {line.within:6.1%}  worst regret {line.worst_regret:6.1%}\n"
        )
    for load in replicas(listed):
        sys.stdout.write(
            f"  load of {load.measured} replicas: within one {load.within_one:6.1%}, exact {load.exact:6.1%}\n"
        )


def main() -> None:
    """Closed loops without drafts, every protocol, engines apart."""
    everything = configurations()
    closed = plain(everything)
    table("closed loop, no drafts", closed)
    table("closed loop, drafts possible too", (one for one in everything if one.part.startswith(CLOSED)))
    table("every protocol", everything)
    others = unshaped(everything)
    table("held out, every protocol", others)
    table("held out, closed loop, no drafts", plain(others))
    table("what shaped a constant", (one for one in everything if not one.held_out))
    for column in ("model", "gpu"):
        for names, half in halves(others, column):
            table(f"held out, {column} one of {names}", half)
    for engine in sorted({str(one.scenario.engine) for one in closed}):
        table(engine, (one for one in closed if one.scenario.engine == engine))


if __name__ == "__main__":
    main()
