"""Simulate one scenario as discrete events (`planner.events`), with steps priced as the estimate prices them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from planner import events
from planner.errors import BadValue
from planner.estimate import NO_LIBRARY, Library, estimate
from planner.estimate.capacity import front_end_of
from planner.estimate.deployments import only
from planner.estimate.loads import images, objectives
from planner.estimate.pricing import PricedGroup
from planner.estimate.single import priced_scenario
from planner.events import (
    Cached,
    EngineLimits,
    Lengths,
    Loop,
    Pool,
    Reach,
    Replay,
    RequestLimits,
    Routing,
    Run,
    Service,
    Source,
    StepTable,
    StepTime,
    Summary,
    Trace,
    Users,
    poisson,
)
from planner.memory.cache import CacheTable, sequence_bytes, shared_bytes
from planner.memory.concurrency import usable_bytes, without_states
from planner.memory.stages import Stages, stages_of
from planner.ops import Batch
from planner.serving import log_sd
from planner.specs.engine import Allocation
from planner.specs.scenario import Scenario
from planner.units import MS_PER_S

MAX_REQUESTS = 1_000_000
SHORTEST = 0.8  # of the longest length in a closed loop that states no spread, as load generators draw them
WARM_UP_SHARE = 0.1  # of the requests, before those that are counted
LONGEST_SD = 2.5  # standard deviations above the mean up to which the step table has knots
UNLIMITED = 10**9  # blocks, where sequences leave nothing in the pool
TIMES = ("ttft", "tpot", "e2e")
SPREAD = ("mean", "p50", "p90", "p99")  # columns of each time


class Protocol(NamedTuple):
    """What a simulation needs beside its scenario. `trace` replaces the load; `burst` sends all requests at once."""

    requests: int = 2000
    seed: int = 0
    routing: Routing = Routing.ROUND_ROBIN
    burst: bool = False
    trace: Trace | None = None
    spare_replicas: int = 0  # of the deployment's, that stand by
    fail_at_s: float = math.inf  # when a replica stops for good


class Simulated(NamedTuple):
    """The estimate of the scenario and what the simulation saw; `run` is None where the engine does not start."""

    row: dict[str, Any]  # estimate columns and those of `columns`
    run: Run | None
    measured: slice


class Sent(NamedTuple):
    """A source of requests, and which of them count."""

    source: Source
    measured: slice
    sequences: float  # most that are in flight
    longest_tokens: float


def simulation(scenario: Scenario, protocol: Protocol = Protocol(), library: Library = NO_LIBRARY) -> Simulated:  # noqa: B008
    """Simulate one scenario: its estimate's columns, with percentiles in ms and counts of what was seen beside them.

    Raises PlannerError for a scenario that cannot be read, as `estimate` explains, and BadValue for more requests than
    MAX_REQUESTS. The same seed draws the same.

    >>> asked = Scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate_per_s=2)
    >>> row = simulation(asked, Protocol(requests=100, seed=1)).row
    >>> row["simulated_requests"], row["ttft_unloaded_ms"] < row["ttft_p50_ms"] < row["ttft_p99_ms"]
    (100, True)
    """
    if scenario.waves is None:
        scenario = scenario.model_copy(update={"waves": 0.0})
    row = estimate(scenario, library=library).rows()[0]
    if row["error"]:
        raise BadValue(row["error"])
    if not row["starts"]:
        return Simulated(row | dict.fromkeys(simulate_columns()), None, slice(0))
    p = priced_scenario(scenario, library)
    sent, limits = source(p, protocol), engine_limits(p)
    table = StepTable(step_time(p), _reach(p, sent, limits))
    run = events.simulate(_service(p, protocol, limits), table, sent.source)
    return Simulated(row | columns(p, run, sent.measured), run, sent.measured)


def _reach(p: PricedGroup, sent: Sent, limits: EngineLimits) -> Reach:
    """The ranges that the table of step times must cover."""
    request = p.offered.request
    return Reach(
        sequences=int(max(min(limits.slots, sent.sequences, limits.pool.blocks), 1)),
        context_tokens=sent.longest_tokens,
        prefill_tokens=limits.budget_tokens,
        patches_per_token=only(request.image_patches / np.maximum(request.prefill_tokens, 1)),
        patches_per_image=only(request.patches_per_image),
        graph_tokens=int(min(only(p.offered.capacity.graph_batch), limits.budget_tokens)),
    )


def _service(p: PricedGroup, protocol: Protocol, limits: EngineLimits) -> Service:
    """The deployment's replicas behind a router. Raises BadValue where none would be left to serve."""
    capacity, front_end = p.offered.capacity, front_end_of(p.clock.engine, p.deployments)
    replicas = int(only(capacity.replicas))
    if protocol.spare_replicas >= replicas:
        raise BadValue(
            f"spare_replicas {protocol.spare_replicas}: the deployment has {replicas}, one must serve; set dp"
        )
    if replicas < 2 and protocol.fail_at_s < math.inf:
        raise BadValue("fail_at_s: the deployment has one replica, nothing would be left; set dp")
    return Service(
        limits,
        replicas,
        int(only(capacity.lanes)),
        only(capacity.waits_on) > 1,
        protocol.routing,
        in_flight=only(p.offered.load.concurrency) if protocol.trace is None and not protocol.burst else math.inf,
        request_s=only(front_end.request_s),
        per_token_s=only(front_end.input_token_s),
        tokenizer_token_s=only(front_end.tokenizer_token_s),
        serial_s=only(front_end.serial_s),
        spare=protocol.spare_replicas,
        fails_s=protocol.fail_at_s,
    )


