import numpy as np
import pytest

from planner.catalog import models
from planner.catalog.efficiency import Figures, family_ids, figures, peak_rates, usable_bandwidth_bytes_per_s
from planner.catalog.engines import engine as named_engine
from planner.catalog.formats import kv_format, weight_format
from planner.catalog.gpus import gpu, gpu_ids
from planner.catalog.kernel_families import Attending, kernel_families
from planner.catalog.links import Topology
from planner.catalog.rates import Evidence, rates_for, stack
from planner.errors import BadValue
from planner.estimate.kernels.attention import picked_attention
from planner.estimate.single import priced_scenario
from planner.ops import Slot
from planner.roofline import Rates
from planner.specs.base import Kind
from planner.specs.model import ModelSpec
from planner.specs.scenario import Scenario
from tests.oracle.models import LLAMA_8B, MOE, build

BF16 = kv_format("bf16")[0]


def families(format_id: str, model: ModelSpec = LLAMA_8B, kv: str = "bf16") -> tuple[str, ...]:
    fmt = weight_format(format_id)
    return kernel_families(model, fmt, fmt.kernel, kv_format(kv)[0])


def rates(gpu_id: str, format_id: str = "bf16", engine: str = "vllm", topology: Topology | None = None) -> Rates:
    return stack([rates_for(gpu(gpu_id), engine, families(format_id), topology)])


def test_a_format_changes_the_kernel_of_what_it_quantizes_only() -> None:
    by_slot = dict(zip(Slot, families("fp8"), strict=True))
    assert by_slot[Slot.MLP_GEMM] == by_slot[Slot.ATTENTION_GEMM] == "gemm-fp8"
    assert by_slot[Slot.LM_HEAD_GEMM] == by_slot[Slot.ROUTER_GEMM] == "gemm-16"


def test_attention_whose_output_alone_is_packed_projects_its_inputs_in_16_bit() -> None:
    found = families("nvfp4", models.model("nvidia/DeepSeek-R1-0528-FP4-v2"))
    assert (found[Slot.ATTENTION_GEMM], found[Slot.ATTENTION_OUT_GEMM]) == ("gemm-16", "gemm-fp4")
    assert set(families("fp8")[: Slot.SSM_GEMM]) == {"gemm-fp8"}


def test_gguf_runs_the_head_in_its_own_kernel() -> None:
    assert families("gguf-q4_k_m")[Slot.LM_HEAD_GEMM] == "gguf-k"


def test_experts_have_kernels_of_their_own() -> None:
    assert families("fp8", build(ffn=MOE))[Slot.EXPERT_GEMM] == "moe-gemm-fp8"


@pytest.mark.parametrize(
    ("gpu_id", "engine", "products", "experts"),
    [
        ("b200", "vllm", "gemm-fp8-block", "moe-mx4"),
        ("h200-sxm", "vllm", "gemm-fp8-block", "moe-wo-4"),
        ("a100-80-sxm", "vllm", "wo-8", "moe-mx4"),
        ("h200-sxm", "sglang", "gemm-fp8-block", "moe-wo-4"),
    ],
)
def test_roles_in_another_format_run_in_its_kernels(gpu_id: str, engine: str, products: str, experts: str) -> None:
    priced = priced_scenario(Scenario(model="deepseek-ai/DeepSeek-V4-Flash", engine=engine, gpu=gpu_id, tp=4))
    by_slot = dict(zip(Slot, priced.clock.rate_sets[0].families, strict=True))
    assert by_slot[Slot.ATTENTION_GEMM] == by_slot[Slot.SHARED_GEMM] == products
    assert by_slot[Slot.EXPERT_GEMM] == experts
    assert by_slot[Slot.ROUTER_GEMM] == "gemm-16"


@pytest.mark.parametrize(("kv", "width"), [("bf16", "16"), ("fp8", "8"), ("q8_0", "8"), ("q4_0", "4")])
def test_the_cache_chooses_the_decode_kernel(kv: str, width: str) -> None:
    assert families("bf16", kv=kv)[Slot.DECODE] == f"attention-decode-{width}"


@pytest.mark.parametrize(("model", "kernel"), [("llama-2-70b", "8"), ("llama-2-7b", "8"), ("mistral-7b", "plain")])
def test_query_heads_that_share_no_kernel_attend_beside_the_matrix_units(model: str, kernel: str) -> None:
    fmt = weight_format("fp8")
    found = kernel_families(models.model(model), fmt, fmt.kernel, kv_format("fp8")[0], Attending(shared_heads=8))
    assert found[Slot.DECODE] == f"attention-decode-{kernel}"
    assert found[Slot.PREFILL] == "attention-prefill-16"


@pytest.mark.parametrize(
    ("model", "family"), [("deepseek-ai/DeepSeek-V3", "latent"), ("deepseek-ai/DeepSeek-V3.2", "16")]
)
def test_picked_latents_are_not_read_by_the_kernel_of_whole_ones(model: str, family: str) -> None:
    found = kernel_families(models.model(model), weight_format("bf16"), "gemm-16", kv_format("bf16")[0])
    assert found[Slot.DECODE] == f"attention-decode-{family}"


