"""Readers of hybrids: linear attention, state spaces, per-layer architecture search, DeepSeek V4."""

from __future__ import annotations

from collections.abc import Callable

from planner.catalog.hf.common import Parts
from planner.catalog.hf.config import Config

READERS: dict[str, Callable[[Config], Parts]] = {}
