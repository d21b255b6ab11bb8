"""Bundled models and the names that lead to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.catalog.files import read_json
from planner.catalog.formats import weight_format_ids
from planner.catalog.hf import READERS
from planner.catalog.models import file_name, model, model_ids, model_index, resolve
from planner.catalog.paths import data_dir
from planner.errors import UnknownName
from planner.params import active_parameters, parameters


def test_at_least_120_architectures_are_bundled() -> None:
    assert len(model_ids()) >= 120


def test_the_index_is_what_the_files_say() -> None:
    assert sorted(file_name(name) for name in model_ids()) == sorted(
        path.name for path in (data_dir() / "models").glob("*--*.json")
    )
    for entry in model_index():
        spec = model(entry.id)
        own = spec.quantization.weight_format if spec.quantization else None
        expected = (parameters(spec), round(active_parameters(spec)), spec.max_position, spec.task, own)
        assert entry[1:] == expected, entry.id


@pytest.mark.parametrize("name", model_ids())
def test_a_bundled_model_says_where_it_comes_from(name: str) -> None:
    spec = model(name)
    assert spec.id == name
    assert len(spec.source) > 10
    assert spec.model_type in READERS


def test_every_stated_weight_format_is_a_known_one() -> None:
    known = set(weight_format_ids())
    own = {entry.weight_format for entry in model_index()} - {None}
    table = read_json(data_dir() / "model_aliases.json")
    by_rule = {weight for _, weight in table["suffixes"]} - {"", "gguf"}
    assert own | by_rule <= known
    checkpoints = read_json(data_dir() / "models" / "checkpoints.json").values()
    assert {entry["quantization"]["weight_format"] for entry in checkpoints} <= known


def test_every_alias_and_checkpoint_leads_to_a_bundled_model() -> None:
    names = [
        *read_json(data_dir() / "model_aliases.json")["aliases"],
        *read_json(data_dir() / "models/checkpoints.json"),
    ]
    assert all(resolve(name).model.id in model_ids() for name in names)


def test_loading_one_model_opens_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from planner.catalog import models

    opened: list[str] = []
    monkeypatch.setattr(models, "read_json", lambda path: opened.append(Path(path).name) or read_json(path))
    models._bundled.cache_clear()
    model("Qwen/Qwen3-8B")
    assert set(opened) <= {"index.json", "model_aliases.json", "checkpoints.json", "Qwen--Qwen3-8B.json"}


def test_the_documentation_lists_every_type_that_is_read(root: Path) -> None:
    text = (root / "docs" / "models.md").read_text(encoding="utf-8")
    assert [kind for kind in READERS if f"`{kind}`" not in text] == []


@pytest.mark.parametrize(
    ("name", "model_id", "weight_format"),
    [
        ("Llama 3 8B", "meta-llama/Meta-Llama-3-8B-Instruct", None),
        ("llama-3.1-8b", "meta-llama/Meta-Llama-3.1-8B", None),
        ("META-LLAMA/LLAMA-3.1-8B-INSTRUCT", "meta-llama/Meta-Llama-3.1-8B", None),
        ("unsloth/Meta-Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-8B", None),
        ("nvidia/DeepSeek-R1-NVFP4", "deepseek-ai/DeepSeek-R1", "nvfp4"),
        ("nvidia/DeepSeek-V3.1-NVFP4", "deepseek-ai/DeepSeek-V3", "nvfp4"),
        ("nvidia/Qwen3-32B-NVFP4", "Qwen/Qwen3-32B", "nvfp4"),
        ("Qwen/Qwen3-8B-AWQ", "Qwen/Qwen3-8B", "awq-int4-g128"),
        ("Qwen/Qwen3-32B-FP8", "Qwen/Qwen3-32B", "fp8-block128"),
        ("Qwen/Qwen3-8B-FP8", "Qwen/Qwen3-8B", "fp8-block128"),
        ("Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct", "gptq-int4-g128"),
        ("casperhansen/llama-3-8b-instruct-awq", "meta-llama/Meta-Llama-3-8B-Instruct", "awq-int4-g128"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8", "meta-llama/Meta-Llama-3.1-8B", "int8-w8a8"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", "meta-llama/Meta-Llama-3.1-8B", "w4a16-g128"),
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "meta-llama/Llama-3.3-70B-Instruct", "fp8"),
        ("unsloth/mistral-7b-instruct-v0.3-bnb-4bit", "mistralai/Mistral-7B-Instruct-v0.3", "bnb-nf4-dq"),
        ("llama-2-7b.Q4_0", "meta-llama/Llama-2-7b-hf", "gguf-q4_0"),
        ("Qwen_Qwen3.5-27B-Q4_K_M.gguf", "Qwen/Qwen3.5-27B", "gguf-q4_k_m"),
        ("ggml-org/Qwen3-Coder-30B-A3B-Instruct-Q8_0-GGUF", "Qwen/Qwen3-Coder-30B-A3B-Instruct", "gguf-q8_0"),
        ("unsloth/Qwen3-14B-GGUF:IQ4_XS", "Qwen/Qwen3-14B", "gguf-iq4_xs"),
        ("unsloth/Qwen3.6-27B-GGUF", "Qwen/Qwen3.5-27B", "gguf-q4_k_m"),
        ("mlx-community/Qwen3-8B-4bit", "Qwen/Qwen3-8B", "mlx-4bit-g64"),
        ("openai/gpt-oss-20b", "openai/gpt-oss-20b", None),
        ("unsloth/gpt-oss-20b-GGUF", "openai/gpt-oss-20b", None),
        ("moonshotai/Kimi-K2-Thinking", "moonshotai/Kimi-K2-Instruct", "int4-g32"),
    ],
)
def test_a_name_resolves_to_its_architecture_and_format(name: str, model_id: str, weight_format: str | None) -> None:
    found = resolve(name)
    assert (found.model.id, found.weight_format) == (model_id, weight_format)


@pytest.mark.parametrize("name", ["h", "", "Qwen/Qwen3-9B", "foo/Qwen3-8B", "Qwen3-8B-4bit", "x" * 5000, "a\0b"])
def test_an_unknown_name_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UnknownName) as error:
        resolve(name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'Qwen/Qwen3-8B'"):
        resolve("qwen/qwen3-8bb")


def test_a_checkpoint_in_another_format_drops_the_exclusions_of_the_first() -> None:
    assert resolve("DeepSeek-R1-0528-AWQ").model.quantization is None
    assert model("deepseek-ai/DeepSeek-R1").quantization is not None


def test_a_quantized_checkpoint_keeps_what_its_config_excludes() -> None:
    own = model("nvidia/DeepSeek-V3.1-NVFP4").quantization
    assert own is not None and own.kv_format == "fp8"
    assert set(own.tensors_16bit) == {"attention.q_a", "attention.q_b", "attention.kv_a", "attention.kv_b"}


def test_the_checkpoint_is_the_name_one_downloads() -> None:
    assert resolve("unsloth/Qwen3-14B").checkpoint == "unsloth/Qwen3-14B"
    assert resolve("Llama 3.1 8B").checkpoint == "meta-llama/Meta-Llama-3.1-8B"
    assert resolve("llama-3.3-70b").checkpoint == "meta-llama/Llama-3.3-70B-Instruct"
    assert resolve("deepseek-v3.1").checkpoint == "deepseek-ai/DeepSeek-V3.1"
