"""How fast a side answered, in the layout of `vllm bench serve --save-result`: a closed loop of own requests.

`planner observe` reads it as it reads any such file. First tokens and gaps between tokens are not in it, as answers
were not streamed.
"""

from __future__ import annotations

import statistics
from datetime import UTC, datetime
from typing import Any

from planner.quality.runner import Asked, Endpoint
from planner.units import MS_PER_S

FEWEST_WAVES = 3  # of requests in flight: fewer are all beginning and end


def observation(endpoint: Endpoint, asked: Asked) -> dict[str, Any] | None:
    """What a live side's run says; None where it was resumed, too short, or its server counts no tokens."""
    answers = asked.answers
    measured = [
        (one.prompt_tokens, one.completion_tokens, one.latency_s)
        for one in answers
        if one.prompt_tokens and one.completion_tokens and one.latency_s
    ]
    if asked.resumed or len(measured) < max(len(answers), FEWEST_WAVES * endpoint.concurrency):
        return None
    prompts, outputs, seconds = (list(column) for column in zip(*measured, strict=True))
    return {
        "date": f"{datetime.now(UTC):%Y%m%d-%H%M%S}",
        "backend": "openai-chat",
        "label": "quality check",
        "model_id": endpoint.model,
        "num_prompts": len(measured) + len(asked.failed),
        "request_rate": "inf",
        "max_concurrency": endpoint.concurrency,
        "duration": asked.seconds,
        "completed": len(measured),
        "failed": len(asked.failed),
        "total_input_tokens": sum(prompts),
        "total_output_tokens": sum(outputs),
        "request_throughput": len(measured) / asked.seconds,
        "output_throughput": sum(outputs) / asked.seconds,
        "total_token_throughput": (sum(prompts) + sum(outputs)) / asked.seconds,
        "mean_e2el_ms": MS_PER_S * statistics.fmean(seconds),
        "median_e2el_ms": MS_PER_S * statistics.median(seconds),
        "std_e2el_ms": MS_PER_S * statistics.pstdev(seconds),
    }
