"""The largest load that a deployment sustains, with objectives and without."""

from __future__ import annotations

import numpy as np
import pytest

from planner.serving import Load, Objectives, margin, offer, settle, settled_tail, sustainable
from tests.oracle.toy_gpu import engine, serve, step_s


def _sustained(load, objectives, capacity=None):
    return sustainable(offer(step_s, load, capacity or engine()), objectives)


def _meets(load, objectives):
    """Whether the load settles with a queue that does not grow and all its times within the objectives."""
    offered = offer(step_s, load, engine())
    found = settled_tail(offered, settle(step_s, offered), objectives.percentile)
    return bool(np.isfinite(found.e2e_s[0]) and margin(found, objectives)[0] <= 1)


@pytest.mark.parametrize("limits", [{"tpot_s": 0.015}, {"ttft_s": 0.08}, {"e2e_s": 4.0}])
def test_the_sustainable_load_meets_its_objective_and_a_tenth_more_does_not(limits):
    found = _sustained(Load(1024, 256, 1), Objectives(**limits))
    concurrency, rate = float(found.concurrency[0]), float(found.request_rate_per_s[0])
    assert 1 < concurrency < 256
    assert _meets(Load(1024, 256, concurrency), Objectives(**limits))
    assert not _meets(Load(1024, 256, 1.1 * concurrency + 1), Objectives(**limits))
    assert _meets(Load(1024, 256, np.inf, 0.98 * rate), Objectives(**limits))
    assert not _meets(Load(1024, 256, np.inf, 1.1 * rate), Objectives(**limits))


def test_without_objectives_the_slots_set_the_sustainable_load():
    found = _sustained(Load(256, 512, 1), Objectives(), engine(slots=32))
    assert found.concurrency[0] == pytest.approx(32, abs=1)


def test_an_objective_that_a_lone_request_misses_sustains_nothing():
    found = _sustained(Load(1024, 256, 1), Objectives(tpot_s=1e-4))
    assert found.concurrency[0] == 0 and found.request_rate_per_s[0] == 0


@pytest.mark.parametrize("slots", [1, 1.5, 2, 8])
def test_without_objectives_the_sustainable_rate_keeps_all_slots_at_work(slots):
    load = Load(256, 512, request_rate_per_s=1.0)
    rate = _sustained(load, Objectives(), engine(slots)).request_rate_per_s[0]
    within, beyond = (serve(load._replace(request_rate_per_s=share * rate), engine(slots)) for share in (0.97, 1.05))
    assert not within.above_capacity[0] and beyond.above_capacity[0]
