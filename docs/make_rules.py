"""Write docs/rules_of_thumb.md, public rules of thumb against the model: python docs/make_rules.py [FILE]"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from planner.catalog.files import write_atomically
from planner.errors import PlannerError
from planner.estimate import estimate
from planner.explain import figure, format_name, gpu_name
from planner.specs.scenario import Scenario

SMALL, LARGE = "meta-llama/Meta-Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-70B"
MIDDLE = "google/gemma-3-27b-it"
SLACK = 0.1  # of a stated figure, within which it holds
LOAD = {"input_tokens": 1000, "output_tokens": 500}
HOPPER = {"gpu": "h100-sxm", "engine": "vllm", **LOAD}
HEAD = """# Rules of thumb against the model

<!-- Written by docs/make_rules.py; do not edit. -->

Rules that articles and forums repeat, each held against the planner's estimate of a case that it speaks of. "Holds"
says that the estimate lies within 10 % of what is stated; it is a comparison with this model, not a measurement. What
the model itself is worth stands in [accuracy.md](accuracy.md). Ratios are of the case named first over the second.
"""


class Case(NamedTuple):
    """Two scenarios that differ in one thing, and the column that is compared; `inverse` for times."""

    label: str
    column: str
    first: dict[str, Any]
    second: dict[str, Any]
    inverse: bool = False


class Rule(NamedTuple):
    """What is said, by whom, the range of factors that it states, and why it is so or not."""

    said: str
    source: str
    low: float
    high: float
    cases: Sequence[Case]
    why: str


def versus(label: str, column: str, base: dict[str, Any], formats: tuple[str, str], inverse: bool = False) -> Case:
    """The same scenario in two weight formats."""
    first, second = ({**base, "weight_format": name} for name in formats)
    return Case(label, column, first, second, inverse)


def alone(model: str, n_gpus: int, formats: tuple[str, str]) -> Case:
    """Time of a token of a single stream."""
    base = HOPPER | {"model": model, "tp": n_gpus, "concurrency": 1}
    name = model.rpartition("-")[2]
    return versus(f"{name} on {n_gpus} × H100, 1 at once, TPOT", "tpot_ms", base, formats, True)


def crowd(model: str, n_gpus: int, concurrency: int, formats: tuple[str, str]) -> Case:
    """Tokens/s of many at once."""
    base = HOPPER | {"model": model, "tp": n_gpus, "concurrency": concurrency}
    name = model.rpartition("-")[2]
    return versus(f"{name} on {n_gpus} × H100, {concurrency} at once, tokens/s", "output_tokens_per_s", base, formats)


FP8, INT8, FOUR = ("fp8", "bf16"), ("int8-w8a8", "bf16"), ("awq-int4-g128", "bf16")
ONE_CARD = {"model": SMALL, "gpu": "rtx4090", "engine": "vllm", "concurrency": 1, **LOAD}
PROMPTS = HOPPER | {"model": LARGE, "tp": 4, "input_tokens": 8000, "concurrency": 1}
AGENTS = {
    "model": SMALL,
    "gpu": "rtx4090",
    "engine": "vllm",
    "input_tokens": 8000,
    "output_tokens": 500,
    "concurrency": 3,
}
LONG = HOPPER | {"model": SMALL, "weight_format": "fp8", "input_tokens": 8000, "concurrency": 32}
CARD = {"model": MIDDLE, "gpu": "rtx5090", "input_tokens": 4000, "output_tokens": 500, "concurrency": 1}
COPIES = HOPPER | {"model": SMALL, "weight_format": "awq-int4-g128", "concurrency": 64}
FP4 = {
    "model": LARGE,
    "gpu": "b200",
    "engine": "vllm",
    "tp": 1,
    "concurrency": 1,
    "input_tokens": 8000,
    "output_tokens": 100,
}
KV8 = {
    "model": LARGE,
    "weight_format": "awq-int4-g128",
    "gpu": "a100-80-sxm",
    "engine": "vllm",
    **LOAD,
    "concurrency": 16,
}

RULES = (
    Rule("FP8 is 1.4 to 1.7 times as fast as 16 bit for one user on H100", "quantization guides for vLLM", 1.4, 1.7,
         (alone(SMALL, 1, FP8), alone(LARGE, 4, FP8)),
         "A step reads half the weight bytes; the cache, what stays in 16 bit (lm_head, embeddings), launches and "
         "messages stay as they are. The larger the share of weights in a step, the nearer to 2."),
    Rule("INT8 W8A8 is 1.4 times as fast for one user on H100", "the same", 1.4, 1.4,
         (alone(SMALL, 1, INT8), alone(LARGE, 4, INT8)),
         "The same bytes as FP8, so about the same gain."),
    Rule("4-bit weights are about 3 times as fast for one user", "AWQ and GPTQ papers and guides", 3.0, 3.0,
         (
            alone(SMALL, 1, FOUR),
            alone(LARGE, 4, FOUR),
            versus("8B on RTX 4090, 1 at once, TPOT", "tpot_ms", ONE_CARD, FOUR, True),
            versus("8B on L4, 1 at once, TPOT", "tpot_ms", ONE_CARD | {"gpu": "l4"}, FOUR, True),
        ),
         "A quarter of the bytes of what is quantized, less what is not, at the rate of the dequantizing kernels. The "
         "slower the memory, the nearer to 3: on fast cards launches and the kernels' own rate count."),
    Rule("... and lose to FP8 in a crowd", "the same", 0.0, 1.0,
         (crowd(SMALL, 1, 16, ("awq-int4-g128", "fp8")), crowd(SMALL, 1, 256, ("awq-int4-g128", "fp8")),
          crowd(LARGE, 2, 128, ("awq-int4-g128", "fp8"))),
         "Weight-only formats compute in 16 bit, and in a crowd arithmetic counts. Where memory for the cache is "
         "short, smaller weights win by the room they leave."),
    Rule("FP8 gives about twice the tokens/s at full load", "vendors' announcements", 2.0, 2.0,
         (
            crowd(SMALL, 1, 256, FP8),
            crowd(LARGE, 4, 256, FP8),
            crowd(LARGE, 2, 64, FP8),
            versus("70B on 4 × H100, prompts of 8,000 tokens, prefill", "prefill_tokens_per_s", PROMPTS, FP8),
        ),
         "Twice the arithmetic, of which attention and the engine's own time take no part. On few GPUs the gain is "
         "room for the cache and can be far more than 2."),
    Rule("An FP8 cache doubles the room", "vLLM documentation", 2.0, 2.0,
         (Case("8B FP8 on H100, 8,000 + 500 tokens, room", "max_concurrency", LONG | {"kv_format": "fp8"}, LONG),),
         "Half the bytes for each token."),
    Rule("An FP8 cache makes long contexts up to twice as fast", "the same", 2.0, 2.0,
         (Case("8B FP8 on H100, 8,000 + 500 tokens, 32 at once, tokens/s", "output_tokens_per_s",
               LONG | {"kv_format": "fp8"}, LONG),),
         "Only attention's part of a step shrinks, and Hopper's kernels unpack the cache before they compute."),
    Rule("FP4 doubles prefill over FP8 on Blackwell", "data sheets", 2.0, 2.0,
         (versus("70B on B200, 8,000 tokens, prefill", "prefill_tokens_per_s", FP4, ("nvfp4", "fp8")),
          versus("the same against 16 bit", "prefill_tokens_per_s", FP4, ("nvfp4", "bf16"))),
         "Attention, norms and the head stay in 16 bit, and FP4 kernels attain a smaller part of their peak."),
    Rule("Four 4-bit copies on one GPU give four times the tokens", "forum answers", 4.0, 4.0,
         (Case("8B AWQ on H100, 64 at once, four copies against one, tokens/s", "output_tokens_per_s",
               COPIES | {"copies_per_gpu": 4}, COPIES),),
         "Copies share bandwidth and arithmetic, and each reads weights of its own: one copy with four times the "
         "sequences does better."),
    Rule("4 bit carries three agents where 16 bit does not", "articles on local agents", 3.0, 6.0,
         (versus("8B on RTX 4090, 8,000 + 500 tokens, room", "max_concurrency", AGENTS, FOUR),
          versus("the same, 3 at once, tokens/s", "output_tokens_per_s", AGENTS, FOUR)),
         "On a 24 GB card most of the memory is weights in 16 bit; what 4 bit frees goes to the cache."),
    Rule("4-bit weights with an 8-bit cache hold about twice as many as with a 16-bit cache", "engine guides", 2.0, 2.0,
         (Case("70B AWQ on A100 80 GB, 1,000 + 500 tokens, room", "max_concurrency", KV8 | {"kv_format": "fp8"}, KV8),),
         "The weights stay; the pool holds twice the tokens."),
    Rule("NVFP4 takes a 27B model on an RTX 5090 from 17 to 14 GB", "a public benchmark", 14 / 17, 14 / 17,
         (Case("27B on RTX 5090, NVFP4 in vLLM against Q4_K_M in llama.cpp, weights", "weights_gib",
               CARD | {"weight_format": "nvfp4", "engine": "vllm"},
               CARD | {"weight_format": "gguf-q4_k_m", "engine": "llama.cpp"}),),
         "NVFP4 has 4.5 bits where Q4_K_M has 4.8, but leaves embeddings in 16 bit: the vocabulary decides."),
    Rule("... and makes prefill 68 % faster", "the same", 1.68, 1.68,
         (Case("27B on RTX 5090, NVFP4 in vLLM against Q4_K_M in llama.cpp, prefill", "prefill_tokens_per_s",
               CARD | {"weight_format": "nvfp4", "engine": "vllm"},
               CARD | {"weight_format": "gguf-q4_k_m", "engine": "llama.cpp"}),
          versus("the same in vLLM, NVFP4 against AWQ", "prefill_tokens_per_s", CARD | {"engine": "vllm"},
                 ("nvfp4", "awq-int4-g128"))),
         "Native FP4 arithmetic against weights that are unpacked first."),
)  # fmt: skip


def factor(case: Case) -> tuple[float, str]:
    """The ratio of both cases, and its two figures."""
    rows = estimate([Scenario(**case.first), Scenario(**case.second)]).rows()
    fault = next((row["error"] for row in rows if row["error"]), None)
    if fault:
        raise PlannerError(f"{case.label}: {fault}")
    first, second = (row[case.column] for row in rows)
    if not first or not second:
        return float("nan"), " / ".join("does not start" if not value else figure(value) for value in (first, second))
    unit = " ms" if case.column.endswith("_ms") else " GiB" if case.column.endswith("gib") else ""
    return (second / first if case.inverse else first / second), f"{figure(first)}{unit} / {figure(second)}{unit}"


def judged(rule: Rule, ratio: float) -> str:
    """Whether a ratio lies in what the rule states."""
    if ratio != ratio:
        return "one of them does not start"
    if rule.low * (1 - SLACK) <= ratio <= rule.high * (1 + SLACK):
        return "holds"
    return "no: less" if ratio < rule.low else "no: more"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for rule in RULES:
        stated = f"{rule.low:.2g}" if rule.low == rule.high else f"{rule.low:.2g} to {rule.high:.2g}"
        lines = [f"## {rule.said}\n", f"Said by: {rule.source}. Stated factor: {stated}.\n"]
        lines += ["| case | estimate | factor | |", "|---|--:|--:|---|"]
        for case in rule.cases:
            ratio, figures = factor(case)
            shown = "–" if ratio != ratio else f"{ratio:.2f}"
            lines.append(f"| {case.label}: {_pair(case)} | {figures} | {shown} | {judged(rule, ratio)} |")
        parts.append("\n".join([*lines, "", rule.why, ""]))
    return "\n".join(parts)


def _pair(case: Case) -> str:
    names = [format_name(side["weight_format"]) for side in (case.first, case.second)]
    if names[0] != names[1]:
        return f"{names[0]} against {names[1]}"
    return f"{names[0]} on {gpu_name(case.first['gpu'])}"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("rules_of_thumb.md")
    write_atomically(target, page())
