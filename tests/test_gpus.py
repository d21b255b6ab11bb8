"""Accelerators by every name they go by, in SI units, whole or in slices, from our files or the user's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog.gpus import gpu, gpu_from_profile, gpu_ids, profile
from planner.catalog.gpus.names import INDEX, build_index, index_text
from planner.catalog.gpus.rules import generations, memory_rule, memory_rules, visible_gib
from planner.catalog.paths import data_dir, profiles_dir, runs_dir
from planner.errors import BadFile, BadValue, PlannerError, UnknownName
from planner.specs.gpu import QUANTITIES, RATES, MathType, Quantity
from planner.units import GIB

# Total memory in GiB as an engine's log prints it, and the name under which that log or the driver knows the card.
LOGGED_GIB = {
    "NVIDIA H100 80GB HBM3": 79.19,  # vLLM 0.19.0
    "NVIDIA A100-SXM4-80GB": 79.25,  # vLLM 0.26
    "NVIDIA GeForce RTX 4090": 23.65,  # vLLM 0.10.2
    "Tesla T4": 14.74,  # vLLM
    "NVIDIA L4": 22.161,  # torch, Unsloth banner
    "NVIDIA A100-SXM4-40GB": 39.494,
    "NVIDIA A40": 44.549,
    "NVIDIA H200": 139.801,
    "NVIDIA GeForce RTX 5090": 31.357,
    "NVIDIA GeForce RTX 3060": 11.747,
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": 94.971,
    "NVIDIA H200 NVL MIG 3g.71gb": 69.75,  # vLLM
    "NVIDIA B200": 178.35,  # torch, out-of-memory report
    "NVIDIA GB200": 184.31,
    "NVIDIA L40S": 45467 / 1024,  # llama.cpp
    "Tesla V100-SXM2-32GB": 32494 / 1024,
    "NVIDIA GB10": 122572 / 1024,
    "Apple M4 Max": 103079.22e6 / GIB,
    "Apple M1": 11453.25e6 / GIB,
}

# Cards without a profile, as llama.cpp or vLLM on Linux printed them: the rule of the memory type must find them.
UNPROFILED_GIB = {
    "GeForce GTX 1660 Ti": (6, 5747 / 1024),
    "an 8 GB card (vLLM total_gpu_memory)": (8, 7.65),
    "GeForce RTX 2060 12GB": (12, 11833 / 1024),
    "Quadro RTX 5000": (16, 15927 / 1024),
}

NAMES = {
    "h100-sxm": ("H100", "h100", "H100 80GB", "H100-SXM", "h100_sxm", "H100 80GB HBM3 (SXM)"),
    "a100-80-sxm": ("A100", "A100 80GB", "A100-SXM4-80G", "A100 SXM 80GB", "nvidia a100-sxm4-80gb"),
    "a100-80-pcie": ("NVIDIA A100 80GB PCIe", "A100-PCIE-80GB", "A100 80GB PCIe", "A100 PCIe 80GB"),
    "rtx3090": ("RTX 3090 24GB", "RTX3090", "GeForce RTX 3090", "3090"),
    "rtx6000ada": ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada 48GB"),
    "gb10": ("NVIDIA GB10", "DGX Spark (GB10)", "Dell Pro Max with GB10 (Nvidia Spark)"),
    "rtx4070tis": ("Ryzen 9 7950X (Nvidia 4070 Ti Super)",),
    "apple-m2-ultra": ("Apple M2 Ultra", "M2 Ultra", "Apple M2 Ultra 76-core GPU 192GB"),
    "strix-halo": ("Radeon 8060S / Ryzen AI Max+ 395 (Strix Halo) ROCm 7.2.3",),
    "mi300x": ("MI300X 192GB", "AMD Instinct MI300X"),
    "gb200": ("GB200 192GB", "gb200"),
    "arc-b580": ("Intel(R) Arc(TM) B580 Graphics",),
}

SMALLEST = {"label_gb": 24, "bandwidth_gb_per_s": 1008, "bf16_tflops": 165.2}


@pytest.mark.parametrize("name", LOGGED_GIB)
def test_visible_memory_is_what_the_engines_log_says(name: str) -> None:
    assert gpu(name).device_bytes / GIB == pytest.approx(LOGGED_GIB[name], abs=0.02)


@pytest.mark.parametrize("card", UNPROFILED_GIB)
def test_the_rule_finds_cards_that_it_was_not_taken_from(card: str) -> None:
    label_gb, logged_gib = UNPROFILED_GIB[card]
    spec = gpu_from_profile(
        {"label_gb": label_gb, "memory_type": "GDDR6", "bandwidth_gb_per_s": 1, "fp16_tflops": 1}, card
    )
    assert spec.device_bytes / GIB == pytest.approx(logged_gib, rel=0.014)


def test_rules_stay_within_three_percent_of_the_cards_they_were_taken_from() -> None:
    for rule in memory_rules():
        for card in rule.cards:
            found = profile(card)
            assert found.device_gib is not None and found.label_gb is not None
            assert memory_rule(found) == rule
            assert visible_gib(found.label_gb.value, rule) == pytest.approx(found.device_gib.value, rel=0.03)


@pytest.mark.parametrize(("card", "name"), [(card, name) for card, names in NAMES.items() for name in names])
def test_a_name_finds_its_card(card: str, name: str) -> None:
    assert gpu(name).id == card


def test_every_driver_name_and_alias_finds_its_own_profile() -> None:
    for card in gpu_ids():
        for name in (card, card.upper(), profile(card).name, *profile(card).driver_names, *profile(card).aliases):
            assert gpu(name).id == card


@pytest.mark.parametrize("name", ["RTX 4090 48GB", "RTX 4090 (48GB)", "A100 60GB", "H100-SXM 96GB"])
def test_a_size_that_the_card_does_not_have_is_not_that_card(name: str) -> None:
    with pytest.raises(UnknownName):
        gpu(name)


@pytest.mark.parametrize(("name", "near"), [("h10", "h100-sxm"), ("rtx409", "rtx4090")])
def test_an_unknown_name_is_told_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownName, match=rf"did you mean '{near}'\? \(planner gpus lists all\)"):
        gpu(name)


@pytest.mark.parametrize("name", ["", " ", ":", "../../etc/passwd", "h100-sxm/../b200", "x" * 10**6, "\x00", "💥" * 99])
def test_a_hostile_name_is_unknown(name: str) -> None:
    with pytest.raises(UnknownName) as caught:
        gpu(name)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_the_index_of_names_is_up_to_date() -> None:
    assert (data_dir() / INDEX).read_text("utf-8") == index_text(build_index())


def test_looking_up_an_id_opens_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    from planner.catalog.gpus import lookup, profiles

    read = profiles.read_yaml
    monkeypatch.setattr(profiles, "read_yaml", lambda path: opened.append(path) or read(path))
    profiles.load.cache_clear()
    lookup._gpu.cache_clear()
    gpu("h100-sxm")
    assert [path.name for path in opened] == ["h100-sxm.yaml"]


def test_units_are_si() -> None:
    card = gpu(
        "h100-sxm"
    )  # H100 datasheet: 80 GB, 3.35 TB/s, 1979 TFLOPS FP16 with sparsity, NVLink 900 GB/s both ways
    assert card.label_bytes == 80e9
    assert card.bandwidth_bytes_per_s == 3.35e12
    assert card.flops_per_s[MathType.BF16] == pytest.approx(1979e12 / 2, rel=1e-3)
    assert card.flops_per_s[MathType.FP8] == pytest.approx(3958e12 / 2, rel=1e-3)
    assert card.link_bytes_per_s == 900e9 / 2
    assert card.l2_bytes == 50 * 2**20
    assert card.pcie_bytes_per_s == pytest.approx(128e9 / 2, rel=0.02)
    assert (card.sm_count, card.tdp_w, card.link_gpus) == (132, 700, 8)


def test_types_without_matrix_units_have_no_rate() -> None:
    assert MathType.BF16 not in gpu("t4").flops_per_s
    assert MathType.FP8 not in gpu("a100-80-sxm").flops_per_s
    assert MathType.FP4 not in gpu("h100-sxm").flops_per_s
    assert MathType.INT8 not in gpu("b300").flops_per_s


@pytest.mark.parametrize("card", gpu_ids())
def test_a_profile_is_whole_and_every_value_has_a_source(card: str) -> None:
    found, spec = profile(card), gpu(card)
    assert found.id == spec.id == card
    assert found.name and found.vendor and found.arch and found.form_factor and found.memory_type
    quantities = [value for key in QUANTITIES if isinstance(value := getattr(found, key), Quantity)]
    assert all(len(value.source) > 3 and "user" not in value.source for value in quantities)
    assert all(conflict.source and conflict.field in QUANTITIES for conflict in found.conflicts)
    assert spec.generation != "custom"
    assert {MathType.FP16, MathType.BF16} & set(spec.flops_per_s)


@pytest.mark.parametrize("card", gpu_ids())
def test_a_profile_is_physically_plausible(card: str) -> None:
    spec = gpu(card)
    sixteen = max(spec.flops_per_s.get(kind, 0) for kind in (MathType.FP16, MathType.BF16))
    assert 0.6 <= spec.device_bytes / (spec.label_bytes / 1e9 * GIB) <= 1
    assert 0.5 <= spec.flops_per_s.get(MathType.FP8, sixteen) / sixteen <= 2.1
    assert 1.9 <= spec.flops_per_s.get(MathType.FP4, 2 * sixteen) / sixteen <= 8.1
    assert 5e-4 <= spec.bandwidth_bytes_per_s / sixteen <= 0.05  # bytes per operation: Thor to a small Mac
    assert spec.link_bytes_per_s is None or spec.link_gpus is not None or card.startswith("gh200")


def test_conflicts_between_sources_stay_visible() -> None:
    said = {conflict.value for conflict in profile("b300").conflicts if conflict.field == "int8_tops"}
    assert {4500, 153.5, 2000} <= said
    assert 7700 in {conflict.value for conflict in profile("b200").conflicts}
    assert 989.4 in {conflict.value for conflict in profile("h100-nvl").conflicts}


@pytest.mark.parametrize(
    ("card", "generation"),
    [
        ("v100-16-sxm", "volta"), ("t4", "turing"), ("a100-80-sxm", "ampere-dc"), ("rtx3090", "ampere"),
        ("orin-64", "ampere"), ("l40s", "ada"), ("h20", "hopper"), ("b200", "blackwell-dc"),
        ("gb300", "blackwell-ultra"), ("thor-t5000", "thor"), ("rtx5090", "blackwell-rtx"), ("gb10", "gb10"),
        ("mi300x", "cdna3"), ("mi355x", "cdna4"), ("strix-halo", "rdna3"), ("apple-m4", "apple"),
    ],
)  # fmt: skip
def test_generation_follows_capability_or_architecture(card: str, generation: str) -> None:
    assert gpu(card).generation == generation


def test_generations_are_listed_once() -> None:
    ids = [entry.id for entry in generations()]
    capabilities = [value for entry in generations() for value in entry.compute_capability]
    assert len(set(ids)) == len(ids) and len(set(capabilities)) == len(capabilities)


def test_a_slice_has_its_share() -> None:
    whole, part = gpu("h100-sxm"), gpu("h100-sxm:2g.20gb")  # nvidia-smi mig -lgip: 19.62 GiB, 32 SMs, 2 of 8 slices
    assert (part.mig, part.sm_count, part.id) == ("2g.20gb", 32, "h100-sxm:2g.20gb")
    assert part.device_bytes == pytest.approx(19.62 * GIB)
    assert part.bandwidth_bytes_per_s == whole.bandwidth_bytes_per_s / 4
    assert part.flops_per_s[MathType.FP8] == pytest.approx(whole.flops_per_s[MathType.FP8] * 32 / 132)
    assert part.link_bytes_per_s is None and part.price is None


@pytest.mark.parametrize("card", [card for card in gpu_ids() if profile(card).mig])
def test_slices_fit_into_their_card(card: str) -> None:
    whole, mig = gpu(card), profile(card).mig
    assert mig is not None and whole.sm_count is not None
    for one in mig.slices:
        part = gpu(f"{card}:{one.name}")
        label_gb = float(one.name.split(".")[1].removesuffix("gb"))
        assert part.sm_count is not None and part.sm_count <= whole.sm_count
        assert part.device_bytes <= whole.device_bytes * 1.001
        assert part.device_bytes / GIB == pytest.approx(label_gb, rel=0.13)
        assert part.bandwidth_bytes_per_s <= whole.bandwidth_bytes_per_s


def test_an_unknown_slice_is_told_the_valid_ones() -> None:
    with pytest.raises(BadValue, match=r"no slice or memory size '9g\.90gb'; known are 1g\.10gb, .*7g\.80gb"):
        gpu("h100-sxm:9g.90gb")
    with pytest.raises(BadValue, match="it has none"):
        gpu("rtx4090:1g.10gb")


def test_unified_memory_comes_in_the_sizes_it_is_sold_with() -> None:
    mac = gpu("apple-m1-ultra:64gb")
    assert mac.unified_memory and mac.label_bytes == 64e9 and mac.device_bytes == pytest.approx(48 * GIB)
    assert gpu("M1 Ultra (48 GPU Core) 64GB") == mac
    assert gpu("apple-m1:8gb").device_bytes == pytest.approx(8 * GIB * 2 / 3, rel=1e-3)


def test_a_users_profile_needs_four_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("id: mine\nlabel_gb: 24\nbandwidth_gb_per_s: 1008\nbf16_tflops: {value: 165, source: me}\n")
    mine = gpu(str(path))
    assert (mine.id, mine.name, mine.generation, mine.device_bytes_kind) == ("mine", "mine", "custom", "derived")
    assert mine.bandwidth_bytes_per_s == 1.008e12 and mine.flops_per_s == {MathType.BF16: 165e12}


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(SMALLEST))
    before = gpu(str(path)).label_bytes
    path.write_text(json.dumps(SMALLEST | {"label_gb": 480}))
    assert (before, gpu(str(path)).label_bytes) == (24e9, 480e9)


def test_the_rule_of_the_memory_type_serves_users_profiles() -> None:
    assert gpu_from_profile(SMALLEST | {"memory_type": "HBM3"}, "x").device_bytes == pytest.approx(24 * 0.99 * GIB)
    assert gpu_from_profile(SMALLEST | {"inline_ecc": True}, "x").device_bytes == pytest.approx(24 * 0.925 * GIB)
    seen = gpu_from_profile({"device_gib": 23.5, "bandwidth_gb_per_s": 1, "int8_tops": 1}, "x")
    assert seen.device_bytes == seen.label_bytes == 23.5 * GIB


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bandwidth_gb_per_s": None}, "bandwidth_gb_per_s"),
        ({"label_gb": None}, "label_gb is missing"),
        ({"bf16_tflops": None}, "bf16_tflops is missing"),
        ({"bandwith_gb_per_s": 5}, "unknown field 'bandwith_gb_per_s'; did you mean 'bandwidth_gb_per_s'"),
        ({"label_gb": -1}, r"label_gb\.value: .*greater than 0"),
        ({"label_gb": 1e300}, r"label_gb\.value"),
        ({"label_gb": "24"}, "label_gb: a number"),
        ({"label_gb": True}, "label_gb: a number"),
        ({"label_gb": {"value": True, "source": "me"}}, r"label_gb\.value"),
        ({"label_gb": {"value": 24}}, r"label_gb\.source is missing"),
        ({"label_gb": {"value": 24, "source": "me", "kind": "guess"}}, r"label_gb\.kind"),
        ({"sm_count": [1]}, "sm_count"),
        ({"aliases": ["x"] * 1000}, "aliases"),
        ({"compute_capability": 1e9}, "compute_capability"),
        ({"mig": {"source": "me", "memory_slices": 8, "slices": [{"name": "1g", "memory_slices": 1, "sm_count": 9}]}},
         "sm_count is missing"),
    ],
)  # fmt: skip
def test_a_faulty_profile_is_told_its_field_in_one_line(change: dict[str, object], message: str) -> None:
    document = {key: value for key, value in (SMALLEST | change).items() if value is not None}
    with pytest.raises(BadFile, match=f"mine.yaml: .*{message}") as caught:
        gpu_from_profile(document, "mine.yaml")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_generation_must_be_known() -> None:
    assert gpu_from_profile(SMALLEST | {"generation": "hopper"}, "x").generation == "hopper"
    with pytest.raises(BadValue, match=r"x: generation 'hoper' is not known; known are pascal, volta, .*custom"):
        gpu_from_profile(SMALLEST | {"generation": "hoper"}, "x")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x00", b"\xff\xfe", b"[]", b"24", b"- " * 10**5, b"{" * 10**5, b"PK\x03\x04",
        b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]", b"!!python/object/apply:os.system [id]",
        b"label_gb: .nan", b"label_gb: 1e999", b"label_gb: 1\nlabel_gb: 2", b"? [a]\n: b", b"{1: 2}",
    ],
)  # fmt: skip
def test_hostile_yaml_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(PlannerError) as caught:
        gpu_from_profile(data, "mine.yaml")
    assert str(caught.value).startswith("mine.yaml") and "\n" not in str(caught.value)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner))
FIELDS = st.sampled_from(sorted(QUANTITIES | {"id", "generation", "mig", "price", "conflicts", "aliases"}))


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(FIELDS, VALUES, max_size=5))
def test_any_document_is_a_gpu_or_one_line(fields: dict[str, object]) -> None:
    try:
        spec = gpu_from_profile(SMALLEST | fields, "mine.yaml")
    except PlannerError as error:
        assert "\n" not in str(error) and len(str(error)) < 400
    else:
        assert spec.device_bytes > 0 and spec.bandwidth_bytes_per_s > 0 and spec.flops_per_s


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_name_is_a_gpu_or_one_line(name: str) -> None:
    try:
        assert gpu(name).device_bytes > 0
    except PlannerError as error:
        assert "\n" not in str(error)


def test_rates_cover_every_math_type() -> None:
    assert set(RATES) == set(MathType)


def test_profiles_written_after_the_index_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from planner.catalog.gpus import names, profiles

    document = SMALLEST | {"id": "new-card", "name": "New Card", "driver_names": ["ACME New Card 24GB"]}
    (tmp_path / "new-card.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setattr(profiles, "profiles_dir", lambda: tmp_path)
    try:
        assert gpu("acme new card 24gb").id == "new-card"
    finally:
        for function in (names.resolve, profiles.load):
            function.cache_clear()


def test_what_ships_is_found_beside_the_package() -> None:
    assert profiles_dir().is_dir() and runs_dir().name == "calibration_runs" and data_dir().is_dir()
    assert len(gpu_ids()) >= 88
