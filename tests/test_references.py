"""The reference calibrations that ship, how other GPUs borrow them, and the script that makes them."""

from types import SimpleNamespace

import pytest

from planner import estimate
from planner.calibration.fit import fit
from planner.catalog.efficiency import peak_rates
from planner.catalog.gpus import gpu
from planner.catalog.paths import data_dir
from planner.catalog.references import reference, reference_ids
from planner.estimate.evidence import source_for
from planner.specs.scenario import Scenario
from tests.opdata.convert import as_run
from tests.opdata.figures import Errors, lent, on_held_back
from tests.opdata.figures import reference as shipped
from tests.opdata.readings import expert_precision, expert_reading

EIGHT = "a100-80-sxm h100-sxm h200-sxm b200 b300 gb200 l40s rtxpro6000-server".split()
LARGEST_BYTES = 500_000  # all files together


def row(card: str, **changes: object) -> dict:
    asked = Scenario(model="llama-3.1-8b", gpu=card, weight_format="bf16", concurrency=8, **changes)
    return estimate(asked).rows()[0]


@pytest.mark.parametrize("name", sorted(reference_ids()))
def test_a_file_names_its_source_and_the_error_of_what_it_measured(name: str) -> None:
    found = reference(name)
    assert found is not None and found.gpu == name and "/" in found.source and found.families
    for family in found.families:
        lent = family.kernel.endswith(tuple(f" of {other}" for other in reference_ids()))
        assert lent or (family.held_out is not None and family.held_out.median <= 0.15)


@pytest.mark.parametrize("name", sorted(reference_ids()))
def test_no_kernel_beats_the_datasheet(name: str) -> None:
    found = reference(name)
    assert found is not None
    for family in found.families:
        bandwidth, peak = peak_rates(gpu(name), family.family)
        assert family.bytes_per_s <= 0.975 * bandwidth and family.flops_per_s <= 1.2 * peak


def test_the_eight_gpus_of_the_tables_have_one_and_they_are_small() -> None:
    assert set(EIGHT) <= reference_ids()
    assert sum(path.stat().st_size for path in (data_dir() / "reference").iterdir()) < LARGEST_BYTES


@pytest.mark.parametrize("card", EIGHT)
def test_their_estimates_rest_on_it(card: str) -> None:
    assert row(card)["speed_evidence"] == "reference"


@pytest.mark.parametrize(
    ("card", "lender"), [("h100-nvl", "h100-sxm"), ("gh200-144", "h200-sxm"), ("l4", "l40s"), ("rtxpro6000", None)]
)
def test_a_neighbour_borrows_the_nearest_of_its_generation(card: str, lender: str | None) -> None:
    source = source_for(gpu(card))
    assert source is not None and source.gpu.id == (lender or "rtxpro6000-server")


def test_other_generations_stay_at_the_datasheet() -> None:
    for card in ("mi300x", "t4", "rtx5090"):
        assert row(card)["speed_evidence"] == "datasheet"


def test_a_borrowed_bandwidth_is_scaled_by_peaks() -> None:
    own, borrowed = row("h200-sxm", tp=1), row("h200-nvl", tp=1)
    assert borrowed["tpot_ms"] == pytest.approx(own["tpot_ms"], rel=0.02)  # the same memory
    assert row("h100-nvl", tp=1)["tpot_ms"] < row("h100-sxm", tp=1)["tpot_ms"]  # HBM3 at 3.9 instead of 3.35 TB/s


# The script.


def expert_row(tokens: int, kernel: str = "vllm_fp8moe_triton_tritonexperts") -> SimpleNamespace:
    sizes = {"hidden_size": 2048, "inter_size": 768, "moe_tp_size": 1, "topk": 8, "num_experts": 128}
    return SimpleNamespace(kernel_source=kernel, moe_dtype="fp8_block", num_tokens=tokens, us=20.0 + tokens, **sizes)


def test_experts_are_priced_by_the_kernels_that_engines_pick() -> None:
    assert expert_precision(expert_row(1)).family == "moe-gemm-fp8-block"
    assert expert_precision(expert_row(1, "vllm_fp8moe_flashinfer_trtllm_trtllmfp8expertsmodular")) is None


def test_balanced_tables_touch_every_expert_once_there_are_enough_tokens() -> None:
    kind = expert_precision(expert_row(1))
    few, all_once, twice = (expert_reading(expert_row(tokens), kind).bytes for tokens in (4, 16, 32))
    values = 3 * 2048 * 768 * kind.weight
    activations = 8 * (2048 * kind.activation + 2 * 3 * 768)  # of a token
    assert few == pytest.approx(32 * values + 4 * activations)
    assert twice - all_once == pytest.approx(16 * activations)


def test_the_script_keeps_what_predicts_and_drops_what_does_not() -> None:
    found = reference("b200")
    assert found is not None
    far = {family.family: Errors(100, 0.3, 0.5) for family in found.families[:1]}
    kept = {family.family for family in shipped("b200_sxm", found, far).families}
    assert kept == {family.family for family in found.families[1:]}


def test_a_gpu_lends_what_another_lacks_at_the_others_peaks() -> None:
    b200, gb200 = reference("b200"), reference("gb200")
    assert b200 is not None and gb200 is not None
    bare = gb200.model_copy(update={"families": ()})
    experts = lent(bare, b200).family("moe-gemm-16")
    mine, theirs = (peak_rates(gpu(name), "moe-gemm-16") for name in ("gb200", "b200"))
    original = b200.family("moe-gemm-16")
    assert experts is not None and original is not None and experts.kernel.endswith(" of b200")
    assert experts.bytes_per_s / original.bytes_per_s == pytest.approx(mine[0] / theirs[0], rel=1e-4)


def test_readings_become_a_run_whose_held_back_rows_can_be_predicted() -> None:
    kind = expert_precision(expert_row(1))
    readings = [expert_reading(expert_row(2**i), kind) for i in range(12)]
    run = as_run(readings[::2], "h200_sxm")
    found = fit(run, gpu(run.gpu))
    assert run.source.startswith("ai-dynamo") and on_held_back(found, readings[1::2])[kind.family].points == 6
