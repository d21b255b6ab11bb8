"""Requirements on meaning: how near an answer's embedding is to the reference's (extra `semantic`).

The model comes with its library and runs on the CPU; nothing is downloaded. Such embeddings see what a text is about,
not whether it says yes or no to it: "was delivered" and "was not delivered" are as good as the same to them.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

MOST_CHARACTERS = 20_000  # of a text; an embedding is a mean over its words, and its memory grows with them


def semantic_fault() -> str | None:
    """Why texts cannot be embedded here; None when they can."""
    if importlib.util.find_spec("wordllama") is None:
        return "needs an embedding model: pip install 'llm-capacity-planner[semantic]'"
    return None


def similarity(a: str, b: str) -> float:
    """Cosine of two texts' embeddings; 0 when one of them is empty."""
    a, b = (text.strip()[:MOST_CHARACTERS] for text in (a, b))
    return float(_embedder().similarity(a, b)) if a and b else 0.0


@functools.lru_cache(maxsize=1)
def _embedder() -> Any:
    import wordllama

    weights = Path(wordllama.__file__).parent  # the model that the library brings
    return wordllama.WordLlama.load(cache_dir=weights, disable_download=True)
