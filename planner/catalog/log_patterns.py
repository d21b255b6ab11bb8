"""What the lines of engines' start-up logs look like, by engine; versions differ in wording and share a list."""

from __future__ import annotations

import re
from enum import StrEnum


class Pick(StrEnum):
    """Which of several lines counts: ranks print their own, and a restart prints all again."""

    LARGEST = "largest"
    SMALLEST = "smallest"
    LAST = "last"


# What an engine says when it starts, most telling first: of several starts in a log the last that has figures counts.
STARTS: dict[str, tuple[str, ...]] = {
    "vllm": (r"vLLM API server version", r"[Ii]nitializing an? (?:V1 )?LLM engine"),
    "sglang": (r"server_args=ServerArgs\(",),
    "tensorrt-llm": (r"TensorRT[- ]LLM version",),
    "llama.cpp": (r"ggml_cuda_init: found", r"\bbuild(?:_info)?: ?b?\d"),
}

NUMBER = r"(-?\d{1,9}(?:\.\d{1,9})?)"
COUNT = r"(\d[\d,]{0,17})"
GIB = r"\s?(?:GiB|GB)"

Term = tuple[re.Pattern[str], tuple[str, ...], Pick]
Setting = tuple[re.Pattern[str], str]

# Parts of text by which an engine is told; the one with most of them in the log is it.
ANCHORS: dict[str, tuple[str, ...]] = {
    "vllm": (
        "vllm", "vLLM", "gpu_model_runner.py", "Model loading took", "GPU KV cache size",
        "Available KV cache memory", "total_gpu_memory", "# GPU blocks", "# cuda blocks", "# CUDA blocks",
    ),
    "sglang": (
        "server_args=ServerArgs(", "Load weight end", "KV Cache is allocated", "max_total_num_tokens",
        "Capture cuda graph", "mem_fraction_static", "sglang",
    ),
    "tensorrt-llm": (
        "[TRT-LLM]", "tensorrt_llm", "Peak memory during memory usage profiling",
        "available KV cache memory when calculating max tokens", "for max tokens in paged KV cache",
    ),
    "llama.cpp": (
        "llama_model_loader", "load_tensors:", "print_info:", "llm_load", "KV buffer size", "model buffer size",
        "compute buffer size", "llama_context", "ggml_", "KV self size",
    ),
}  # fmt: skip


def _term(text: str, columns: str, pick: Pick = Pick.LARGEST) -> Term:
    return re.compile(text), tuple(columns.split("+")), pick


def _setting(text: str, column: str) -> Setting:
    return re.compile(text), column


