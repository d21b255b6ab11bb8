"""Steps of one scheduler, or of several that step together: what they work on, and how long they last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from planner.events.prices import Prices
from planner.events.records import Request


class Plan(NamedTuple):
    """Steps under way: `steps` decode steps, each `rise_s` longer than the one before, or one with prefill."""

    start_s: float
    steps: int
    step_s: float
    rise_s: float = 0.0
    chunks: tuple[tuple[Request, int], ...] = ()
    decodes: bool = True

    def end_s(self, steps: int) -> float:
        """When `steps` of its steps are done."""
        return self.start_s + steps * self.step_s + self.rise_s * steps * (steps - 1) / 2

    def steps_until(self, time_s: float) -> int:
        """Steps after which `time_s` is reached, at least 1."""
        a, b, wait = self.rise_s / 2, self.step_s - self.rise_s / 2, time_s - self.start_s
        root = math.sqrt(max(b * b + 2 * 2 * a * wait, 0.0))
        steps = max(math.ceil(2 * wait / (b + root) - 1e-9), 1)
        return min(steps, self.steps)


class Work(NamedTuple):
    """What one scheduler puts into a step: chunks of prompts, and sequences that decode."""

    chunks: tuple[tuple[Request, int], ...] = ()
    before: int = 0  # tokens of the chunks' prompts that are in the cache, of all chunks together
    decodes: int = 0
    context: float = 0.0  # tokens of them, all together

    @property
    def tokens(self) -> int:
        """Prompt tokens of the step."""
        return sum(size for _, size in self.chunks)


def with_prefill(prices: Prices, now_s: float, works: Sequence[Work]) -> Plan:
    """One step with prompts, of a scheduler alone or of all that step together.

    Among several the busiest has its part of the prompts' tokens: as many prompts are priced as leave it so many.
    """
    decodes, chunks = sum(work.decodes for work in works), sum(len(work.chunks) for work in works)
    tokens, before = sum(work.tokens for work in works), sum(work.before for work in works) / chunks
    prompts = chunks if len(works) == 1 else tokens / max(work.tokens for work in works)
    seconds = prices.mixed_s(decodes, slowest_context(works), tokens, before, prompts)
    return Plan(now_s, 1, seconds, chunks=works[0].chunks, decodes=bool(works[0].decodes))


def slowest_context(works: Sequence[Work]) -> float:
    """Tokens of context per sequence, if all schedulers that decode had as many tokens in the cache as the fullest."""
    decodes = sum(work.decodes for work in works)
    at_work = min(len(works), decodes)  # a price spreads fewer sequences than schedulers one by one
    return at_work * max(work.context for work in works) / decodes if decodes else 0.0


def decoding(prices: Prices, now_s: float, steps: int, batch: tuple[int, float, float]) -> Plan:
    """Decode steps of so many sequences and tokens of context, which grow by the third in each step."""
    sequences, context, growth = batch
    first = prices.decode_s(sequences, context)
    if steps == 1:
        return Plan(now_s, 1, first)
    last = prices.decode_s(sequences, context + (steps - 1) * growth)
    return Plan(now_s, steps, first, (last - first) / (steps - 1))
