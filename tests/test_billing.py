"""Money: a month of one's own GPUs against a price per token."""

from __future__ import annotations

import math

import numpy as np
import pytest

from planner import billing
from planner.billing import Fleet, TokenPrice, Traffic, cost
from planner.catalog.gpus import gpu
from planner.catalog.prices import checked, prices
from planner.errors import BadValue
from planner.estimate import estimate
from planner.serving import Load
from planner.specs.scenario import Scenario
from tests.oracle.toy_gpu import serve

FLEET = Fleet(usd_per_gpu_hour=2.0, gpus_per_replica=4.0, replicas=2.0, spare_replicas=1.0)
TRAFFIC = Traffic(requests_per_s=1.0, input_tokens=3000.0, output_tokens=500.0)
PRICE = TokenPrice(usd_per_million_input=1.0, usd_per_million_output=4.0)


def test_spare_replicas_are_paid_for() -> None:
    assert billing.fleet_usd_per_hour(FLEET) == 2.0 * 4 * 3


def test_a_month_costs_the_same_whether_it_is_busy_or_idle() -> None:
    busy, idle = (billing.month(FLEET, TRAFFIC._replace(requests_per_s=rate), 4.0, 0.5) for rate in (4.0, 0.5))
    assert busy.usd_per_month == idle.usd_per_month == 24 * 730
    assert idle.usd_per_request == pytest.approx(8 * busy.usd_per_request)
    assert (busy.busy_fraction, idle.busy_fraction) == (1.0, 0.125)


def test_the_prices_of_tokens_add_up_to_the_month() -> None:
    found = billing.month(FLEET, TRAFFIC, 4.0, 0.3)
    requests = billing.requests_per_month(TRAFFIC)
    spent = requests * (3000 * found.usd_per_million_input_tokens + 500 * found.usd_per_million_output_tokens) / 1e6
    assert spent == pytest.approx(found.usd_per_month)


def test_at_break_even_both_cost_the_same() -> None:
    even = billing.compare(FLEET, TRAFFIC, 4.0, PRICE).break_even_requests_per_s
    there = billing.compare(FLEET, TRAFFIC._replace(requests_per_s=even), 4.0, PRICE)
    assert there.api_usd_per_month == pytest.approx(there.own_usd_per_month)


def test_a_break_even_beyond_what_the_gpus_serve_is_not_reachable() -> None:
    cheap = TokenPrice(0.01, 0.01)
    assert not billing.compare(FLEET, TRAFFIC, 4.0, cheap).reachable
    assert billing.compare(FLEET, TRAFFIC, 4.0, PRICE).reachable


def test_an_idle_month_has_no_price_for_a_request() -> None:
    found = billing.month(FLEET, TRAFFIC._replace(requests_per_s=0.0), 4.0, 0.5)
    assert math.isnan(found.usd_per_request)


def test_a_month_agrees_with_a_hand_calculation() -> None:
    # 2.00 USD x 4 GPUs x (2 replicas + 1 spare) = 24 USD an hour; 24 x 730 hours = 17,520 USD a month.
    # 1.5 requests/s x 730 x 3,600 s = 3,942,000 requests: 17,520 / 3,942,000 = 0.0044444 USD each.
    # Prompts take 40 %: 7,008 USD for 3,942,000 x 3,000 = 11,826 million tokens = 0.592593 USD per million.
    # Answers take the rest: 10,512 USD for 3,942,000 x 500 = 1,971 million tokens = 5.333333 USD per million.
    # The replicas serve 4 requests/s: 1.5 / 4 = 37.5 % busy.
    found = billing.month(FLEET, TRAFFIC._replace(requests_per_s=1.5), 4.0, 0.4)
    assert found == pytest.approx((17_520, 0.004444444, 0.592592593, 5.333333333, 0.375))


