"""Engines' own start lines: what they say becomes columns, what is not understood is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.catalog.commands import scenario_from_command
from planner.errors import BadValue, PlannerError


def said(line: str) -> dict[str, object]:
    command = scenario_from_command(line)
    assert command.not_considered == ()
    return command.scenario.model_dump(exclude_none=True)


def test_a_vllm_line_gives_its_columns() -> None:
    line = "vllm serve some/model -tp 2 -pp 2 --gpu-memory-utilization=0.95 --max-num-seqs 64 --enforce-eager"
    assert said(line) == {
        "model": "some/model", "engine": "vllm", "tp": 2, "pp": 2, "gpu_memory_utilization": 0.95,
        "max_num_seqs": 64, "enforce_eager": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "vllm serve m -tp 2",
        "CUDA_VISIBLE_DEVICES=0,1 VLLM_USE_V1=1 vllm serve m --tensor-parallel-size 2",
        "python3 -m vllm.entrypoints.openai.api_server --model m --tensor_parallel_size=2",
        "/opt/venv/bin/vllm serve --model 'm' --port 80 --served-model-name a b --tensor-parallel-size 2",
        "sudo vllm serve m \\\n  --enable-prefix-caching \\\n  -tp 2  # two cards",
        "docker run --gpus all -v ~/.cache:/root -p 8000:8000 vllm/vllm-openai --model m -tp 2",
    ],
)
def test_the_ways_of_writing_a_line_agree(line: str) -> None:
    assert said(line) == {"engine": "vllm", "model": "m", "tp": 2}


def test_a_container_tag_says_the_version() -> None:
    assert said("docker run vllm/vllm-openai:v0.11.0 --model m")["engine_version"] == "0.11.0"


@pytest.mark.parametrize(("text", "tokens"), [("32768", 32768), ("32k", 32000), ("32K", 32768), ("1M", 2**20)])
def test_lengths_may_be_written_with_a_unit(text: str, tokens: int) -> None:
    assert said(f"vllm serve m --max-model-len {text}")["max_model_len"] == tokens


def test_formats_have_the_planner_s_names() -> None:
    line = "vllm serve m --quantization bitsandbytes --kv-cache-dtype fp8_e4m3"
    assert said(line) == {"engine": "vllm", "model": "m", "weight_format": "bnb-nf4", "kv_format": "fp8"}


def test_data_parallel_experts_are_one_group_with_attention_replicas() -> None:
    line = said("vllm serve m -tp 2 -dp 4 --enable-expert-parallel")
    assert (line["tp"], line["attention_dp"], line["ep"], line.get("dp")) == (8, 4, 8, None)


def test_sglang_data_parallel_attention_lies_inside_the_tp_group() -> None:
    line = said("python -m sglang.launch_server --model-path m --tp 8 --dp 8 --enable-dp-attention --ep 8")
    assert (line["tp"], line["attention_dp"], line["ep"], line.get("dp")) == (8, 8, 8, None)


def test_an_all_to_all_backend_of_sglang_spreads_the_experts_over_all_gpus() -> None:
    line = said("sglang serve --model-path m --tp 8 --moe-a2a-backend deepep")
    assert (line["tp"], line["ep"], line.get("enforce_eager")) == (8, 8, None)
    assert said("sglang serve --model-path m --tp 8 --moe-a2a-backend deepep --deepep-mode normal")["enforce_eager"]
    assert "ep" not in said("sglang serve --model-path m --tp 8 --moe-a2a-backend none")


@pytest.mark.parametrize(
    "line", ["sglang serve --model-path m --disable-radix-cache", "vllm serve m --no-enable-prefix-caching"]
)
def test_prefixes_that_are_not_cached_are_said(line: str) -> None:
    assert said(line)["prefix_caching"] is False


@pytest.mark.parametrize(
    "told",
    ["--language-model-only", """--limit-mm-per-prompt '{"image": 0, "video": 0}'""", "--limit-mm-per-prompt image=0"],
)
def test_a_server_for_text_alone_takes_no_images(told: str) -> None:
    assert said(f"vllm serve m {told}")["images_per_request"] == 0
    for limits in ("""'{"image": 2}'""", """'{"image": 0, "video": 1}'""", "video=0"):
        assert "images_per_request" not in said(f"vllm serve m --limit-mm-per-prompt {limits}")


def test_sglang_data_parallelism_alone_is_replicas() -> None:
    assert said("sglang serve --model-path m --tp 2 --dp 2")["dp"] == 2


def test_llama_server_shares_its_context_among_slots() -> None:
    line = said("./build/bin/llama-server -m no/Some-8B-Instruct-Q4_K_M.gguf -c 32768 -np 4 -ngl 99 -fa on -ctk q8_0")
    assert line == {
        "engine": "llama.cpp", "model": "Some-8B-Instruct", "weight_format": "gguf-q4_k_m", "max_model_len": 8192,
        "parallel_slots": 4, "flash_attention": True, "kv_format": "q8_0/fp16",
    }  # fmt: skip


def test_a_hub_id_carries_its_quantization() -> None:
    assert said("llama-server -hf u/Some-GGUF:IQ4_XS")["weight_format"] == "gguf-iq4_xs"
    assert said("llama-server -hf u/Some-GGUF")["weight_format"] == "gguf-q4_k_m"
    assert "weight_format" not in said("llama-server -hf ggml-org/gpt-oss-20b-GGUF")  # MXFP4, as released


def test_layers_over_cards_are_stages_and_rows_are_tensor_parallel() -> None:
    assert said("llama-server -hf u/m -ts 1,1")["pp"] == 2
    assert said("llama-server -hf u/m -sm row -dev CUDA0,CUDA1")["tp"] == 2


def test_a_device_or_an_image_says_the_back_end() -> None:
    assert said("llama-server -hf u/m -dev Vulkan0")["backend"] == "vulkan"
    image = said("docker run ghcr.io/ggml-org/llama.cpp:server-intel-b9000 -hf u/m")
    assert (image["backend"], image["engine_version"]) == ("sycl", "9000")
    assert "backend" not in said("llama-server -hf u/m")


def test_layers_left_on_the_host_are_said() -> None:
    assert said("llama-server -hf u/m -ngl 20")["n_gpu_layers"] == 20


def test_tensorrt_llm_spells_with_underscores() -> None:
    line = said("trtllm-serve m --tp_size 4 --max_batch_size 64 --kv_cache_free_gpu_memory_fraction 0.85")
    assert (line["tp"], line["max_num_seqs"], line["gpu_memory_utilization"]) == (4, 64, 0.85)


def test_speculation_is_read_from_its_json() -> None:
    line = said("""vllm serve m --speculative-config '{"model": "d", "num_speculative_tokens": 3}'""")
    assert (line["draft_model"], line["speculative_tokens"]) == ("d", 3)


def test_a_flag_that_nobody_knows_is_named_and_its_value_is_no_model() -> None:
    command = scenario_from_command("vllm serve --brand-new 5 --model m -tp 2 --other")
    assert command.not_considered == ("--brand-new", "--other")
    assert command.scenario.model == "m" and command.scenario.tp == 2


@pytest.mark.parametrize(
    "line",
    [
        "", "ollama run llama3", "vllm serve 'm", "vllm serve m --max-model-len", "vllm serve m -tp two",
        "vllm serve m -tp 0", "vllm serve m --gpu-memory-utilization 2", "vllm serve m --speculative-config '[1]'",
        "vllm serve " + "x" * 30_000, "llama-server -hf u/m -c many",
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_one_clear_refusal(line: str) -> None:
    with pytest.raises(BadValue) as refused:
        scenario_from_command(line)
    assert "\n" not in str(refused.value)


@given(st.lists(st.sampled_from("-tp --model m -dp 2 --dtype half -c -np 0 = --max-model-len -1 k -sc {} nan".split())))
def test_any_words_are_a_scenario_or_a_clear_refusal(words: list[str]) -> None:
    for start in ("vllm serve", "sglang serve", "llama-server", "trtllm-serve"):
        try:
            scenario_from_command(" ".join([start, *words]))
        except PlannerError as error:
            assert "\n" not in str(error)
