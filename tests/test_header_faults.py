"""Headers that are cut off, wrong or hostile: one line that names file and field, at once and in little memory."""

from __future__ import annotations

import json
import random
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest

from planner.catalog.headers.gguf import read_gguf
from planner.catalog.headers.imported import import_gguf, import_safetensors
from planner.catalog.headers.records import Header, Stored
from planner.catalog.headers.safetensors import MAX_HEADER_BYTES, read_safetensors
from planner.catalog.models import from_upload
from planner.errors import PlannerError
from tests.header_files import (
    LLAMA,
    LLAMA_METADATA,
    gguf_bytes,
    llama_shapes,
    llama_tensors,
    safetensors_bytes,
    safetensors_header,
)

CONFIG = json.dumps(LLAMA).encode()
GOOD = safetensors_header(llama_shapes())
FIRST = "model.embed_tokens.weight"
MUTANTS = 2500  # of each kind
STATEMENTS = 1500
GOLDEN = Path(__file__).parent / "golden" / "gguf.json"
LIMIT_S = 1.0
LIMIT_KIB = 200 * 1024
ROOT = Path(__file__).resolve().parent.parent

CHILD = """
import importlib, json, resource, sys, time
from pathlib import Path
from planner.errors import PlannerError

read = getattr(importlib.import_module(f"planner.catalog.headers.{sys.argv[1]}"), f"read_{sys.argv[1]}")
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    read(Path(sys.argv[2]), "hostile")
except PlannerError as error:
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([str(error), time.process_time() - started, grown]))
"""


def changed(**fields: Any) -> bytes:
    return safetensors_bytes(GOOD | {FIRST: GOOD[FIRST] | fields})


def raw(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


SAFETENSORS = {
    "empty": (b"", "empty"),
    "zip": (b"PK\x03\x04" + bytes(60), "archive"),
    "pickle": (b"\x80\x02}q\x00" + bytes(60), "header length"),
    "short": (safetensors_bytes(GOOD)[:200], "header"),
    "no header": (struct.pack("<Q", 1000), "header"),
    "length of 2^62": (raw(b"{}", 2**62), "header length"),
    "length beyond the limit": (raw(b"{}", MAX_HEADER_BYTES + 1), "header length"),
    "not JSON": (raw(b"{" + b"x" * 100), "header"),
    "a list": (raw(b"[1, 2]"), "header"),
    "deep JSON": (raw(b'{"a":' + b"[" * 500_000 + b"]" * 500_000 + b"}"), "nested"),
    "twice": (raw(b'{"a":1,"a":2}'), "twice"),
    "no tensors": (raw(b'{"__metadata__":{}}'), "no tensors"),
    "negative shape": (changed(shape=[-256, 64]), "shape"),
    "overflowing shape": (changed(shape=[2**40, 2**40]), "data_offsets"),
    "shape of floats": (changed(shape=[256.0, 64]), "shape"),
    "nine dimensions": (changed(shape=[1] * 9), "shape"),
    "shape that is no list": (changed(shape="256x64"), "shape"),
    "unknown dtype": (changed(dtype="F128"), "dtype"),
    "dtype that is no text": (changed(dtype=[1]), "dtype"),
    "offsets of one": (changed(data_offsets=[0]), "data_offsets"),
    "offsets backwards": (changed(data_offsets=[100, 0]), "data_offsets"),
    "bytes that do not fit the shape": (changed(data_offsets=[0, 4]), "data_offsets"),
    "overlap": (safetensors_bytes({"a": GOOD[FIRST], "b": GOOD[FIRST]}), "overlaps"),
    "another field": (changed(more=1), FIRST),
    "name with a control character": (safetensors_bytes({"a\x1b[2J": GOOD[FIRST]}), "cannot be shown"),
    "name with half a character": (safetensors_bytes({"\ud800": GOOD[FIRST]}), "cannot be shown"),
    "bytes behind the last tensor": (safetensors_bytes(GOOD, data=True) + b"x", "file size"),
}

HEAD = struct.pack("<IQQ", 3, 0, 1)
KEY = struct.pack("<Q", 1) + b"k"


def one_value(kind: int, rest: bytes) -> bytes:
    return b"GGUF" + HEAD + KEY + struct.pack("<I", kind) + rest


def one_tensor(n_dims: int, dims: list[int], kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<{len(dims)}Q", *dims)
    entry = KEY + struct.pack("<I", n_dims) + sizes + struct.pack("<IQ", kind, offset)
    return b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + entry


GGUF = {
    "wrong magic": (b"GGUX" + bytes(60), "magic"),
    "old version": (b"GGUF" + struct.pack("<I", 1) + bytes(60), "version"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + bytes(60), "big-endian"),
    "cut in the metadata": (gguf_bytes(LLAMA_METADATA, [])[:100], "general.file_type"),
    "cut in the tensors": (gguf_bytes(LLAMA_METADATA, llama_tensors())[:-10], "tensor"),
    "10^6 tensors": (b"GGUF" + struct.pack("<IQQ", 3, 10**6, 0), "tensor_count"),
    "2^62 keys": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**62), "metadata_kv_count"),
    "array of 2^40 bytes": (one_value(9, struct.pack("<IQ", 0, 2**40)), "count"),
    "array of 2^40 texts": (one_value(9, struct.pack("<IQ", 8, 2**40)), "count"),
    "array longer than the file": (one_value(9, struct.pack("<IQ", 8, 2**20)), "'k'"),
    "arrays in arrays": (one_value(9, struct.pack("<IQ", 9, 1) * 1000), "element type"),
    "unknown value type": (one_value(77, bytes(8)), "type"),
    "text of 2^60 bytes": (one_value(8, struct.pack("<Q", 2**60)), "length"),
    "text that is not UTF-8": (one_value(8, struct.pack("<Q", 2) + b"\xff\xfe"), "UTF-8"),
    "five dimensions": (one_tensor(5, [1] * 5), "n_dims"),
    "product of 2^60": (one_tensor(2, [2**30, 2**30]), "dimensions"),
    "dimension of 2^63": (one_tensor(1, [2**63]), "dimensions"),
    "unknown block type": (one_tensor(1, [32], kind=999), "type"),
    "row that blocks do not divide": (one_tensor(1, [33], kind=8), "dimensions"),
    "offset between": (one_tensor(1, [32], offset=7), "offset"),
    "key twice": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (KEY + struct.pack("<II", 4, 1)), "twice"),
    "odd alignment": (gguf_bytes({"general.alignment": 12}, []), "general.alignment"),
}


