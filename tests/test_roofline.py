import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.collectives import Parallel
from planner.ops import Batch, Op, OpKind, Slot, forward_ops
from planner.roofline import BLOCK_ROWS, Rates, op_seconds, priced, step_seconds
from planner.specs.model import ModelSpec
from tests.oracle.closed_form import LLAMA_3_8B, LLAMA_3_70B, Dense, Machine, decode_s, prefill_s
from tests.oracle.models import LLAMA_8B, LLAMA_70B, plain_rates, widths

H100 = Machine(3.35e12, 989e12)
SHARP = 8.0  # a nearly hard roofline


def gemm(m: float, n: float, k: float) -> Op:
    moved = 2 * (n * k + m * (n + k))
    return Op("gemm", OpKind.GEMM, Slot.MLP_GEMM, 1.0, 2 * m * n * k, moved, m, n, k)


def with_rates(**values: float) -> Rates:
    base = plain_rates()
    return base._replace(**{name: np.full_like(base.t0_s, value) for name, value in values.items()})


@pytest.mark.parametrize(("model", "oracle"), [(LLAMA_8B, LLAMA_3_8B), (LLAMA_70B, LLAMA_3_70B)])
@pytest.mark.parametrize(("batch", "cached"), [(1, 2048), (16, 4096)])
def test_decode_agrees_with_bytes_over_bandwidth(model: ModelSpec, oracle: Dense, batch: int, cached: int) -> None:
    ops = forward_ops(model, Batch(float(batch), float(cached)), widths(model), Parallel())
    step = step_seconds(ops, plain_rates(H100.bytes_per_s, H100.flops_per_s, SHARP))[0]
    assert step == pytest.approx(decode_s(oracle, batch, cached, H100), rel=0.01)


@pytest.mark.parametrize(("model", "oracle"), [(LLAMA_8B, LLAMA_3_8B), (LLAMA_70B, LLAMA_3_70B)])
def test_prefill_agrees_with_flops_over_the_attained_rate(model: ModelSpec, oracle: Dense) -> None:
    ops = forward_ops(model, Batch(prefill_tokens=8192.0, prefill_seqs=1.0), widths(model), Parallel())
    multiplied = [op for op in ops if op.kind is not OpKind.ELEMENTWISE]
    step = step_seconds(multiplied, plain_rates(H100.bytes_per_s, H100.flops_per_s, SHARP))[0]
    assert step == pytest.approx(prefill_s(oracle, 8192, H100), rel=0.01)


def test_llama_70b_decodes_in_19_ms_when_a_v5e_slice_is_full() -> None:
    # scaling-book ch. 8: bf16 on 16 chips of 16 GB and 8.2e11 bytes/s, 43 sequences of 8k: 19 ms per step
    ops = forward_ops(LLAMA_70B, Batch(43.0, 8192.0), widths(LLAMA_70B), Parallel())
    slice_rates = plain_rates(16 * 8.2e11, 16 * 1.97e14, SHARP)
    assert step_seconds(ops, slice_rates)[0] == pytest.approx(0.0195, rel=0.03)


def test_llama_70b_weights_alone_take_10_ms_in_int4_on_four_v5e() -> None:
    # scaling-book ch. 8: the latency floor of int4 parameters on a 2x2 slice is about 10 ms
    ops = forward_ops(LLAMA_70B, Batch(1.0, 0.0), widths(LLAMA_70B, 0.5), Parallel(tp=4))
    compute = [op for op in ops if op.kind is not OpKind.COMMUNICATION]
    assert step_seconds(compute, plain_rates(8.2e11, 1.97e14, SHARP))[0] == pytest.approx(0.0105, rel=0.05)


def test_a_product_turns_compute_bound_at_240_tokens_on_v5e() -> None:
    # scaling-book ch. 8: feed-forward blocks are compute bound beyond 1.97e14 / 8.2e11 = 240 tokens in bf16
    rates = plain_rates(8.2e11, 1.97e14, SHARP)
    below, above = (priced([gemm(m, 28672, 8192)], rates) for m in (200.0, 280.0))
    assert below.compute < below.memory
    assert above.compute > above.memory


def test_every_term_of_the_form_is_priced() -> None:
    rates = with_rates(t0_s=3e-6, k_s=2e-10, bytes_per_s=3e12, flops_per_s=8e14, p=3.2, k0=145, quantize_bytes=2)
    m, n, k = 256.0, 14336.0, 4096.0
    memory = (2 * (n * k + m * (n + k)) + 2 * m * k) / 3e12
    compute = 2 * m * n * k * (1 + 145 / k) / 8e14
    expected = 3e-6 + 2e-10 * k + (memory**3.2 + compute**3.2) ** (1 / 3.2)
    assert op_seconds([gemm(m, n, k)], rates)[0, 0] == pytest.approx(expected, rel=1e-12)


