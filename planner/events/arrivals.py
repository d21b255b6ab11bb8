"""Where requests come from: a trace of them, Poisson arrivals, users of a closed loop; and how long they are.

Everything is drawn from one generator, so that a seed decides all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from planner.events.records import Array, Request

Integers = NDArray[np.int64]
DRAWN = 4096  # lengths drawn at a time


class Lengths(NamedTuple):
    """Lengths in tokens with this mean: fixed, log-normal, or uniform in [shortest_fraction, 1] of the longest."""

    mean: float
    log_sd: float = 0.0
    shortest_fraction: float = 1.0
    least: int = 1

    def drawn(self, random: np.random.Generator, count: int) -> Integers:
        """`count` lengths; a log-normal's mean is `mean`: exp(N(-s^2 / 2, s)) times it."""
        spread = np.exp(random.normal(-(self.log_sd**2) / 2, self.log_sd, count)) if self.log_sd > 0 else 1.0
        shortest = self.shortest_fraction
        share = random.uniform(shortest, 1, count) * 2 / (1 + shortest) if shortest < 1 else 1.0
        found: Integers = np.maximum(np.round(self.mean * spread * share * np.ones(count)), self.least).astype(np.int64)
        return found


class Cached(NamedTuple):
    """What the prefix cache holds of a prompt: the part that all share, and a share of the rest."""

    prefix_tokens: int = 0
    fraction: float = 0.0

    def of(self, prompt: int) -> int:
        """Tokens of a prompt that need not be computed."""
        shared = min(self.prefix_tokens, prompt)
        return int(shared + self.fraction * (prompt - shared))


class Trace(NamedTuple):
    """Requests by the times at which they are sent, rising; arrays (N,)."""

    time_s: Array
    prompt: Array
    output: Array


class Users(NamedTuple):
    """People or clients, each with one request at a time. A conversation's prompts carry what was said before."""

    people: int
    think_s: float = 0.0
    turns: int = 1
    start_s: float = 0.0  # over which their first requests are spread; 0: all at once
    random_think: bool = True  # exponential; False: always the mean


class Source(Protocol):
    """Sends requests."""

    def first(self) -> Iterator[Request]:
        """Requests that wait for no answer, in the order of their times."""

    def after(self, request: Request) -> Request | None:
        """The request that follows this answer; None where none does."""


def poisson(random: np.random.Generator, rate_per_s: float, lengths: tuple[Lengths, Lengths], count: int) -> Trace:
    """`count` requests at independent times of the given rate."""
    times = np.cumsum(random.exponential(1 / rate_per_s, count))
    return Trace(times, lengths[0].drawn(random, count), lengths[1].drawn(random, count))  # type: ignore[arg-type]


class Replay:
    """Sends a trace as it is."""

    def __init__(self, trace: Trace, cached: Cached) -> None:
        """All times are known."""
        self._trace, self._cached = trace, cached

    def first(self) -> Iterator[Request]:
        """See `Source`."""
        size = len(self._trace.time_s)
        for at in range(0, size, DRAWN):
            columns = (column[at : at + DRAWN].tolist() for column in self._trace)
            for sent, prompt, output in zip(*columns, strict=True):
                yield Request(sent, int(prompt), int(output), self._cached.of(int(prompt)))

    def after(self, request: Request) -> Request | None:
        """See `Source`."""
        return None


class Loop:
    """Users who each send the next request when they have read the answer, until `count` were sent."""

    def __init__(self, users: Users, lengths: tuple[Lengths, Lengths], cached: Cached, count: int, seed: int) -> None:
        """Nothing is sent yet."""
        self._random = np.random.default_rng(seed)
        self._users, self._lengths, self._cached = users, lengths, cached
        self._left = count
        self._drawn: list[Iterator[int]] = [iter(()), iter(())]
        self._thoughts: Iterator[float] = iter(())

    def first(self) -> Iterator[Request]:
        """See `Source`. Conversations start at any turn, so that the mix of turns is steady from the start."""
        count = min(self._users.people, self._left)
        starts = np.sort(self._random.uniform(0, 1, count)) * self._users.start_s
        turns = self._random.integers(0, self._users.turns, count)
        for user, (start, turn) in enumerate(zip(starts.tolist(), turns.tolist(), strict=True)):
            yield self._request(start, user, turn, self._history(turn))

    def after(self, request: Request) -> Request | None:
        """See `Source`."""
        if self._left <= 0:
            return None
        sent = request.end_s + self._thought()
        turn = (request.turn + 1) % self._users.turns
        history = request.prompt + request.output if turn else 0
        return self._request(sent, request.user, turn, history)

    def _request(self, sent_s: float, user: int, turn: int, history: int) -> Request:
        self._left -= 1
        prompt, output, prefix = self._length(0), self._length(1), self._cached.prefix_tokens
        if history:
            prompt = history + max(prompt - prefix, 0)
        cached = max(history, self._cached.of(prompt))
        return Request(sent_s, prompt, output, cached, user, turn)

    def _history(self, turns: int) -> int:
        """Tokens said in `turns` turns that took place before the start; the shared prefix stands once."""
        said = [(self._length(0), self._length(1)) for _ in range(turns)]
        prefix = self._cached.prefix_tokens
        return sum(max(i - prefix, 0) + o for i, o in said) + (min(prefix, said[0][0]) if said else 0)

    def _length(self, which: int) -> int:
        value = next(self._drawn[which], None)
        if value is None:
            self._drawn[which] = iter(self._lengths[which].drawn(self._random, DRAWN).tolist())
            value = next(self._drawn[which])
        return value

    def _thought(self) -> float:
        if not self._users.think_s or not self._users.random_think:
            return self._users.think_s
        value = next(self._thoughts, None)
        if value is None:
            self._thoughts = iter(self._random.exponential(self._users.think_s, DRAWN).tolist())
            value = next(self._thoughts)
        return value
