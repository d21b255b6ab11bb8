"""What machine code needs, read from its ELF file: registers, stack, shared memory.

Section `.text.<kernel>` holds the register count in the top byte of sh_info; `.nv.info` lists frame sizes
(attributes EIATTR_FRAME_SIZE, EIATTR_MIN_STACK_SIZE), as `cuobjdump --dump-elf` shows them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

FRAME_SIZE, MIN_STACK_SIZE = 0x11, 0x12
WITH_VALUE = 0x04  # attribute format: a length and that many bytes follow


class Section(NamedTuple):
    name: str
    info: int
    flags: int
    size: int
    data: bytes


class Resources(NamedTuple):
    registers: int
    stack_bytes: int
    static_shared_bytes: int


def sections(code: bytes) -> list[Section]:
    """Of a 64-bit little-endian ELF file."""
    offset, entry_bytes, count, names = (
        struct.unpack_from("<Q", code, 0x28)[0],
        *struct.unpack_from("<HHH", code, 0x3A),
    )
    headers = [struct.unpack_from("<IIQQQQIIQQ", code, offset + i * entry_bytes) for i in range(count)]
    table = headers[names][4]
    found = []
    for name, kind, flags, _, at, size, _, info, _, _ in headers:
        text = code[table + name : code.index(b"\0", table + name)].decode()
        found.append(Section(text, info, flags, size, b"" if kind == 8 else code[at : at + size]))
    return found


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        form, what, size = struct.unpack_from("<BBH", data, at)
        at += 4
        if form == WITH_VALUE:
            yield what, data[at : at + size]
            at += size


def resources(code: bytes, entry: str) -> Resources:
    """Of the one kernel in the file."""
    found = sections(code)
    text = next(section for section in found if section.name == f".text.{entry}")
    shared = sum(section.size for section in found if section.name.startswith(f".nv.shared.{entry}"))
    stacks = [
        struct.unpack_from("<I", value, 4)[0]
        for section in found
        if section.name == ".nv.info"
        for what, value in attributes(section.data)
        if what in (FRAME_SIZE, MIN_STACK_SIZE)
    ]
    return Resources(text.info >> 24, max(stacks, default=0), shared)