def test_h100_products_agree_with_a_published_fit() -> None:
    # ai-dynamo/aiconfigurator (vLLM 0.24, bf16): 8 MB to 512 MB of weights at one token reach these fractions
    rates = with_rates(t0_s=3.1e-6, k_s=273e-9 / 1024, bytes_per_s=0.889 * 4.8e12, flops_per_s=8.3e14, p=3.46, k0=127)
    for n, k, fraction in ((1024, 4096, 0.29), (4096, 4096, 0.56), (16384, 4096, 0.75), (65536, 4096, 0.84)):
        attained = 2 * n * k / op_seconds([gemm(1.0, float(n), float(k))], rates)[0, 0] / 4.8e12
        assert attained == pytest.approx(fraction, rel=0.12)


def test_a_collective_hides_its_start_up_under_its_transfer() -> None:
    message = Op("send", OpKind.COMMUNICATION, Slot.SEND, 1.0, 0.0, 4e6, 1.0, 1.0, 1.0)
    rates = with_rates(latency_s=10e-6, bytes_per_s=4e11, p=1.0)
    assert op_seconds([message], rates)[0, 0] == pytest.approx(20e-6)


def test_what_is_not_there_costs_nothing() -> None:
    ops = forward_ops(LLAMA_8B, Batch(np.array([0.0, 1.0]), 10.0, np.array([0.0, 9.0])), widths(LLAMA_8B), Parallel())
    step = step_seconds(ops, plain_rates(t0_s=1e-5))
    assert step[0] == 0 < step[1]


@given(st.floats(1, 8192), st.floats(0.5, 6))
def test_the_total_lies_between_the_larger_bound_and_all_of_them(m: float, p: float) -> None:
    found = priced([gemm(m, 4096.0, 4096.0)], with_rates(t0_s=2e-6, p=p))
    larger = np.maximum(found.memory, found.compute)
    assert found.total >= (found.start + larger) * (1 - 1e-12)
    assert p < 1 or found.total <= (found.start + found.memory + found.compute) * (1 + 1e-12)


def test_rows_are_priced_in_blocks_without_seams() -> None:
    rows = 2 * BLOCK_ROWS + 7
    batch = Batch(np.linspace(1, 500, rows), np.linspace(0, 9000, rows))
    ops = forward_ops(LLAMA_8B, batch, widths(LLAMA_8B), Parallel())
    rates = Rates(*(np.repeat(field, rows, axis=1) for field in plain_rates(t0_s=1e-6)))
    whole = step_seconds(ops, rates)
    assert whole == pytest.approx(op_seconds(ops, rates).sum(axis=0), rel=1e-12)
    assert np.all(np.diff(whole) > 0)


def test_weight_only_formats_win_at_small_batches_and_lose_at_large_ones() -> None:
    eight_bit = plain_rates(3e12, 1.2e15)
    four_bit = plain_rates(3e12, 5e14)
    wide, narrow = widths(LLAMA_8B, 1.0), widths(LLAMA_8B, 0.53)
    for tokens, smaller in ((1.0, True), (2000.0, False)):
        batch = Batch(tokens, 100.0)
        four = step_seconds(forward_ops(LLAMA_8B, batch, narrow, Parallel()), four_bit)
        eight = step_seconds(forward_ops(LLAMA_8B, batch, wide, Parallel()), eight_bit)
        assert (four < eight) == smaller


def test_few_rows_take_the_kernel_of_vectors() -> None:
    # 4 and 8 rows of a compute-bound product cost 4 and 8 times one row; 9 rows cost a tile of 16
    rates = with_rates(flops_per_s=1e14, few_rows=8.0, few_flops_per_s=1e12, tile_rows=16.0, bytes_per_s=1e30)
    one, four, eight, nine, sixteen = (step_seconds([gemm(m, 64, 64)], rates)[0] for m in (1.0, 4.0, 8.0, 9.0, 16.0))
    assert (four / one, eight / one) == (pytest.approx(4), pytest.approx(8))
    assert nine == pytest.approx(sixteen)
    assert nine < one


def test_a_row_without_tiles_costs_the_same_beside_one_with_tiles() -> None:
    ops = [gemm(1.4, 64, 64), gemm(1.4, 64, 64)._replace(kind=OpKind.MOE, matrices=1.2)]
    tiled, plain = with_rates(tile_rows=16.0, bytes_per_s=1e30), with_rates(bytes_per_s=1e30)
    both = Rates(*(np.concatenate(fields, axis=1) for fields in zip(tiled, plain, strict=True)))
    assert step_seconds(ops, both)[1] == step_seconds(ops, plain)[0] < step_seconds(ops, tiled)[0]


def test_each_expert_leaves_half_a_tile_empty() -> None:
    rates = with_rates(flops_per_s=1e14, tile_rows=32.0, bytes_per_s=1e30)
    spread = [gemm(2048.0, 64, 64)._replace(kind=OpKind.MOE, matrices=n) for n in (1.0, 32.0, 128.0)]
    one, many, more = (step_seconds([op], rates)[0] for op in spread)
    assert (many / one, more / one) == (pytest.approx(1 + 16 / 64), pytest.approx(2))
    wide = step_seconds([spread[2]], with_rates(flops_per_s=1e14, tile_rows=96.0, tile_spare=2.0, bytes_per_s=1e30))[0]
    assert wide / one == pytest.approx(1 + 2)
