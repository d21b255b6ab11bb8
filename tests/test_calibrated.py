from pathlib import Path

import numpy as np
import pytest

from planner import estimate
from planner.calibration.fit import fit
from planner.catalog import runs
from planner.catalog.calibrated import Asked, Source, calibrated, residuals
from planner.catalog.formats import kv_format, weight_format
from planner.catalog.gpus import gpu
from planner.catalog.kernel_families import kernel_families
from planner.catalog.links import Topology
from planner.catalog.rates import Evidence, rates_for, stack
from planner.collectives import Parallel
from planner.estimate import Library
from planner.estimate.evidence import source_for
from planner.formats import kernel_for
from planner.ops import Batch, Slot, forward_ops
from planner.roofline import Rates, on_common_grid, step_seconds, table_residual
from planner.specs.calibration import Calibration, FamilyFit, LinkFit, ResidualTable
from planner.specs.formats import Level
from planner.specs.run import Mode, Run
from planner.specs.scenario import Scenario
from tests.calibration_victim import MACHINE, NOW, plan
from tests.fake_gpu import FakeDevice
from tests.oracle.models import LLAMA_8B, MLA, MOE, build, widths

H200, H100 = gpu("h200-sxm"), gpu("h100-sxm")
FAMILIES = kernel_families(LLAMA_8B, weight_format("bf16"), "gemm-16", kv_format("bf16")[0])
USED = frozenset({Slot.ATTENTION_GEMM, Slot.MLP_GEMM, Slot.DECODE})


def family(name: str, **changes: object) -> FamilyFit:
    fields = {"t0_s": 1e-6, "bytes_per_s": 4e12, "flops_per_s": 8e14, "p": 2.0, "points": 100, "kernel": "torch.mm"}
    return FamilyFit(**({"family": name} | fields | changes))


def source(*fits: FamilyFit, **changes: object) -> Source:
    families = fits or (family("gemm-16"), family("attention-decode-16"))
    return Source(Calibration(id="run", gpu="h200-sxm", families=families, **changes), H200, Evidence.MEASURED)


def asked(card=H200, engine: str = "vllm", **topology: object) -> Asked:
    return Asked(card, engine, FAMILIES, Topology(**topology), USED)


def flat(value: float) -> ResidualTable:
    return ResidualTable(m=(0.0, 10.0), n=(9.0, 14.0), k=(9.0, 14.0), values=(value,) * 8)


def test_measured_families_take_the_place_of_the_datasheet() -> None:
    found, sheet = calibrated(source(), asked()), rates_for(H200, "vllm", FAMILIES)
    field = Rates(*found.values)
    assert field.bytes_per_s[Slot.MLP_GEMM] == 4e12 and found.evidence is Evidence.MEASURED
    assert np.array_equal(found.values[:, Slot.PREFILL], sheet.values[:, Slot.PREFILL])
    assert found.calibration_id == "run" and "run" in found.sources[Slot.DECODE]


def test_latent_attention_takes_its_own_curve_or_that_of_grouped_heads() -> None:
    model = build(MLA)
    families = kernel_families(model, weight_format("bf16"), "gemm-16", kv_format("bf16")[0])
    latent = asked(engine="sglang")._replace(families=families)
    own = source(family("attention-decode-16"), family("attention-decode-latent", bytes_per_s=3e12))
    assert Rates(*calibrated(own, latent).values).bytes_per_s[Slot.DECODE] == 3e12
    assert Rates(*calibrated(source(), latent).values).bytes_per_s[Slot.DECODE] == 4e12
    assert Rates(*calibrated(own, asked()).values).bytes_per_s[Slot.DECODE] == 4e12


def test_dense_fp4_weights_take_their_own_curve_or_that_of_other_4_bit_weights() -> None:
    fmt, kv = weight_format("nvfp4"), kv_format("bf16")[0]
    families = kernel_families(LLAMA_8B, fmt, kernel_for(fmt, Level.WEIGHT_ONLY), kv)
    wish = asked()._replace(families=families)
    for fits, rate in (((family("wo-4"), family("wo-nv4", bytes_per_s=3e12)), 3e12), ((family("wo-4"),), 4e12)):
        assert Rates(*calibrated(source(*fits), wish).values).bytes_per_s[Slot.MLP_GEMM] == rate
    assert (
        kernel_families(build(ffn=MOE), fmt, "wo-nv4", kv)[Slot.EXPERT_GEMM] == "moe-wo-4"
    )  # one kernel for all of them


