import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.collectives import (
    Link,
    Parallel,
    all_gather_wire_bytes,
    all_reduce_wire_bytes,
    all_to_all_wire_bytes,
    hierarchical_bytes_per_s,
    local_fraction,
    local_shape,
    p_norm,
    transfer_s,
)
from planner.params import Shard, Tensor
from planner.specs.model import Role

MATRIX = Tensor("attention.k", Role.ATTENTION, "attention.qkv", 1024, 4096, (0,), units=8)


def shape(shard: Shard, parallel: Parallel, **changes: object) -> tuple[float, float, float]:
    local = local_shape(MATRIX._replace(shard=shard, **changes), parallel)
    return float(local.copies), float(local.n), float(local.k)


def test_an_all_reduce_moves_twice_what_an_all_gather_moves() -> None:
    # Ref: scaling-book, sharding: an all-reduce is a reduce-scatter and an all-gather
    assert all_reduce_wire_bytes(1e9, 8) == 2 * all_gather_wire_bytes(1e9, 8) == 1.75e9


def test_one_gpu_has_nothing_to_say() -> None:
    assert all_reduce_wire_bytes(1e9, 1) == all_gather_wire_bytes(1e9, 1) == all_to_all_wire_bytes(1e9, 1) == 0
    assert transfer_s(0.0, Link(5e-6, 4e11, 0.6)) == 0


def test_a_small_message_costs_the_start_up_and_a_large_one_the_wire() -> None:
    link = Link(5e-6, 4e11, 1.0)
    assert transfer_s(all_reduce_wire_bytes(8.0, 8), link) == pytest.approx(5e-6, rel=1e-4)
    assert transfer_s(all_reduce_wire_bytes(1e10, 8), link) == pytest.approx(1.75e10 / 4e11, rel=1e-3)


def test_all_reduce_of_eight_h100_agrees_with_nccl_bus_bandwidth() -> None:
    # 480 GB/s bus bandwidth with NVLS for large messages (stas00/ml-engineering, NCCL table)
    seconds = transfer_s(all_reduce_wire_bytes(16e9, 8), Link(4.5e-6, 1.05 * 450e9, 0.54))
    assert 2 * 7 / 8 * 16e9 / seconds == pytest.approx(480e9, rel=0.1)


@given(st.floats(1e-9, 1e3), st.floats(1e-9, 1e3), st.floats(0.5, 8))
def test_the_soft_maximum_lies_above_both_and_below_their_sum_raised(x: float, y: float, p: float) -> None:
    value = p_norm(x, y, p)
    assert value >= max(x, y) * (1 - 1e-12)
    assert p < 1 or value <= (x + y) * (1 + 1e-12)
    assert value == pytest.approx((x**p + y**p) ** (1 / p), rel=1e-9)


def test_kv_heads_are_replicated_beyond_their_number() -> None:
    assert shape(Shard.COLUMN, Parallel(tp=4)) == (1, 256, 4096)
    assert shape(Shard.COLUMN, Parallel(tp=16)) == (1, 128, 4096)


def test_attention_data_parallelism_shards_attention_less() -> None:
    parallel = Parallel(tp=8, attention_dp=4)
    assert shape(Shard.COLUMN, parallel, attention=True) == (1, 512, 4096)
    assert shape(Shard.COLUMN, parallel) == (1, 128, 4096)


def test_the_vocabulary_is_padded_before_it_is_split() -> None:
    whole = MATRIX._replace(shard=Shard.VOCAB, n=32001)
    assert local_shape(whole, Parallel(tp=2), vocab_multiple=64).n == 16032
    assert local_shape(whole, Parallel(tp=2)).n == 16000.5


def test_experts_are_spread_over_ep_and_split_over_the_rest() -> None:
    assert shape(Shard.EXPERT, Parallel(tp=8, ep=4), copies=64) == (16, 512, 4096)


@pytest.mark.parametrize("shard", [Shard.COLUMN, Shard.ROW, Shard.EXPERT, Shard.REPLICATED])
def test_fractions_broadcast_over_rows(shard: Shard) -> None:
    tp = np.array([1.0, 2.0, 4.0, 8.0])
    tensor = MATRIX._replace(shard=shard)
    rows = np.broadcast_to(local_fraction(tensor, Parallel(tp=tp)), 4)
    assert list(rows) == [local_fraction(tensor, Parallel(tp=ways)) for ways in tp]


def test_a_second_node_is_as_slow_as_its_share_of_the_network() -> None:
    inside = hierarchical_bytes_per_s(8, 8, 400e9, 50e9)
    across = hierarchical_bytes_per_s(16, 8, 400e9, 50e9)
    assert inside == pytest.approx(400e9)
    # reduce-scatter of 7/8 at 400 GB/s, then 1/16 at 50 GB/s, against a flat 15/16
    assert across == pytest.approx(15 / 16 / (7 / 8 / 400e9 + 1 / 16 / 50e9))
