"""An engine's scheduler, step by step: the oracle of the steady state.

First come, first served; every step decodes one token of each running sequence and fills what is left of the
token budget with prefill chunks; at most `slots` sequences run. With `mixed` false, prefill runs in steps of
its own before the next decode. Closed loop: a finished request is replaced at once, and the new one reaches the
scheduler `delay_s` later (uniform, half to one and a half times).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

Step = Callable[[float, float, float, float, float], float]  # the fields of ops.Batch -> seconds


class Setting(NamedTuple):
    input_tokens: int
    output_tokens: int
    slots: int
    budget_tokens: int
    mixed: bool = True
    delay_s: float = 0.0
    spread: float = 0.2  # lengths are uniform in [1 - spread, 1] of nominal
    seed: int = 0


class Means(NamedTuple):
    ttft_s: float
    tpot_s: float
    output_tokens_per_s: float
    p95_ttft_s: float


@dataclass
class Request:
    sent_s: float
    prompt: int
    output: int
    prefilled: int = 0
    produced: int = 0
    first_s: float = 0.0
    end_s: float = 0.0


class Plan(NamedTuple):
    """The work of one step."""

    decoding: list[Request]
    chunks: list[tuple[Request, int]]  # with the tokens that it prefills

    def batch(self) -> tuple[float, float, float, float, float]:
        """The same as the fields of a Batch."""
        context = sum(r.prompt + r.produced for r in self.decoding) / max(len(self.decoding), 1)
        tokens = sum(size for _, size in self.chunks)
        before = sum(r.prefilled for r, _ in self.chunks) / max(len(self.chunks), 1)
        return len(self.decoding), context, tokens, before, len(self.chunks)


@dataclass
class Engine:
    setting: Setting
    step_s: Step
    now: float = 0.0
    waiting: deque[Request] = field(default_factory=deque)
    running: list[Request] = field(default_factory=list)

    def step(self) -> list[Request]:
        """One step; the requests that end with it."""
        planned = self.plan()
        self.now += self.step_s(*planned.batch())
        return self.done(planned)

    def plan(self) -> Plan:
        """What the next step works on."""
        s = self.setting
        decoding = [r for r in self.running if r.prefilled >= r.prompt]
        room = s.budget_tokens - (len(decoding) if s.mixed else 0)
        chunks = self.chunks([r for r in self.running if r.prefilled < r.prompt], room)
        return Plan(decoding if s.mixed or not chunks else [], chunks)

    def done(self, planned: Plan) -> list[Request]:
        """The requests that end with that step, which ends now."""
        for request, size in planned.chunks:
            request.prefilled += size
        produced = planned.decoding + [r for r, _ in planned.chunks if r.prefilled >= r.prompt]
        for request in produced:
            request.produced += 1
            request.first_s = request.first_s or self.now
            request.end_s = self.now
        ended = [r for r in produced if r.produced >= r.output]
        self.running = [r for r in self.running if r.produced < r.output]
        return ended

    def chunks(self, prefilling: list[Request], room: int) -> list[tuple[Request, int]]:
        """Prefill chunks of this step, of running prompts first, then of admitted ones."""
        found = []
        for request in prefilling:
            size = min(request.prompt - request.prefilled, room)
            room -= size
            found += [(request, size)] if size else []
        while room > 0 and self.waiting and len(self.running) < self.setting.slots:
            request = self.waiting.popleft()
            self.running.append(request)
            size = min(request.prompt, room)
            room -= size
            found.append((request, size))
        return found


def measured(requests: list[Request]) -> Means:
    """Means over requests; tokens/s from the first to the last end."""
    first = sorted(r.first_s - r.sent_s for r in requests)
    decoding = [(r.end_s - r.first_s) / (r.output - 1) for r in requests if r.output > 1]
    ends = [r.end_s for r in requests]
    rate = sum(r.output for r in requests) / max(max(ends) - min(ends), 1e-9)
    p95 = first[int(0.95 * (len(first) - 1))]
    return Means(sum(first) / len(first), sum(decoding) / max(len(decoding), 1), rate, p95)


def drawn(setting: Setting, random: Random, sent_s: float) -> Request:
    """A request of random lengths."""

    def length(nominal: int) -> int:
        return max(round(nominal * (1 - setting.spread * random.random())), 1)

    return Request(sent_s, length(setting.input_tokens), length(setting.output_tokens))


def run(setting: Setting, step_s: Step, sent: list[float], replaced: int) -> list[Request]:
    """Requests sent at the given times, the first `replaced` to end replaced by new ones; in order of their end."""
    random, engine, done = Random(setting.seed), Engine(setting, step_s), []
    arrivals = [(at, i, at) for i, at in enumerate(sent)]  # at the scheduler, tie breaker, sent
    heapq.heapify(arrivals)
    while arrivals or engine.waiting or engine.running:
        if not engine.waiting and not engine.running:
            engine.now = max(engine.now, arrivals[0][0])
        while arrivals and arrivals[0][0] <= engine.now:
            engine.waiting.append(drawn(setting, random, heapq.heappop(arrivals)[2]))
        for request in engine.step():
            done.append(request)
            if replaced > 0:
                replaced -= 1
                at = engine.now + setting.delay_s * (0.5 + random.random())
                heapq.heappush(arrivals, (at, len(sent) + len(done), engine.now))
    return done


def closed_loop(setting: Setting, step_s: Step, concurrency: int, start_s: float, waves: int = 12) -> Means:
    """Steady means: starts spread over `start_s`, about a request's life; first third and last wave left out."""
    random = Random(setting.seed + 1)
    done = run(setting, step_s, [start_s * random.random() for _ in range(concurrency)], (waves - 1) * concurrency)
    return measured(done[len(done) // 3 : -concurrency])


def benchmark(setting: Setting, step_s: Step, concurrency: int, waves: int = 10) -> Means:
    """All requests offered at once, at most `concurrency` in flight: the first wave is part of the means."""
    return measured(run(setting, step_s, [0.0] * concurrency, (waves - 1) * concurrency))


def open_loop(setting: Setting, step_s: Step, rate_per_s: float, requests: int) -> Means:
    """Poisson arrivals; the first fifth left out."""
    random, at, sent = Random(setting.seed + 2), 0.0, []
    for _ in range(requests):
        at += random.expovariate(rate_per_s)
        sent.append(at)
    return measured(run(setting, step_s, sent, 0)[requests // 5 :])
