"""How many decode steps one core prices per second: `python -m tests.benchmarks.core`.

Prints figures, asserts none. A priced step is one scenario at one batch: building the operations and pricing
them, weights and shards prepared once, as the steady state does; and everything from the start.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from planner.collectives import Parallel
from planner.ops import Batch, Slot, Widths, batch_ops, forward_ops, prepare
from planner.params import tensors
from planner.roofline import Rates, step_seconds
from planner.specs.model import Attention, DenseFfn, Layer, ModelSpec, MoeFfn

LLAMA_8B = ModelSpec(
    id="llama-3.1-8b",
    hidden_size=4096,
    vocab_size=128256,
    max_position=131072,
    mixers=(Attention(n_heads=32, n_kv_heads=8, head_dim=128),),
    ffns=(DenseFfn(intermediate=14336),),
    layers=(Layer(mixer=0, ffn=0, count=32),),
)
QWEN3_30B_A3B = ModelSpec(
    id="qwen3-30b-a3b",
    hidden_size=2048,
    vocab_size=151936,
    max_position=40960,
    mixers=(Attention(n_heads=32, n_kv_heads=4, head_dim=128, qk_norm="head"),),
    ffns=(MoeFfn(n_experts=128, top_k=8, intermediate=768),),
    layers=(Layer(mixer=0, ffn=0, count=48),),
)


def rates(rows: int) -> Rates:
    """Random plausible kernel rates, one set per row."""
    rng = np.random.default_rng(0)

    def spread(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (len(Slot), rows))

    zero, one = np.zeros((len(Slot), rows)), np.ones((len(Slot), rows))
    return Rates(
        spread(2e-6, 6e-6),
        zero,
        spread(1e12, 3e12),
        spread(2e14, 8e14),
        spread(1, 3.5),
        spread(0, 100),
        zero,
        zero,
        zero,
        one,
        one,
    )


def rate_per_s(step: Callable[[], object], rows: int, repeats: int) -> float:
    """Rows per second, the best of `repeats` runs."""
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - start)
    return rows / best


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(1)
    for model in (LLAMA_8B, QWEN3_30B_A3B):
        for rows in (1, 1000, 100_000):
            sizes = np.array([tensor.numel * 2.0 for tensor in tensors(model)])
            widths = Widths(sizes[:, None] * rng.uniform(0.25, 1, (1, rows)))
            batch = Batch(rng.integers(1, 257, rows).astype(float), rng.uniform(100, 8000, rows))
            parallel, rate = Parallel(), rates(rows)
            prepared = prepare(model, widths, parallel)
            repeats = 200 if rows < 10_000 else 10
            warm = rate_per_s(lambda: step_seconds(batch_ops(prepared, batch), rate), rows, repeats)  # noqa: B023
            cold = rate_per_s(lambda: step_seconds(forward_ops(model, batch, widths, parallel), rate), rows, repeats)  # noqa: B023
            line = f"{model.id:15} R={rows:6}  prepared {warm:12,.0f}/s ({1e3 * rows / warm:8.3f} ms)"
            sys.stdout.write(f"{line}  from the start {cold:12,.0f}/s ({1e3 * rows / cold:8.3f} ms)\n")


if __name__ == "__main__":
    main()
