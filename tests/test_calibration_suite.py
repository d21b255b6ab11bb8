from collections import Counter
from itertools import pairwise

import pytest

from planner.calibration.cases import Named, Widths, attention, experts, halved, product, stream
from planner.calibration.kernels.catalogue import kernel_named
from planner.calibration.kernels.problem import DeviceLimits
from planner.calibration.suite import ANCHOR_EVERY, EAGER, Ability, anchor, cases, grouped_parts, ordered
from planner.ops import Slot
from planner.specs.run import AttentionShape, ExpertShape, GemmShape, Mode

HOPPER = Ability(DeviceLimits(90, 132, 232448, 50 * 2**20), 141 * 2**30, True, True, True)
TURING = Ability(DeviceLimits(75, 40, 65536, 6 * 2**20), 16 * 2**30, False, True)
MM = Named("gemm-16", "torch.mm", "bf16")


def counts(able: Ability, mode: Mode = Mode.FULL) -> Counter[str]:
    return Counter(case.kernel for case in cases(able, mode))


def test_the_full_grid_is_for_16_bit_fp8_and_4_bit_weights() -> None:
    found = counts(HOPPER)
    assert min(found["torch.mm"], found["torch.scaled-mm"], found["w4a16"]) >= 112
    assert 12 <= found["w8a16-int8"] <= 16 and 36 <= found["decode-bf16"] <= 80
    assert found["stream-read"] == found["stream-copy"] == 15


def test_the_quick_suite_covers_every_family_with_a_third_of_the_points() -> None:
    full, quick = cases(HOPPER), cases(HOPPER, Mode.QUICK)
    assert {case.family for case in quick} == {case.family for case in full}
    assert len(quick) < len(full) / 3


def test_an_old_gpu_gets_what_it_can_run() -> None:
    found = cases(TURING)
    assert not [case for case in found if "fp8" in case.family or "bf16" in case.dtype]
    assert {case.dtype for case in found if case.kernel.startswith("torch.")} == {"fp16", "int8"}


def test_attention_points_fit_the_memory() -> None:
    small = Ability(HOPPER.limits, 4 * 2**30, True, True)
    assert max(case.cold_bytes for case in cases(small) if "decode" in case.family) < 0.31 * small.total_bytes


@pytest.mark.parametrize("name", ["moe-w16a16", "moe-mma-fp8"])
def test_experts_count_the_bytes_that_their_kernels_read(name: str) -> None:
    kernel = kernel_named(name)
    measured = [case for case in cases(HOPPER) if case.kernel == name]
    assert measured
    for case in measured:
        parts = grouped_parts(case.shape)
        read = sum(kernel.problem(kernel.choices(part, HOPPER.limits)[0], part).size_bytes for part in parts)
        assert case.bytes == pytest.approx(read, rel=0.1)  # activations count 16 bits


def test_torch_groups_products_where_it_has_a_kernel_for_it_with_the_bytes_of_the_bundled_one() -> None:
    found = {case.shape: case for case in cases(HOPPER) if case.kernel == "torch.grouped-mm"}
    bundled = {case.shape: case for case in cases(HOPPER) if case.kernel == "moe-mma-bf16"}
    assert found.keys() == bundled.keys() and all(found[s].bytes == pytest.approx(bundled[s].bytes) for s in found)
    assert not [case for case in cases(TURING) if case.kernel == "torch.grouped-mm"]


def test_starting_an_operation_is_a_launch_that_moves_nothing() -> None:
    for mode in Mode.FULL, Mode.QUICK:
        (case,) = (case for case in cases(HOPPER, mode) if case.kernel == EAGER)
        assert case.family == "launch" and case.bytes == case.cold_bytes == 0


def test_latent_attention_is_timed_with_its_own_bytes() -> None:
    found = [case for case in cases(HOPPER, Mode.QUICK) if case.kernel == "decode-mla-bf16"]
    case = max(found, key=lambda case: case.shape.cached - case.shape.sequences)
    assert case.cold_bytes == case.shape.cached * (512 + 64) * 2
    assert case.flops == 2 * 128 * case.shape.cached * (2 * 512 + 64)


