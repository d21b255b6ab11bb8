"""What serving costs: an hour of a deployment, a request, a token; and a month of GPUs, with idle hours and spare
replicas, against an API's price per token.

Scalars or arrays in, the same out. USD, tokens, requests, seconds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.serving.load import Array, Load, Mask
from planner.serving.steady import ServingPoint

Number = float | Array
HOURS_PER_MONTH = 730.0  # 365 days / 12, as clouds bill
SECONDS_PER_HOUR = 3600.0
MILLION = 1e6
SECONDS_PER_MONTH = HOURS_PER_MONTH * SECONDS_PER_HOUR


class Cost(NamedTuple):
    """USD of the whole deployment; nan where a rate is zero or unknown."""

    usd_per_hour: Array
    usd_per_month: Array
    usd_per_request: Array
    usd_per_million_input_tokens: Array
    usd_per_million_output_tokens: Array


def cost(usd_per_gpu_hour: Array, n_gpus: Array, load: Load, point: ServingPoint) -> Cost:
    """Cost of the deployment, of its requests and of their tokens at the load given.

    An hour's price is split by step time: what prefill adds to steps is charged to the input tokens sent,
    cached ones among them, the rest to output tokens.
    """
    hourly = np.asarray(usd_per_gpu_hour, dtype=float) * n_gpus
    per_second = hourly / SECONDS_PER_HOUR
    share = point.prefill_time_share
    return Cost(
        hourly,
        hourly * HOURS_PER_MONTH,
        _over(per_second, point.requests_per_s),
        MILLION * _over(per_second * share, point.requests_per_s * load.input_tokens),
        MILLION * _over(per_second * (1 - share), point.output_tokens_per_s),
    )


class Fleet(NamedTuple):
    """GPUs that are paid for, whether they work or not."""

    usd_per_gpu_hour: Number
    gpus_per_replica: Number
    replicas: Number  # that the busiest hour needs
    spare_replicas: Number = 0.0  # kept for failures and updates


class Traffic(NamedTuple):
    """A month of requests, as a mean over all its hours."""

    requests_per_s: Number
    input_tokens: Number
    output_tokens: Number


class TokenPrice(NamedTuple):
    """What an API takes for a million tokens."""

    usd_per_million_input: Number
    usd_per_million_output: Number


class Month(NamedTuple):
    """A month of one's own GPUs. Per request and per token: idle hours and spare replicas included."""

    usd_per_month: Number
    usd_per_request: Number
    usd_per_million_input_tokens: Number
    usd_per_million_output_tokens: Number
    busy_fraction: Number  # of what the serving replicas could do


class AgainstApi(NamedTuple):
    """One's own GPUs against an API."""

    own_usd_per_month: Number
    api_usd_per_month: Number
    break_even_requests_per_s: Number  # mean over the month from which one's own GPUs are cheaper
    reachable: Mask  # whether the same GPUs can serve that


def requests_per_month(traffic: Traffic) -> Number:
    """Requests of a month: the mean rate times 730 hours."""
    return np.asarray(traffic.requests_per_s) * SECONDS_PER_MONTH


def fleet_usd_per_hour(fleet: Fleet) -> Number:
    """Price of one hour: every GPU of every replica, spare ones too."""
    gpus = np.asarray(fleet.gpus_per_replica) * (np.asarray(fleet.replicas) + fleet.spare_replicas)
    return np.asarray(fleet.usd_per_gpu_hour) * gpus


def month(fleet: Fleet, traffic: Traffic, capacity_requests_per_s: Number, input_share: Number) -> Month:
    """A month's bill divided over what it served; nan where nothing is served.

    `capacity_requests_per_s` of the serving replicas together; `input_share` of the cost that prefill takes, as
    `cost` splits an hour by step time.
    """
    usd = fleet_usd_per_hour(fleet) * HOURS_PER_MONTH
    served = requests_per_month(traffic)
    return Month(
        usd,
        _over(usd, served),
        MILLION * _over(usd * input_share, served * np.asarray(traffic.input_tokens)),
        MILLION * _over(usd * (1 - np.asarray(input_share)), served * np.asarray(traffic.output_tokens)),
        _over(traffic.requests_per_s, capacity_requests_per_s),
    )


def api_usd_per_request(traffic: Traffic, price: TokenPrice) -> Number:
    """What an API takes for the mean request."""
    spent = np.asarray(traffic.input_tokens) * price.usd_per_million_input
    return (spent + np.asarray(traffic.output_tokens) * price.usd_per_million_output) / MILLION


def compare(fleet: Fleet, traffic: Traffic, capacity_requests_per_s: Number, price: TokenPrice) -> AgainstApi:
    """One's own GPUs against an API at this traffic, and the rate at which both cost the same."""
    own = fleet_usd_per_hour(fleet) * HOURS_PER_MONTH
    each = api_usd_per_request(traffic, price)
    even = _over(own, each * SECONDS_PER_MONTH)
    return AgainstApi(own, each * requests_per_month(traffic), even, even <= np.asarray(capacity_requests_per_s))


def input_share(usd_per_million_input: Number, usd_per_million_output: Number, traffic: Traffic) -> Number:
    """Share of the cost that falls on prompts, from the prices of both kinds of token at one load."""
    spent = np.nan_to_num(np.asarray(usd_per_million_input, dtype=float)) * np.asarray(traffic.input_tokens)
    made = np.nan_to_num(np.asarray(usd_per_million_output, dtype=float)) * np.asarray(traffic.output_tokens)
    return np.nan_to_num(_over(spent, spent + made))


def _over(amount: Number, by: Number) -> Array:
    """amount / by; nan where `by` is nothing."""
    divisor = np.asarray(by, dtype=float)
    return np.asarray(amount, dtype=float) / np.where(divisor > 0, divisor, np.nan)
