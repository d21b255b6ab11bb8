"""Curves of kernels are what estimates are priced with; points of a run are what was measured."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest

import runcharts
from planner.calibration.fit import fit
from planner.catalog.calibrated import Source
from planner.catalog.gpus import gpu
from planner.catalog.rates import Evidence
from planner.explain import kernels
from planner.explain.kernels import Curve, Matrix
from tests.test_fit import SIDES, fitted_run, products

H200, MATRIX = gpu("h200-sxm"), Matrix(8192, 8192)
CARDS = ("h200-sxm", "a100-80-sxm", "rtx4090", "b200", "mi300x", "t4")


def measured() -> Source:
    return Source(fit(fitted_run(products()), H200), H200, Evidence.MEASURED)


def curve(name: str, *seconds: float) -> Curve:
    some = np.array(seconds)
    return Curve(name, name, 2.0 ** np.arange(len(some)), some, some, some, "measured")


@pytest.mark.parametrize("card", CARDS)
def test_every_format_has_a_curve_that_rises_with_tokens_and_stays_below_the_peaks(card: str) -> None:
    spec = gpu(card)
    for found in kernels.format_curves(spec, None, MATRIX):
        bandwidth, rate = kernels.peaks(spec, found.family)
        assert np.all(np.diff(found.seconds) >= 0)
        assert np.all(found.bytes / found.seconds <= bandwidth) and np.all(found.flops / found.seconds <= rate)


def test_a_fit_passes_through_the_points_that_it_was_made_of() -> None:
    run, source = fitted_run(products()), measured()
    found = kernels.product_curve(H200, source, "bf16", Matrix(SIDES[-1], SIDES[-1]))
    own = [p for p in kernels.readings(run) if p.label.endswith(f"{SIDES[-1]} × {SIDES[-1]}")]
    predicted = np.interp([p.flops for p in own], found.flops, found.seconds)
    assert own and np.median(np.abs(predicted / [p.seconds for p in own] - 1)) < 0.1
    assert found.evidence == "measured"


def test_four_bit_weights_lead_at_one_token_and_lose_to_fp8_in_large_batches() -> None:
    found = kernels.leads(kernels.format_curves(H200, None, MATRIX))
    assert "INT4" in found[0].name and "FP8" in found[-1].name
    assert 1 < found[-1].tokens < 1024


def test_a_tie_changes_no_lead() -> None:
    found = kernels.leads([curve("a", 1.0, 2.0, 4.0), curve("b", 1.5, 1.99, 3.0)])
    assert [(lead.tokens, lead.name) for lead in found] == [(1.0, "a"), (4.0, "b")]


def test_the_rows_of_a_fit_say_rates_and_errors() -> None:
    row = next(row for row in kernels.fit_rows(measured().calibration) if row["family"] == "gemm-16")
    assert 0 < float(str(row["gb_per_s"])) < 4800 and float(str(row["held_out_median_percent"])) >= 0


@pytest.mark.parametrize("card", CARDS)
def test_plotly_accepts_the_charts_and_words_say_figures(card: str) -> None:
    spec = gpu(card)
    source = measured() if card == "h200-sxm" else None
    points = kernels.readings(fitted_run(products())) if source else []
    curves = kernels.format_curves(spec, source, MATRIX)
    for chart, words in (
        runcharts.roofline(curves, points, *kernels.peaks(spec, "gemm-16")),
        runcharts.bandwidth(
            [kernels.weight_read_curve(spec, source), kernels.stream_curve(spec, source)],
            points,
            spec.bandwidth_bytes_per_s,
        ),
        runcharts.crossover(curves, kernels.leads(curves)),
    ):
        go.Figure(chart)
        assert "nan" not in words and "None" not in words


def test_copies_into_the_cache_are_said_not_to_reach_memory() -> None:
    rates = {8 * 2**20: 6e12, 2**30: 4e12}
    points = [kernels.Reading("copy", "stream-copy", "", size, 0.0, size / rate) for size, rate in rates.items()]
    _, words = runcharts.bandwidth([kernels.weight_read_curve(gpu("h200-sxm"), None)], points, 4.8e12)
    assert "copy up to 4,000 GB/s" in words and "Above the datasheet: 1, whose results stay in the cache" in words


@pytest.mark.parametrize("card", CARDS)
def test_reading_weights_nears_the_bandwidth_with_their_size_and_never_passes_it(card: str) -> None:
    found = kernels.weight_read_curve(gpu(card), None)
    rates = found.bytes / found.seconds
    assert np.all(np.diff(rates) > -1e-6 * rates[1:])
    assert 0.4 * gpu(card).bandwidth_bytes_per_s < rates[-1] <= gpu(card).bandwidth_bytes_per_s
