"""Cache keys for frozen specs: hashing a spec walks all its fields, while its identity costs nothing."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class Same(int, Generic[T]):
    """The id of an object as a cache key. It keeps the object alive, so that the id is not reused.

    An int, because millions of keys are compared.
    """

    value: T

    def __new__(cls, value: T) -> Same[T]:
        """Wrap an object."""
        made = super().__new__(cls, id(value))
        made.value = value
        return made


def distinct(items: Sequence[T], keys: Sequence[Hashable] | None = None) -> tuple[list[T], NDArray[np.intp]]:
    """The first item of each key, and for every item the index of that one. Without keys items differ by identity."""
    number: dict[Hashable, int] = {}
    at = [number.setdefault(key, len(number)) for key in (map(id, items) if keys is None else keys)]
    if len(number) == len(items):
        return list(items), np.array(at)
    first = dict(zip(reversed(at), reversed(items), strict=True))
    return [first[index] for index in range(len(number))], np.array(at)
