# ruff: noqa: E501
"""Bugs put into the kernels on purpose: each must show as a wrong number or as a fault of the emulator."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from emulator import Mutation, available, error
from shapes import H200

from planner.calibration.kernels.catalogue import kernel_named
from planner.calibration.kernels.problem import Choice, Decode, Gemm, Grouped, Latent, Stream

pytestmark = pytest.mark.skipif(not available(), reason="needs a C++ compiler")

SEEDS = range(1, 7)
FEW, SPLIT = Gemm(5, 128, 1024), Gemm(7, 64, 1536)
TOKENS, TOKENS_SPLIT = Gemm(70, 129, 528), Gemm(9, 64, 2048)
CACHED, CACHED_SPLIT = Decode(2, 147, 8, 2, 64), Decode(1, 700, 8, 1, 128)
FILED, SHARED_CACHE = Gemm(2, 72, 1280), Latent(1, 140, 20)
ROUTED = Grouped(9, 192, 256, 4, 2, (0, 17, 1, 0))


class Bug(NamedTuple):
    name: str
    kernel: str
    shape: Any
    splits: int
    change: Mutation


WAIT = ("copies_wait<STAGES - 2>();", "copies_wait<STAGES - 1>();")
BLOCK_MEETS = "    sync_block();  // this stage is there for all, and the one before has been read by all"
WARP_MEETS = "    sync_warp();  // the page is there for all lanes, and all have read the one before"

BUGS = (
    Bug("reads one vector too many", "stream-read", Stream(16 * 255), 1, ("i < vectors", "i <= vectors")),
    Bug("copies the last vector over its neighbour", "stream-copy", Stream(16 * 2048), 1, ("target + i", "target + (i | 1)")),
    Bug("weights: waits too little", "w4a16", FEW, 1, WAIT),
    Bug("weights: no meeting in the loop", "w4a16", FEW, 1, (BLOCK_MEETS, "")),
    Bug("weights: no meeting before the sums", "w4a16", FEW, 1, ("  sync_block();\n\n  const int row0", "\n  const int row0")),
    Bug("weights: sums over a stage in flight", "w4a16", Gemm(7, 128, 640), 1, ("  copies_wait<0>();\n  sync_block();\n\n  float* sums", "  float* sums")),
    Bug("weights: wrong zero point", "w4a16", FEW, 1, ("0xc300u | zero", "0xc301u | zero")),
    Bug("weights: rows of a scale exchanged", "w4a16", FEW, 1, ("sum[i][m][0] += low", "sum[i][m][0] += high")),
    Bug("weights: inputs of a pair exchanged", "w4a16", FEW, 1, ("      b0 = b.x;", "      b0 = b.y;")),
    Bug("weights: tokens past the end are read", "w4a16", FEW, 1, ("token < count && k < k_all", "k < k_all")),
    Bug("weights: semaphore counts one too many", "w4a16", SPLIT, 3, ("blockIdx.x, gridDim.y - 1", "blockIdx.x, gridDim.y")),
    Bug("weights: last block reads its own part only", "w4a16", SPLIT, 3, ("parts + ((u64)z * m_all", "parts + ((u64)blockIdx.y * m_all")),
    Bug("weights: part of the inputs twice", "w4a16", SPLIT, 3, ("const int begin = (int)((u64)steps * blockIdx.y / gridDim.y)", "const int begin = 0")),
    Bug("weights: zero points of the other half", "w4a16-zeros", FEW, 1, ("f & 1 ? zeros >> 4", "f & 2 ? zeros >> 4")),
    Bug("weights: scale of the wrong group", "w4a16-mxfp4", FEW, 1, ("2 * (row & 1) + (s >> 1)", "2 * (row & 1) + (~s >> 1 & 1)")),
    Bug("weights: small FP4 values lost", "w4a16-nvfp4", FEW, 1, ("q << 3 * f & 0x81c081c0u", "q << 3 * f & 0x81808180u")),
    Bug("weights: exponent of the fourth FP4 code lost", "w4a16-nvfp4", FEW, 1, ("q >> 5 & 0x01000100u", "q >> 6 & 0x01000100u")),
    Bug("weights: FP4 scale of the next step", "w4a16-nvfp4", FEW, 1, ("+ s * 0x101u", "+ (s ^ 1) * 0x101u")),
    Bug("weights: factor of FP4 scales not made good", "w4a16-nvfp4", SPLIT, 3, ("v * 256.f", "v * 128.f")),
    Bug("weights: sign of small integers lost", "w8a16-int8", FEW, 1, ("q, 0x00800080u, 0x43004300u", "q, 0x00000080u, 0x43004300u")),
    Bug("weights: exponent of FP8 off by one", "w8a16-fp8", FEW, 1, ("0x7b807b80u", "0x7b007b00u")),
    Bug("weights: low byte for the high one", "w8a16-fp8", FEW, 1, ("f & 1 ? word : word << 8", "f & 1 ? word << 8 : word")),
    Bug("weights: upper quantiles never chosen", "nf4", FEW, 1, ("permute(q, q << 4, 0x9d8cu)", "0u")),
    Bug("weights: quantiles of the wrong codes", "nf4", FEW, 1, ("0x5140u", "0x5041u")),
    Bug("experts: always the first matrix", "moe-w4a16", ROUTED, 1, ("weights += (u64)expert", "weights += (u64)0 * expert")),
    Bug("experts: rows not gathered", "moe-w4a16", ROUTED, 1, ("here ? load(order + first + token) : 0", "here ? first + token : 0")),
    Bug("products: waits too little", "mma-bf16", TOKENS, 1, WAIT),
    Bug("products: no meeting in the loop", "mma-bf16", TOKENS, 1, (BLOCK_MEETS, "")),
    Bug("products: chunks not where they are read", "mma-bf16", TOKENS, 1, ("u8* to = stage + row * ROW_BYTES + (chunk ^ (row & 7)) * 16", "u8* to = stage + row * ROW_BYTES + chunk * 16")),
    Bug("products: inputs past the end are read", "mma-int8", TOKENS, 1, ("n < n_all && at < k_bytes", "n < n_all")),
    Bug("products: rows past the end are written", "mma-fp8", TOKENS, 1, ("      if (n < n_all) store(y + at, scaled(v0, token, n));\n          if (n + 1 < n_all)", "      if (n < n_all) store(y + at, scaled(v0, token, n));\n          if (n < n_all)")),
    Bug("products: result in the other row", "mma-bf16", TOKENS, 1, ("warp_m * WARP_M + i * 16 + h * 8 + g, n =", "warp_m * WARP_M + i * 16 + (1 - h) * 8 + g, n =")),
    Bug("products: blockwise sums not cleared", "mma-fp8-block", TOKENS, 1, ("part[i][j][2 * h] = part[i][j][2 * h + 1] = 0;", "")),
    Bug("products: tile of another strip", "mma-bf16", Gemm(300, 300, 128), 1, ("inside % strip_m", "inside % STRIP")),
    Bug("products: parts joined before all arrived", "mma-bf16", TOKENS_SPLIT, 3, ("*flag != gridDim.y - 1) return;", "*flag != 0) return;")),
    Bug("products: experts' scales of the first", "moe-mma-fp8", ROUTED, 1, (": (u64)expert * n_all;", ": (u64)0 * expert;")),
    Bug("attention: waits too little", "decode-bf16", CACHED, 1, WAIT),
    Bug("attention: lanes of a warp do not meet", "decode-bf16", CACHED_SPLIT, 1, (WARP_MEETS, "")),
    Bug("attention: no mask past the context", "decode-fp8", CACHED, 1, ("first + token < context ?", "first + token < context + 16 ?")),
    Bug("attention: sums not shrunk with the maximum", "decode-bf16", CACHED, 1, ("      total[h] *= shrink;", "")),
    Bug("attention: wrong page", "decode-bf16", CACHED, 1, ("load(table + begin + warp + (round + 1) * WARPS)", "load(table + begin + warp + round * WARPS)")),
    Bug("attention: warps joined without weights", "decode-fp8", CACHED, 1, ("      sum += weight * one[1];", "      sum += one[1];")),
    Bug("attention: parts joined without weights", "decode-fp8", CACHED_SPLIT, 3, ("sum += weight * load_l2(one + 1)", "sum += load_l2(one + 1)")),
    Bug("attention: dimensions permuted on one side", "decode-int8", CACHED, 1, ("4 * t + high; }", "2 * t + 8 * high; }")),
    Bug("attention: scales of keys for values", "decode-int8", CACHED, 1, ("scales[PAGE + 8 * j + 2 * t]", "scales[8 * j + 2 * t]")),
    Bug("attention: another sequence's query", "decode-bf16", CACHED, 1, ("q + ((u64)seq * q_heads", "q + ((u64)0 * q_heads")),
    Bug("attention: meeting before joining left out", "decode-bf16", CACHED, 1, ("  sync_block();\n  const bool split", "  const bool split")),
    Bug("files: high nibbles for low ones", "gguf-q4_k", FILED, 6, ("j & 1 ? 0xf0f0f0f0u : 0x0f0f0f0fu", "j & 1 ? 0x0f0f0f0fu : 0xf0f0f0f0u")),
    Bug("files: minimum of the wrong piece", "gguf-q4_k", FILED, 6, ("(c >> 4 & 15u) | (b >> 2 & 48u)", "(c >> 4 & 15u) | (a >> 2 & 48u)")),
    Bug("files: bytes of nibbles taken for signed ones", "gguf-q4_k", FILED, 6, ("dot4_unsigned((u32)weights", "dot4(weights")),
    Bug("files: values past the end of a row", "gguf-q8_0", Gemm(2, 72, 1280), 6, ("w[r].scale[0] = live ? w[r].scale[0] : 0.f;", "")),
    Bug("files: scale of the first sixteen for both", "gguf-q6_k", FILED, 6, ("2 * quarter + h]", "2 * quarter]")),
    Bug("files: start not moved to the block", "gguf-q6_k", FILED, 6, ("+ ((u64)(here.from + r * row_bytes) & 15) +", "+")),
    Bug("files: lanes of a warp do not meet", "gguf-q8_0", FILED, 6, ("    sync_warp();  // this run is there for all lanes, and all have read the one before", "")),
    Bug("files: rows begin where the last run ended", "gguf-q8_0", FILED, 6, ("? (u64)RUN_BYTES : to_next_rows", "? (u64)RUN_BYTES : (u64)RUN_BYTES")),
    Bug("files: sum not cleared between rows", "gguf-q8_0", Gemm(2, 72, 768), 2, ("          sum[r][m] = 0.f;\n", "")),
    Bug("latent: scores read before all are there", "decode-mla-bf16", SHARED_CACHE, 1, ("    sync_block();  // all shares of the scores are there", "")),
    Bug("latent: share of one warp left out", "decode-mla-bf16", SHARED_CACHE, 1, ("for (int w = 0; w < WARPS; ++w) v += scores", "for (int w = 1; w < WARPS; ++w) v += scores")),
    Bug("latent: rope part weighed too", "decode-mla-bf16", SHARED_CACHE, 1, ("column = warp * COLUMNS", "column = ROPE + warp * COLUMNS")),
    Bug("latent: heads past the end are written", "decode-mla-bf16", Latent(1, 40, 5), 1, ("    if (head >= heads) continue;", "")),
)  # fmt: skip


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_an_injected_bug_is_caught(bug: Bug) -> None:
    kernel = kernel_named(bug.kernel)
    tile = kernel.choices(bug.shape, H200)[0].tile
    choice = Choice(tile, bug.splits)
    allowed = kernel.problem(choice, bug.shape).tolerance
    if kernel.shape is not Stream:
        assert error(kernel, choice, bug.shape) <= allowed
    assert any(error(kernel, choice, bug.shape, seed, bug.change) > allowed for seed in SEEDS)