@pytest.mark.parametrize(
    ("read", "name", "data", "field"),
    [pytest.param(read_safetensors, "bad.safetensors", *SAFETENSORS[what], id=what) for what in SAFETENSORS]
    + [pytest.param(read_gguf, "bad.gguf", *GGUF[what], id=what) for what in GGUF],
)
def test_a_bad_header_is_one_line_that_names_the_field(
    read: Callable[[bytes, str], object], name: str, data: bytes, field: str
) -> None:
    with pytest.raises(PlannerError, match=rf"^{re.escape(name)}: ") as caught:
        read(data, name)
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


MANY = {f"model.layers.{i // 1000}.mlp.experts.{i % 1000}.up_proj.weight": GOOD[FIRST] for i in range(98_000)}
HEAVY: dict[str, Callable[[], bytes]] = {  # files whose size is their weapon
    "8 million empty texts": lambda: one_value(9, struct.pack("<IQ", 8, 2**23)) + bytes(8 * 2**23),
    "2 million texts": lambda: one_value(9, struct.pack("<IQ", 8, 2**21)) + bytes(8 * (2**21 - 1)),
    "10^6 tensors": lambda: raw(b'{"a":' + b'{"dtype":"F32","shape":[],"data_offsets":[0,4]},"b":' * 600_000),
    "10^6 sizes": lambda: raw(b'{"a":{"dtype":"F32","shape":[' + b"1," * 15_000_000 + b'1],"data_offsets":[0,4]}}'),
    "deep": lambda: raw(b'{"a":' * 5_000_000),
    "the last of 98,000 tensors": lambda: safetensors_bytes(MANY | {"last": {"dtype": "X"}}),
    "one text": lambda: raw(b'{"__metadata__":{"a":"' + b"x" * 31 * 2**20 + b'"}}'),
    "open quotes": lambda: raw(b'{"' + b'\\"' * 8_000_000),
}


