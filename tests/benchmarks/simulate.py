"""How long 10,000 simulated requests take on one core: `python -m tests.benchmarks.simulate`.

Prints figures, asserts none. Seconds of the simulation alone, its step table included, and of the whole call.
"""

from __future__ import annotations

import time

from planner.events import Routing
from planner.simulation import Protocol, simulation
from planner.specs.scenario import Scenario

REQUESTS = 10_000
VARIED = {"input_tokens_p95": 3000, "output_tokens_p95": 1000}
CASES: dict[str, dict[str, object]] = {
    "one at a time": {"concurrency": 1},
    "64 at once": {"concurrency": 64},
    "256 at once": {"concurrency": 256},
    "4 requests/s": {"request_rate_per_s": 4.0},
    "conversations": {"users": 200, "think_time_s": 20.0, "turns": 4},
    "4 replicas, 16 requests/s": {"request_rate_per_s": 16.0, "tp": 1, "dp": 4},
    "a full pool, preemptions": {"concurrency": 200, "gpu_memory_utilization": 0.4},
}


def main() -> None:
    """One line per case: seconds, and what they bought."""
    for name, load in CASES.items():
        scenario = Scenario.model_validate(
            {"model": "llama-3.1-8b", "gpu": "h100-sxm", "engine": "vllm"} | VARIED | load
        )
        start = time.process_time()
        row = simulation(scenario, Protocol(REQUESTS, routing=Routing.LEAST_LOADED)).row
        seconds = time.process_time() - start
        rate, preempted = row["simulated_output_tokens_per_s"], row["preemptions"]
        print(f"{name:28} {seconds:5.2f} s of CPU; {rate:9,.0f} tokens/s, {preempted:6,} preemptions")


if __name__ == "__main__":
    main()
