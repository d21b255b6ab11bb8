import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog import models
from planner.collectives import Parallel
from planner.ops import Batch, Op, OpKind, Slot, Widths, batch_ops, distinct_experts, forward_ops, prepare
from planner.ops.attention import causal_pairs, chunked_pairs
from planner.ops.products import SKEW, busiest_rank, busiest_share, popular_experts
from planner.params import active_parameters, tensors
from planner.roofline import step_seconds
from planner.specs.model import DenseFfn, ExtraTensor, Ffn, Layer, ModelSpec, Role, Vision
from tests.oracle.closed_form import LLAMA_3_8B, LLAMA_3_70B, Dense, decode_bytes, decode_flops, prefill_flops
from tests.oracle.models import (
    DENSE,
    DSA,
    GQA,
    LLAMA_8B,
    LLAMA_70B,
    MIXERS,
    MLA,
    MOE,
    build,
    by_name,
    listed,
    plain_rates,
    widths,
)

PREFILL = Batch(prefill_tokens=4096.0, prefill_seqs=1.0)


def total(ops: list[Op], field: str) -> float:
    return float(sum(np.max(op.count * getattr(op, field)) for op in ops))


def seconds(model: ModelSpec, batch: Batch, parallel: Parallel | None = None) -> np.ndarray:
    return step_seconds(listed(model, batch, parallel), plain_rates(t0_s=1e-6))


# Counts against the closed form, and against counting by hand.


@pytest.mark.parametrize(("model", "oracle"), [(LLAMA_8B, LLAMA_3_8B), (LLAMA_70B, LLAMA_3_70B)])
@pytest.mark.parametrize(("batch", "tokens"), [(1, 0), (1, 8192), (64, 2048)])
def test_decode_moves_the_bytes_of_weights_and_cache(model: ModelSpec, oracle: Dense, batch: int, tokens: int) -> None:
    ops = listed(model, Batch(float(batch), float(tokens)))
    moved = sum(op.count * op.bytes for op in ops if op.kind is not OpKind.ELEMENTWISE)
    # beyond the closed form: activations of the products, under 2 % at these batches
    assert moved == pytest.approx(decode_bytes(oracle, batch, tokens, 2, 2), rel=0.02)
    assert total(ops, "flops") == pytest.approx(decode_flops(oracle, batch, tokens), rel=1e-12)


@pytest.mark.parametrize(("model", "oracle"), [(LLAMA_8B, LLAMA_3_8B), (LLAMA_70B, LLAMA_3_70B)])
@pytest.mark.parametrize("tokens", [512, 8192])
def test_prefill_costs_two_flops_per_parameter_and_half_the_square(
    model: ModelSpec, oracle: Dense, tokens: int
) -> None:
    ops = listed(model, Batch(prefill_tokens=float(tokens), prefill_seqs=1.0))
    # exact triangle s(s+1)/2 against the book's s^2/2: 0.2 % of attention at 512 tokens
    assert total(ops, "flops") == pytest.approx(prefill_flops(oracle, tokens), rel=1e-4)


@pytest.mark.parametrize("ffn", [DENSE, MOE])
def test_a_token_costs_two_flops_per_active_parameter(ffn: Ffn) -> None:
    model = build(ffn=ffn)
    products = [op for op in listed(model, Batch(1.0, 0.0)) if op.kind in (OpKind.GEMM, OpKind.MOE)]
    multiplied = active_parameters(model) - sum(
        t.active_numel
        for t in tensors(model)
        if not t.op  # the embedding table and the norms
    )
    assert total(products, "flops") == pytest.approx(2 * multiplied, rel=1e-12)


def test_a_tied_head_multiplies_the_embedding() -> None:
    ops = listed(build(tie_embeddings=True), Batch(3.0, 10.0))
    assert by_name(ops, "lm_head").flops == 2 * 3 * 32000 * 1024


def test_logits_are_computed_once_per_sequence() -> None:
    mixed = Batch(7.0, 100.0, 4000.0, 0.0, 2.0)
    assert by_name(listed(build(), mixed), "lm_head").m == 9