def test_an_api_agrees_with_a_hand_calculation() -> None:
    # A request: 3,000 x 0.50 / 1,000,000 + 500 x 1.50 / 1,000,000 = 0.0015 + 0.00075 = 0.00225 USD.
    # A month: 3,942,000 x 0.00225 = 8,869.50 USD, half of one's own 17,520.
    # Even: 17,520 / (0.00225 x 2,628,000 s) = 2.962963 requests/s, which replicas that serve 4 reach, 2 do not.
    price, traffic = TokenPrice(0.50, 1.50), TRAFFIC._replace(requests_per_s=1.5)
    found = billing.compare(FLEET, traffic, 4.0, price)
    assert found == pytest.approx((17_520, 8_869.50, 2.962962963, True))
    assert not billing.compare(FLEET, traffic, 2.0, price).reachable


def test_what_an_estimate_charges_agrees_with_a_hand_calculation() -> None:
    # 2 replicas of 2 GPUs at 2.50 USD: 10 USD an hour, 7,300 a month. An hour completes 3,600 x requests/s; what these
    # are charged for their prompt and answer tokens is the 10 USD again.
    asked = Scenario(model="Qwen/Qwen3-32B", gpu="h100-sxm", tp=2, dp=2, concurrency=64, usd_per_gpu_hour=2.5)
    row = estimate(asked).rows()[0]
    assert (row["usd_per_hour"], row["usd_per_month"]) == (10.0, 7300.0)
    an_hour = 3600 * row["requests_per_s"]
    assert row["usd_per_request"] == pytest.approx(10 / an_hour)
    prompt = an_hour * 2000 * row["usd_per_million_input_tokens"] / 1e6
    answer = an_hour * 500 * row["usd_per_million_output_tokens"] / 1e6
    assert prompt + answer == pytest.approx(10)


def test_arrays_answer_like_scalars() -> None:
    rates = np.array([0.5, 1.0, 2.0])
    many = billing.month(FLEET, TRAFFIC._replace(requests_per_s=rates), 4.0, 0.5)
    one = billing.month(FLEET, TRAFFIC._replace(requests_per_s=2.0), 4.0, 0.5)
    assert np.asarray(many.usd_per_request)[2] == pytest.approx(one.usd_per_request)


def test_a_fully_busy_month_costs_what_the_estimate_says() -> None:
    row = estimate(Scenario(model="Qwen/Qwen3-8B", gpu="h100-sxm", concurrency=16, usd_per_gpu_hour=2.0)).rows()[0]
    traffic = Traffic(row["requests_per_s"], row["input_tokens"], row["output_tokens"])
    share = billing.input_share(row["usd_per_million_input_tokens"], row["usd_per_million_output_tokens"], traffic)
    found = billing.month(Fleet(2.0, 1.0, 1.0), traffic, row["requests_per_s"], share)
    assert found.usd_per_million_output_tokens == pytest.approx(row["usd_per_million_output_tokens"])
    assert found.usd_per_million_input_tokens == pytest.approx(row["usd_per_million_input_tokens"])


def test_every_price_is_that_of_a_profile_with_its_date_and_source() -> None:
    assert prices()
    for row in prices():
        price = gpu(row.gpu).price
        assert price and price.usd_per_hour == row.usd_per_hour and row.date and row.source


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, 1e9])
def test_what_is_no_price_is_refused_by_name(value: float) -> None:
    with pytest.raises(BadValue, match="price of h100"):
        checked(value, "h100")


def test_the_hourly_price_is_charged_to_tokens_without_rest():
    load = Load(1024, 256, 64)
    point = serve(load)
    found = cost(2.5, 4, load, point)
    inputs, outputs = point.requests_per_s * 1024 * 3600, point.output_tokens_per_s * 3600
    charged = found.usd_per_million_input_tokens * inputs + found.usd_per_million_output_tokens * outputs
    assert charged[0] / 1e6 == pytest.approx(10.0)
    assert found.usd_per_request[0] * point.requests_per_s[0] * 3600 == pytest.approx(10.0)
    assert found.usd_per_hour == 10.0 and found.usd_per_month == 7300.0