def test_an_engines_own_kernel_keeps_its_form_and_moves_with_what_was_measured() -> None:
    families = list(FAMILIES)
    families[Slot.DECODE] = "attention-decode-8"
    measured = source(family("gemm-16"), family("attention-decode-8"))
    own, others = (
        Rates(*calibrated(measured, asked(engine=engine)._replace(families=tuple(families))).values)
        for engine in ("sglang", "vllm")
    )
    assert own.t0_s[Slot.DECODE] > 10 * others.t0_s[Slot.DECODE]
    assert own.bytes_per_s[Slot.DECODE] < others.bytes_per_s[Slot.DECODE]


def test_engines_experts_and_what_a_run_lacks_come_from_the_reference() -> None:
    run = source(family("gemm-16"), family("moe-gemm-16", flops_per_s=1e14))
    fits = family("moe-gemm-16", flops_per_s=5e14), family("attention-decode-16")
    published = Calibration(id="published", gpu="h200-sxm", families=fits)
    both = run._replace(reference=published)
    used = frozenset({Slot.ATTENTION_GEMM, Slot.EXPERT_GEMM, Slot.DECODE})
    for engine, rate, origin in (("vllm", 5e14, "published"), ("none", 1e14, "run")):
        found = calibrated(both, asked(engine=engine)._replace(used=used))
        assert Rates(*found.values).flops_per_s[Slot.EXPERT_GEMM] == rate and origin in found.sources[Slot.EXPERT_GEMM]
        assert "published" in found.sources[Slot.DECODE] and "run" in found.sources[Slot.MLP_GEMM]
        assert found.evidence is Evidence.REFERENCE  # of the least that the step rests on
    dense = asked()._replace(used=frozenset({Slot.MLP_GEMM}))
    assert calibrated(both, dense).evidence is Evidence.MEASURED


def test_what_decides_the_step_must_be_measured() -> None:
    found = calibrated(source(family("gemm-16")), asked())
    assert found.evidence is Evidence.DATASHEET and found.calibration_id == "run"


def test_another_gpu_of_the_generation_is_scaled_by_its_peaks() -> None:
    field = Rates(*calibrated(source(), asked(H100)).values)
    ratio = H100.bandwidth_bytes_per_s / H200.bandwidth_bytes_per_s
    assert field.bytes_per_s[Slot.MLP_GEMM] == pytest.approx(4e12 * ratio)
    assert "transferred from h200-sxm" in calibrated(source(), asked(H100)).sources[Slot.MLP_GEMM]


def test_an_engines_own_kernels_are_scaled_and_keep_their_form() -> None:
    tabled = source(family("gemm-16", residual=flat(0.2)), family("attention-decode-16"))
    theirs, mine = rates_for(H200, "llama.cpp", FAMILIES), calibrated(tabled, asked(engine="llama.cpp"))
    plain = Rates(*rates_for(H200, "", FAMILIES).values).bytes_per_s[Slot.MLP_GEMM]
    was, now = (Rates(*found.values) for found in (theirs, mine))
    assert now.t0_s[Slot.MLP_GEMM] == was.t0_s[Slot.MLP_GEMM] and mine.tables[Slot.MLP_GEMM] is None
    assert now.bytes_per_s[Slot.MLP_GEMM] == pytest.approx(was.bytes_per_s[Slot.MLP_GEMM] * 4e12 / plain)


def test_measured_links_hold_for_their_group_on_their_machine() -> None:
    link = LinkFit(family="all_reduce", ranks=4, latency_s=7e-6, bytes_per_s=2e11, p=0.6, points=12)
    found = source(links=(link,))
    four, eight = (Rates(*calibrated(found, asked(tp=n)).values) for n in (4, 8))
    assert four.bytes_per_s[Slot.ALL_REDUCE] == 2e11 and four.latency_s[Slot.ALL_REDUCE] == 7e-6
    sheet = Rates(*rates_for(H200, "vllm", FAMILIES, Topology(tp=8)).values)
    assert eight.bytes_per_s[Slot.ALL_REDUCE] == sheet.bytes_per_s[Slot.ALL_REDUCE]


# Residual tables in the roofline.


def ops():
    batch = Batch(decode_seqs=np.array([4.0, 64.0]), decode_context=np.array([1000.0, 4000.0]))
    return forward_ops(LLAMA_8B, batch, widths(LLAMA_8B), Parallel())


def test_a_flat_table_multiplies_the_time() -> None:
    fits = [family(name, residual=flat(0.1)) for name in ("gemm-16", "attention-decode-16")]
    plain, tabled = calibrated(source(), asked()), calibrated(source(*fits), asked())
    bare = step_seconds(ops(), stack([plain, plain]))
    mixed = step_seconds(ops(), stack([plain, tabled]), residuals([plain, tabled]))
    assert mixed[0] == pytest.approx(bare[0]) and 1.06 < mixed[1] / bare[1] < 1.11