def test_no_point_is_measured_twice() -> None:
    keys = [case.key for case in cases(HOPPER)]
    assert len(keys) == len(set(keys))


def test_families_are_those_that_the_planner_prices() -> None:
    from planner.catalog.efficiency import family_ids

    shown_only = {"read", "copy", "launch"}
    assert {case.family for case in cases(HOPPER)} <= set(family_ids()) | shown_only
    assert Slot.DECODE  # attention families are keyed by slot


def test_points_come_in_random_order_with_the_anchor_between() -> None:
    found, repeated = cases(HOPPER), anchor(HOPPER, Mode.FULL)
    order = ordered(found, repeated, 7)
    places = [i for i, case in enumerate(order) if case.anchor]
    assert order[0] is repeated and order[-1] is repeated
    assert max(b - a for a, b in pairwise(places)) <= ANCHOR_EVERY + 1
    assert order == ordered(found, repeated, 7) != ordered(found, repeated, 8)
    assert Counter(case.key for case in order if not case.anchor) == Counter(case.key for case in found)


def test_a_product_moves_its_weights_inputs_and_outputs() -> None:
    case = product(MM, GemmShape(m=2, n=3, k=5))
    assert (case.bytes, case.flops, case.cold_bytes) == (2 * (15 + 10 + 6), 60, 30)
    narrow = product(MM, GemmShape(m=2, n=3, k=5), Widths(0.5, 1, 2))
    assert narrow.bytes == 7.5 + 10 + 12


def test_decode_attention_reads_the_cache_once() -> None:
    case = attention(MM, AttentionShape(sequences=2, new=1, cached=100, query_heads=8, kv_heads=2, head_dim=16))
    assert case.cold_bytes == 2 * 100 * 2 * 2 * 16 * 2
    assert case.flops == 2 * 100 * 4 * 8 * 16


def test_prefill_computes_half_of_the_square_and_all_of_the_cached() -> None:
    square = attention(MM, AttentionShape(sequences=1, new=4, cached=0, query_heads=1, kv_heads=1, head_dim=1))
    chunk = attention(MM, AttentionShape(sequences=1, new=4, cached=10, query_heads=1, kv_heads=1, head_dim=1))
    assert square.flops == 4 * 10 and chunk.flops == 4 * (10 + 4 * 10)


def test_experts_count_those_that_some_token_reaches() -> None:
    one = experts(MM, ExpertShape(tokens=1, hidden=8, inner=4, experts=16, active=2))
    many = experts(MM, ExpertShape(tokens=10_000, hidden=8, inner=4, experts=16, active=2))
    assert one.cold_bytes == pytest.approx(2 * 3 * 8 * 4 * 2) and many.cold_bytes == pytest.approx(16 * 3 * 8 * 4 * 2)


@pytest.mark.parametrize(
    "case",
    [
        product(MM, GemmShape(m=64, n=4096, k=4096), Widths(0.5)),
        attention(MM, AttentionShape(sequences=4, new=1, cached=512, query_heads=8, kv_heads=8, head_dim=128), 1.0),
        attention(MM, AttentionShape(sequences=1, new=512, cached=0, query_heads=8, kv_heads=8, head_dim=128)),
        experts(MM, ExpertShape(tokens=64, hidden=2048, inner=768, experts=128, active=8), Widths(1.0)),
        stream(Named("copy", "stream-copy", "none"), 2**20, 2),
    ],
)
def test_half_a_case_needs_less(case) -> None:
    less = halved(case)
    assert less is not None and less.bytes < case.bytes and less.flops <= case.flops
    assert less.cold_bytes / less.bytes == pytest.approx(case.cold_bytes / case.bytes, rel=0.3)


def test_nothing_can_be_halved_for_ever() -> None:
    case, steps = product(MM, GemmShape(m=64, n=64, k=64)), 0
    while case is not None:
        case, steps = halved(case), steps + 1
    assert steps < 20