@pytest.mark.parametrize(("cached", "length", "reach"), [(0, 7, 99), (0, 20, 6), (3, 20, 6), (30, 5, 6), (5, 9, 1)])
def test_windowed_pairs_agree_with_counting(cached: int, length: int, reach: int) -> None:
    counted = sum(min(i + 1, reach) for i in range(cached, cached + length))
    assert causal_pairs(cached, length, reach) == counted


@pytest.mark.parametrize(("cached", "length", "chunk"), [(0, 7, 4), (3, 20, 6), (12, 1, 6), (5, 9, 100)])
def test_chunked_pairs_agree_with_counting(cached: int, length: int, chunk: int) -> None:
    assert chunked_pairs(cached, length, chunk) == sum(i % chunk + 1 for i in range(cached, cached + length))


def test_an_encoder_sees_the_whole_square_and_has_no_decode() -> None:
    batch = Batch(prefill_tokens=600.0, prefill_seqs=3.0)
    both = by_name(listed(build(causal=False, lm_head=False), batch), "attention.prefill")
    assert both.flops == 4 * 16 * 64 * 3 * 200**2
    assert not [op for op in listed(build(causal=False, lm_head=False), batch) if op.name == "lm_head"]


def test_chunks_of_a_prompt_cost_the_attention_of_the_whole() -> None:
    whole = by_name(listed(build(), PREFILL), "attention.prefill").flops
    chunks = [
        by_name(listed(build(), Batch(0.0, 0.0, 1024.0, start, 1.0)), "attention.prefill").flops
        for start in (0.0, 1024.0, 2048.0, 3072.0)
    ]
    assert sum(chunks) == pytest.approx(whole, rel=1e-12)


# Kinds of mixers.


def test_a_window_bounds_what_decode_reads() -> None:
    model = build(MIXERS["window"])
    short, long = (by_name(listed(model, Batch(1.0, context)), "attention.decode") for context in (128.0, 9000.0))
    assert short.bytes == long.bytes


def test_absorbed_mla_reads_the_latent_alone() -> None:
    op = by_name(listed(build(MLA), Batch(1.0, 1000.0)), "attention.decode")
    # 576 values of two bytes per token, 16 heads of 576 + 512 multiplications (DeepSeek-V3's shapes)
    assert op.bytes == pytest.approx(1000 * 576 * 2, rel=0.04)
    assert op.flops == 2 * 1000 * 16 * (576 + 512)


def test_keys_that_serve_as_values_are_read_twice_as_they_are_stored() -> None:
    batch = Batch(8.0, 5000.0)
    plain, once = (listed(build(mixer), batch) for mixer in (GQA, GQA.model_copy(update={"k_is_v": True})))
    assert by_name(once, "attention.decode").bytes == by_name(plain, "attention.decode").bytes


def test_mla_does_not_shard_its_cache() -> None:
    one, eight = (by_name(listed(build(MLA), Batch(1.0, 1e5), Parallel(tp=tp)), "attention.decode") for tp in (1, 8))
    assert eight.bytes == pytest.approx(one.bytes, rel=0.01)
    assert eight.flops == one.flops / 8


def test_prompts_that_attend_to_latents_expand_nothing() -> None:
    batch = Batch(0.0, 0.0, 512.0, 4096.0, 1.0)
    plain, latent = (
        batch_ops(prepare(build(MLA), widths(build(MLA)), Parallel(), flag), batch) for flag in (False, True)
    )
    assert by_name(latent, "attention.kv_b").m == 512
    width = (2 * MLA.kv_lora_rank + MLA.qk_rope_head_dim) / (
        MLA.qk_nope_head_dim + MLA.qk_rope_head_dim + MLA.v_head_dim
    )
    pairs = [by_name(ops, "attention.prefill").flops for ops in (plain, latent)]
    assert pairs[1] / pairs[0] == pytest.approx(width)


def test_a_later_chunk_of_mla_expands_the_cached_latents_again() -> None:
    first, later = (
        by_name(listed(build(MLA), Batch(0.0, 0.0, 512.0, cached, 1.0)), "attention.kv_b").m for cached in (0.0, 4096.0)
    )
    assert later - first == 4096