@pytest.mark.parametrize("gpu_id", gpu_ids())
def test_every_gpu_and_family_has_a_finite_positive_rate(gpu_id: str) -> None:
    card = gpu(gpu_id)
    for engine in ("vllm", "llama.cpp"):
        found = rates_for(card, engine, tuple((family_ids() * 2)[: len(Slot)]))
        assert np.all(np.isfinite(found.values))
        field = Rates(*found.values)
        assert np.all(field.bytes_per_s > 0) and np.all(field.flops_per_s > 0) and np.all(field.p > 0)


@pytest.mark.parametrize("family", family_ids())
def test_every_kernel_family_of_the_formats_can_be_priced(family: str) -> None:
    assert isinstance(figures("xe2", False, "none", family), Figures)


@pytest.mark.parametrize(
    ("version", "gpu_id", "suffix"), [("0.5.9", "b200", ""), ("0.5.10", "b200", "-fused"), ("0.5.10", "h200-sxm", "")]
)
def test_sglang_reads_picked_latents_in_8_bit_as_they_are_on_blackwell(version: str, gpu_id: str, suffix: str) -> None:
    found = [
        picked_attention(named_engine("sglang", version), gpu(gpu_id), f"attention-gather-{bits}") for bits in (8, 16)
    ]
    assert found == [f"attention-gather-8{suffix}", "attention-gather-16"]


@pytest.mark.parametrize("gpu_id", ["h100-sxm", "b200", "a100-80-sxm", "l40s", "rtx4090", "mi300x"])
def test_nothing_attains_more_than_its_datasheet(gpu_id: str) -> None:
    card = gpu(gpu_id)
    found = rates(gpu_id)
    work = [slot for slot in Slot if slot < Slot.ALL_REDUCE]
    assert np.max(found.bytes_per_s[work]) <= card.bandwidth_bytes_per_s
    assert np.max(found.flops_per_s[: Slot.PREFILL]) <= max(card.flops_per_s.values())


# Large products that others measured, in TFLOP/s (op_truth rows: torch matmul, best of large shapes).
@pytest.mark.parametrize(
    ("gpu_id", "low", "high"),
    [
        ("h100-sxm", 760, 830),
        ("h200-sxm", 759, 830),
        ("b200", 1560, 1700),
        ("a100-80-sxm", 255, 280),
        ("l40s", 215, 270),
        ("rtx4090", 155, 175),
        ("rtx3090", 68, 78),
        ("rtx5090", 205, 245),
        ("l4", 66, 80),
        ("a6000", 115, 128),
        ("mi300x", 640, 690),
    ],
)
def test_large_products_attain_what_others_measured(gpu_id: str, low: float, high: float) -> None:
    attained = rates(gpu_id).flops_per_s[Slot.MLP_GEMM, 0] / 1e12
    assert low <= attained <= high * 1.02


def test_inherited_figures_are_assumed() -> None:
    assert figures("hopper", False, "vllm", "gemm-16").kind is Kind.FITTED
    assert figures("blackwell-dc", False, "vllm", "elementwise").kind is Kind.ASSUMED
    assert figures("no such generation", False, "vllm", "gemm-16").kind is Kind.ASSUMED


def test_a_rate_that_no_profile_states_is_assumed() -> None:
    found = rates_for(gpu("rtx2080ti"), "vllm", families("bf16"))
    assert found.kinds[Slot.MLP_GEMM] is Kind.ASSUMED
    assert found.evidence is Evidence.DATASHEET


def test_an_engine_brings_its_own_kernels() -> None:
    ours, theirs = (rates("a100-80-sxm", "gguf-q4_k_m", engine) for engine in ("vllm", "llama.cpp"))
    assert theirs.bytes_per_s[Slot.MLP_GEMM] < ours.bytes_per_s[Slot.MLP_GEMM]


def test_check_bits_in_the_memory_take_bandwidth_of_figures_without_them() -> None:
    shares = {
        name: rates(name, "gguf-q8_0", "llama.cpp").bytes_per_s[Slot.MLP_GEMM, 0] / gpu(name).bandwidth_bytes_per_s
        for name in ("l40s", "rtx6000ada")
    }
    assert shares["l40s"] == pytest.approx(0.91 * shares["rtx6000ada"])


@pytest.mark.parametrize("engine", ["llama.cpp", "vllm"])
def test_a_chip_at_half_its_power_reads_less_of_the_same_memory(engine: str) -> None:
    full, half = (
        rates(gpu_id, engine=engine).bytes_per_s[Slot.MLP_GEMM, 0] for gpu_id in ("rtxpro6000", "rtxpro6000-maxq")
    )
    assert half / full == pytest.approx(0.87)


@pytest.mark.parametrize(("less", "more"), [("l40", "l40s"), ("l20", "l40"), ("t4", "rtx2080"), ("a10g", "rtx3090")])
def test_llama_cpp_multiplies_no_faster_on_the_lesser_card(less: str, more: str) -> None:
    """Its products are of 8-bit integers: half-rate server cards lack the fourfold rate of GeForce."""
    small, large = (rates(name, "gguf-q4_k_m", "llama.cpp").flops_per_s[Slot.MLP_GEMM, 0] for name in (less, more))
    assert small < large


