"""One engine's scheduler: continuous batching with a paged KV pool.

Per step every running sequence decodes one token; what is left of the token budget goes to prefill chunks, of
running prompts first, then of admitted ones (or prefill runs in steps of its own, before the next decode). A
request is admitted when a slot and the blocks of its whole prompt are free (or those to its last token, `Pool.whole`);
while it decodes it takes a block when its last is full. When none is left, the latest arrival is preempted: its blocks
are freed, it waits in front, and its prompt and what it has produced are prefilled again.

Between events decode steps differ by their context only; a plan runs many at once as a straight line in time.
"""

from __future__ import annotations

import heapq
import math
from collections import deque

from planner.events.prices import Prices
from planner.events.records import EngineLimits, Request
from planner.events.steps import Plan, Work, decoding, with_prefill


class Engine:
    """The state of one engine. Counts of decode steps are since its start."""

    def __init__(self, limits: EngineLimits, prices: Prices) -> None:
        """An idle engine."""
        pool = limits.pool
        self.limits, self.prices = limits, prices
        self.waiting: deque[Request] = deque()
        self.unseen: deque[tuple[int, Request]] = deque()  # and the step at which the scheduler takes them in
        self.prefilling: list[Request] = []
        self.running = 0
        self.free = pool.blocks
        self.plan: Plan | None = None
        self.busy_s = 0.0
        self.preemptions = 0
        self._grows = pool.grows and not pool.whole
        self._block_steps = max(round(pool.block_tokens / limits.tokens_per_step), 1)
        self._phases = [0] * self._block_steps  # decoding sequences by the step in which they take a block
        self._decoding = 0
        self._context = 0.0  # of all decoding sequences
        self._count = 0  # decode steps
        self._steps = 0  # all steps
        self._ends: list[tuple[int, int, int, Request]] = []  # decode step, order, stamp
        self._latest: list[tuple[int, int, Request]] = []  # running ones: -order, stamp
        self._orders = 0
        self._crowded = False  # somebody was preempted for this step
        self._held_from: int | None = None  # the step since which prompts wait for those of other ranks

    # ---- what others ask

    @property
    def ranks(self) -> tuple[Engine, ...]:
        """The schedulers that step together: this one."""
        return (self,)

    def emptied(self) -> Engine:
        """The same engine without its requests."""
        engine = Engine(self.limits, self.prices)
        engine.busy_s, engine.preemptions = self.busy_s, self.preemptions
        return engine

    def load(self) -> int:
        """Requests in the engine."""
        return self.running + len(self.waiting) + len(self.unseen)

    def holds(self, request: Request) -> bool:
        """Whether the engine takes a request of this length and its pool holds it alone, to its end."""
        tokens = request.prompt + request.output
        return tokens <= self.limits.longest_tokens and self._blocks(tokens) <= self.limits.pool.blocks

    def arrive(self, request: Request, now_s: float) -> None:
        """A request reaches the engine; the scheduler of a busy engine takes it in some steps later."""
        request.order = self._orders
        self._orders += 1
        per_step = self.limits.tokens_per_step
        request.steps = 1 + math.ceil(max(request.output - 1, 0) / per_step - 1e-9)
        late, poll = self.limits.late_steps, self.limits.poll_steps
        if not self.running or (not late and poll == 1):
            self.waiting.append(request)
        else:
            done = self._steps + (self.plan.steps_until(now_s) if self.plan else 0)
            self.unseen.append((-(-done // poll) * poll + late, request))

    def requests(self) -> list[Request]:
        """All requests in the engine, in the order of their arrival."""
        decoding = (request for _, _, stamp, request in self._ends if stamp == request.stamp)
        found = [*self.waiting, *(request for _, request in self.unseen), *self.prefilling, *decoding]
        return sorted(found, key=lambda request: request.order)

    def admits(self) -> bool:
        """Whether the next waiting request would join the next step, or begin to wait for other ranks'."""
        upcoming = self.waiting[0] if self.waiting else self.unseen[0][1] if self.unseen else None
        if upcoming is None or self.running >= self.limits.slots:
            return False
        if self._held_from is not None and self._lacks_prompts(len(self.waiting) + len(self.unseen)):
            return False
        spare = self._decoding < self.limits.budget_tokens or not self.limits.mixed
        return spare and self._blocks(self._claimed(upcoming)) <= self.free

    def admits_after(self, now_s: float) -> int:
        """Steps of the plan after which the next waiting request would be admitted."""
        assert self.plan is not None
        if self.waiting or not self.unseen:
            return self.plan.steps_until(now_s)
        return min(max(self.unseen[0][0] - self._steps, 1), self.plan.steps)

    # ---- steps

    def begin(self, now_s: float) -> Plan | None:
        """Plan the next step or steps; None when there is nothing to do."""
        self.plan, work = None, self.work(now_s)
        if work.chunks:
            self.plan = with_prefill(self.prices, now_s, [work])
        elif work.decodes:
            context, per_step = work.context / work.decodes, self.limits.tokens_per_step
            straight = 1 + (self.prices.straight_until(context) - context) / per_step
            self.plan = decoding(self.prices, now_s, self.decode_steps(straight), (work.decodes, context, per_step))
        return self.plan

    def work(self, now_s: float) -> Work:
        """What the next step works on; prompts in it are admitted and blocks for its tokens free."""
        self._crowded = False
        while self.unseen and (self.unseen[0][0] <= self._steps or not (self.running or self.waiting)):
            self.waiting.append(self.unseen.popleft()[1])
        mixed = self.limits.mixed
        if mixed:
            self._grow()
        chunks = self._chunks(now_s, self.limits.budget_tokens - (self._decoding if mixed else 0))
        before = sum(r.before + self._to_prefill(r) - r.todo for r, _ in chunks)
        if chunks and not mixed:
            return Work(tuple(chunks), before)
        if not mixed:
            self._grow()
        return Work(tuple(chunks), before, self._decoding, self._context)

    def replan(self, plan: Plan) -> None:
        """Let the steps under way begin at another time, or be fewer."""
        self.plan = plan

    def finish(self, steps: int) -> tuple[float, list[Request]]:
        """Do `steps` of the plan; the time, and the requests that end with the last one."""
        plan, self.plan = self.plan, None
        assert plan is not None
        now = plan.end_s(steps)
        self.busy_s += now - plan.start_s
        self._steps += steps
        if plan.decodes and self._decoding:
            self.free -= self._taken(steps)
            self._count += steps
            self._context += self._decoding * steps * self.limits.tokens_per_step
        ended = self._ended(now)
        for request, size in plan.chunks:
            request.todo -= size
            if request.todo == 0:
                self._prefilled(request, now, ended)
        return now, ended

    def decode_steps(self, most: float) -> int:
        """Decode steps, at most `most`, until a request ends, another is taken in or the pool is full; at least 1."""
        self._drop_stale()
        steps = int(min(self._ends[0][0] - self._count, most))
        steps = min(steps, self.unseen[0][0] - self._steps) if self.unseen else steps
        steps = min(steps, self._held_steps()) if self._held_from is not None else steps
        return 1 if self._crowded else self._steps_that_fit(max(steps, 1))

    def _chunks(self, now_s: float, room: int) -> list[tuple[Request, int]]:
        """Prefill chunks of this step, of running prompts first, then of those admitted now."""
        found, reserved = [], self._taken(1) if self.limits.mixed else 0
        lacks = self._lacks_prompts(len(self.waiting))
        for request in self.prefilling:
            if room <= 0:
                break
            size = min(request.todo, room)
            room -= size
            found.append((request, size))
        while room > 0 and not (self._crowded or lacks) and self.waiting and self.running < self.limits.slots:
            needed = self._blocks(self._claimed(self.waiting[0]))
            if needed + reserved > self.free:
                break
            request = self._admit(needed, now_s)
            size = min(request.todo, room)
            room -= size
            found.append((request, size))
        self._hold(lacks)
        return found

    # ---- ranks that wait for each other

    def _lacks_prompts(self, prompts: int) -> bool:
        """Whether `prompts` that wait cannot start: no slot is free, or not every decoding rank has a prompt yet."""
        ready = min(prompts, self.limits.slots - self.running)
        return ready < 1 or (ready < self.limits.ranks and self._decoding > 0 and self._held_steps() > 0)

    def _held_steps(self) -> int:
        """Most steps for which ranks still wait for each other."""
        held = 0 if self._held_from is None else self._steps - self._held_from
        return math.ceil(self.limits.balance_steps) - held

    def _hold(self, lacks: bool) -> None:
        """Start or stop counting the steps for which ranks wait, from the first in which a prompt could start."""
        could_start = bool(self.waiting) and self.running < self.limits.slots
        if not (lacks and could_start):
            self._held_from = None
        elif self._held_from is None:
            self._held_from = self._steps

    # ---- one request's way

    def _tokens(self, request: Request) -> int:
        """Tokens in its cache once it is prefilled: the prompt, and what it produced before it was preempted."""
        produced = 1 + (request.done - 1) * self.limits.tokens_per_step if request.done else 0
        return request.prompt + int(produced)

    def _claimed(self, request: Request) -> int:
        """Tokens for which it takes blocks when it starts."""
        return request.prompt + request.output if self.limits.pool.whole else self._tokens(request)

    def _to_prefill(self, request: Request) -> int:
        """Tokens to prefill: at least one, even of a prompt that is cached or empty.

        After a preemption only the shared prefix is still there, and what nobody has overwritten.
        """
        kept, pool = request.cached, self.limits.pool
        if request.preemptions:
            kept = max(min(kept, pool.prefix_tokens), int((1 - pool.computed_again) * self._tokens(request)))
        return max(self._tokens(request) - kept, 1)

    def _admit(self, blocks: int, now_s: float) -> Request:
        request = self.waiting.popleft()
        if request.admitted_s < 0:
            request.admitted_s = now_s
        request.running, request.blocks = True, blocks
        request.todo = self._to_prefill(request)
        request.before = max(self._tokens(request) - request.todo, 0)
        self.free -= blocks
        self.running += 1
        self.prefilling.append(request)
        if len(self._latest) > 2 * self.running + len(self._phases):
            self._latest = [entry for entry in self._latest if entry[1] == entry[2].stamp]
            heapq.heapify(self._latest)
        heapq.heappush(self._latest, (-request.order, request.stamp, request))
        return request

    def _prefilled(self, request: Request, now_s: float, ended: list[Request]) -> None:
        """The last chunk of a prompt is done and gives a token; the request decodes on or ends."""
        self.prefilling.remove(request)
        request.done += 1
        if request.first_s < 0:
            request.first_s = now_s
        if request.done >= request.steps:
            self._leave(request, request.blocks)
            request.end_s = now_s
            ended.append(request)
            return
        pool, per_step = self.limits.pool, self.limits.tokens_per_step
        tokens = self._tokens(request)
        private = max(tokens - pool.prefix_tokens, 0)
        spare = (request.blocks - pool.fixed_blocks) * pool.block_tokens - private
        first = min(math.floor(spare / per_step) + 1, self._block_steps - 1)
        request.joined, request.phase = self._count, (self._count + max(first, 0)) % self._block_steps
        self._phases[request.phase] += 1
        self._decoding += 1
        self._context += tokens
        heapq.heappush(self._ends, (self._count + request.steps - request.done, request.order, request.stamp, request))

    def _ended(self, now_s: float) -> list[Request]:
        ended = []
        while self._ends and self._ends[0][0] <= self._count:
            _, _, stamp, request = heapq.heappop(self._ends)
            if stamp == request.stamp and request.running:
                self._stop_decoding(request)
                request.end_s = now_s
                ended.append(request)
        return ended

    def _stop_decoding(self, request: Request) -> None:
        """Take a decoding request out; its context and blocks follow from the steps since it joined."""
        joined, tokens = request.joined, self._tokens(request)
        steps = self._count - joined
        first = (request.phase - joined) % self._block_steps
        taken = (steps - first - 1) // self._block_steps + 1 if steps > first else 0
        request.done += steps
        request.joined = -1
        self._phases[request.phase] -= 1
        self._decoding -= 1
        self._context -= tokens + steps * self.limits.tokens_per_step
        if not self._decoding:
            self._context = 0.0
        self._leave(request, request.blocks + (taken if self._grows else 0))

    def _leave(self, request: Request, blocks: int) -> None:
        self.free += blocks
        self.running -= 1
        request.running = False
        request.stamp += 1

    # ---- the pool

    def _blocks(self, tokens: int) -> int:
        pool = self.limits.pool
        own = math.ceil(max(tokens - pool.prefix_tokens, 0) / pool.block_tokens) if pool.grows else 0
        return pool.fixed_blocks + own

    def _taken(self, steps: int) -> int:
        """Blocks that the next `steps` decode steps take."""
        if not self._grows:
            return 0
        rounds, rest = divmod(steps, self._block_steps)
        phases, at, size = self._phases, self._count, self._block_steps
        return rounds * self._decoding + sum(phases[(at + i) % size] for i in range(rest))

    def _steps_that_fit(self, steps: int) -> int:
        """At most `steps` decode steps for which the pool has blocks; at least the one for which `_grow` made room."""
        if not self._grows or self._decoding * (steps // self._block_steps + 1) <= self.free:
            return steps
        whole = max(self.free // self._decoding - 1, 0) * self._block_steps
        fitting = min(max(whole, 1), steps)
        while fitting < steps and self._taken(fitting + 1) <= self.free:
            fitting += 1
        return fitting

    def _grow(self) -> None:
        """Make room for the blocks that the next decode step takes."""
        while self._decoding and self._taken(1) > self.free and self.running > 1:
            self._preempt()

    def _preempt(self) -> None:
        """Put the latest arrival back in front of the queue; it will be prefilled again."""
        while True:
            _, stamp, request = heapq.heappop(self._latest)
            if stamp == request.stamp and request.running:
                break
        if request.joined >= 0:
            self._stop_decoding(request)
        else:
            self.prefilling.remove(request)
            self._leave(request, request.blocks)
        request.preemptions += 1
        self.preemptions += 1
        self._crowded = True
        self.waiting.appendleft(request)

    def _drop_stale(self) -> None:
        while self._ends[0][2] != self._ends[0][3].stamp:
            heapq.heappop(self._ends)