def test_decodes_run_kv_b_as_two_batched_products_of_16_bit_where_the_engine_absorbs_it() -> None:
    model, batch = build(MLA), Batch(8.0, 1000.0, 512.0, 0.0, 1.0)
    one_byte = widths(model)._replace(tensor_bytes=widths(model).tensor_bytes / 2)
    whole, apart = (
        batch_ops(prepare(model, one_byte, Parallel(tp=4))._replace(absorbs=absorbs), batch)
        for absorbs in (False, True)
    )
    queries, values = (by_name(apart, f"attention.absorbed_{name}") for name in ("queries", "values"))
    assert (by_name(whole, "attention.kv_b").m, by_name(apart, "attention.kv_b").m, queries.m) == (520, 512, 8)
    assert queries.count == values.count == by_name(apart, "attention.decode").count
    # 4 of 16 heads, each 128 x 512
    assert queries.flops == values.flops == 2 * 8 * 4 * 128 * 512
    assert queries.bytes == values.bytes == 2 * 4 * (128 * 512 + 8 * (128 + 512))


def test_sparse_attention_reads_its_picks_and_scores_everything() -> None:
    ops = listed(build(DSA), Batch(1.0, 4096.0))
    assert by_name(ops, "attention.decode").k == 256
    assert by_name(ops, "indexer.decode").k == 4096


@pytest.mark.parametrize(("tokens", "gathers"), [(256.0, 0.0), (4096.0, 1.0)])
def test_a_prompt_longer_than_its_picks_reads_a_key_for_every_pair(tokens: float, gathers: float) -> None:
    model = build(DSA)
    dense, sparse = (
        next(op for op in listed(model, Batch(prefill_tokens=tokens, prefill_seqs=1.0)) if op.rate == slot)
        for slot in (Slot.PREFILL, Slot.GATHER)
    )
    assert (float(dense.count), float(sparse.count)) == (model.n_layers * (1 - gathers), model.n_layers * gathers)
    key_bytes = (DSA.kv_lora_rank + DSA.qk_rope_head_dim) * 2
    read = causal_pairs(0.0, tokens, 256) * key_bytes
    assert read < float(sparse.bytes) < 1.5 * read


def test_a_recurrent_state_does_not_grow_with_context() -> None:
    for kind in ("linear", "mamba1", "mamba2"):
        assert seconds(build(MIXERS[kind]), Batch(8.0, 10.0)) == seconds(build(MIXERS[kind]), Batch(8.0, 1e5))


def test_a_gated_delta_state_is_read_and_written() -> None:
    op = by_name(listed(build(MIXERS["linear"]), Batch(1.0, 0.0)), "recurrent.decode")
    assert op.bytes == pytest.approx(2 * 16 * 128 * 128 * 4, rel=0.06)  # plus convolution and inputs


def test_layers_of_one_shape_are_one_product() -> None:
    stack = tuple(Layer(mixer=i % 2, ffn=0) for i in range(6))
    model = build().model_copy(update={"mixers": (GQA, MIXERS["window"]), "layers": stack})
    ops = listed(model, Batch(1.0, 1000.0))
    assert by_name(ops, "attention.qkv").count == 6
    assert [op.count for op in ops if op.name == "attention.decode"] == [3, 3]
    assert len(ops) <= 14


# Experts.


@given(st.integers(1, 512), st.integers(1, 16), st.floats(0, 5000))
def test_touched_experts_lie_between_the_top_k_and_all(experts: int, picks: int, tokens: float) -> None:
    picks = min(picks, experts)
    touched = distinct_experts(experts, picks, tokens)
    assert touched <= min(experts, picks * tokens) * (1 + 1e-9) or tokens < 1
    assert tokens < 1 or touched >= picks * (1 - 1e-9)


def test_touched_experts_agree_with_drawing() -> None:
    rng = np.random.default_rng(0)
    drawn = [len({int(e) for _ in range(40) for e in rng.choice(64, 4, replace=False)}) for _ in range(300)]
    assert distinct_experts(64, 4, 40) == pytest.approx(np.mean(drawn), rel=0.01)


