"""Attention data-parallel ranks, step by step: each schedules for itself, and a step is one of all ranks.

Requests go to the ranks in turn. A rank with prompts prefills up to its part of the budget while the others decode.
"""

from __future__ import annotations

from random import Random

from tests.oracle.continuous_batching import Engine, Means, Plan, Request, Setting, Step, drawn, measured


def benchmark(setting: Setting, ranks: int, step_s: Step, concurrency: int, waves: int = 10) -> Means:
    """All requests offered at once, at most `concurrency` in flight; slots and budget are those of one rank."""
    random, group, done = Random(setting.seed), [Engine(setting, step_s) for _ in range(ranks)], list[Request]()
    now, left = 0.0, waves * concurrency
    sent = 0
    while len(done) < left:
        while sent < min(len(done) + concurrency, left):
            group[sent % ranks].waiting.append(drawn(setting, random, now))
            sent += 1
        plans = [rank.plan() for rank in group]
        now += step_s(*together(plans))
        for rank, planned in zip(group, plans, strict=True):
            rank.now = now
            done += rank.done(planned)
    return measured(done)


def together(plans: list[Plan]) -> tuple[float, float, float, float, float]:
    """The step of all ranks as the fields of a Batch: as many prompts as leave its mean to the busiest rank."""
    decodes, context, tokens, before, _ = Plan(
        [r for plan in plans for r in plan.decoding], [chunk for plan in plans for chunk in plan.chunks]
    ).batch()
    most = max(sum(size for _, size in plan.chunks) for plan in plans)
    return decodes, context, tokens, before, tokens / most if most else 0
