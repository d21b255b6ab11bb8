"""Which format leads at which load, and the roofline of a scenario."""

from __future__ import annotations

import pytest

from planner.estimate import Library, estimate
from planner.explain.attained import roofline, roofline_words
from planner.explain.crossover import Crossover, crossover, crossover_scenarios, crossover_words
from planner.specs.scenario import Scenario

ON_HOPPER = Scenario(
    model="meta-llama/Llama-3.3-70B-Instruct", gpu="h100-sxm", n_gpus=2, weight_format="fp8", concurrency=32,
    input_tokens=2000, output_tokens=500,
)  # fmt: skip
AXIS = (1, 4, 8, 16, 24, 32, 64, 128)


def compared(scenario: Scenario, axis: tuple[int, ...] = AXIS) -> Crossover:
    row = estimate(scenario).rows()[0]
    return crossover(estimate(crossover_scenarios(scenario, row, axis)).rows())


def test_four_bit_leads_alone_and_fp8_in_a_crowd_on_hopper() -> None:
    found = compared(ON_HOPPER)
    assert len(found.changes) == 1
    change = found.changes[0]
    assert (change.before, change.after) == ("awq-int4-g128", "fp8")
    assert 4 < change.concurrency < 64


def test_at_a_change_of_the_lead_both_are_equally_fast() -> None:
    found = compared(ON_HOPPER)
    at = round(found.changes[0].concurrency)
    names = ("fp8", "awq-int4-g128")
    pair = [ON_HOPPER.model_copy(update={"weight_format": name, "concurrency": at, "tp": 2}) for name in names]
    speeds = [row["output_tokens_per_s"] for row in estimate(pair).rows()]
    assert speeds[0] == pytest.approx(speeds[1], rel=0.05)


def test_where_intervals_overlap_the_words_say_so() -> None:
    words = crossover_words(compared(ON_HOPPER))
    assert "leads up to about" in words and "likely, not certain" in words


def test_a_lead_that_never_changes_is_said() -> None:
    desktop = Scenario(model="Qwen/Qwen3-8B", gpu="rtx4090", weight_format="gguf-q4_k_m", input_tokens=1000)
    assert "the lead never changes" in crossover_words(compared(desktop, (1, 2, 4)))


def test_decoding_is_bound_by_memory_and_prefill_by_arithmetic() -> None:
    found = roofline(ON_HOPPER, Library())
    assert [(point.name, point.bound) for point in found.points] == [("prefill", "compute"), ("decode", "memory")]
    assert all(0 < point.flops_per_s < point.limit_flops_per_s for point in found.points)


def test_decode_of_one_sequence_in_16_bit_does_about_one_flop_for_each_byte() -> None:
    """2 FLOPs for each parameter, which has 2 bytes; a long prompt's cache adds bytes with fewer FLOPs."""
    alone = Scenario(model="Qwen/Qwen3-8B", gpu="h100-sxm", weight_format="bf16", concurrency=1, input_tokens=128)
    decode = next(point for point in roofline(alone, Library()).points if point.name == "decode")
    assert decode.flops_per_byte == pytest.approx(1.0, rel=0.1)


def test_an_encoder_has_no_decode() -> None:
    found = roofline(Scenario(model="BAAI/bge-m3", gpu="l4", input_tokens=512), Library())
    assert [point.name for point in found.points] == ["prefill"]
    assert "prefill does" in roofline_words(found, {"gpu": "l4"})