def step_time(p: PricedGroup) -> StepTime:
    """Seconds of K steps of the one deployment of a group."""
    return lambda batch: p.clock.step_s(Batch(*(np.reshape(field, (-1, 1)) for field in batch)))[:, 0]


# ---- what the engine may run


def engine_limits(p: PricedGroup) -> EngineLimits:
    """Limits of one lane of one replica, from the plan of its memory."""
    capacity, engine, settings = p.offered.capacity, p.clock.engine, p.inputs.settings
    lanes, slots = only(capacity.lanes), only(capacity.max_num_seqs)
    reserved = engine.cache.allocation is Allocation.CONTEXT
    stages = stages_of(p.deployments[0].row.model, engine, p.inputs)
    bounded = not reserved or bool(np.all(settings.max_model_len_given))  # else slots are as long as requests need
    longest = settings.max_model_len if bounded else np.inf
    if reserved or engine.cache.state_share:
        slots = min(slots, only(capacity.sequences) if reserved else state_slots(stages) * _ranks(p))
    slots = max(int(slots / lanes), 1)
    polls = only(p.offered.request.rules.poll_steps)
    return EngineLimits(
        slots=slots,
        budget_tokens=int(only(capacity.max_num_batched_tokens)),
        pool=Pool(slots, 1, fixed_blocks=1, grows=False) if reserved else pool(p, stages),
        mixed=engine.scheduler.chunks_mixed,
        tokens_per_step=only(p.offered.load.tokens_per_step),
        longest_tokens=only(longest),
        late_steps=round(only(p.offered.request.late_steps) - (polls - 1) / 2),
        poll_steps=round(polls),
        ranks=round(only(p.offered.request.rules.ranks)),
        balance_steps=only(p.offered.request.rules.balance_steps),
    )


def _ranks(p: PricedGroup) -> float:
    return only(p.inputs.parallel.attention_dp)


def state_slots(stages: Stages) -> float:
    """Sequences for whose recurrent states there is room, where these have memory of their own."""
    held = np.where(stages.table.state_bytes > 0, stages.states / np.maximum(stages.table.state_bytes, 1), np.inf)
    return float(np.floor(np.min(held)))


def pool(p: PricedGroup, stages: Stages) -> Pool:
    """The pool of one lane, on the stage that holds the fewest sequences.

    Of a cache with windows or states, bytes of a sequence are a straight line through those after the mean prompt
    and after the mean output.
    """
    engine, load = p.clock.engine, p.inputs.load
    beside = bool(engine.cache.state_share)
    table = without_states(stages.table) if beside else stages.table
    usable = usable_bytes(table, engine, stages.pool if beside else stages.available)
    block, prefix = only(p.inputs.settings.block_tokens), only(np.minimum(load.shared_prefix_tokens, load.input_tokens))
    prompt = math.ceil(max(only(load.input_tokens), 1) / block) * block
    end = prompt + math.ceil(max(only(load.output_tokens), 1) / block) * block
    shared = shared_bytes(table, np.array([prefix]))
    at_prompt, at_end = (_bytes(table, tokens) - shared for tokens in (prompt, end))
    ratio = np.where(at_end > 0, (usable - shared) / np.maximum(at_end, 1), np.inf)
    stage = int(np.argmin(ratio[:, 0]))
    room = max(float((usable - shared)[stage, 0]), 0.0) * _ranks(p) / only(p.offered.capacity.lanes)
    first, last = float(at_prompt[stage, 0]), float(at_end[stage, 0])
    grown = (last - first) / (end - prompt) * block
    if grown <= 0:
        return Pool(int(room / last) if last > 0 else UNLIMITED, int(block), 1, int(prefix), grows=False)
    fixed = max(round((first - grown * (prompt - prefix) / block) / grown), 0)
    again = engine.cache.computed_again or 1.0
    return Pool(int(room / grown), int(block), fixed, int(prefix), True, engine.cache.reserves_full, again)


def _bytes(table: CacheTable, tokens: float) -> Any:
    return sequence_bytes(table, np.array([tokens]), live=True)


# ---- what is asked of it


