"""The reference calibrations that ship, and how other GPUs borrow them."""

import pytest

from planner import estimate
from planner.catalog.gpus import gpu
from planner.catalog.paths import data_dir
from planner.catalog.rates import peak_rates
from planner.catalog.references import reference, reference_ids
from planner.estimate.evidence import source_for
from planner.specs.scenario import Scenario

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
