"""Work on many rows and arrays that come and go, without the garbage collector and with memory that is kept."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

LARGEST = 31 * 2**20  # bytes; glibc learns from blocks of at most 32 MiB


@contextmanager
def bulk_work() -> Iterator[None]:
    """For long work that makes no reference cycles: without it a tenth of the time went into looking for cycles, and
    another tenth into mapping memory.

    glibc returns freed memory to the system and maps it again for the next array, unless a block as large was freed
    before: so one is, here.
    """
    np.empty(LARGEST, dtype=np.uint8)
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
