"""Support levels against what the engines' documents say (sources in planner/data/support.yaml)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from planner.catalog.files import read_yaml
from planner.catalog.formats import kv_format, kv_format_ids, support, weight_format, weight_format_ids
from planner.catalog.paths import data_dir
from planner.errors import UnknownName
from planner.specs.formats import Level, Support
from planner.specs.gpu import MathType

TABLE = read_yaml(data_dir() / "support.yaml")
ENGINES = ["vllm", "sglang", "tensorrt-llm", "llama.cpp", "transformers", "mlx"]
RATES = {
    "ampere-dc": {MathType.BF16: 312e12, MathType.FP16: 312e12, MathType.INT8: 624e12},
    "volta": {MathType.FP16: 125e12},
    "hopper": {MathType.BF16: 989e12, MathType.FP16: 989e12, MathType.FP8: 1979e12, MathType.INT8: 1979e12},
}


def gpu(generation: str) -> Any:
    """As much of a GPU as the table asks for."""
    return SimpleNamespace(
        id=generation, name=generation, arch=generation, generation=generation, flops_per_s=RATES.get(generation, {})
    )


def level(name: str, engine: str, generation: str) -> Level:
    return support(weight_format(name), engine, gpu(generation)).level


@pytest.mark.parametrize(
    ("name", "engine", "generation", "expected"),
    [
        ("fp8", "vllm", "hopper", Level.NATIVE),
        ("fp8", "vllm", "ada", Level.NATIVE),
        ("fp8", "vllm", "ampere-dc", Level.WEIGHT_ONLY),
        ("fp8", "vllm", "volta", Level.UNSUPPORTED),
        ("nvfp4", "vllm", "hopper", Level.WEIGHT_ONLY),
        ("nvfp4", "vllm", "blackwell-dc", Level.NATIVE),
        ("int8-w8a8", "vllm", "ampere-dc", Level.NATIVE),
        ("int8-w8a8", "vllm", "blackwell-dc", Level.UNSUPPORTED),
        ("int8-w8a8", "vllm", "blackwell-rtx", Level.UNSUPPORTED),
        ("awq-int4-g128", "vllm", "turing", Level.WEIGHT_ONLY),
        ("awq-int4-g128", "vllm", "volta", Level.UNSUPPORTED),
        ("awq-int4-g128", "vllm", "cdna3", Level.WEIGHT_ONLY),
        ("int4-g32", "vllm", "cdna4", Level.WEIGHT_ONLY),
        ("int8-w8a8", "vllm", "cdna3", Level.NATIVE),
        ("fp8", "vllm", "rdna4", Level.NATIVE),
        ("fp8", "vllm", "cdna2", Level.UNSUPPORTED),
        ("mxfp8", "vllm", "cdna3", Level.EMULATED),
        ("nvfp4", "vllm", "cdna4", Level.EMULATED),
        ("awq-int4-g128", "sglang", "turing", Level.UNSUPPORTED),
        ("mxfp4", "vllm", "turing", Level.UNSUPPORTED),
        ("mxfp4", "vllm", "cdna4", Level.NATIVE),
        ("bf16", "vllm", "turing", Level.UNSUPPORTED),
        ("fp16", "vllm", "turing", Level.NATIVE),
        ("fp8", "tensorrt-llm", "ampere-dc", Level.UNSUPPORTED),
        ("nvfp4", "tensorrt-llm", "hopper", Level.UNSUPPORTED),
        ("fp8", "llama.cpp", "hopper", Level.UNSUPPORTED),
        ("awq-int4-g128", "llama.cpp", "hopper", Level.UNSUPPORTED),
        ("gguf-q4_k_m", "llama.cpp", "apple", Level.WEIGHT_ONLY),
        ("gguf-q4_k_m", "llama.cpp", "turing", Level.NATIVE),
        ("gguf-q4_k_m", "llama.cpp", "volta", Level.WEIGHT_ONLY),
        ("mlx-4bit-g64", "mlx", "apple", Level.WEIGHT_ONLY),
        ("mlx-4bit-g64", "mlx", "hopper", Level.UNSUPPORTED),
        ("w4a16-g128", "transformers", "hopper", Level.EMULATED),
    ],
)
def test_a_format_runs_as_the_engines_documents_say(name: str, engine: str, generation: str, expected: Level) -> None:
    assert level(name, engine, generation) is expected


def test_what_no_source_says_stays_unknown() -> None:
    assert level("mxfp4", "tensorrt-llm", "blackwell-dc") is Level.UNKNOWN
    assert level("mxfp4", "vllm", "gb10") is Level.UNKNOWN
    assert level("fp8", "vllm", "xe2") is Level.UNKNOWN
    assert level("gguf-q4_k_m", "llama.cpp", "gaudi3") is Level.UNKNOWN


def test_gguf_in_vllm_says_where_it_went() -> None:
    answer = support(weight_format("gguf-q4_k_m"), "vllm", gpu("hopper"))
    assert answer.level is Level.UNSUPPORTED
    assert "llama.cpp" in answer.reason and "0.33" in answer.reason


def test_int8_on_blackwell_says_to_use_fp8() -> None:
    assert "FP8" in support(weight_format("int8-w8a8"), "vllm", gpu("blackwell-dc")).reason


def test_our_own_runner_asks_the_hardware_alone() -> None:
    assert level("fp8", "none", "hopper") is Level.NATIVE
    assert level("fp8", "none", "ampere-dc") is Level.WEIGHT_ONLY
    assert level("bf16", "none", "volta") is Level.EMULATED
    assert level("awq-int4-g128", "none", "hopper") is Level.WEIGHT_ONLY


def test_kv_formats_have_their_own_support() -> None:
    def kv(name: str, engine: str, generation: str) -> Support:
        return support(kv_format(name)[0], engine, gpu(generation))

    assert kv("fp8", "vllm", "hopper").level is Level.NATIVE
    assert kv("fp8", "vllm", "ampere-dc").level is Level.WEIGHT_ONLY
    assert kv("q8_0", "vllm", "hopper").level is Level.UNSUPPORTED
    assert kv("fp8", "llama.cpp", "hopper").level is Level.UNSUPPORTED
    assert "flash attention" in kv("q8_0", "llama.cpp", "ada").reason


def test_an_unknown_engine_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="did you mean 'vllm'"):
        support(weight_format("fp8"), "vlm", gpu("hopper"))


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_answers_for_every_format_and_generation(engine: str) -> None:
    formats = [weight_format(name) for name in weight_format_ids()] + [kv_format(name)[0] for name in kv_format_ids()]
    for fmt in formats:
        for generation in [*TABLE["columns"], "cdna2", "rdna4", "xe2", "gaudi3", "custom"]:
            assert support(fmt, engine, gpu(generation)).reason


@pytest.mark.parametrize("engine", ENGINES)
def test_every_rule_names_formats_that_exist_and_its_source(engine: str) -> None:
    weights, caches = set(weight_format_ids()), set(kv_format_ids())
    for rule in TABLE["engines"][engine]["rules"]:
        assert rule["source"]
        assert len(rule["levels"].split()) == len(TABLE["columns"])
        for pattern in rule.get("formats", []):
            assert any(name == pattern or name.startswith(pattern.removesuffix("*")) for name in weights)
        assert set(rule.get("kv", [])) <= caches


def test_columns_are_generations_that_gpus_have() -> None:
    known = {entry["id"] for entry in read_yaml(data_dir() / "generations.yaml")["generations"]}
    named = {name for table in TABLE["engines"].values() for rule in table["rules"] for name in rule.get("also", {})}
    assert {*TABLE["columns"], *named} <= known
