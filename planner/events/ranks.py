"""Attention data-parallel ranks of one engine: each schedules its own requests, and a step is one of all ranks.

It lasts as long as the slowest rank takes; experts see the tokens of all. A rank with nothing to do waits with the
others. Ref: SGLang scheduler_dp_attn_mixin.py, prepare_mlp_sync_batch; vLLM v1/engine/core.py, DPEngineCoreProc.
"""

from __future__ import annotations

from collections.abc import Iterable

from planner.events.engine import Engine
from planner.events.prices import Prices
from planner.events.records import EngineLimits, Request
from planner.events.steps import Plan, Work, decoding, slowest_context, with_prefill


class Ranks:
    """Engines that step together; `limits` are those of one."""

    def __init__(self, limits: EngineLimits, prices: Prices, ranks: Iterable[Engine] = ()) -> None:
        """Idle ranks, or those given."""
        self.limits, self.prices = limits, prices
        self.ranks = tuple(ranks) or tuple(Engine(limits, prices) for _ in range(limits.ranks_apart))
        self.plan: Plan | None = None
        self._turn = 0

    def emptied(self) -> Ranks:
        """The same ranks without their requests."""
        return Ranks(self.limits, self.prices, (rank.emptied() for rank in self.ranks))

    def load(self) -> int:
        """Requests in all ranks."""
        return sum(rank.load() for rank in self.ranks)

    def holds(self, request: Request) -> bool:
        """Whether a rank takes a request of this length."""
        return self.ranks[0].holds(request)

    def requests(self) -> list[Request]:
        """All requests, in the order of their arrival at the ranks."""
        return sorted((r for rank in self.ranks for r in rank.requests()), key=lambda request: request.order)

    def arrive(self, request: Request, now_s: float) -> None:
        """A request reaches the rank whose turn it is, or the one with the fewest."""
        if self.limits.ranks_in_turn:
            rank = self.ranks[self._turn % len(self.ranks)]
            self._turn += 1
        else:
            rank = min(self.ranks, key=Engine.load)
        rank.arrive(request, now_s)

    def admits(self) -> bool:
        """Whether the next step of some rank would admit a request."""
        return any(rank.admits() for rank in self.ranks)

    def admits_after(self, now_s: float) -> int:
        """Steps of the plan after which one would be admitted."""
        return min(rank.admits_after(now_s) for rank in self.ranks if rank.admits())

    def begin(self, now_s: float) -> Plan | None:
        """Plan the next step or steps of all ranks; None when none has anything to do."""
        works = [rank.work(now_s) for rank in self.ranks]
        self.plan = None
        if any(work.chunks for work in works):
            self.plan = with_prefill(self.prices, now_s, works)
        elif any(work.decodes for work in works):
            self.plan = self._decodes(now_s, works)
        if self.plan:
            for rank, work in zip(self.ranks, works, strict=True):
                rank.plan = self.plan._replace(chunks=work.chunks, decodes=bool(work.decodes))
        return self.plan

    def _decodes(self, now_s: float, works: list[Work]) -> Plan:
        """Decode steps of all ranks until one of them has to plan anew."""
        decodes, context = sum(work.decodes for work in works), slowest_context(works)
        fullest = max(works, key=lambda work: work.context)
        growth = self.limits.tokens_per_step * context * fullest.decodes / fullest.context
        straight = 1 + (self.prices.straight_until(context) - context) / growth
        busy = [rank for rank, work in zip(self.ranks, works, strict=True) if work.decodes]
        steps = min(rank.decode_steps(straight) for rank in busy)
        return decoding(self.prices, now_s, steps, (decodes, context, growth))

    def replan(self, plan: Plan) -> None:
        """Let the steps under way begin at another time, or be fewer."""
        self.plan = plan
        for rank in self.ranks:
            assert rank.plan is not None
            rank.replan(rank.plan._replace(start_s=plan.start_s, steps=plan.steps))

    def finish(self, steps: int) -> tuple[float, list[Request]]:
        """Do `steps` of the plan; the time, and the requests that end with the last one."""
        assert self.plan is not None
        now, self.plan = self.plan.end_s(steps), None
        return now, [request for rank in self.ranks for request in rank.finish(steps)[1]]
