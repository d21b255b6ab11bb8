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
        now = step(group, step_s, now, done)
    return measured(done)


def replayed(setting: Setting, ranks: int, step_s: Step, sent: list[float]) -> list[Request]:
    """Requests sent at the given times, in the order of their ends."""
    random, group, done = Random(setting.seed), [Engine(setting, step_s) for _ in range(ranks)], list[Request]()
    now, turn = 0.0, 0
    while len(done) < len(sent):
        if not any(rank.waiting or rank.running for rank in group):
            now = max(now, sent[turn])
        while turn < len(sent) and sent[turn] <= now:
            group[turn % ranks].waiting.append(drawn(setting, random, sent[turn]))
            turn += 1
        now = step(group, step_s, now, done)
    return done


def step(group: list[Engine], step_s: Step, now_s: float, done: list[Request]) -> float:
    """One step of all ranks; when it ends. Requests that end with it join `done`."""
    plans = [rank.plan() for rank in group]
    now_s += step_s(*together(plans))
    for rank, planned in zip(group, plans, strict=True):
        rank.now = now_s
        done += rank.done(planned)
    return now_s


def together(plans: list[Plan]) -> tuple[float, float, float, float, float]:
    """The step of all ranks as the fields of a Batch.

    As many prompts as leave their mean to the busiest rank, and as much context as if all had that of the fullest.
    """
    decodes, _, tokens, before, _ = Plan(
        [r for plan in plans for r in plan.decoding], [chunk for plan in plans for chunk in plan.chunks]
    ).batch()
    most = max(sum(size for _, size in plan.chunks) for plan in plans)
    fullest = max(sum(r.prompt + r.produced for r in plan.decoding) for plan in plans)
    context = fullest * min(len(plans), decodes) / max(decodes, 1)
    return decodes, context, tokens, before, tokens / most if most else 0
