"""Figures of a run: percentiles of times over the requests after the warm-up, rates, shares."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.events.records import Array, Requests, Run, Timeline

PERCENTILES = (50, 90, 99)


class Spread(NamedTuple):
    """Mean and percentiles of a time, seconds; nan where no request has it."""

    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float


class RequestTimes(NamedTuple):
    """Times of each request, seconds; arrays (N,). TPOT is nan for one output token."""

    ttft_s: Array
    tpot_s: Array
    e2e_s: Array
    queue_s: Array  # from sent to the first step that works on it


class RequestLimits(NamedTuple):
    """Objectives of a single request, seconds; nan where there is none."""

    ttft_s: float = np.nan
    tpot_s: float = np.nan
    e2e_s: float = np.nan


class Summary(NamedTuple):
    """What a run comes to. Rates and counts are of the whole deployment."""

    requests: int  # that the figures are of
    ttft: Spread
    tpot: Spread
    e2e: Spread
    queue: Spread
    queue_p99: float  # requests that wait for a place, over time
    output_tokens_per_s: float
    requests_per_s: float
    slo_attainment: float  # share of requests that meet all objectives; nan without any
    utilisation: float  # share of the time that engines are in steps
    preemptions: int
    refused: int
    restarted: int
    duration_s: float


def times(requests: Requests) -> RequestTimes:
    """Times that each request saw."""
    decode = requests.end_s - requests.first_s
    several = requests.output > 1
    return RequestTimes(
        ttft_s=requests.first_s - requests.sent_s,
        tpot_s=np.where(several, decode / np.where(several, requests.output - 1, 1), np.nan),
        e2e_s=requests.end_s - requests.sent_s,
        queue_s=requests.admitted_s - requests.sent_s,
    )


def spread(values: Array) -> Spread:
    """Mean and percentiles of the values that are there."""
    found = values[~np.isnan(values)]
    if not found.size:
        return Spread(*[np.nan] * len(Spread._fields))
    return Spread(float(np.mean(found)), *np.percentile(found, PERCENTILES).tolist())


def attainment(seen: RequestTimes, limits: RequestLimits) -> float:
    """Share of requests that meet all objectives; a time that a request does not have meets its own."""
    if all(np.isnan(limit) for limit in limits):
        return np.nan
    kept = [~(values > limit) for values, limit in zip(seen[:3], limits, strict=True)]
    return float(np.mean(np.all(kept, axis=0))) if len(seen.ttft_s) else np.nan


def queue_percentile(timeline: Timeline, first_s: float, last_s: float, percentile: float) -> float:
    """Percentile over time of the requests that wait for a place; nan where nothing was sampled."""
    lasts = np.diff(np.append(timeline.time_s, timeline.time_s[-1:]))
    lasts = np.where((timeline.time_s >= first_s) & (timeline.time_s <= last_s), lasts, 0.0)
    if not lasts.any():
        return np.nan
    order = np.argsort(timeline.waiting)
    share = np.cumsum(lasts[order]) / np.sum(lasts)
    return float(timeline.waiting[order][np.searchsorted(share, percentile / 100)])


def summary(run: Run, measured: slice, limits: RequestLimits) -> Summary:
    """Figures of some requests in the order of their ends; rates are from the end of the one before, or the start."""
    found = Requests(*(column[measured] for column in run.requests))
    seen, ends, count = times(found), run.requests.end_s, len(found.end_s)
    start = float(np.min(run.requests.sent_s)) if len(ends) else np.nan
    first = float(ends[measured.start - 1]) if measured.start and count else start
    last = float(found.end_s[-1]) if count else np.nan
    span, total = last - first, float(ends[-1]) - start if len(ends) else np.nan
    return Summary(
        requests=count,
        ttft=spread(seen.ttft_s),
        tpot=spread(seen.tpot_s),
        e2e=spread(seen.e2e_s),
        queue=spread(seen.queue_s),
        queue_p99=queue_percentile(run.timeline, first, last, PERCENTILES[-1]),
        output_tokens_per_s=float(np.sum(found.output)) / span if span else np.nan,
        requests_per_s=count / span if span else np.nan,
        slo_attainment=attainment(seen, limits),
        utilisation=float(np.mean(run.busy_s)) / total if total else np.nan,
        preemptions=run.preemptions,
        refused=run.refused,
        restarted=run.restarted,
        duration_s=total,
    )
