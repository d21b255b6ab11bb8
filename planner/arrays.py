"""Types of what formulas take: one number for every scenario (row) of a batch."""

from __future__ import annotations

from typing import Any, TypeAlias

PerRow: TypeAlias = Any
"""A number for all rows, or an array (R,) with one for each. `Any`, because NumPy's types do not mix the two."""
