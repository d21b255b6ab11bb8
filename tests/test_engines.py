"""Engines by version: what the files say, and how a version finds its constants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planner.catalog.engines import (
    SECTIONS,
    default_limits,
    engine,
    engine_constants,
    engine_id,
    engine_ids,
    known_series,
    parse_version,
    usual_backend,
    with_known_sections,
)
from planner.catalog.files import read_yaml
from planner.catalog.gpus import gpu
from planner.catalog.paths import data_dir
from planner.errors import BadFile, UnknownName
from planner.specs.engine import BudgetRule
from planner.units import GIB


def test_the_seven_engines_of_the_contract_are_known() -> None:
    assert set(engine_ids()) == {"vllm", "sglang", "tensorrt-llm", "llama.cpp", "transformers", "mlx", "none"}


@pytest.mark.parametrize(
    ("alias", "id_"),
    [("llamacpp", "llama.cpp"), ("Ollama", "llama.cpp"), ("trt-llm", "tensorrt-llm"), ("HF", "transformers")],
)
def test_wrappers_and_short_names_resolve(alias: str, id_: str) -> None:
    assert engine_id(alias) == id_


def test_an_unknown_engine_names_the_nearest_one() -> None:
    with pytest.raises(UnknownName, match="did you mean 'vllm'"):
        engine("vlm")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("v0.10.1.1", (0, 10, 1, 1)),
        ("0.26.1rc1.dev156+g0eec856cc.d20260731", (0, 26, 1)),
        ("0.6.3.post1", (0, 6, 3)),
        ("b4000", (4000,)),
        ("nightly", None),
        ("", None),
    ],
)
def test_versions_are_read_as_engines_write_them(text: str, numbers: tuple[int, ...] | None) -> None:
    assert parse_version(text) == numbers


@pytest.mark.parametrize(("version", "fraction"), [("0.19.0", 0.90), ("0.21.3", 0.90), ("0.22", 0.92), (None, 0.92)])
def test_vllm_takes_092_of_the_device_from_022(version: str | None, fraction: float) -> None:
    assert engine("vllm", version).budget.utilization == fraction


def test_a_version_that_cannot_be_parsed_is_the_newest_and_says_so() -> None:
    spec = engine("vllm", "nightly")
    assert spec.version == engine("vllm").version
    assert "cannot be parsed" in spec.note


@pytest.mark.parametrize(("version", "word"), [("0.4.3", "older"), ("9.0", "newer"), ("0.28.1", "")])
def test_versions_beyond_what_is_known_say_so(version: str, word: str) -> None:
    assert word in engine("vllm", version).note
    assert bool(word) == bool(engine("vllm", version).note)


def test_versions_order_as_numbers_not_as_text() -> None:
    assert engine("vllm", "0.9.2").cache.layout != engine("vllm", "0.10.0").cache.layout


def test_budget_rules_follow_each_engine() -> None:
    rules = {id_: engine(id_).budget.rule for id_ in ("vllm", "sglang", "tensorrt-llm", "llama.cpp")}
    assert list(rules.values()) == [
        BudgetRule.TOTAL,
        BudgetRule.FREE_BEFORE,
        BudgetRule.FREE_AFTER,
        BudgetRule.FREE,
    ]


@pytest.mark.parametrize(
    ("name", "version", "limits"),
    [
        ("h100-sxm", "0.19.0", (1024, 8192)),
        ("a100-80-sxm", "0.19.0", (256, 2048)),
        ("rtx4090", "0.19.0", (256, 2048)),
        ("b200", "0.19.0", (1024, 8192)),
        ("b200", "0.28.0", (1024, 16384)),
    ],
)
def test_vllm_default_limits_follow_the_device(name: str, version: str, limits: tuple[int, int]) -> None:
    tier = default_limits(engine("vllm", version), gpu(name))
    assert (tier.max_num_seqs, tier.max_num_batched_tokens) == limits


def test_a_device_size_given_by_hand_decides_the_limits() -> None:
    tier = default_limits(engine("vllm", "0.19.0"), gpu("h100-sxm"), device_bytes=39.4 * GIB)
    assert tier.max_num_batched_tokens == 2048


@pytest.mark.parametrize("id_", ["vllm", "sglang", "tensorrt-llm", "llama.cpp", "transformers", "mlx", "none"])
def test_every_constant_names_its_source(id_: str) -> None:
    constants = engine_constants(id_)
    assert len(constants) > 10
    assert all(constant.source.strip() for _, constant in constants)


def test_units_in_keys_become_si() -> None:
    spec = engine("vllm", "0.19.0")
    assert spec.process.non_torch_bytes == 0.25 * GIB
    assert spec.front_end.request_s == pytest.approx(0.008)


def test_engines_differ_in_how_prompts_share_a_step() -> None:
    assert not engine("sglang", "0.5.9").scheduler.chunks_mixed
    assert not engine("sglang").scheduler.rank_budget
    assert engine("vllm").scheduler.chunks_mixed


def test_a_back_end_changes_what_its_own_constants_say_and_nothing_else() -> None:
    usual, old, new = engine("llama.cpp"), engine("llama.cpp", "b7423", "vulkan"), engine("llama.cpp", None, "vulkan")
    assert engine("llama.cpp", None, "rocm") is usual
    assert old.attained.packed_arithmetic < new.attained.packed_arithmetic == 1
    assert "rdna2" in usual.attention_kernels.slow_fused and not new.attention_kernels.slow_fused
    assert (new.id, new.kernels, new.cache) == (usual.id, "llama.cpp/vulkan", usual.cache)


def test_what_llama_cpp_is_built_for_follows_from_the_vendor() -> None:
    assert [usual_backend("llama.cpp", vendor) for vendor in ("NVIDIA", "AMD", "Intel")] == ["cuda", "rocm", "sycl"]
    assert usual_backend("vllm", "NVIDIA") is None


def test_builds_of_llamacpp_differ_in_graphs_and_attention() -> None:
    old, new = engine("llama.cpp", "b2824"), engine("llama.cpp", "b7000")
    assert (old.graphs.steps, new.graphs.steps) == ("none", "single")
    assert (old.defaults.flash_attention, new.defaults.flash_attention) == (False, True)


def test_tensorrt_llm_knew_no_windows_before_its_pytorch_backend() -> None:
    """NVIDIA's own table of Mistral-7B v0.1, whose window is 4096: 22,000 tokens are five times those of the window."""
    assert not engine("tensorrt-llm", "0.14").cache.windows
    assert engine("tensorrt-llm", "1.0").cache.windows


