"""Step times of one deployment, read off a table that is priced once: a simulation asks for many thousands.

Steps that only decode are tabulated over (sequences, mean context), steps with prefill over (sequences, context,
all tokens of the step, tokens that a prefilled token attends to), and with several ranks over the busiest one's part of
the prefilled tokens. Between knots the table is linear.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from planner.ops import Batch

Array = NDArray[np.float64]
StepTime = Callable[[Batch], Array]  # of one deployment: fields (K,) in, seconds (K,) out

EXACT_SEQUENCES = 64  # up to which every count of decoding sequences has a knot
SEQUENCE_RATIO = 1.15  # of neighbouring knots beyond
DECODE_CONTEXTS = 20  # knots
MIXED_SEQUENCES = 12
MIXED_CONTEXTS = 7
MIXED_TOKENS = 56
MIXED_ATTENDED = 9
MIXED_PARTS = 4  # of the busiest of several ranks, where there are some
FIRST_CONTEXT = 64.0  # tokens, of the second knot
TOGETHER = 4096  # steps that are priced in one call


class Prices(Protocol):
    """What the scheduler asks: seconds of a step."""

    def decode_s(self, sequences: int, context: float) -> float:
        """A step of `sequences` that decode with `context` tokens cached on average."""

    def straight_until(self, context: float) -> float:
        """The mean context up to which `decode_s` is a straight line from here."""

    def mixed_s(self, sequences: int, context: float, tokens: int, before: float, prompts: float) -> float:
        """The same with `tokens` of `prompts` prompts prefilled, of each of which `before` are in the cache."""


class Reach(NamedTuple):
    """The largest step that a simulation may ask for. Images: patches encoded per prefilled token.

    Beyond `graph_tokens` in a step, prefilled and decoding together, no CUDA graph runs: its time jumps there.
    """

    sequences: int
    context_tokens: float
    prefill_tokens: int
    patches_per_token: float = 0.0
    patches_per_image: float = 1.0
    graph_tokens: int = 0
    ranks: int = 1  # among which prompts are spread unevenly


def rising(first: float, last: float, count: int) -> Array:
    """0 and `count` - 1 knots from `first` to `last`, evenly spaced in their logarithm."""
    return np.concatenate(([0.0], np.geomspace(first, max(last, 2 * first), count - 1)))


def beside_jump(reach: Reach, most: int) -> list[int]:
    """Two knots beside each other where the time of a step jumps."""
    return [reach.graph_tokens, reach.graph_tokens + 1] if 1 < reach.graph_tokens < most - 1 else []


def sequence_knots(reach: Reach) -> Array:
    """Every count up to EXACT_SEQUENCES, then counts that grow by SEQUENCE_RATIO."""
    most = reach.sequences
    exact = np.arange(1, min(most, EXACT_SEQUENCES) + 1, dtype=float)
    if most <= EXACT_SEQUENCES:
        return exact
    count = int(np.ceil(np.log(most / EXACT_SEQUENCES) / np.log(SEQUENCE_RATIO))) + 1
    coarse = np.round(np.geomspace(EXACT_SEQUENCES, most, count))
    return np.unique(np.concatenate((exact, coarse, beside_jump(reach, most))))


def token_knots(reach: Reach) -> Array:
    """Tokens of a step, evenly spaced in their logarithm."""
    most = max(reach.prefill_tokens, reach.sequences + 1, 2)
    knots = np.geomspace(1.0, most, MIXED_TOKENS)
    return np.unique(np.concatenate((knots, beside_jump(reach, most))))


def mixed_batch(fields: Sequence[Array], reach: Reach) -> Batch:
    """A step whose prefilled tokens attend to `attended` tokens each: one prompt behind its cached part, or several.

    A token of a chunk attends to what is cached of its prompt and to half of the chunk. `together` counts the
    tokens of the step, decoding sequences included. With a fifth field, the busiest rank's part of the prompts' tokens,
    one chunk of that size stands on each of as many ranks as have them all.
    """
    decodes, context, together, attended, *part = fields
    tokens = np.maximum(together - decodes, 1)
    alone = attended >= tokens / 2
    prompts = 1 / part[0] if part else np.where(alone, 1.0, tokens / np.maximum(2 * attended, 1))
    before = np.maximum(attended - tokens / prompts / 2, 0.0)
    return Batch(decodes, context, tokens, before, prompts, reach.patches_per_token * tokens, reach.patches_per_image)


def priced(step_s: StepTime, batch: Batch) -> Array:
    """Seconds of every step of a batch of K, in bounded pieces."""
    fields = np.broadcast_arrays(*(np.asarray(field, dtype=float) for field in batch))
    pieces = range(0, fields[0].size, TOGETHER)
    cut = [Batch(*(field[at : at + TOGETHER] for field in fields)) for at in pieces]
    return np.concatenate([step_s(piece) for piece in cut])


class StepTable:
    """`Prices` by interpolation; beyond the last knot the last line goes on."""

    def __init__(self, step_s: StepTime, reach: Reach) -> None:
        """Price the knots: some 50,000 steps, once."""
        self._sequences = sequence_knots(reach)
        contexts = rising(FIRST_CONTEXT, reach.context_tokens, DECODE_CONTEXTS)
        n, c = (axis.ravel() for axis in np.meshgrid(self._sequences, contexts, indexing="ij"))
        self._decode = priced(step_s, Batch(n, c)).reshape(len(self._sequences), len(contexts))
        self._contexts: list[float] = contexts.tolist()
        self._rows: dict[int, list[float]] = {}
        axes = [
            np.unique(np.round(rising(1.0, reach.sequences, MIXED_SEQUENCES))),
            rising(FIRST_CONTEXT, reach.context_tokens, MIXED_CONTEXTS),
            token_knots(reach),
            np.geomspace(1.0, max(reach.context_tokens, 2.0), MIXED_ATTENDED),
        ]
        if reach.ranks > 1:
            axes.append(np.geomspace(1 / reach.ranks, 1, MIXED_PARTS))
        grid = np.meshgrid(*axes, indexing="ij")
        self._mixed: list[float] = priced(step_s, mixed_batch([a.ravel() for a in grid], reach)).tolist()
        self._axes: list[list[float]] = [axis.tolist() for axis in axes]
        sizes = [len(axis) for axis in axes]
        self._strides = [int(np.prod(sizes[i + 1 :])) for i in range(len(sizes))]

    def decode_s(self, sequences: int, context: float) -> float:
        """See `Prices`."""
        row = self._rows.get(sequences) or self._row(sequences)
        at, knots = self._cell(self._contexts, context), self._contexts
        return row[at] + (row[at + 1] - row[at]) * (context - knots[at]) / (knots[at + 1] - knots[at])

    def straight_until(self, context: float) -> float:
        """See `Prices`."""
        at = bisect_right(self._contexts, context)
        return self._contexts[at] if at < len(self._contexts) else float("inf")

    def mixed_s(self, sequences: int, context: float, tokens: int, before: float, prompts: float) -> float:
        """See `Prices`."""
        together, attended = sequences + tokens, before + tokens / prompts / 2
        values, axes, found = (sequences, context, together, attended, 1 / prompts), self._axes, self._mixed
        corners = [(0, 1.0)]
        for value, axis, stride in zip(values, axes, self._strides, strict=False):
            at = self._cell(axis, value)
            up = (value - axis[at]) / (axis[at + 1] - axis[at])
            base = at * stride
            corners = [
                corner
                for offset, weight in corners
                for corner in ((offset + base, weight * (1 - up)), (offset + base + stride, weight * up))
                if corner[1]
            ]
        return sum(found[offset] * weight for offset, weight in corners)

    @staticmethod
    def _cell(knots: list[float], value: float) -> int:
        return min(max(bisect_right(knots, value) - 1, 0), len(knots) - 2)

    def _row(self, sequences: int) -> list[float]:
        row = [float(np.interp(sequences, self._sequences, column)) for column in self._decode.T]
        self._rows[sequences] = row
        return row