_ACTUAL = rf"Actual usage is {NUMBER} GiB for "
TERMS: dict[str, tuple[Term, ...]] = {
    "vllm": (
        _term(rf"Model loading took {NUMBER}{GIB}", "weights_gib"),
        _term(rf"Loading model weights took {NUMBER}{GIB}", "weights_gib"),
        _term(rf"model weights take {NUMBER}{GIB}", "weights_gib"),
        _term(rf"weights memory: {NUMBER}{GIB}", "weights_gib"),
        _term(rf"{_ACTUAL}weight,", "weights_gib"),
        _term(rf"{_ACTUAL}consumed memory \(weights \+ non-torch\)", "weights_gib+non_torch_gib"),
        _term(rf"{NUMBER} GiB for peak activation", "activation_gib"),
        _term(rf"PyTorch activation peak memory takes {NUMBER}{GIB}", "activation_gib"),
        _term(rf"torch peak memory increase: {NUMBER}{GIB}", "activation_gib"),
        _term(rf"{NUMBER} GiB for non-torch memory", "non_torch_gib"),
        _term(rf"non_torch_memory takes {NUMBER}{GIB}", "non_torch_gib"),
        _term(rf"non-torch forward increase memory: {NUMBER}{GIB}", "non_torch_gib"),
        _term(rf"CUDA graph pool memory: {NUMBER}{GIB} \(actual\)", "cuda_graph_gib"),
        _term(rf"Graph capturing finished in \d{{1,6}} secs?, took {NUMBER}{GIB}", "cuda_graph_gib"),
        _term(rf"Available KV cache memory: {NUMBER}{GIB}", "kv_pool_gib", Pick.SMALLEST),
        _term(rf"reserved for KV Cache is {NUMBER}{GIB}", "kv_pool_gib", Pick.SMALLEST),
        _term(rf"GPU KV cache size: {COUNT} tokens", "kv_pool_tokens", Pick.SMALLEST),
        _term(rf"# (?:GPU|CUDA|cuda) blocks: {COUNT}", "kv_blocks", Pick.SMALLEST),
        _term(rf"num_gpu_blocks is: {COUNT}", "kv_blocks", Pick.SMALLEST),
        _term(
            rf"Maximum concurrency for \d[\d,]{{0,17}} tokens per request: {NUMBER}x",
            "max_concurrency_at_max_model_len",
            Pick.SMALLEST,
        ),
    ),
    "sglang": (
        _term(rf"Load weight end\.[^\n]{{0,400}}mem usage={NUMBER} GB", "weights_gib+non_torch_gib"),
        _term(rf"KV Cache is allocated\.[^\n]{{0,200}}K size: {NUMBER} GB, V size: {NUMBER} GB", "kv_pool_gib"),
        _term(rf"KV Cache is allocated\.[^\n]{{0,200}}KV size: {NUMBER} GB", "kv_pool_gib"),
        _term(rf"max_total_num_tokens={COUNT}", "kv_pool_tokens", Pick.SMALLEST),
        _term(rf"KV Cache is allocated\.[^\n]{{0,100}}#tokens: {COUNT}", "kv_pool_tokens", Pick.SMALLEST),
        _term(rf"Capture cuda graph end\.[^\n]{{0,200}}mem usage={NUMBER} GB", "cuda_graph_gib"),
        _term(
            rf"Mamba Cache is allocated\.[^\n]{{0,200}}conv_state size: {NUMBER} ?GB,"
            rf"? ?ssm_state size: {NUMBER} ?GB",
            "recurrent_state_gib",
        ),
    ),
    "tensorrt-llm": (
        _term(rf"Memory used after loading model weights \(inside torch\)[^\n]{{0,60}}: {NUMBER} GiB", "weights_gib"),
        _term(rf"Memory dynamically allocated during inference[^\n]{{0,60}}: {NUMBER} GiB", "activation_gib"),
        _term(
            rf"available KV cache memory when calculating max tokens: {NUMBER} GiB", "kv_pool_gib", Pick.SMALLEST
        ),
        _term(rf"Allocated [\d.]{{1,12}} GiB for max tokens[^\n(]{{0,40}}\({COUNT}\)", "kv_pool_tokens", Pick.SMALLEST),
    ),
    "llama.cpp": (),
}  # fmt: skip

# llama.cpp: one line per device and buffer.
_BUFFER = r"(\w{1,40}) %s buffer size = {1,40}" + NUMBER + " MiB"
BUFFERS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(_BUFFER % "model"), "weights_gib"),
    (re.compile(_BUFFER % "KV"), "kv_pool_gib"),
    (re.compile(_BUFFER % "RS"), "recurrent_state_gib"),
    (re.compile(_BUFFER % "compute"), "activation_gib"),
)

FAULTS: tuple[re.Pattern[str], ...] = tuple(
    map(
        re.compile,
        (
            r"No available memory for the cache blocks",
            r"larger than the (?:maximum number of tokens that can be stored in KV cache|available KV cache memory)",
            r"is less than desired GPU memory utilization",
            r"Not enough memory\. Please try to increase --mem-fraction-static",
            r"torch\.(?:cuda\.)?OutOfMemoryError",
            r"CUDA out of memory",
            r"cudaMalloc failed: out of memory",
            r"failed to allocate \w{1,40} buffer",
            r"unable to allocate \w{1,40} buffer",
        ),
    )
)

