"""A cache key for frozen specs: hashing one walks all its fields, its identity costs nothing."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class Same(Generic[T]):
    """Equal to another `Same` of the very same object, which it keeps alive, so that ids are not reused."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value


def distinct(items: Sequence[T], keys: Sequence[Hashable] | None = None) -> tuple[list[T], NDArray[np.intp]]:
    """The first item of each key and which of them every item is like; without keys objects are told apart."""
    number: dict[Hashable, int] = {}
    at = [number.setdefault(key, len(number)) for key in (map(id, items) if keys is None else keys)]
    if len(number) == len(items):
        return list(items), np.array(at)
    first = dict(zip(reversed(at), reversed(items), strict=True))
    return [first[index] for index in range(len(number))], np.array(at)
