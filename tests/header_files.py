"""Small safetensors and GGUF files, written by hand so that every field can be wrong."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

BITS = {"F32": 32, "BF16": 16, "F16": 16, "I32": 32, "U8": 8, "F8_E4M3": 8, "F4": 4}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 256,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
_U32, _F32, _STRING, _ARRAY = 4, 6, 8, 9
GGML = {"f32": (0, 1, 4), "f16": (1, 1, 2), "q4_k": (12, 256, 144), "q6_k": (14, 256, 210), "q8_0": (8, 32, 34)}


def llama_shapes(layers: int = 2, prefix: str = "model.") -> dict[str, tuple[int, ...]]:
    """Tensors of the tiny Llama as transformers names them."""
    inner = {
        "self_attn.q_proj": (64, 64),
        "self_attn.k_proj": (32, 64),
        "self_attn.v_proj": (32, 64),
        "self_attn.o_proj": (64, 64),
        "mlp.gate_proj": (128, 64),
        "mlp.up_proj": (128, 64),
        "mlp.down_proj": (64, 128),
        "input_layernorm": (64,),
        "post_attention_layernorm": (64,),
    }
    found: dict[str, tuple[int, ...]] = {f"{prefix}embed_tokens.weight": (256, 64), "lm_head.weight": (256, 64)}
    found[f"{prefix}norm.weight"] = (64,)
    return found | {
        f"{prefix}layers.{layer}.{name}.weight": shape for layer in range(layers) for name, shape in inner.items()
    }


def safetensors_header(shapes: Mapping[str, Sequence[int]], dtype: str = "BF16") -> dict[str, Any]:
    """A header with one tensor after the other."""
    header: dict[str, Any] = {}
    at = 0
    for name, shape in shapes.items():
        size = BITS[dtype]
        for axis in shape:
            size *= axis
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size // 8]}
        at += size // 8
    return header


def safetensors_bytes(header: Mapping[str, Any], data: bool = False) -> bytes:
    """A file's header, with its data as zeros where asked for."""
    text = json.dumps(header).encode()
    end = max(entry["data_offsets"][1] for entry in header.values()) if data else 0
    return struct.pack("<Q", len(text)) + text + bytes(end)


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    if isinstance(value, list) and value and isinstance(value[0], str):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_text, value))
    if isinstance(value, list):
        return struct.pack("<IIQ", _ARRAY, _U32, len(value)) + b"".join(struct.pack("<I", item) for item in value)
    return struct.pack("<II", _U32, value)


def gguf_bytes(
    metadata: Mapping[str, Any], tensors: Sequence[tuple[str, str, Sequence[int]]], data: bool = False, version: int = 3
) -> bytes:
    """A GGUF file; tensors are (name, block type, shape as torch prints it), placed one after the other."""
    parts = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(metadata))]
    parts += [_text(key) + _value(value) for key, value in metadata.items()]
    at = 0
    for name, kind, shape in tensors:
        number, values, size = GGML[kind]
        count = 1
        for axis in shape:
            count *= axis
        dims = struct.pack(f"<{len(shape)}Q", *reversed(shape))
        parts.append(_text(name) + struct.pack("<I", len(shape)) + dims + struct.pack("<IQ", number, at))
        at += -(-(count // values * size) // 32) * 32
    head = b"".join(parts)
    return head + bytes(-len(head) % 32 + at) if data else head


LLAMA_METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.file_type": 15,
    "llama.block_count": 2,
    "llama.context_length": 2048,
    "llama.embedding_length": 256,
    "llama.feed_forward_length": 512,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.tokens": [f"token {index}" for index in range(300)],
}


def llama_tensors(layers: int = 2, tied: bool = False) -> list[tuple[str, str, tuple[int, ...]]]:
    """Tensors of a tiny Llama as llama.cpp names and mixes them."""
    found: list[tuple[str, str, tuple[int, ...]]] = [("token_embd.weight", "q4_k", (300, 256))]
    found += [] if tied else [("output.weight", "q6_k", (300, 256))]
    found.append(("output_norm.weight", "f32", (256,)))
    for layer in range(layers):
        inner = [
            ("attn_norm", "f32", (256,)),
            ("ffn_norm", "f32", (256,)),
            ("attn_q", "q4_k", (256, 256)),
            ("attn_k", "q4_k", (128, 256)),
            ("attn_v", "q6_k", (128, 256)),
            ("attn_output", "q4_k", (256, 256)),
            ("ffn_gate", "q4_k", (512, 256)),
            ("ffn_up", "q4_k", (512, 256)),
            ("ffn_down", "q6_k", (256, 512)),
        ]
        found += [(f"blk.{layer}.{name}.weight", kind, shape) for name, kind, shape in inner]
    return found