@pytest.mark.parametrize("what", HEAVY)
def test_hostile_sizes_are_refused_at_once_and_in_little_memory(what: str, tmp_path: Path) -> None:
    file = tmp_path / "hostile"
    file.write_bytes(HEAVY[what]())
    reader = "gguf" if "texts" in what else "safetensors"
    command = [sys.executable, "-c", CHILD, reader, str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    said, seconds, kib = json.loads(done.stdout)
    assert said.startswith("hostile: ")
    assert seconds < LIMIT_S
    assert kib < LIMIT_KIB


def mutated(good: bytes, random_: random.Random) -> bytes:
    """A few bytes changed, cut, repeated or replaced by extreme numbers."""
    data = bytearray(good)
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(data))
        kind = random_.randrange(5)
        if kind == 0:
            data[at] = random_.randrange(256)
        elif kind == 1:
            data[at : at + 8] = struct.pack("<Q", random_.choice([0, 1, 2**31, 2**40, 2**62, 2**64 - 1]))
        elif kind == 2:
            del data[at : at + random_.randint(1, 64)]
        elif kind == 3:
            data[at:at] = data[at : at + random_.randint(1, 64)]
        else:
            data[at : at + 1] = random_.choice(
                [b"-", b"9" * 30, b"[", b"{", b'"', b"null", b"1e999", b"\xff", b"\\u0000"]
            )
        if not data:
            return b""
    return bytes(data)


def _use(header: Header, name: str) -> None:
    """Take a header through to its spec."""
    if name.endswith(".gguf"):
        import_gguf([header], "mutant")
    else:
        import_safetensors(CONFIG, [header], "mutant")


@pytest.mark.parametrize("name", ["mutant.gguf", "mutant.safetensors"])
def test_mutated_headers_never_crash_and_raise_nothing_foreign(name: str) -> None:
    random_ = random.Random(20261120)
    reader = read_gguf if name.endswith(".gguf") else read_safetensors
    metadata = LLAMA_METADATA | {"tokenizer.ggml.tokens": ["a", "b"]}
    good = gguf_bytes(metadata, llama_tensors(1)) if reader is read_gguf else safetensors_bytes(GOOD)
    refused = 0
    for _ in range(MUTANTS):
        try:
            _use(reader(mutated(good, random_), name), name)
        except PlannerError as error:
            refused += 1
            assert "\n" not in str(error)
    assert MUTANTS // 2 < refused < MUTANTS  # mutants reach both ends


EXTREMES: tuple[Any, ...] = (0, 1, 2, 3, 7, 64, 4096, 2**31, 2**32 - 1, 0.5, "text", [0, 0], [2, 0], [1] * 300, ["a"])


def misstated(entry: dict[str, Any], random_: random.Random) -> Header:
    """A converted model's header with a few of its statements and tensors replaced, dropped or misshapen."""
    metadata = {key: tuple(value) if isinstance(value, list) else value for key, value in entry["metadata"].items()}
    for key in random_.sample(sorted(metadata), random_.randint(0, 3)):
        value = random_.choice(EXTREMES)
        metadata[key] = tuple(value) if isinstance(value, list) else value
    if random_.random() < 0.3:
        del metadata[random_.choice(sorted(metadata))]
    stored = []
    for kind, names in entry["tensors"].items():
        shape = tuple(int(size) for size in kind.partition(" ")[2].split("x"))
        for name, layers in names.items():
            stored += [(f"blk.{layer}.{name}" if layer else name, shape) for layer in layers.split() or [""]]
    for _ in range(random_.randint(0, 3)):
        at = random_.randrange(len(stored))
        stored[at] = (stored[at][0], random_.choice([(), (0,), (1,), (2**40,), (3, 5, 7), (2**20, 2**20)]))
    kept = random_.sample(stored, random_.choice([len(stored), len(stored) - 1, len(stored) // 2, 1]))
    return Header(tuple(Stored(name, "f16", shape, 2 * prod(shape)) for name, shape in kept), metadata, "mutant", True)


def test_misstated_metadata_of_every_family_raise_nothing_foreign() -> None:
    random_ = random.Random(2**31 - 1)
    models = json.loads(GOLDEN.read_text("utf-8"))["models"]
    refused = 0
    for _ in range(STATEMENTS):
        try:
            import_gguf([misstated(random_.choice(list(models.values())), random_)], "mutant")
        except PlannerError as error:
            refused += 1
            assert "\n" not in str(error)
    assert STATEMENTS // 4 < refused < STATEMENTS


def test_an_upload_that_is_no_header_says_so() -> None:
    for data in (b"", b"GGUF", b"PK\x03\x04", b"{", bytes(16), b"hello world, this is text"):
        with pytest.raises(PlannerError, match="upload"):
            from_upload("upload", data)
