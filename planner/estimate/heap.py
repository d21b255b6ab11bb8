"""What the allocator and the garbage collector do while many rows and arrays are made and dropped."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

LARGEST = 31 * 2**20  # bytes; glibc learns from blocks of at most 32 MiB


@contextmanager
def busy() -> Iterator[None]:
    """For long work that leaves no cycles behind: a tenth of its time was looking for them, another one mapping memory.

    glibc gives freed memory back, and maps it again for the next array, unless a block as large was freed before.
    """
    np.empty(LARGEST, dtype=np.uint8)
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
