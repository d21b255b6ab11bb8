"""What a header says: tensors with their exact bytes, and a window onto the file that never reads past its bounds."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from planner.errors import BadFile

MAX_TENSORS = 100_000  # of one file
MAX_VALUES = 2**50  # of one tensor: a petabyte in eight bits
MAX_NAME_BYTES = 512
ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd")
FIRST_READ = 2**20  # holds most headers whole

Scalar = int | float | bool | str
Value = Scalar | tuple[Scalar, ...]


class Stored(NamedTuple):
    """A tensor as a file holds it."""

    name: str
    dtype: str  # as the format calls it, lower case
    shape: tuple[int, ...]  # outermost first, as torch prints it
    stored_bytes: int

    @property
    def values(self) -> int:
        """Elements of the stored type: packed formats hold several weights in one."""
        count = 1
        for size in self.shape:
            count *= size
        return count


class Header(NamedTuple):
    """The header of one file."""

    tensors: tuple[Stored, ...]
    metadata: Mapping[str, Value]
    where: str
    whole: bool  # False: the tensors' data is not all there (a header alone, or an unfinished download)


class Window:
    """A file's first bytes, read as far as they are asked for and no further than `top`."""

    def __init__(self, file: BinaryIO, size: int, where: str, top: int) -> None:
        self.size, self.where, self.top = size, where, top
        self._file, self.data = file, b""

    def bad(self, field: str, why: str) -> BadFile:
        """The error for a field of the header."""
        return BadFile(f"{self.where}: {field}: {why}")

    def reach(self, end: int, field: str) -> None:
        """Have the bytes up to `end` in `data`. Raises BadFile that names the field they belong to."""
        if end <= len(self.data):
            return
        if end > self.size:
            raise self.bad(field, f"ends at byte {end}, the file at {self.size}: cut off or not what it claims")
        if end > self.top:
            raise self.bad(field, f"ends at byte {end}; headers are read up to {self.top} bytes")
        wanted = min(max(end, 2 * len(self.data), FIRST_READ), self.size, self.top)
        self.data += self._file.read(wanted - len(self.data))
        if len(self.data) < end:
            raise self.bad(field, "the file ended while it was read")

    def unpack(self, layout: struct.Struct, at: int, field: str) -> int:
        """One number at an offset."""
        self.reach(at + layout.size, field)
        return int(layout.unpack_from(self.data, at)[0])

    def text(self, at: int, length: int, field: str) -> str:
        """A UTF-8 text of `length` bytes."""
        self.reach(at + length, field)
        try:
            return self.data[at : at + length].decode()
        except UnicodeDecodeError:
            raise self.bad(field, "not UTF-8 text") from None


@contextmanager
def opened(source: Path | bytes, where: str, top: int) -> Iterator[Window]:
    """A window onto a file or onto bytes that were uploaded. Raises BadFile for archives and what is no file."""
    try:
        if isinstance(source, bytes):
            window = Window(io.BytesIO(source), len(source), where, top)
            _refuse_archive(window)
            yield window
            return
        if not source.is_file():
            raise BadFile(f"{where}: no such file")
        with source.open("rb") as file:
            window = Window(file, source.stat().st_size, where, top)
            _refuse_archive(window)
            yield window
    except (OSError, ValueError) as error:
        raise BadFile(f"{where[:200]}: cannot be read ({type(error).__name__})") from None


def _refuse_archive(window: Window) -> None:
    if not window.size:
        raise BadFile(f"{window.where}: empty")
    window.reach(min(window.size, 8), "the first bytes")
    if window.data.startswith(ARCHIVES):
        raise BadFile(f"{window.where}: an archive, not a checkpoint; unpack it first")