SETTINGS: dict[str, tuple[Setting, ...]] = {
    "vllm": (
        _setting(r"[Ii]nitializing an? (?:V1 )?LLM engine \(v([\w.+-]{1,80})\)", "engine_version"),
        _setting(r"vLLM API server version ([\w.+-]{1,80})", "engine_version"),
        _setting(r"with config: model='([^'\n]{1,400})'", "model"),
        _setting(r"Starting to load model ([^\s]{1,400}?)\.\.\.", "model"),
        _setting(r"max_seq_len=(\d{1,9})", "max_model_len"),
        _setting(r"Using max model len (\d{1,9})", "max_model_len"),
        _setting(r"Maximum concurrency for (\d{1,9}) tokens", "max_model_len"),
        _setting(r"tensor_parallel_size=(\d{1,5})", "tp"),
        _setting(r"pipeline_parallel_size=(\d{1,5})", "pp"),
        _setting(r"Desired GPU memory utilization is \((\d(?:\.\d{1,6})?),", "gpu_memory_utilization"),
        _setting(r"gpu_memory_utilization['\"]?[:=] ?\(?(\d(?:\.\d{1,6})?)\b", "gpu_memory_utilization"),
        _setting(r"gpu_memory_utilization \((\d(?:\.\d{1,6})?)\)", "gpu_memory_utilization"),
        _setting(rf"Free memory on device \w{{0,10}} ?\([\d.]{{1,9}}/{NUMBER} GiB\)", "device_gib"),
        _setting(rf"total_gpu_memory \({NUMBER}GiB\)", "device_gib"),
        _setting(r"max_num_seqs['\"]?[:=] ?(\d{1,7})", "max_num_seqs"),
        _setting(r"max_num_batched_tokens['\"]?[:=] ?(\d{1,8})", "max_num_batched_tokens"),
        _setting(r"'block_size': (\d{1,5})", "block_size"),
        _setting(r"enforce_eager=(True|False)", "enforce_eager"),
        _setting(r"'cpu_offload_gb': (\d{1,5}(?:\.\d{1,4})?)", "cpu_offload_gib"),
        _setting(r"'max_loras': (\d{1,4})", "max_loras"),
        _setting(r"'max_lora_rank': (\d{1,4})", "lora_rank"),
        _setting(r"num_spec(?:ulative)?_tokens['\"]?[:=] ?(\d{1,2})", "speculative_tokens"),
        _setting(r"SpeculativeConfig\(method='(mtp|ngram)'", "draft_model"),
        _setting(r"quantization=(\w[\w-]{0,40})", "_quantization"),
        _setting(r"dtype=torch\.(\w{1,20})", "_dtype"),
        _setting(r"kv_cache_dtype=(?:torch\.)?'?(\w{1,20})", "_kv"),
    ),
    "sglang": (
        _setting(r"[Ss][Gg][Ll]ang(?: version)?[ =:]{1,8}v?(\d[\w.+-]{1,40})", "engine_version"),
        _setting(r"model_path='([^'\n]{1,400})'", "model"),
        _setting(r"context_length=(\d{1,9})", "max_model_len"),
        _setting(r"context_len=(\d{1,9})", "max_model_len"),
        _setting(r"\btp_size=(\d{1,5})", "tp"),
        _setting(r"\bpp_size=(\d{1,5})", "pp"),
        _setting(r"\bep_size=(\d{1,5})", "ep"),
        _setting(r"mem_fraction_static=(\d(?:\.\d{1,6})?)", "gpu_memory_utilization"),
        _setting(r"max_running_requests=(\d{1,7})", "max_num_seqs"),
        _setting(r"chunked_prefill_size=(\d{1,8})", "max_num_batched_tokens"),
        _setting(r"quantization='(\w[\w-]{0,40})'", "_quantization"),
        _setting(r"kv_cache_dtype='(\w{1,20})'", "_kv"),
    ),
    "tensorrt-llm": (
        _setting(r"TensorRT[- ]LLM version:? ?v?(\d[\w.+-]{1,40})", "engine_version"),
        _setting(r"model(?:_path|_dir)?['\"]?[=:] ?['\"]([^'\"\n]{1,400})['\"]", "model"),
        _setting(r"tensor_parallel_size['\"]?[=:] ?(\d{1,5})", "tp"),
        _setting(r"pipeline_parallel_size['\"]?[=:] ?(\d{1,5})", "pp"),
        _setting(r"max_seq_len['\"]?[=:] ?(\d{1,9})", "max_model_len"),
        _setting(r"max_batch_size['\"]?[=:] ?(\d{1,7})", "max_num_seqs"),
        _setting(r"max_num_tokens['\"]?[=:] ?(\d{1,8})", "max_num_batched_tokens"),
        _setting(r"fraction is set (\d(?:\.\d{1,6})?)", "gpu_memory_utilization"),
        _setting(rf"device total memory {NUMBER} GiB", "device_gib"),
    ),
    "llama.cpp": (
        _setting(r"build(?:_info)?(?::| =) b?(\d{3,6})", "engine_version"),
        _setting(r"general\.name {1,40}(?:str {1,40})?= ([^\n]{1,200})", "model"),
        _setting(r"loaded meta data with [^\n]{1,80} from ([^\n]{1,400}?\.gguf)", "_file"),
        _setting(r"(?:file type|model ftype) {1,40}= ([^\n(]{1,60})", "_type"),
        _setting(r"Device 0: ([^,\n]{1,80}), compute", "gpu"),
        _setting(r"using device \w{1,20} \(([^)\n]{1,80})\)", "gpu"),
        _setting(r"(?<!Total )VRAM: (\d{3,9}) MiB", "_vram"),
        _setting(r"n_ubatch {1,40}=? {0,40}(\d{1,7})", "n_ubatch"),
        _setting(r"flash_attn {1,40}=? {0,40}(0|1|enabled|disabled)", "_flash"),
        _setting(r"\( {0,40}(\d{1,9}) cells", "_cells"),
        _setting(r"\d{1,4}/ ?(\d{1,4}) seqs", "_streams"),
        _setting(r"\bn_ctx {1,40}=? {0,40}(\d{1,9})", "_context"),
        _setting(r"n_seq_max {1,40}=? {0,40}(\d{1,5})", "_slots"),
        _setting(r"\bK \((\w{2,8})\)", "_k"),
        _setting(r"\bV \((\w{2,8})\)", "_v"),
        _setting(r"offloaded (\d{1,5})/\d{1,5} layers", "_offloaded"),
        _setting(r"offloaded \d{1,5}/(\d{1,5}) layers", "_layers"),
    ),
}