def test_a_version_is_called_too_old_only_where_the_file_has_no_constants_of_it() -> None:
    assert not engine("tensorrt-llm", "0.18.2").note and not engine("tensorrt-llm", "0.9").note
    assert "older than 0.9" in engine("tensorrt-llm", "0.8").note
    assert known_series("tensorrt-llm") == ("1.0", "1.1", "1.2")
    assert known_series("vllm")[0] == "0.5" and known_series("llama.cpp") == ()


@pytest.mark.parametrize("engine_id", engine_ids())
def test_a_file_says_each_version_once_and_the_oldest_first(engine_id: str) -> None:
    stated = [
        parse_version(one["from"])
        for one in read_yaml(data_dir() / "engines" / f"{engine_id}.yaml").get("versions", ())
    ]
    assert stated == sorted(set(stated))


@pytest.mark.parametrize(
    "document",
    [
        {"overhead": {}},
        {"versions": [{"from": "1", "overhead": {}}]},
        {"backend_constants": {"vulkan": {"versions": [{"from": "1", "overhead": {}}]}}},
    ],
)
def test_a_section_that_no_engine_has_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(BadFile, match="odd: no section 'overhead'"):
        with_known_sections("odd", document)


def test_the_page_of_engines_names_every_section() -> None:
    page = (Path(__file__).parents[1] / "docs" / "engines.md").read_text("utf-8")
    assert [name for name in SECTIONS if f"`{name}`" not in page] == []
