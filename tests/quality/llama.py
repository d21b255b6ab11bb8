"""A real llama.cpp server on loopback with a tiny model of random weights, in any format that llama.cpp reads.

As a script: serve the model of the first argument on a free port and say where, until standard input ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

WORDS = """alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa quebec
romeo sierra tango uniform victor whiskey xray yankee zulu""".split()
SPECIAL = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
HIDDEN, INNER, HEADS, LAYERS = 64, 128, 4, 2
SHAPES = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (HIDDEN, HIDDEN), "attn_v": (HIDDEN, HIDDEN)}
SHAPES |= {"attn_output": (HIDDEN, HIDDEN), "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN)}
SHAPES |= {"ffn_down": (HIDDEN, INNER)}


def write_model(path: Path, weight_type: str, seed: int = 1) -> Path:
    """A llama of two layers that speaks in WORDS; the same seed gives the same weights, rounded as the type asks."""
    import gguf

    vocabulary = SPECIAL + [f"\u2581{word}" for word in WORDS]
    vocabulary += [f"\u2581more{i}" for i in range(-len(vocabulary) % 32)]
    writer, rng = gguf.GGUFWriter(path, "llama"), np.random.default_rng(seed)
    _describe(writer, vocabulary)

    def put(name: str, weights: Any, rounded: bool) -> None:
        kind = gguf.GGMLQuantizationType[weight_type]
        packed = gguf.quants.quantize(weights, kind) if rounded else weights
        writer.add_tensor(name, packed, raw_dtype=kind if rounded else None)

    def drawn(*shape: int) -> Any:
        return (2 * rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    put("token_embd.weight", 4 * drawn(len(vocabulary), HIDDEN), True)
    says = drawn(len(vocabulary), HIDDEN)
    says[: len(SPECIAL)] = 0  # it never says a byte or an end
    put("output.weight", says, False)
    ones = np.ones(HIDDEN, np.float32)
    put("output_norm.weight", ones, False)
    for layer in range(LAYERS):
        for name, shape in SHAPES.items():
            put(f"blk.{layer}.{name}.weight", drawn(*shape), True)
        for name in ("attn_norm", "ffn_norm"):
            put(f"blk.{layer}.{name}.weight", ones, False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _describe(writer: Any, vocabulary: list[str]) -> None:
    normal, unknown, control, byte = 1, 2, 3, 6
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(vocabulary)
    writer.add_token_scores([0.0] * len(vocabulary))
    writer.add_token_types([unknown, control, control, *[byte] * 256, *[normal] * (len(vocabulary) - len(SPECIAL))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for message in messages %}{{ message.content }}\n{% endfor %}")


@contextmanager
def served(model: Path) -> Iterator[str]:
    """The URL of a server of the model, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin and process.stdout
    with process:
        try:
            yield f"{process.stdout.readline().strip()}/v1"
        finally:
            process.stdin.close()
            process.kill()


def _serve(model: str) -> None:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = model
    settings.hostnames, settings.port = ["127.0.0.1"], 0
    settings.n_ctx, settings.n_parallel = 4096, 4
    settings.cpuparams.n_threads = 1
    settings.warmup = settings.fit_params = False
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1])