FORMATS = {  # vLLM's and SGLang's names of quantizations whose layout they fix
    "fp8": "fp8",
    "bitsandbytes": "bnb-nf4",
    "awq": "awq-int4-g128",
    "awq_marlin": "awq-int4-g128",
    "gptq": "gptq-int4-g128",
    "gptq_marlin": "gptq-int4-g128",
    "mxfp4": "mxfp4",
    "modelopt_fp4": "nvfp4",
}
KV_FORMATS = dict.fromkeys(("fp8", "fp8_e4m3", "fp8_e5m2", "float8_e4m3fn", "float8_e5m2"), "fp8")
LLAMA_TYPES = {
    "Q3_K - SMALL": "q3_k_s", "Q3_K - MEDIUM": "q3_k_m", "Q3_K - LARGE": "q3_k_l", "Q4_K - SMALL": "q4_k_s",
    "Q4_K - MEDIUM": "q4_k_m", "Q5_K - SMALL": "q5_k_s", "Q5_K - MEDIUM": "q5_k_m",
    "Q2_K - MEDIUM": "q2_k", "Q2_K - SMALL": "q2_k_s", "Q6_K": "q6_k", "Q8_0": "q8_0", "Q4_0": "q4_0", "Q4_1": "q4_1",
    "Q5_0": "q5_0", "Q5_1": "q5_1", "F16": "f16", "BF16": "bf16", "F32": "f32", "ALL F32": "f32",
    "IQ4_XS - 4.25 BPW": "iq4_xs", "IQ4_NL - 4.5 BPW": "iq4_nl", "IQ3_XXS - 3.0625 BPW": "iq3_xxs",
    "IQ2_XXS - 2.0625 BPW": "iq2_xxs", "IQ1_S - 1.5625 BPW": "iq1_s", "MXFP4 MOE": "mxfp4_moe",
}  # fmt: skip