def test_eight_bit_arithmetic_is_faster_where_the_gpu_has_it() -> None:
    for gpu_id in ("h100-sxm", "b200", "l40s", "rtx4090"):
        plain, eight = (rates(gpu_id, name).flops_per_s[Slot.MLP_GEMM, 0] for name in ("bf16", "fp8"))
        assert 1.1 < eight / plain < 2.1


def test_weight_only_kernels_multiply_in_16_bit() -> None:
    plain, packed = (rates("h100-sxm", name).flops_per_s[Slot.MLP_GEMM, 0] for name in ("bf16", "awq-int4-g128"))
    assert packed < plain


def test_nvlink_outruns_pcie_and_the_network_is_slowest() -> None:
    link, pcie, across = (
        rates("h100-sxm", topology=topology).bytes_per_s[Slot.ALL_REDUCE, 0]
        for topology in (Topology(tp=8), Topology(tp=8, interconnect="pcie"), Topology(tp=16))
    )
    assert pcie < across < link


def all_reduce(gpu_id: str, tp: int, engine: str = "vllm", interconnect: str | None = None) -> tuple[float, float]:
    """Start-up seconds and bytes/s of the all-reduce of `tp` GPUs."""
    found = rates(gpu_id, engine=engine, topology=Topology(tp=tp, interconnect=interconnect))
    return float(found.latency_s[Slot.ALL_REDUCE, 0]), float(found.bytes_per_s[Slot.ALL_REDUCE, 0])


def test_a_bridge_serves_its_two_cards_and_no_more() -> None:
    (_, two), (_, four) = (all_reduce("a100-80-pcie", tp, interconnect="nvlink") for tp in (2, 4))
    assert two > 100e9 > 32e9 > four


@pytest.mark.parametrize("gpu_id", ["a100-80-pcie", "rtx3090", "a6000"])
def test_a_bridge_sold_apart_counts_where_the_scenario_has_one(gpu_id: str) -> None:
    (_, plain), (_, bridged) = all_reduce(gpu_id, 2), all_reduce(gpu_id, 2, interconnect="nvlink")
    assert plain < 32e9 < bridged


def test_a_rack_scale_link_spans_nodes() -> None:
    assert all_reduce("gb200", 16)[1] == all_reduce("gb200", 8)[1] > 2 * all_reduce("b200", 16)[1]


def test_llama_cpp_hands_over_to_the_next_stage_later_than_others() -> None:
    engines = ("llama.cpp", "llama.cpp/vulkan", "vllm")
    cuda, vulkan, other = (rates("rtx4090", engine=engine).latency_s[Slot.SEND, 0] for engine in engines)
    assert cuda == vulkan > 10 * other


def test_cards_without_peer_access_start_their_exchanges_late() -> None:
    assert all_reduce("rtx4090", 4)[0] > 2 * all_reduce("rtxpro6000", 4)[0]


def test_an_engine_brings_its_own_all_reduce() -> None:
    assert all_reduce("h100-sxm", 2, "tensorrt-llm")[0] < all_reduce("h100-sxm", 2)[0]


def test_an_unknown_interconnect_is_refused() -> None:
    with pytest.raises(BadValue, match="nvlink, pcie"):
        rates("h100-sxm", topology=Topology(tp=2, interconnect="carrier pigeon"))
    with pytest.raises(BadValue, match="no such link"):
        rates("rtx4090", topology=Topology(tp=2, interconnect="nvlink"))


def test_rows_stack_in_order() -> None:
    sets = [rates_for(gpu(name), "vllm", families("bf16")) for name in ("l4", "h100-sxm", "b200")]
    stacked = stack(sets)
    assert stacked.bytes_per_s.shape == (len(Slot), 3)
    assert np.all(np.diff(stacked.bytes_per_s[Slot.MLP_GEMM]) > 0)


def test_a_back_end_without_figures_of_its_own_takes_those_of_its_engine() -> None:
    own, usual = (rates("strix-halo", "gguf-bf16", engine).flops_per_s for engine in ("llama.cpp/vulkan", "llama.cpp"))
    assert own[Slot.MLP_GEMM] < 0.5 * usual[Slot.MLP_GEMM]  # BF16 without matrix units
    nvidia = [rates("rtx3090", "gguf-q4_0", engine) for engine in ("llama.cpp/vulkan", "llama.cpp")]
    assert np.array_equal(nvidia[0].flops_per_s, nvidia[1].flops_per_s)


def test_a_card_of_half_the_power_uses_less_of_the_bandwidth_that_its_datasheet_states() -> None:
    usual, half = gpu("rtxpro6000"), gpu("rtxpro6000-maxq")
    assert usable_bandwidth_bytes_per_s(half) < usable_bandwidth_bytes_per_s(usual) == usual.bandwidth_bytes_per_s
    assert peak_rates(half, "gemm-16")[0] == half.bandwidth_bytes_per_s  # a measurement may exceed what is usual