def test_popular_experts_are_touched_as_often_as_drawing_says() -> None:
    rng = np.random.default_rng(0)
    asked = np.exp(SKEW * rng.standard_normal((400, 128)))
    shares = np.minimum(8 * asked / asked.sum(axis=1, keepdims=True), 1)
    for tokens in (1, 16, 64):
        expected = np.mean((1 - (1 - shares) ** tokens).sum(axis=1))
        assert popular_experts(128, 8, tokens) == pytest.approx(expected, rel=0.05)


@given(st.integers(2, 512), st.floats(1, 5000))
def test_skew_touches_fewer_experts_than_uniform_routing(experts: int, tokens: float) -> None:
    picks = max(experts // 16, 1)
    assert popular_experts(experts, picks, tokens) <= distinct_experts(experts, picks, tokens) * (1 + 1e-9)


def test_the_busiest_of_eight_gpus_waits_for_as_many_tokens_as_drawing_says() -> None:
    asked = np.exp(SKEW * np.random.default_rng(0).standard_normal((4000, 8, 32)))
    loads = asked.sum(axis=2) / asked.sum(axis=(1, 2))[:, None] * 8
    assert busiest_rank(256, 8) == pytest.approx(np.mean(loads.max(axis=1)), rel=0.1)
    assert busiest_rank(256, 1) == 1


@pytest.mark.parametrize(("ep", "tokens"), [(8, 1), (8, 4), (4, 16), (16, 32)])
def test_a_group_waits_for_the_gpu_that_reads_most_experts(ep: int, tokens: int) -> None:
    rng = np.random.default_rng(0)
    chances = SKEW * rng.standard_normal((300, 1, 256)) + rng.gumbel(size=(300, tokens, 256))
    reads = np.zeros((300, 256))
    np.put_along_axis(reads, np.argsort(-chances)[..., :8].reshape(300, -1), 1, axis=1)
    most = reads.reshape(300, ep, -1).sum(axis=2).max(axis=1).mean()
    assert busiest_share(reads.mean(), 256, ep) * 256 / ep == pytest.approx(most, rel=0.1)
    assert busiest_share(0.3, 256, 1) == 0.3 and busiest_share(1.0, 256, ep) == 1


def test_a_large_batch_reads_every_expert_once() -> None:
    model = build(ffn=MOE)
    weights = sum(t.numel * 2 for t in tensors(model) if t.role is Role.EXPERT)
    op = by_name(listed(model, Batch(20000.0, 10.0)), "experts")
    activations = op.m * (op.n + op.k) * 2
    assert op.count * (op.bytes - activations) == pytest.approx(weights, rel=1e-6)


def test_experts_split_or_spread_cost_a_gpu_the_same_arithmetic() -> None:
    model = build(ffn=MOE)
    split, spread = (by_name(listed(model, PREFILL, Parallel(tp=8, ep=ep)), "experts") for ep in (1, 8))
    assert split.flops == by_name(listed(model, PREFILL), "experts").flops / 8
    assert spread.flops == pytest.approx(split.flops * busiest_rank(MOE.n_experts, 8))


# Physics, for every kind.

SHAPES = [
    pytest.param(build(mixer, ffn), id=f"{name}-{ffn.kind}") for name, mixer in MIXERS.items() for ffn in (DENSE, MOE)
]
PROMPTS = 2.0
PROMPT_TOKENS = st.just(0.0) | st.floats(PROMPTS, 8000)  # none, or at least one of each prompt
CASE = st.tuples(st.floats(1, 500), st.floats(0, 20000), PROMPT_TOKENS, st.floats(0, 20000))


@pytest.mark.parametrize("model", SHAPES)
@settings(max_examples=25, deadline=None)
@given(CASE, st.integers(0, 3))
def test_more_work_never_takes_less_time(model: ModelSpec, case: tuple[float, ...], grown: int) -> None:
    larger = [value * (1.3 if index == grown else 1) for index, value in enumerate(case)]
    first, second = (Batch(b, c, t, cached, PROMPTS) for b, c, t, cached in (case, larger))
    if grown != 3 or "chunk" not in str(model.mixers):  # the share of a chunk that a prompt ends in is a sawtooth
        assert seconds(model, second) >= seconds(model, first) * (1 - 1e-12)


@pytest.mark.parametrize("model", SHAPES)
def test_a_row_prices_as_it_does_alone(model: ModelSpec) -> None:
    grid = np.array(list(itertools.product((1.0, 60.0), (0.0, 3000.0), (0.0, 2048.0), (1, 2, 8)))).T
    batch = Batch(grid[0], grid[1], grid[2], 100.0, 1.0)
    rows = seconds(model, batch, Parallel(tp=grid[3]))
    alone = [seconds(model, Batch(b, c, t, 100.0, 1.0), Parallel(tp=tp))[0] for b, c, t, tp in grid.T]
    assert rows == pytest.approx(alone, rel=1e-12)


def test_weights_may_differ_by_row() -> None:
    sizes = np.array([tensor.numel for tensor in tensors(LLAMA_8B)])[:, None] * np.array([2.0, 1.0, 0.5])
    ops = forward_ops(LLAMA_8B, Batch(1.0, 0.0), Widths(sizes), Parallel())
    rows = step_seconds(ops, plain_rates())
    assert rows[0] / rows[1] == pytest.approx(2, rel=0.02)
    assert rows[0] / rows[2] == pytest.approx(4, rel=0.02)


def test_an_image_adds_its_encoder() -> None:
    tower = ExtraTensor(name="vision", role=Role.VISION, n=1000, k=1000, copies=4)
    vision = Vision(hidden=1000, n_layers=1, n_heads=8, intermediate=1000, patch=14)
    model = build(ffn=DenseFfn(intermediate=4096), vision=vision, extras=(tower,))
    ops = listed(model, Batch(prefill_tokens=256.0, prefill_seqs=1.0, image_patches=1024.0, patches_per_image=1024.0))
    gemm = by_name(ops, "vision.gemm")
    assert gemm.count * gemm.flops == 2 * 1024 * 4e6
    assert by_name(ops, "vision.attention").flops == 4 * 1024 * 1024 * 1000


def test_residual_streams_are_read_and_written_around_every_norm() -> None:
    model = build(GQA)
    one, four = (
        by_name(listed(model.model_copy(update={"residual_streams": streams}), PREFILL), "elementwise")
        for streams in (1, 4)
    )
    moved = (four.count * four.bytes - one.count * one.bytes) / (2 * model.n_layers * 4096 * model.hidden_size * 2)
    assert float(np.max(moved)) == pytest.approx(10)  # 3 x 4 + 2 values instead of 4


def test_prompts_of_compressed_attention_cost_as_much_with_8_heads_as_with_64() -> None:
    """Kernels that gather pad to 64 heads: DeepSeek V4's layers take 1.0 ms for 8 heads on B200 and 1.9 for 64."""
    flash = models.model("deepseek-ai/DeepSeek-V4-Flash")
    steps = [listed(flash, Batch(prefill_tokens=8192.0, prefill_seqs=1.0), Parallel(tp)) for tp in (1, 8)]
    whole, eighth = (total([op for op in step if op.rate is Slot.GATHER], "flops") for step in steps)
    assert whole == eighth > 0


def test_a_window_and_its_pool_are_read_by_one_kernel() -> None:
    flash = models.model("deepseek-ai/DeepSeek-V4-Flash")
    step = listed(flash, Batch(decode_seqs=8.0, decode_context=9000.0))
    reading = [op for op in step if op.name == "window.decode"]
    assert [float(np.max(op.count)) for op in reading] == [2, 21, 20]
    plain, picked, pooled = (float(np.max(op.bytes)) for op in reading)
    keys = 8 * 512 * 2  # sequences, values of a vector and their bytes
    assert picked - plain == pytest.approx(512 * keys) and pooled - plain == pytest.approx(9000 / 128 * keys)


def test_attention_ranks_mix_the_streams_of_their_own_tokens_before_mixer_and_ffn() -> None:
    flash = models.model("deepseek-ai/DeepSeek-V4-Flash")
    one, eight = (
        by_name(listed(flash, Batch(decode_seqs=64.0, decode_context=100.0), Parallel(8, 1, 1, ranks)), "hyper")
        for ranks in (1, 8)
    )
    assert float(np.max(one.count)) == 2 * 43 == float(np.max(eight.count))
    assert float(np.max(one.flops)) == 2 * 64 * 24 * 16384 == 8 * float(np.max(eight.flops))
