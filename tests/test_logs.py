"""Start-up logs: what is read from the lines that engines print, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog.logs import MAX_BYTES, name_of, read_log
from planner.errors import BadFile, BadValue, PlannerError
from planner.estimate.logs import compare_text

# vLLM 0.11.0rc2 on one MI300X, a public log of google/gemma-3-27b-it; lines without figures left out.
GEMMA = """\
(APIServer pid=8) INFO 09-25 13:38:14 [utils.py:233] non-default args: {'model': '/google/gemma-3-27b-it', \
'max_model_len': 4096, 'limit_mm_per_prompt': {'image': 2}}
(APIServer pid=8) INFO 09-25 13:38:20 [scheduler.py:205] Chunked prefill is enabled with max_num_batched_tokens=8192.
(EngineCore_DP0 pid=278) INFO 09-25 13:38:28 [core.py:77] Initializing a V1 LLM engine \
(v0.11.0rc2.dev98+g393de22d2) with config: model='/google/gemma-3-27b-it', speculative_config=None, \
dtype=torch.bfloat16, max_seq_len=4096, tensor_parallel_size=1, pipeline_parallel_size=1, quantization=None, \
enforce_eager=False, kv_cache_dtype=auto
(EngineCore_DP0 pid=278) INFO 09-25 13:39:07 [gpu_model_runner.py:2598] Model loading took 51.7891 GiB and 29.9 seconds
(EngineCore_DP0 pid=278) INFO 09-25 13:40:27 [gpu_worker.py:306] Available KV cache memory: 109.86 GiB
(EngineCore_DP0 pid=278) INFO 09-25 13:40:28 [kv_cache_utils.py:1087] GPU KV cache size: 205,696 tokens
(EngineCore_DP0 pid=278) INFO 09-25 13:40:28 [kv_cache_utils.py:1091] Maximum concurrency for 4,096 tokens \
per request: 50.05x
(EngineCore_DP0 pid=278) INFO 09-25 13:40:49 Graph capturing finished in 22 secs, took 1.02 GiB
(APIServer pid=8) INFO 09-25 13:40:51 [loggers.py:148] Engine 000: vllm cache_config_info with initialization \
after num_gpu_blocks is: 89994
"""
# The summary of a newer vLLM, as vllm issues quote it.
NEWER = """\
INFO [core.py:107] Initializing a V1 LLM engine (v0.29.0) with config: model='Qwen/Qwen3-8B', max_seq_len=32768
INFO [gpu_worker.py:935] Free memory on device (30.86/31.36 GiB) on startup. Desired GPU memory utilization is \
(0.7, 21.95 GiB). Actual usage is 11.22 GiB for consumed memory (weights + non-torch), 1.46 GiB for peak activation, \
and 0.52 GiB for CUDAGraph memory. Current kv cache memory in use is 9.27 GiB.
INFO GPU KV cache size: 651,081 tokens, Maximum concurrency for 262,144 tokens per request: 2.48x
"""
# vLLM's first engine; figures of PR 12126 (Llama-3.2-11B-Vision on an H100).
FIRST = """\
the current vLLM instance can use total_gpu_memory (79.22GiB) x gpu_memory_utilization (0.90) = 71.30GiB
model weights take 19.86GiB; non_torch_memory takes 0.16GiB; PyTorch activation peak memory takes 36.63GiB; \
the rest of the memory reserved for KV Cache is 14.65GiB.
# CUDA blocks: 6001, # CPU blocks: 1638
"""
# SGLang: GLM-4.7-Flash over two devices, and Qwen3-235B on four H100 (vllm issue 21348).
GLM = """\
[2026-03-11 13:53:20] server_args=ServerArgs(model_path='/weights/GLM-4.7-flash', tp_size=2, context_length=None)
[2026-03-11 13:53:21 TP0] Load weight end. elapsed=23.18 s, type=Glm4MoeLiteForCausalLM, avail mem=32.02 GB, \
mem usage=28.79 GB.
[2026-03-11 13:53:23 TP0] KV Cache is allocated. #tokens: 383872, KV size: 19.36 GB
"""
QWEN = "KV Cache is allocated. #tokens: 367404, K size: 8.23 GB, V size: 8.23 GB\n"
# llama.cpp: Qwen2.5-3B with 35 of 37 layers on the GPU, DzKriMo/Aigis@848ac32cf7.
LLAMA = """\
llama_model_loader: loaded meta data with 26 key-value pairs and 434 tensors from /m/Qwen2.5-3B-Instruct-Q4_K_M.gguf
print_info: file type   = Q4_K - Medium
load_tensors: offloaded 35/37 layers to GPU
load_tensors:   CPU_Mapped model buffer size =   337.51 MiB
load_tensors:      Vulkan1 model buffer size =  1740.74 MiB
llama_context: n_seq_max     = 4
llama_context: n_ctx         = 2048
llama_context: n_ubatch      = 512
llama_kv_cache:        CPU KV buffer size =     4.00 MiB
llama_kv_cache:    Vulkan1 KV buffer size =    68.00 MiB
llama_kv_cache: size =   72.00 MiB (  2048 cells,  36 layers,  4/1 seqs), K (f16):   36.00 MiB, V (f16):   36.00 MiB
llama_context:    Vulkan1 compute buffer size =   300.75 MiB
llama_context: Vulkan_Host compute buffer size =    12.01 MiB
"""
# TensorRT-LLM on an H200, in the words of tensorrt_llm/_torch/pyexecutor/_util.py.
TENSORRT = """\
[TRT-LLM] [I] Peak memory during memory usage profiling (torch + non-torch): 91.46 GiB, available KV cache memory \
when calculating max tokens: 41.11 GiB, fraction is set 0.85, kv size is 35136. device total memory 139.81 GiB
[MemUsageChange] Allocated 41.11 GiB for max tokens (524288)
"""
LOGS = {"tensorrt": TENSORRT, "gemma": GEMMA, "newer": NEWER, "first": FIRST, "glm": GLM, "llama": LLAMA}


def figures(text: str | bytes) -> dict[str, float]:
    return {"+".join(term.columns): term.value for term in read_log(text).terms}


def test_vllm_says_weights_pool_tokens_and_concurrency() -> None:
    assert figures(GEMMA) == {
        "weights_gib": 51.7891,
        "cuda_graph_gib": 1.02,
        "kv_pool_gib": 109.86,
        "kv_pool_tokens": 205_696,
        "kv_blocks": 89_994,
        "max_concurrency_at_max_model_len": 50.05,
    }


def test_vllm_says_its_settings() -> None:
    found = read_log(GEMMA).settings
    assert (found["engine"], found["engine_version"]) == ("vllm", "0.11.0rc2.dev98+g393de22d2")
    assert (found["model"], found["max_model_len"], found["tp"]) == ("gemma-3-27b-it", 4096, 1)
    assert found["max_num_batched_tokens"] == 8192 and found["enforce_eager"] is False


def test_the_newer_summary_joins_weights_and_libraries() -> None:
    found = read_log(NEWER)
    assert figures(NEWER)["weights_gib+non_torch_gib"] == 11.22
    assert figures(NEWER)["activation_gib"] == 1.46
    assert figures(NEWER)["max_concurrency_at_max_model_len"] == 2.48
    assert (found.settings["device_gib"], found.settings["gpu_memory_utilization"]) == (31.36, 0.7)


def test_vllms_first_engine_says_every_term() -> None:
    terms = figures(FIRST)
    assert (terms["activation_gib"], terms["kv_pool_gib"], terms["kv_blocks"]) == (36.63, 14.65, 6001)
    assert read_log(FIRST).settings["device_gib"] == 79.22


VLLM_START = "INFO vLLM API server version {}\nINFO [gpu_model_runner.py:1] Model loading took {} GiB and 1 seconds\n"


def test_sglang_says_one_or_two_sizes_of_its_cache() -> None:
    assert figures(GLM) == {"weights_gib+non_torch_gib": 28.79, "kv_pool_gib": 19.36, "kv_pool_tokens": 383_872}
    assert figures(QWEN)["kv_pool_gib"] == pytest.approx(16.46)
    assert read_log(GLM).settings["tp"] == 2


def test_llama_cpp_says_a_buffer_per_device_and_host_memory_does_not_count() -> None:
    found, settings_ = read_log(LLAMA), read_log(LLAMA).settings
    mib = {name: value * 1024 for name, value in figures(LLAMA).items()}
    assert mib == {"weights_gib": 1740.74, "kv_pool_gib": 68.0, "activation_gib": 300.75}
    assert found.terms[0].line.number == 5 and "1740.74" in found.terms[0].line.text
    assert (settings_["model"], settings_["weight_format"]) == ("Qwen2.5-3B-Instruct", "gguf-q4_k_m")
    assert (settings_["n_gpu_layers"], settings_["max_model_len"], settings_["parallel_slots"]) == (35, 2048, 1)


def test_tensorrt_llm_says_what_its_fraction_leaves() -> None:
    found = read_log(TENSORRT)
    assert found.engine == "tensorrt-llm"
    assert figures(TENSORRT) == {"kv_pool_gib": 41.11, "kv_pool_tokens": 524_288}
    assert (found.settings["device_gib"], found.settings["gpu_memory_utilization"]) == (139.81, 0.85)


def test_buffers_of_one_device_in_several_lines_add_up() -> None:
    text = LLAMA + "load_tensors:      Vulkan1 model buffer size =   100.00 MiB\n"
    assert figures(text)["weights_gib"] * 1024 == pytest.approx(1840.74)


@pytest.mark.parametrize(
    "line",
    [
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.37 GiB.",
        "ggml_backend_cuda: allocating 65536.00 MiB on device 0: cudaMalloc failed: out of memory",
    ],
)
def test_a_failed_start_says_why(line: str) -> None:
    found = read_log(GEMMA + line + "\n").fault
    assert found is not None and found.number == GEMMA.count("\n") + 1


def test_ranks_count_as_the_one_that_limits() -> None:
    ranks = "Model loading took 7.5 GiB and\nModel loading took 8.1 GiB and\n"
    pools = "Available KV cache memory: 60.1 GiB\nAvailable KV cache memory: 59.2 GiB\n"
    assert figures(ranks + pools) == {"weights_gib": 8.1, "kv_pool_gib": 59.2}


def test_colours_and_line_ends_of_terminals_are_ignored() -> None:
    assert figures(GEMMA.replace("Available", "\x1b[32mAvailable").replace("\n", "\r\n")) == figures(GEMMA)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("/models/Qwen3-8B/", "Qwen3-8B"),
        ("C:\\models\\Qwen3-8B", "Qwen3-8B"),
        ("/root/.cache/huggingface/hub/models--Qwen--Qwen3-8B/snapshots/b968826d9c", "Qwen/Qwen3-8B"),
    ],
)
def test_a_model_is_named_without_its_path(path: str, name: str) -> None:
    assert name_of(path) == name


# --- beside the estimate ---


def test_a_log_beside_its_estimate_agrees() -> None:
    found = {row.term: row for row in compare_text(GEMMA, {"gpu": "mi300x"}).terms}
    for term in ("weights_gib", "kv_pool_gib", "max_concurrency_at_max_model_len"):
        assert found[term].predicted == pytest.approx(found[term].measured, rel=0.02)


def test_llama_cpps_buffers_agree() -> None:
    found = {row.term: row for row in compare_text(LLAMA, {"gpu": "rtx3090"}).terms}
    assert found["kv_pool_gib"].error == 0
    for term in ("weights_gib", "activation_gib"):
        assert found[term].predicted == pytest.approx(found[term].measured, rel=0.005)


def test_a_gpu_is_told_by_its_memory_where_the_log_names_none() -> None:
    text = GEMMA + "Free memory on device (78.72/79.19 GiB) on startup."
    assert compare_text(text).answer["gpu"].startswith("h100")


def test_columns_that_are_given_replace_what_the_log_says() -> None:
    assert compare_text(GEMMA, {"gpu": "mi300x", "max_model_len": 8192}).answer["max_model_len"] == 8192


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GEMMA, "state gpu"),
        (QWEN, "does not name the model"),
        (GEMMA.replace("gemma-3-27b", "nobody-9b"), "unknown model"),
    ],
)
def test_what_is_missing_is_named(text: str, says: str) -> None:
    with pytest.raises(PlannerError, match=says):
        compare_text(text, {"gpu": "mi300x"} if "unknown" in says else {})


# --- bad input ---


@pytest.mark.parametrize(
    "text", ["", "hello\nworld\n", "INFO: Uvicorn running", "{}", "Model loading took ages", "\n" * 9999]
)
def test_a_text_that_is_no_engines_log_says_so(text: str) -> None:
    with pytest.raises(BadFile, match="no figures of vLLM, SGLang"):
        read_log(text, "notes.txt")


def test_what_is_too_long_or_not_text_is_refused() -> None:
    with pytest.raises(BadFile, match="more than"):
        read_log(b"x" * (MAX_BYTES + 1))
    with pytest.raises(BadFile, match="NUL"):
        read_log(b"Model loading took 1 GiB\0")


def test_a_long_line_is_shown_around_its_figure() -> None:
    line = read_log("x" * 10_000 + " Model loading took 5.0 GiB" + "y" * 10_000).terms[0].line
    assert "Model loading took" in line.text and len(line.text) <= 400


def test_figures_beyond_reason_are_left_out() -> None:
    assert "max_model_len" not in read_log(GEMMA.replace("4,096", "4").replace("4096", "9" * 9)).settings


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(LOGS)), st.lists(st.tuples(st.integers(0, 3000), st.binary(max_size=6)), max_size=12))
def test_a_mutated_log_is_read_or_refused(name: str, edits: list[tuple[int, bytes]]) -> None:
    data = bytearray(LOGS[name].encode())
    for at, new in edits:
        data[at % len(data) : at % len(data) + len(new)] = new
    try:
        compare_text(bytes(data), {"gpu": "h100-sxm"})
    except (BadFile, BadValue, PlannerError) as error:
        assert "\n" not in str(error)


def test_of_several_starts_the_last_one_with_figures_counts() -> None:
    first, second = VLLM_START.format("0.9.2", "14.99"), VLLM_START.format("0.10.2", "7.55")
    log = read_log(first + second + "INFO vLLM API server version 0.11.0\n")
    assert figures(first + second) == {"weights_gib": 7.55}
    assert (log.settings["engine_version"], log.terms[0].value, log.terms[0].line.number) == ("0.10.2", 7.55, 4)


def test_buffers_of_two_starts_do_not_add_up() -> None:
    once = "build: 7780 (7dee9ff59)\nload_tensors:        CUDA0 model buffer size =  7165.44 MiB\n"
    assert figures(once + once)["weights_gib"] * 1024 == pytest.approx(7165.44)


def test_the_memory_of_one_card_is_not_that_of_all() -> None:
    text = "Total VRAM: 188042 MiB\n  Device 0: NVIDIA RTX A6000, compute capability 8.6, VMM: yes, VRAM: 48531 MiB\n"
    assert read_log(text + LLAMA).settings["device_gib"] == pytest.approx(48531 / 1024)


def test_drafted_tokens_without_a_known_method_are_left_out() -> None:
    text = VLLM_START.format("0.12.0", "7.55") + "speculative_config={'num_speculative_tokens': 3}"
    assert "speculative_tokens" not in read_log(text).settings
