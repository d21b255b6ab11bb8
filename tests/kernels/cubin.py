"""What machine code needs, read from its ELF file: registers, stack, shared memory.

Section `.nv.info` lists them per function: attributes EIATTR_REGCOUNT, EIATTR_FRAME_SIZE and EIATTR_MIN_STACK_SIZE,
as `cuobjdump --dump-elf` shows them. From compute capability 9.0 a block has 1 KiB of shared memory for the system.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

REGISTERS, FRAME_SIZE, MIN_STACK_SIZE = 0x2F, 0x11, 0x12
SYSTEM_SHARED_BYTES = 1024
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
    assert any(section.name == f".text.{entry}" for section in found)
    shared = sum(section.size for section in found if section.name == f".nv.shared.{entry}")
    facts = [
        (what, struct.unpack_from("<I", value, 4)[0])
        for section in found
        if section.name == ".nv.info"
        for what, value in attributes(section.data)
        if what in (REGISTERS, FRAME_SIZE, MIN_STACK_SIZE)
    ]
    registers = max(value for what, value in facts if what == REGISTERS)
    stack = max((value for what, value in facts if what != REGISTERS), default=0)
    return Resources(registers, stack, max(0, shared - SYSTEM_SHARED_BYTES))