def source(p: PricedGroup, protocol: Protocol) -> Sent:
    """The requests that the protocol or the scenario's load sends."""
    load = p.offered.load
    prefix, fraction = int(only(load.shared_prefix_tokens)), only(load.cached_input_fraction)
    closed = np.isnan(only(load.request_rate_per_s)) and protocol.trace is None and not protocol.burst
    if closed:
        return users(p, protocol, prefix)
    run = p.deployments[0].row.scenario.run_requests
    warm = 0 if protocol.trace or protocol.burst or run else math.ceil(WARM_UP_SHARE * protocol.requests)
    count = run or protocol.requests + warm
    _check_count(count)
    lengths = length_spreads(p, protocol, only(load.input_tokens))
    random = np.random.default_rng(protocol.seed)
    if protocol.trace is not None:
        trace = protocol.trace
        longest = float(np.max(trace.prompt + trace.output))
    else:
        rate = math.inf if protocol.burst else only(load.request_rate_per_s)
        trace, longest = poisson(random, rate, lengths, count), _longest(lengths)
    return Sent(Replay(trace, Cached(prefix, fraction)), slice(warm, None), math.inf, longest)


def users(p: PricedGroup, protocol: Protocol, prefix: int) -> Sent:
    """A closed loop of a service or of a load generator.

    A service's first requests are spread over a cycle, and it goes on until all requests that count have ended. A load
    generator offers its waves of requests all at once, and all of them count.
    """
    scenario, point, load = p.deployments[0].row.scenario, p.point, p.offered.load
    people, waves = int(only(load.concurrency)), only(load.waves)
    service = math.isinf(waves)
    warm = people + math.ceil(WARM_UP_SHARE * protocol.requests) if service else 0
    counted = protocol.requests if service else math.ceil(waves * people)
    count = warm + counted + (people if service else 0)
    _check_count(count)
    turns, think = scenario.turns or 1, only(load.think_time_s)
    prompt = float(scenario.input_tokens or 0) + only(images(p.deployments).tokens)
    lengths = length_spreads(p, protocol, prompt)
    cached = Cached(prefix, scenario.cached_input_fraction or 0.0)
    group = Users(people, think, turns, start_s=only(point.e2e_s) + think if service else 0.0)
    longest = _longest(lengths) * turns
    measured = slice(warm, warm + counted)
    return Sent(Loop(group, lengths, cached, count, protocol.seed), measured, people, longest)


def length_spreads(p: PricedGroup, protocol: Protocol, prompt: float) -> tuple[Lengths, Lengths]:
    """Spreads of prompt and output: log-normal where the scenario states a 95th percentile, else uniform or fixed."""
    s, means = p.deployments[0].row.scenario, (prompt, only(p.offered.load.output_tokens))
    closed = s.request_rate_per_s is None and not protocol.burst
    shortest = s.shortest_fraction or (SHORTEST if closed else 1.0)
    leasts = (0, min(round(means[1]), 1))  # an encoder writes nothing
    return tuple(  # type: ignore[return-value]
        Lengths(mean, least=least, shortest_fraction=shortest)
        if tail is None
        else Lengths(mean, only(log_sd(np.array(mean), np.array(tail))), least=least)
        for mean, tail, least in zip(means, (s.input_tokens_p95, s.output_tokens_p95), leasts, strict=True)
    )


def _longest(lengths: tuple[Lengths, Lengths]) -> float:
    return sum(n.mean * 2 / (1 + n.shortest_fraction) * math.exp(LONGEST_SD * n.log_sd) for n in lengths)


def _check_count(count: int) -> None:
    if count > MAX_REQUESTS:
        raise BadValue(f"{count} requests to simulate, at most {MAX_REQUESTS}; fewer --requests, users or concurrency")


# ---- columns


def simulate_columns() -> tuple[str, ...]:
    """Names that a simulation adds to the columns of an estimate."""
    spreads = tuple(f"{name}_{part}_ms" for name in (*TIMES, "queue") for part in SPREAD)
    rates = ("simulated_output_tokens_per_s", "simulated_requests_per_s")
    counts = ("queue_p99", "preemptions", "refused", "restarted", "slo_attainment", "utilisation", "simulated_requests")
    return spreads + rates + counts


def columns(p: PricedGroup, run: Run, measured: slice) -> dict[str, float | int | None]:
    """What the simulation saw, in the units of the screen; None where there is no such figure."""
    wishes = objectives(p.deployments)
    found: Summary = events.summary(run, measured, RequestLimits(*(only(limit) for limit in wishes[:3])))
    values = [value * MS_PER_S for spread in (found.ttft, found.tpot, found.e2e, found.queue) for value in spread]
    values += [
        found.output_tokens_per_s,
        found.requests_per_s,
        found.queue_p99,
        found.preemptions,
        found.refused,
        found.restarted,
    ]
    values += [found.slo_attainment, found.utilisation, found.requests]
    named = dict(zip(simulate_columns(), values, strict=True))
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in named.items()
    }