def test_no_table_costs_nothing() -> None:
    assert residuals([calibrated(source(), asked()), rates_for(H200, "vllm", FAMILIES)]) is None


def test_the_common_grid_says_what_the_table_says() -> None:
    random = np.random.default_rng(1)
    values = tuple(float(v) for v in random.uniform(-0.3, 0.3, 4 * 3 * 3))
    table = ResidualTable(m=(0.0, 4.0, 8.0, 12.0), n=(9.0, 11.0, 14.0), k=(9.0, 12.0, 14.0), values=values)
    for m, n, k in ((1, 512, 512), (16, 2048, 4096), (256, 16384, 16384), (3, 700, 5000)):
        fits = [family("gemm-16", residual=table), family("attention-decode-16")]
        found = residuals([calibrated(source(*fits), asked())])
        assert found is not None and found.tables[0].any() == np.False_
        exact = float(table_residual(table, np.array([float(m)]), np.array([float(n)]), np.array([float(k)]))[0])
        nodes = on_common_grid(table)
        assert np.array_equal(found.tables[1], nodes) and abs(exact) <= 0.3 and np.abs(nodes).max() <= 0.3


# From the run's file to the estimate.


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    from planner.calibration.run import calibrate, opened
    from planner.calibration.suite import cases

    monkeypatch.setenv(runs.RUNS_DIR, str(tmp_path / "runs"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wish = plan(tmp_path)
    device = FakeDevice(t0_s=5e-6, bandwidth=4e12)
    wish = wish._replace(cases=cases(device.able, Mode.QUICK))
    return calibrate(wish, device, opened(wish, False, NOW), pause=lambda seconds: None)


def scenario(card: str = "h200-sxm", **changes: object) -> Scenario:
    return Scenario(model="llama-3.1-8b", gpu=card, weight_format="bf16", concurrency=8, **changes)


def test_a_new_run_changes_the_next_estimate(measured: Run, tmp_path: Path) -> None:
    before = estimate(scenario()).rows()[0]
    runs.write_run(measured, tmp_path / "runs")
    after = estimate(scenario()).rows()[0]
    assert before["speed_evidence"] != "measured"
    assert after["speed_evidence"] == "measured" and after["calibration_id"] == measured.id
    assert after["tpot_ms"] != before["tpot_ms"]
    assert after["tpot_ms_high"] / after["tpot_ms"] < before["tpot_ms_high"] / before["tpot_ms"]


def test_a_run_that_a_caller_brings_counts_for_him_alone(measured: Run) -> None:
    mine = estimate(scenario(), library=Library(runs=(measured,))).rows()[0]
    others = estimate(scenario()).rows()[0]
    assert mine["calibration_id"] == measured.id != others["calibration_id"]


def test_a_run_serves_its_generation_as_a_reference(measured: Run, tmp_path: Path) -> None:
    runs.write_run(measured, tmp_path / "runs")
    ids = {card: estimate(scenario(card)).rows()[0] for card in ("h200-nvl", "h100-nvl", "l4", "rtx5090")}
    assert [row["speed_evidence"] for row in ids.values()] == ["reference", "reference", "reference", "datasheet"]
    assert [row["calibration_id"] == measured.id for row in ids.values()] == [True, True, False, False]


def test_a_damaged_run_leaves_the_datasheet(measured: Run, tmp_path: Path) -> None:
    path = runs.write_run(measured, tmp_path / "runs")
    path.write_text(path.read_text("utf-8")[:-100], "utf-8")
    assert estimate(scenario()).rows()[0]["speed_evidence"] != "measured"


def test_a_kept_fit_is_the_fit(measured: Run, tmp_path: Path) -> None:
    runs.write_run(measured, tmp_path / "runs")
    found = source_for(H200)
    assert found is not None and found.calibration == fit(measured, H200)
    (kept,) = (tmp_path / "cache").rglob("fits/*.json")
    assert Calibration.model_validate_json(kept.read_text("utf-8")) == found.calibration


def test_the_estimate_follows_what_was_measured(measured: Run) -> None:
    twice = {"id": "slow", "points": tuple(_slower(p) for p in measured.points)}
    slow = runs.sealed(measured.model_copy(update=twice))
    fast, late = (estimate(scenario(), library=Library(runs=(r,))).rows()[0] for r in (measured, slow))
    assert 1.5 < late["tpot_ms"] / fast["tpot_ms"] < 2.1
    assert MACHINE.device_token not in str(fast)


def _slower(point):
    timing = point.timing
    return point.model_copy(update={"timing": timing.model_copy(update={"median_s": 2 * timing.median_s})})
