"""What a simulation is asked beside its scenario."""

from __future__ import annotations

import math
from typing import NamedTuple

from planner.events import Routing, Trace

MAX_REQUESTS = 1_000_000


class Protocol(NamedTuple):
    """What a simulation needs beside its scenario. `trace` replaces the load; `burst` sends all requests at once."""

    requests: int = 2000
    seed: int = 0
    routing: Routing = Routing.ROUND_ROBIN
    burst: bool = False
    trace: Trace | None = None
    spare_replicas: int = 0  # of the deployment's, that stand by
    fail_at_s: float = math.inf  # when a replica stops for good
