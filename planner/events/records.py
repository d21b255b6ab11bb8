"""The records of a simulation: a request, what an engine may run, what came out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(slots=True, eq=False)
class Request:
    """One request on its way. Tokens are counted, times are seconds since the start."""

    sent_s: float
    prompt: int
    output: int
    cached: int = 0  # of the prompt, found in the prefix cache
    user: int = -1
    turn: int = 0
    steps: int = 1  # that give it tokens, in all
    order: int = 0  # of arrival at its engine
    server: int = 0
    admitted_s: float = -1.0
    first_s: float = -1.0
    end_s: float = -1.0
    preemptions: int = 0
    running: bool = False
    stamp: int = 0  # changes when it is preempted: what was planned for it no longer holds
    blocks: int = 0  # of the pool, at the start of its decoding
    before: int = 0  # tokens in the cache when its prefill started
    todo: int = 0  # tokens left to prefill
    done: int = 0  # steps that gave it tokens, at the start of its decoding
    joined: int = -1  # decode steps that the engine had run then; -1 while it does not decode
    phase: int = 0  # decode step of the engine, modulo those of a block, in which it takes another


class Pool(NamedTuple):
    """The KV pool of one engine in blocks. A sequence takes `fixed_blocks` and one per `block_tokens`."""

    blocks: int  # what all sequences share taken off
    block_tokens: int
    fixed_blocks: int = 0
    prefix_tokens: int = 0  # at the head of a prompt, which all share
    grows: bool = True  # False: a sequence takes `fixed_blocks` whatever its length
    whole: bool = False  # a sequence takes all its blocks when it starts, so that none is ever set back
    computed_again: float = 1.0  # share of what was set back that is no longer in the prefix cache


class EngineLimits(NamedTuple):
    """What one scheduler may put into a step."""

    slots: int
    budget_tokens: int
    pool: Pool
    mixed: bool = True  # prefill chunks beside decodes; False: in steps of their own, first
    tokens_per_step: float = 1.0  # above 1: speculative decoding
    longest_tokens: float = float("inf")  # of prompt and output; longer ones are refused
    late_steps: int = 0  # of a busy engine, before its scheduler takes a request in, beyond the one that runs
    poll_steps: int = 1  # steps between its looks at new requests
    ranks: int = 1  # attention data-parallel ones that start prompts in the same step ...
    balance_steps: float = 0  # ... and that wait for each other's while they decode, at most so many steps
    ranks_apart: int = 1  # attention data-parallel ranks with these limits each, which schedule for themselves ...
    ranks_in_turn: bool = False  # ... and take requests in turn; False: the one with the fewest


class Requests(NamedTuple):
    """Requests that ended, in the order of their ends; arrays (N,)."""

    sent_s: Array
    admitted_s: Array
    first_s: Array
    end_s: Array
    prompt: Array
    output: Array
    preemptions: Array
    server: Array


class Timeline(NamedTuple):
    """The state of all engines together at sampled times; arrays (T,)."""

    time_s: Array
    waiting: Array
    running: Array
    kv_used: Array  # fraction of all pools


class Run(NamedTuple):
    """Everything that a simulation saw."""

    requests: Requests
    timeline: Timeline
    busy_s: Array  # per engine, in steps
    refused: int  # requests that no pool could hold alone
    preemptions: int
    restarted: int = 0  # requests that were in a replica that failed
